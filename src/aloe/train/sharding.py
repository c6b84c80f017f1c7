"""FSDP: weights, gradients and the optimiser's state split over the processes, for models that are too large for one.

torch's own `fully_shard`, with the same code on GPUs (nccl) and on the CPU (gloo), where the tests run it. A layer's weights
are gathered while it computes and dropped again. accelerate's switch for it is not used: it exists on GPUs only, and its
checkpoints are pickles. What is saved is gathered first, so that a checkpoint is the same kind of file in both modes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from aloe.core.errors import UserError

_ELSEWHERE = {"ACCELERATE_USE_FSDP": "--use_fsdp", "ACCELERATE_USE_DEEPSPEED": "--use_deepspeed"}


def check_sharding(fsdp: bool, precision: str, processes: int) -> None:
    """Refuse what cannot be sharded, before anything is built.

    Raises:
        UserError: one process, fp16, or sharding that `accelerate launch` was asked for.
    """
    for name, flag in _ELSEWHERE.items():
        if os.environ.get(name, "").lower() == "true":
            raise UserError(f"Leave out {flag}, whose checkpoints are pickles: --set fsdp=true shards the run.")
    if not fsdp:
        return
    if processes < 2:
        raise UserError("fsdp splits a run over several processes: start it with torchrun --nproc-per-node N.")
    if precision == "fp16":
        raise UserError("fsdp takes precision float32 or bf16: fp16 scales its gradients, which shards do not support.")


def shard(model: nn.Module, layers: Iterable[nn.Module]) -> None:
    """Split a model over all processes in place: each of `layers` by itself, and what is left of it with the model."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(next(model.parameters()).device.type, (dist.get_world_size(),))
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The parts of a training's model that are gathered one at a time: those it names in `_no_split_modules`."""
    named: Any = getattr(model, "_no_split_modules", ())
    return [module for module in model.modules() if type(module).__name__ in named]


def whole_weights(model: nn.Module, *, everywhere: bool = False) -> dict[str, Tensor]:
    """The weights of a sharded model by name, on the CPU of the first process (`everywhere`: on all). All must call it."""
    from torch.distributed.checkpoint.state_dict import get_model_state_dict

    weights = get_model_state_dict(model, options=_whole(cpu_offload=not everywhere))
    return {name: value.cpu() for name, value in weights.items()}  # type: ignore[union-attr]


def set_whole_weights(model: nn.Module, weights: dict[str, Any]) -> None:
    """Split whole weights, given on every process, over a sharded model."""
    from torch.distributed.checkpoint.state_dict import set_model_state_dict

    set_model_state_dict(model, weights, options=_whole())


def whole_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimiser's state by parameter names, on the first process. All must call it."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    return dict(get_optimizer_state_dict(model, optimizer, options=_whole(cpu_offload=True)))


def set_whole_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Split a whole state, given on every process, over the optimiser of a sharded model."""
    from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict

    set_optimizer_state_dict(model, optimizer, state, options=_whole())


def all_finite(model: nn.Module) -> bool:
    """Whether every weight is a finite number, on every process that holds a part of it."""
    parts: list[Any] = list(model.parameters())
    finite = all(bool(part.to_local().isfinite().all()) for part in parts if _is_split(part))
    if any(map(_is_split, parts)):
        vote = torch.tensor(float(finite), device=parts[0].device)
        dist.all_reduce(vote, dist.ReduceOp.MIN)
        finite = bool(vote)
    return finite and all(bool(part.isfinite().all()) for part in parts if not _is_split(part))


def _is_split(part: Tensor) -> bool:
    from torch.distributed.tensor import DTensor

    return isinstance(part, DTensor)


def _whole(cpu_offload: bool = False) -> Any:
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(full_state_dict=True, cpu_offload=cpu_offload)
