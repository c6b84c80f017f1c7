"""The configuration of a fine-tuning, over what every training shares."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from aloe.train.settings import TrainSettings


class FinetuneSettings(TrainSettings):
    """What a fine-tuning does. `stem`, `b` and `calibrate` are of the conversion, so of no use to a student."""

    recipe_package: ClassVar[str] = "aloe.train.finetune"

    loss: Literal["bce", "cross-entropy"] = Field("bce", description="bce (uniform off-targets) or cross-entropy")
    freeze: Literal["none", "backbone"] = Field("none", description="none, or backbone: only the head learns")
