"""How a depth or normal probe is built and trained, checked when built; the defaults are Probe3D's but for augmentation
(off) and unknown normals (left out).

The paper names a linear head and no more: the kernel, the blocks and whether CLS is concatenated are choices here (1 x 1,
the last block, no). Warm-up is a share of the steps, Probe3D's 1.5 of 10 epochs: a shorter run keeps the schedule's shape.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, PositiveFloat, field_validator

from aloe.core.bounds import MAX_BATCH, MAX_COUNT, MAX_HELD, MAX_SEED, MAX_SIDE
from aloe.core.settings import Checked, Count
from aloe.evaluation.dense.depth import LossName


class DenseSettings(Checked):
    """Settings of `fit_probe`; `loss` and `bins` are read for depth, `uncertainty` and `missing_normals` for normals."""

    head: Literal["linear", "dpt"] = "linear"
    kernel: int = Field(1, ge=1, le=MAX_SIDE, description="of the linear head's convolution, odd")
    hidden: int = Field(512, ge=1, le=MAX_SIDE, description="channels inside the dpt head")
    blocks: Literal["last", "four"] | tuple[Count, ...] = Field("last", description="counted from 1")
    standardize: bool = Field(
        False, description="bring every channel to mean 0 and deviation 1 over the training frames"
    )
    cls: bool = Field(False, description="concatenate the CLS token to every patch")
    resolution: int | None = Field(None, ge=1, le=MAX_SIDE, description="pixels; default: each model's own")
    target_side: int | None = Field(
        None, ge=1, le=MAX_SIDE, description="pixels of the ground truth; default: the frames' own"
    )

    loss: LossName = "probe3d"
    bins: int = Field(256, ge=2, le=MAX_SIDE, description="depths that are averaged")
    uncertainty: bool = Field(True, description="a fourth output weighs the angle")
    missing_normals: Literal["skip", "error"] = Field(
        "skip", description="error: counted as 90 degrees, as Probe3D does"
    )

    epochs: int = Field(10, ge=1, le=MAX_COUNT)
    batch_size: int = Field(8, ge=1, le=MAX_BATCH)
    learning_rate: PositiveFloat | tuple[PositiveFloat, ...] = Field(
        5e-4, description="of several, the one with the least error on held-out training frames"
    )
    held_out: float = Field(0.2, gt=0, lt=1, description="share of the training frames, the last ones, that chooses")
    repeats: int = Field(
        1, ge=1, le=MAX_HELD, description="heads, of seeds seed, seed + 1, ...; metrics are their means"
    )
    weight_decay: float = Field(0.01, ge=0)
    warmup: float = Field(0.15, ge=0, lt=1, description="share of the steps")
    augment: bool = Field(False, description="colours and crops, new in every step; features are then not kept")
    seed: int = Field(0, ge=0, le=MAX_SEED, description="of the head's first weights, the order and the augmentation")

    @field_validator("kernel")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("must be odd")
        return value

    @property
    def learning_rates(self) -> tuple[float, ...]:
        """One, or those to choose from."""
        return self.learning_rate if isinstance(self.learning_rate, tuple) else (self.learning_rate,)

    @field_validator("blocks", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int) else value

    @field_validator("blocks", "learning_rate")
    @classmethod
    def _some(cls, value: Any) -> Any:
        if not value:
            raise ValueError("needs at least one")
        return value
