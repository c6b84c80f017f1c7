"""What `aloe explain`, `aloe attribute` and `aloe neighbours` are asked for."""

from __future__ import annotations

from pydantic import Field

from aloe.core.bounds import MAX_COUNT, MAX_HELD, MAX_SIDE
from aloe.core.errors import UserError
from aloe.core.settings import BatchSize, Checked, Count, Limit, Resolution


class ExplainSettings(Checked):
    """A student's own explanations: of a class, of texts, or of what images have in common with others."""

    target: str | None = Field(None, description="class name or index; default: the predicted class")
    text: tuple[str, ...] = Field(
        (), description="explain the similarity to this text (SigLIP students); may be repeated"
    )
    text_tower: str | None = Field(
        None, description="folder or hub id of the text tower; default: the student's teacher"
    )
    templates: str | None = Field(
        None, description="prompts that each text is put into: single, openclip or a file; default: none"
    )
    like: tuple[str, ...] = Field(
        (), description="explain why each image is like this one, or the nearest of these; may be repeated"
    )
    region: tuple[str, ...] = Field(
        (), description="with --like: only like this region, x,y,width,height in its pixels; may be repeated"
    )
    pairs: int = Field(0, ge=0, le=MAX_HELD, description="with --like: draw so many of the strongest pairs of patches")
    toward: str | None = Field(None, description="explain the direction of the mean feature of these images")
    against: str | None = Field(None, description="with --toward: less the mean feature of these")
    resolution: Resolution = None
    precision: str = Field(
        "float32", description="float32, or bf16 where the device is fast at it; of classes and texts"
    )
    limit: Limit = None
    batch_size: BatchSize = 16

    def check(self) -> None:
        """Raises UserError for what does not go together."""
        if self.text and self.target is not None:
            raise UserError("Give --target or --text, not both.")
        if not self.text and (self.text_tower or self.templates):
            raise UserError("--text-tower and --templates belong to --text; give a text as well.")
        if sum([bool(self.text), self.target is not None, bool(self.like), self.toward is not None]) > 1:
            raise UserError("Give one of --target, --text, --like and --toward.")
        if (self.region or self.pairs) and not self.like:
            raise UserError("--region and --pairs belong to --like; give an image that the others are like.")
        if self.against is not None and self.toward is None:
            raise UserError("--against belongs to --toward; give the images that the direction points to.")
        if self.precision != "float32" and (self.like or self.toward is not None):
            raise UserError("--precision is of classes and texts; leave it out with --like and --toward.")


class AttributeSettings(Checked):
    """Maps of attribution methods, side by side."""

    methods: tuple[str, ...] = Field(("all",), min_length=1, description="attribution methods")
    target: str | None = Field(None, description="class name or index; default: what the first model predicts")
    preset: str = Field("best", description="options of methods: best, or paper, as the authors ran them")
    resolution: int | None = Field(None, ge=1, le=MAX_SIDE, description="pixels; default: each model's own")
    limit: Limit = None
    maps: bool = Field(False, description="also write the maps, as safetensors")
    memory: bool = Field(False, description="measure each method's peak of memory too")


class NeighboursSettings(Checked):
    """An image's nearest images, and why they are near."""

    k: Count = Field(5, description="neighbours of each image")
    resolution: Resolution = None
    limit: int | None = Field(None, ge=1, le=MAX_COUNT, description="at most this many queries")
    batch_size: BatchSize = 32
