"""W(x) as an operator: the student with every dynamic factor frozen at one image, applied to any input, and its transpose.

A student's features are f(x) = W(x) x + r(x). The backward pass multiplies by the transpose, W(x)^T v; it is linear in v, so
its own derivative with respect to v is W(x), the frozen network run forward. Both come from one recorded forward pass, many
at a time. Units are written in PyTorch's own operations for it (`bcos.plain`), because theirs stop at one derivative.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from aloe.attribution.subject import opened
from aloe.attribution.taps import AttentionTap
from aloe.bcos.dynamic import explanation_mode
from aloe.core.torch_state import in_plain_torch

MEMORY = 1 << 28  # bytes that the passes of one batch may take
_ALIVE = 6  # tensors of the largest size that a backward pass holds at a time

Read = Callable[[Any], Tensor]


class Operator:
    """W(x) of one image: from its pixels, or from its tokens after a block, to a vector of D numbers.

    Attributes:
        inputs: x, (6, H, W); or the tokens after a block, (prefix + N, width).
        value: f(x), (D,). residual: r(x), (D,), what constants contribute; 0 from tokens, which hold them.
    """

    inputs: Tensor
    value: Tensor
    residual: Tensor

    @in_plain_torch
    def __init__(self, model: Any, image: Tensor, *, read: Read | None = None, after_block: int | None = None) -> None:
        """Record one forward pass; the model is left as it was.

        Args:
            model: a B-cos student, checked. image: (3, H, W) in [0, 1], on its device and in its dtype.
            read: of the model's outputs for one image, the vector (1, D) that is meant; default: the pooled output.
            after_block: take the tokens after this block as the input; 0: the embedded ones. Default: pixels.
        """
        base = model.base_model
        with opened(model), explanation_mode(plain=True), AttentionTap():
            x = base.encode(image.detach()[None].clone()).requires_grad_()
            frozen = {name: p.detach() for name, p in base.named_parameters()}
            options = {"output_hidden_states": True, "return_dict": True}
            outputs = torch.func.functional_call(base, frozen, (x,), options)
        self._output = outputs.pooler_output if read is None else read(outputs)
        self._input = x if after_block is None else outputs.hidden_states[after_block]
        self._cotangent = torch.zeros_like(self._output, requires_grad=True)
        self.inputs, self.value = self._input.detach()[0], self._output.detach()[0]
        self._step = _images_at_once(base, image)
        embedded = outputs.hidden_states[0]
        nodes = [self._input] if after_block is not None else [self._input, embedded]
        self._transposed, *at_tokens = torch.autograd.grad(self._output, nodes, self._cotangent, create_graph=True)
        if at_tokens:
            grid = base.embeddings.grid(*image.shape[-2:])
            constants = base.embeddings.constants(*grid).detach().to(embedded.dtype)
            self.residual = torch.autograd.grad(at_tokens, self._cotangent, [constants], retain_graph=True)[0][0]
        else:
            self.residual = torch.zeros_like(self.value)

    @in_plain_torch
    def forward(self, inputs: Tensor) -> Tensor:
        """W(x) m for K inputs m in the shape of x, (K, ...) -> (K, D)."""
        return self._many(self._transposed, self._cotangent, inputs)

    @in_plain_torch
    def transpose(self, directions: Tensor) -> Tensor:
        """W(x)^T v for K directions v, (K, D) -> (K, ...) in the shape of x."""
        return self._many(self._output, self._input, directions)

    @in_plain_torch
    def parts(self, cells: Tensor) -> Tensor:
        """What every part of the input contributes to f(x), by whichever of the two takes fewer passes.

        Args:
            cells: the number of the part that every place belongs to, 0 to N - 1, int64: (H, W) of pixels or (prefix + N,)
                of tokens; masks are then made a batch at a time. Or shares, floats with N in front: (N, H, W) of pixels or
                (N, prefix + N) of tokens, how much of each place belongs to the part.

        Returns:
            (N, D): W(x) applied to x with all but the part masked. Parts whose shares add up to 1 add up to f(x) - r(x).
        """
        features = -3 if self.inputs.ndim == 3 else -1  # the dimension of the numbers of a place
        numbered = not cells.is_floating_point()
        cells = cells.to(self.inputs.device) if numbered else cells.to(self.inputs)
        count = int(cells.max()) + 1 if numbered else len(cells)
        products = []
        if count <= len(self.value):
            for which in torch.arange(count, device=cells.device).split(self._step):
                masks = cells == which.view(-1, *[1] * cells.ndim) if numbered else cells[which]
                products.append(self.forward(masks.unsqueeze(features) * self.inputs))
            return torch.cat(products)
        for directions in torch.eye(len(self.value)).to(self.inputs).split(self._step):
            at = (self.transpose(directions) * self.inputs).sum(features).flatten(1)
            if numbered:
                products.append(at.new_zeros(len(at), count).index_add_(1, cells.flatten(), at))
            else:
                products.append(at @ cells.flatten(1).T)
        return torch.cat(products).T

    def _many(self, output: Tensor, source: Tensor, cotangents: Tensor) -> Tensor:
        """Backward passes of the recorded graph, batched."""
        parts = []
        for part in cotangents.to(output).split(self._step):
            (gradients,) = torch.autograd.grad(output, source, part[:, None], retain_graph=True, is_grads_batched=True)
            parts.append(gradients[:, 0])
        return torch.cat(parts)


def _images_at_once(base: nn.Module, image: Tensor) -> int:
    """How many passes fit into `MEMORY`."""
    config: Any = base.config
    height, width = image.shape[-2:]
    tokens = config.num_prefix_tokens + height * width // config.patch_size**2
    widest = max(3 * config.hidden_size, config.intermediate_size)
    stem = max(config.stem_widths or [0]) * height * width // 4
    return max(1, MEMORY // (_ALIVE * image.element_size() * max(tokens * widest, 6 * height * width, stem)))
