"""How views are paired and matched for correspondence, checked when built; the defaults are Probe3D's for NAVI."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, PositiveFloat, field_validator

from aloe.core.bounds import MAX_COUNT, MAX_SEED, MAX_SIDE
from aloe.core.settings import Checked, Count

# Where the published protocol of a data set leaves the defaults; Probe3D's 5, 10 and 20 pixels at a quarter of ScanNet's
# resolution are 20, 40 and 80 here.
PROTOCOLS: dict[str, dict[str, Any]] = {
    "scannet": {"sampling": "at-points", "pixel_thresholds": (20.0, 40.0, 80.0)},
}


class CorrespondenceSettings(Checked):
    """How features are taken and matched.

    `upsampled` brings the features to the grid of points by bicubic interpolation (Probe3D on NAVI); `at-points` reads them
    bilinearly where each point lies (on ScanNet).
    """

    blocks: Literal["last", "four"] | tuple[Count, ...] = Field(
        "last", description="counted from 1; the features of several are concatenated"
    )
    resolution: int | None = Field(
        None,
        ge=1,
        le=MAX_SIDE,
        description="pixels, the input's shorter side; default: the frame's own, in whole patches",
    )
    scale: float = Field(0.25, gt=0, le=1, description="points on a side, as a share of the frame's pixels")
    num_corr: int = Field(1000, ge=1, le=MAX_COUNT, description="matches kept of each pair")
    sampling: Literal["upsampled", "at-points"] = "upsampled"
    thresholds: tuple[PositiveFloat, ...] = Field((0.01, 0.02, 0.05), min_length=1, description="metres")
    pixel_thresholds: tuple[PositiveFloat, ...] = Field((5.0, 25.0, 50.0), description="pixels of the frame")

    @field_validator("blocks", "thresholds", "pixel_thresholds", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int | float) else value

    @field_validator("blocks")
    @classmethod
    def _some(cls, value: Any) -> Any:
        if not value:
            raise ValueError("needs at least one block")
        return value

    def over(self, defaults: dict[str, Any]) -> CorrespondenceSettings:
        """These settings, with `defaults` for those that were not given."""
        return type(self)(**{**defaults, **self.model_dump(include=self.model_fields_set)})


class PairSettings(Checked):
    """Which pairs of an RGB-D capture are compared."""

    gaps: tuple[Count, Count] = Field(
        (8, 64), description="smallest and largest distance of the two frame numbers, both included"
    )
    count: int = Field(200, ge=1, le=MAX_COUNT, description="pairs at most, drawn at random from those that overlap")
    min_overlap: float = Field(
        0.3, ge=0, le=1, description="share of the first view's points that the second sees at the same depth"
    )
    seed: int = Field(0, ge=0, le=MAX_SEED, description="of that draw")

    @field_validator("gaps")
    @classmethod
    def _in_order(cls, value: tuple[int, int]) -> tuple[int, int]:
        if value[0] > value[1]:
            raise ValueError("the smallest comes first")
        return value
