"""Depth from a head's outputs: the average of bins, Probe3D's loss and metrics (El Banani et al. 2024).

The paper (appendix A) speaks of "an L1 objective on inverse depth plus a scale-invariant gradient prior, following
Probe3D", whose code has another loss: that one is the default, the text's is `inverse-l1`. Pixels are valid where depth is
known, above 0 and at most `max_depth`; what stands in the others is never read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from aloe.core.errors import UserError
from aloe.data.frames.frame import Frame, NoTruth

LossName = Literal["probe3d", "inverse-l1"]
LOSSES: tuple[str, ...] = get_args(LossName)
LEAST = 1e-3  # metres: the first bin, and what is added before a logarithm
_NAMES = ("delta1", "delta2", "delta3", "rmse")
METRICS = tuple(f"{kind}_{name}" for kind in ("relative", "absolute") for name in _NAMES)


@dataclass(frozen=True)
class DepthTask:
    """Depth in metres, at most `max_depth`; every step from a head's outputs to numbers."""

    max_depth: float
    bins: int = 256
    loss_kind: str = "probe3d"
    names = METRICS
    error = "absolute_rmse"

    @property
    def outputs(self) -> int:
        """Channels that the head gives."""
        return self.bins

    def target(self, frame: Frame) -> tuple[Tensor, Tensor]:
        """Depth (1, H, W) and where it is valid (H, W).

        Raises:
            UserError: a frame without depth.
            NoTruth: not one valid pixel.
        """
        if frame.depth is None:
            raise UserError(f"Frame {frame.name} has no depth.")
        valid = valid_depth(frame.depth, self.max_depth)
        if not valid.any():
            raise NoTruth(f"Frame {frame.name} has no valid depth (above 0 and at most {self.max_depth:g} m).")
        return frame.depth[None], valid

    def prediction(self, outputs: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, bins, h, w) -> metres (B, 1, H, W): bilinear, aligned corners."""
        depth = average_of_bins(outputs, self.max_depth)[:, None]
        return F.interpolate(depth, size, mode="bilinear", align_corners=True)

    def loss(self, prediction: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
        """See `depth_loss`; (B, 1, H, W) twice and (B, H, W)."""
        return depth_loss(prediction[:, 0], truth[:, 0], valid, self.loss_kind)

    def metrics(self, prediction: Tensor, truth: Tensor, valid: Tensor) -> dict[str, float]:
        """See `depth_metrics`; one image, (1, H, W) twice and (H, W)."""
        return depth_metrics(prediction[0], truth[0], valid)


def valid_depth(depth: Tensor, max_depth: float) -> Tensor:
    """Where depth is finite, above 0 and at most `max_depth`; any shape."""
    return depth.isfinite() & (depth > 0) & (depth <= max_depth)


def average_of_bins(outputs: Tensor, max_depth: float) -> Tensor:
    """(B, K, H, W) -> metres (B, H, W): K uniform depths from 0.001 to `max_depth`, averaged with weights ReLU + 0.1."""
    bins = torch.linspace(LEAST, max_depth, outputs.shape[1], device=outputs.device, dtype=outputs.dtype)
    both = torch.stack([bins, torch.ones_like(bins)])  # one product for the weighted sum and the weights' sum
    sums = both @ F.relu(outputs).flatten(2) + 0.1 * both.sum(dim=1)[:, None]
    return (sums[:, 0] / sums[:, 1]).unflatten(1, outputs.shape[2:])


def depth_loss(prediction: Tensor, truth: Tensor, valid: Tensor, kind: str = "probe3d") -> Tensor:
    """10 x a loss per pixel + 0.5 x the gradient term, over the valid pixels of the whole batch.

    With g = log(p + 0.001) - log(t + 0.001), the loss per pixel is sqrt(mean g^2 - 0.85 (mean g)^2) for `probe3d` and the
    mean of |1/p - 1/t| for `inverse-l1` (depths under 0.001 count as that; the paper gives no weights, so they are kept). The
    gradient term takes |g(x) - g(x + 2)| in both directions on every 1st, 2nd, 4th and 6th row and column, where both are
    valid, over the number of valid pixels at that stride, and adds the four.

    Args:
        prediction, truth: metres (B, H, W). valid: bool (B, H, W).

    Raises:
        UserError: no valid pixel in the batch.
    """
    count = valid.sum()
    if not count:
        raise UserError("No pixel of the batch has a valid depth.")
    one = torch.ones((), device=prediction.device, dtype=prediction.dtype)
    p, t = torch.where(valid, prediction, one), torch.where(valid, truth.to(prediction), one)  # equal where not valid
    g = (p + LEAST).log() - (t + LEAST).log()
    if kind == "probe3d":
        # The root's slope is infinite at 0, a perfect prediction.
        pixels = (g.square().sum() / count - 0.85 * (g.sum() / count).square()).clamp_min(1e-12).sqrt()
    elif kind == "inverse-l1":
        pixels = (p.clamp_min(LEAST).reciprocal() - t.clamp_min(LEAST).reciprocal()).abs().sum() / count
    else:
        raise UserError(f"There is no loss {kind!r}; choose from {', '.join(LOSSES)}.")
    return 10 * pixels + 0.5 * _gradient_term(g, valid)


def depth_metrics(prediction: Tensor, truth: Tensor, valid: Tensor) -> dict[str, float]:
    """`METRICS` of one image, in float64 over its valid pixels.

    delta_k is the share with max(t/p, p/t) < 1.25^k, rmse is in metres. `absolute` takes the prediction as it is, `relative`
    after the scale and shift that fit this image best.

    Args:
        prediction, truth: metres (H, W). valid: bool (H, W).

    Raises:
        UserError: no valid pixel.
    """
    if not valid.any():
        raise UserError("No pixel of the image has a valid depth.")
    p, t = prediction[valid].double(), truth[valid].double()
    scale, shift = _fit(p, t)
    relative, absolute = _compared(scale * p + shift, t), _compared(p, t)
    return dict(zip(METRICS, (*relative, *absolute), strict=True))


def _fit(p: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift, float64 scalars; (1, 0) where p has no spread."""
    mean, spread = p.mean(), (p - p.mean()).square().mean()
    if spread <= 1e-12 * p.square().mean():
        return torch.ones_like(mean), torch.zeros_like(mean)
    scale = ((p - mean) * (t - t.mean())).mean() / spread
    return scale, t.mean() - scale * mean


def _compared(p: Tensor, t: Tensor) -> tuple[float, ...]:
    ratio = torch.maximum(t / p.clamp_min(1e-9), p / t.clamp_min(1e-9))
    shares = [float((ratio < 1.25**k).double().mean()) for k in (1, 2, 3)]
    return (*shares, float((t - p).square().mean().sqrt()))


def _gradient_term(g: Tensor, valid: Tensor) -> Tensor:
    total = g.new_zeros(())
    for stride in (1, 2, 4, 6):
        d, v = g[:, ::stride, ::stride], valid[:, ::stride, ::stride]
        across = (d[:, :, 2:] - d[:, :, :-2]).abs() * (v[:, :, 2:] & v[:, :, :-2])
        down = (d[:, 2:] - d[:, :-2]).abs() * (v[:, 2:] & v[:, :-2])
        total = total + (across.sum() + down.sum()) / v.sum().clamp_min(1)
    return total
