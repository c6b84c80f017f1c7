"""AttnLRP through a decoder: relevance of every input embedding for the logits of chosen tokens (docs/grounding.md).

The rules are those of `attribution.attnlrp`, which act on functions: an RMSNorm's root is a constant (with Gemma's 1 + scale,
before and after its sublayers), a gated MLP halves, attention divides by 4, 4 and 2 whatever its mask, rotation or sharing of
heads, both soft caps pass relevance on as it is. The prefix runs once for all tokens. It keeps the hidden states between
groups of about sqrt(L) layers; on the way back each group runs again and hands on the gradients of all tokens, so that memory
grows as sqrt(L). Activations and relevance are float32 also where the weights are narrower.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from aloe.attribution.attnlrp import VARIANTS, LrpRules
from aloe.core.errors import UserError
from aloe.core.torch_state import evaluating

TEXT_TOWERS = ("gemma2", "llama", "qwen2")
ACTIVATIONS = ("gelu", "gelu_pytorch_tanh", "silu", "relu")


@dataclass(frozen=True)
class Term:
    """`weight` times the logit of `token`, read at `position`: the logit of the token that comes next there."""

    position: int
    token: int
    weight: float = 1.0


Goal = Sequence[Term]
"""What is explained: a sum of weighted logits."""


@dataclass
class Relevance:
    """Of B rows and T goals: `values` (B, T), and `gradients` (T, B, N, D), which times the embeddings are relevance."""

    values: Tensor
    gradients: Tensor


def propagate(
    decoder: nn.Module,
    head: nn.Module,
    embeddings: Tensor,
    goals: Sequence[Sequence[Goal]],
    *,
    mask: Tensor | None = None,
    variant: str = "full",
    softcap: float | None = None,
    group: int | None = None,
    together: int = 8,
) -> Relevance:
    """Relevance of the input embeddings for each goal.

    Args:
        decoder: transformers' `Gemma2Model`, `LlamaModel` or `Qwen2Model`; head: its `lm_head`. Both are left as they were.
        embeddings: (B, N, D) float32, scaled as the first layer reads them.
        goals: of each of the B rows, T goals.
        mask: (B, N), 0 at padding, which may stand on either side.
        variant: `full`, or `cp`, which loses nothing where there are no biases: the relevance of a row sums to its value.
        softcap: c of c tanh(logit / c), Gemma-2's final soft cap; None: there is none.
        group: layers that run again together; default: the root of their number.
        together: goals whose gradients pass a group in one call; 1 takes the least memory.

    Raises:
        UserError: an unknown variant, or a decoder of another architecture.
    """
    check_decoder(decoder)
    if variant not in VARIANTS:
        raise UserError(f"AttnLRP takes variant {' or '.join(VARIANTS)}, got {variant!r}.")
    layers: Any = decoder.layers
    group = group or math.isqrt(len(layers) - 1) + 1
    with explained(decoder, head), LrpRules(variant):
        states, calls, last = _run(decoder, embeddings.detach().float(), mask, group)
        last.requires_grad_()
        values = _values(head, decoder.norm(last), goals, softcap)  # type: ignore[operator]
        gradients = torch.stack(
            [torch.autograd.grad(values[:, t].sum(), last, retain_graph=True)[0] for t in range(values.shape[1])]
        )
        for start in reversed(range(0, len(layers), group)):
            entering = states.pop().requires_grad_()
            hidden = entering
            for layer, (args, kwargs) in zip(layers[start : start + group], calls[start:], strict=False):
                output = layer(hidden, *args, **kwargs)
                hidden = output[0] if isinstance(output, tuple) else output
            gradients = backward(hidden, entering, gradients, together)
    return Relevance(values.detach(), gradients)


def backward(outputs: Tensor, inputs: Tensor, gradients: Tensor, together: int = 1) -> Tensor:
    """Gradients (T, *outputs' shape) to gradients (T, *inputs' shape), `together` of them in one call."""
    parts = []
    for part in gradients.split(max(1, together)):
        several = len(part) > 1
        at_outputs = part if several else part[0]
        (at_inputs,) = torch.autograd.grad(outputs, inputs, at_outputs, retain_graph=True, is_grads_batched=several)
        parts.append(at_inputs if several else at_inputs[None])
    return torch.cat(parts)


def check_decoder(decoder: nn.Module) -> None:
    """Refuses a decoder whose functions the rules were not shown for.

    Raises:
        UserError: another architecture or activation.
    """
    config: Any = getattr(decoder, "config", None)
    kind = getattr(config, "model_type", None)
    if kind not in TEXT_TOWERS:
        kind = kind or type(decoder).__name__
        raise UserError(f"The text tower is a {kind} model; token grounding has rules for {', '.join(TEXT_TOWERS)}.")
    activation = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", None)
    if activation not in ACTIVATIONS:
        raise UserError(
            f"The text tower's activation {activation!r} has no rule; token grounding takes {', '.join(ACTIVATIONS)}."
        )


@contextmanager
def explained(*modules: nn.Module) -> Iterator[None]:
    """Within the block the modules are in eval mode, with step-by-step attention and constant parameters; autograd is on and
    autocast off. Everything is put back on leaving, also by an exception."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    devices = {p.device.type for module in modules for p in module.parameters()}
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        with ExitStack() as stack:
            # Gemma-2's soft cap has no other attention, and the rules see its steps.
            stack.enter_context(evaluating(*modules, attention="eager"))
            for device in devices:
                stack.enter_context(torch.autocast(device, enabled=False))
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_()


def _run(decoder: Any, embeddings: Tensor, mask: Tensor | None, group: int) -> tuple[list[Tensor], list[Any], Tensor]:
    """One pass without a graph: hidden states before every group, how each layer was called, what the final norm reads."""
    states: list[Tensor] = []
    calls: list[Any] = []
    last: list[Tensor] = []

    def before_layer(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if len(calls) % group == 0:
            states.append(args[0])
        calls.append((args[1:], kwargs))

    def before_norm(_module: nn.Module, args: tuple[Any, ...]) -> None:
        last.append(args[0])

    positions = None if mask is None else (mask.long().cumsum(1) - 1).clamp_min(0)
    hooks = [layer.register_forward_pre_hook(before_layer, with_kwargs=True) for layer in decoder.layers]
    hooks.append(decoder.norm.register_forward_pre_hook(before_norm))
    try:
        with torch.no_grad():
            decoder(inputs_embeds=embeddings, attention_mask=mask, position_ids=positions, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return states, calls, last[0]


def _values(head: Any, normed: Tensor, goals: Sequence[Sequence[Goal]], softcap: float | None) -> Tensor:
    """The goals' values, (B, T), from the rows of the head that they need."""
    rows = []
    for hidden, row in zip(normed, goals, strict=True):
        terms = [term for goal in row for term in goal]
        tokens = torch.tensor([term.token for term in terms], device=hidden.device)
        at = hidden[torch.tensor([term.position for term in terms], device=hidden.device)]
        logits = cap((at * head.weight.detach()[tokens].to(at.dtype)).sum(-1), softcap)
        weighted = logits * logits.new_tensor([term.weight for term in terms])
        rows.append(torch.stack([part.sum() for part in weighted.split([len(goal) for goal in row])]))
    return torch.stack(rows)


def cap(logits: Tensor, softcap: float | None) -> Tensor:
    """c tanh(logits / c), or the logits as they are."""
    return logits if softcap is None else torch.tanh(logits / softcap) * softcap
