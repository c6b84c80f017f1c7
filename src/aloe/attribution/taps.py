"""Attention with its matrix at hand, in any model that calls PyTorch's attention: every call inside the block is computed
step by step and its softmax weights are kept, as nodes of the graph. No module, hook or parameter is touched.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class AttentionTap(TorchFunctionMode):
    """Within the block, `weights` collects the attention weights of every call in order, each (B, heads, queries, keys):
    those of the transformer blocks, then those of an attention-pooling head (one query)."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self.attend(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            return self._multi_head(*args, **kwargs)
        return func(*args, **kwargs)

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """softmax(q k^T scale + mask) v; q (B, heads, M, d), k and v (B, heads, N, d), fewer heads if shared."""
        if enable_gqa:
            k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
        scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
        if is_causal:
            scores = scores.masked_fill(scores.new_ones(scores.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
        wide = torch.promote_types(scores.dtype, torch.float32)
        weights = scores.softmax(dim=-1, dtype=wide).to(v.dtype)
        self.weights.append(weights)
        return weights @ v

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    def _multi_head(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        embed_dim: int,
        heads: int,
        in_weight: Tensor,
        in_bias: Tensor | None,
        bias_k: Tensor | None,
        bias_v: Tensor | None,
        add_zero_attn: bool,
        dropout_p: float,
        out_weight: Tensor,
        out_bias: Tensor | None,
        attn_mask: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        """`nn.MultiheadAttention` (SigLIP's pooling head): query (M, B, D), key and value (N, B, D)."""
        parts = in_weight.chunk(3), (None,) * 3 if in_bias is None else in_bias.chunk(3)
        q, k, v = (
            self.linear(x, w, b).unflatten(-1, (heads, -1)).permute(1, 2, 0, 3)
            for x, w, b in zip((query, key, value), *parts, strict=True)
        )
        if attn_mask is not None and attn_mask.ndim == 3:
            attn_mask = attn_mask.unflatten(0, (-1, heads))
        mixed = self.attend(q, k, v, attn_mask).permute(2, 0, 1, 3).flatten(2)
        return self.linear(mixed, out_weight, out_bias), None
