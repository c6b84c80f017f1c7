"""What `aloe ground` is asked for besides a picture, a model and a question."""

from __future__ import annotations

from pydantic import Field

from aloe.core.settings import Checked, Count


class GroundSettings(Checked):
    """What the model looks through, and what of which answer is explained."""

    vision: str | None = Field(
        None, description="student aligned to the model's vision tower; default: AttnLRP through the tower"
    )
    words: str | None = Field(None, description="words or phrases of the answer, with commas; default: all words")
    answer: str | None = Field(None, description="the answer to ground; default: the model's own")
    against: str | None = Field(None, description="explain by how much the model prefers each word to this one")
    variant: str = Field("full", description="full, or cp, which conserves relevance")
    max_new_tokens: Count = Field(64, description="tokens of the answer at most")
    tower: str | None = Field(None, description="of a LLaVA-MORE checkpoint, its tower; default: the one it names")
    precision: str | None = Field(None, description="of weights: float32, bfloat16 or float16; default: as stored")
