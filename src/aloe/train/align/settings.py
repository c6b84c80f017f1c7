"""The configuration of an alignment (docs/method.md section 5), over what every training shares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from aloe.core.bounds import MAX_COUNT, MAX_SIDE
from aloe.train.settings import TrainSettings

if TYPE_CHECKING:
    from typing_extensions import Self


OF_CONVERSION = ("b", "block_steps", "calibrate")
"""Settings that an alignment which goes on from a student does not read."""


def usual_rate(width: int, blocks: int, images: int, share: float = 1.0) -> float:
    """The learning rate of a student of that width and number of blocks, for that many images per step, or a share of it.

    6e-3 for 6 blocks of width 128 and 64 images, the best of a range there, and for anything smaller; in proportion to
    1 / width, as AdamW's steps of a matrix ask for (Yang et al. 2022, "Tensor Programs V"), to 1 / blocks, and to the root
    of the images, of 128 at most. What it was measured against: docs/alignment.md, "The rate".
    """
    return float(f"{share * 6e-3 * 6 * 128 / max(blocks * width, 6 * 128) * (min(images, 128) / 64) ** 0.5:.2g}")


class AlignSettings(TrainSettings):
    """What an alignment does."""

    recipe_package: ClassVar[str] = "aloe.train.align"

    learning_rate: float | None = Field(  # type: ignore[assignment]
        None, gt=0, description="the highest of the schedule; default: by width, blocks and batch"
    )
    calibrate: bool = Field(True, description="rescale the converted units before training")
    objective: Literal["cosine", "mse", "standardized", "siglip", "infonce"] = "cosine"
    after_block: Literal["default", "paper", "all"] | list[int] = Field(
        "default", description="default, paper, all, or numbers such as 4,8,12"
    )
    pooled: bool = True
    stem_steps: int = Field(
        0, ge=0, le=MAX_COUNT, description="steps in which a conv stem learns alone, before the alignment"
    )
    block_steps: int = Field(
        0, ge=0, le=MAX_COUNT, description="steps in which every block learns alone, before the alignment"
    )
    compile_teacher: bool = Field(False, description="the teacher's blocks through torch.compile")
    resolutions: list[int] | None = Field(
        None, min_length=1, description="pixels, one of which is drawn for every step; default: always the resolution"
    )

    @field_validator("after_block")
    @classmethod
    def _blocks_count_from_1(cls, value: Any) -> Any:
        if isinstance(value, list) and any(k < 1 for k in value):
            raise ValueError("blocks count from 1 to the number that the teacher has")
        return value

    @field_validator("resolutions")
    @classmethod
    def _resolutions_are_pixels(cls, value: list[int] | None) -> list[int] | None:
        if value is not None and (min(value) < 1 or max(value) > MAX_SIDE or len(set(value)) < len(value)):
            raise ValueError(f"must be different numbers of pixels, from 1 to {MAX_SIDE}")
        return value

    def resolution_at(self, step: int, default: int) -> int:
        """Pixels of a step's images: a function of seed and step alone, so that a resumed run draws the same."""
        if not self.resolutions:
            return default
        import numpy as np

        return int(np.random.default_rng([self.seed, step]).choice(self.resolutions))

    def with_rate(self, width: int, blocks: int, images: int) -> Self:
        """These settings with a rate, where they have none: `usual_rate` of the student and of the images per step."""
        if self.learning_rate is not None:
            return self
        return self.model_copy(update={"learning_rate": usual_rate(width, blocks, images)})

    @model_validator(mode="after")
    def _something_to_align(self) -> Self:
        if not self.pooled and (self.after_block == [] or self.objective in ("siglip", "infonce")):
            raise ValueError(f"objective {self.objective} without the pooled output aligns nothing")
        if self.stem_steps and self.stem == "patch":
            raise ValueError("stem_steps warm up a convolutional stem; the stem is patch")
        if self.objective in ("siglip", "infonce") and self.batch_size < 2:
            raise ValueError(
                f"objective {self.objective} contrasts images of a batch, so batch_size must be at least 2"
            )
        return self
