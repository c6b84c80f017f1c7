"""The state of torch around a call: public functions set what they compute under, whatever their caller has set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from aloe.core.errors import UserError

if TYPE_CHECKING:
    from torch import nn

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def plain_torch() -> Iterator[None]:
    """Within the block gradients are on, inference mode and autocast are off, and new tensors are float32."""
    import torch

    before = torch.get_default_dtype()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", *(["cuda"] if torch.cuda.is_available() else []), *(["mps"] if _has_mps() else [])):
            stack.enter_context(torch.autocast(kind, enabled=False))
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


def in_plain_torch(function: Callable[P, R]) -> Callable[P, R]:
    """The function, run within `plain_torch`."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with plain_torch():
            return function(*args, **kwargs)

    return run


@contextmanager
def matrix_products(precision: str, device: str = "cpu") -> Iterator[None]:
    """Within the block float32 matrix products are made at `highest`, `high` or `medium` precision, the words of
    `torch.set_float32_matmul_precision`: `medium` rounds what is multiplied to bfloat16 and adds up in float32.

    Attention on a CPU is then written out as plain products: the fused kernel is slower than those where it rounds
    (torch 2.13).
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    if precision == "highest":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        with sdpa_kernel(SDPBackend.MATH) if torch.device(device).type == "cpu" else nullcontext():
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def check_fast(precision: str, device: str) -> None:
    """Raises UserError where a device has no units for bf16 products, which would only be slower there."""
    import torch

    kind = torch.device(device).type
    fast = kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if kind == "cpu":
        names = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
        fast = any(getattr(torch.cpu, name, bool)() for name in names)
    if precision != "float32" and not fast:
        raise UserError(f"This {kind} has no fast {precision} products; leave --precision out.")


@contextmanager
def evaluating(*modules: nn.Module, attention: str | None = None) -> Iterator[None]:
    """Within the block modules are in eval mode, and transformers computes their attention in the way that is named; both are
    put back on leaving, also by an exception."""
    every = list({id(m): m for module in modules for m in module.modules()}.values())
    training = [m for m in every if m.training]
    found = (getattr(m, "config", None) for m in every) if attention else ()
    configs: list[Any] = list({id(c): c for c in found if hasattr(c, "_attn_implementation")}.values())
    before = [config._attn_implementation for config in configs]
    try:
        for module in training:
            module.training = False
        for config in configs:
            config._attn_implementation = attention
        yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation = name
        for module in training:
            module.training = True


@contextmanager
def compiled(model: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Within the block the blocks of a model, which are its longest list of modules, run as `torch.compile` writes them: once
    for all of them, as they differ in their weights only."""
    from torch import nn

    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    blocks = [block for block in max(lists, key=len, default=[]) if wanted and block._compiled_call_impl is None]
    for block in blocks:
        block.compile()
    try:
        yield
    finally:
        for block in blocks:
            block._compiled_call_impl = None


@contextmanager
def uncompiled(model: nn.Module) -> Iterator[None]:
    """Within the block the modules of a model run as they were written, not as `torch.compile` rewrote them."""
    compiled = any(
        hasattr(module, "_orig_mod")
        or getattr(module, "_compiled_call_impl", None) is not None
        or any(hasattr(value, "_torchdynamo_orig_callable") for value in vars(module).values())  # as `forward`
        for module in model.modules()
    )
    if not compiled:
        yield
        return
    import torch

    with torch.compiler.set_stance("force_eager"):
        yield


def trackable(model: nn.Module) -> nn.Module:
    """A model that autograd can track: itself, or a copy where its tensors were made in inference mode."""
    import copy
    import itertools

    tensors = itertools.chain(model.parameters(), model.buffers())
    return copy.deepcopy(model) if any(tensor.is_inference() for tensor in tensors) else model


def default_device() -> str:
    """The best device there is: cuda, mps or cpu."""
    import torch

    return "cuda" if torch.cuda.is_available() else "mps" if _has_mps() else "cpu"


def _has_mps() -> bool:
    import torch

    return torch.backends.mps.is_available()
