"""Surface normals from a head's outputs: Probe3D's loss and metrics (El Banani et al. 2024).

The first three channels point along the normal, in the camera frame of `frames.py`; a fourth, with `uncertainty`, weighs the
angle in the loss (Bae et al. 2021). Pixels are valid where depth is (no depth: everywhere) and the normal is known. Probe3D
does not ask for the latter and counts an absent normal as 90 degrees wrong: `missing="error"` does that.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import pi

import torch
import torch.nn.functional as F
from torch import Tensor

from aloe.core.errors import UserError
from aloe.data.frames.frame import Frame, NoTruth
from aloe.evaluation.dense.depth import valid_depth

THRESHOLDS = (11.25, 22.5, 30.0)  # degrees
METRICS = ("delta1", "delta2", "delta3", "rmse")


@dataclass(frozen=True)
class NormalsTask:
    """Unit normals in the camera frame; every step from a head's outputs to numbers."""

    max_depth: float
    uncertainty: bool = True
    missing: str = "skip"
    names = METRICS
    error = "rmse"

    @property
    def outputs(self) -> int:
        """Channels that the head gives."""
        return 4 if self.uncertainty else 3

    def target(self, frame: Frame) -> tuple[Tensor, Tensor]:
        """Normals (3, H, W), zero where unknown, and where they count (H, W).

        Raises:
            UserError: a frame without normals, or without depth to know where a missing one counts.
            NoTruth: not one valid pixel.
        """
        if frame.normals is None:
            raise UserError(f"Frame {frame.name} has no normals.")
        known = frame.normals.isfinite().all(dim=0) & (frame.normals != 0).any(dim=0)
        everywhere = torch.ones_like(known)
        measured = everywhere if frame.depth is None else valid_depth(frame.depth, self.max_depth)
        if self.missing == "error" and frame.depth is None:
            raise UserError(f"Frame {frame.name} has no depth, which says where a missing normal is an error.")
        valid = measured & (known if self.missing == "skip" else everywhere)
        if not valid.any():
            raise NoTruth(f"Frame {frame.name} has no valid normals.")
        return torch.where(known, frame.normals, torch.zeros_like(frame.normals)), valid

    def prediction(self, outputs: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, 3 or 4, h, w) -> (B, 3 or 4, H, W), bicubic, aligned corners; the normals are not of length 1."""
        return F.interpolate(outputs, size, mode="bicubic", align_corners=True)

    def loss(self, prediction: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
        """See `normals_loss`."""
        return normals_loss(prediction, truth, valid)

    def metrics(self, prediction: Tensor, truth: Tensor, valid: Tensor) -> dict[str, float]:
        """See `normals_metrics`."""
        return normals_metrics(prediction, truth, valid)


def normals_loss(prediction: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """Mean over the valid pixels of the batch: the angle theta for 3 channels, and for 4

        ln(1 + exp(-pi kappa)) - ln(kappa^2 + 1) + kappa theta,   kappa = ELU(fourth) + 1.01.

    theta = arccos of the cosine, clamped to 1 - 1e-4 in size, where its slope is still finite.

    Args:
        prediction: (B, 3 or 4, H, W). truth: (B, 3, H, W). valid: bool (B, H, W).

    Raises:
        UserError: no valid pixel in the batch.
    """
    if not valid.any():
        raise UserError("No pixel of the batch has a valid normal.")
    predicted = prediction.permute(0, 2, 3, 1)[valid]
    true = truth.permute(0, 2, 3, 1)[valid].to(predicted)
    theta = F.cosine_similarity(predicted[:, :3], true, dim=1).clamp(-1 + 1e-4, 1 - 1e-4).acos()
    if predicted.shape[1] == 3:
        return theta.mean()
    kappa = F.elu(predicted[:, 3]) + 1.01
    return (F.softplus(-pi * kappa) - (kappa.square() + 1).log() + kappa * theta).mean()


def normals_metrics(prediction: Tensor, truth: Tensor, valid: Tensor) -> dict[str, float]:
    """`METRICS` of one image, in float64 over its valid pixels: the shares under 11.25, 22.5 and 30 degrees, and the root of
    the mean squared angle in degrees.

    Args:
        prediction: (3 or 4, H, W). truth: (3, H, W). valid: bool (H, W).

    Raises:
        UserError: no valid pixel.
    """
    if not valid.any():
        raise UserError("No pixel of the image has a valid normal.")
    predicted, true = prediction[:3, valid].double(), truth[:, valid].double()
    degrees = F.cosine_similarity(predicted, true, dim=0).clamp(-1, 1).acos().rad2deg()
    shares = [float((degrees < limit).double().mean()) for limit in THRESHOLDS]
    return dict(zip(METRICS, (*shares, float(degrees.square().mean().sqrt())), strict=True))
