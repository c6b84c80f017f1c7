"""What an evaluation depends on besides models and data, checked when built; each task reads its own part of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PositiveFloat, field_validator, model_validator

from aloe.core.bounds import FIRST_BATCH, MAX_BATCH, MAX_COUNT, MAX_HELD, MAX_SEED, MAX_SIDE, MAX_WORKERS
from aloe.core.settings import Checked, Count

if TYPE_CHECKING:
    from typing_extensions import Self

# Tasks of `aloe evaluate`, known without torch.
_MEASURED = ("knn", "linear", "zeroshot", "classifier", "cosine")
TASK_NAMES = (*_MEASURED, "gridpg", "deletion", "inside", "clarity", "depth", "normals", "correspondence")

RESULTS_NAME = "results.jsonl"  # in a results folder: one row a line

# Of the linear probe: the paper's 1e-2, 3e-3, 1e-3 and two larger ones, which are best for a B-cos head on few images or on
# features with a large common part (converted, not aligned).
LEARNING_RATES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3)


class EvaluateSettings(Checked):
    """Settings of all tasks; the defaults are the paper's protocol (docs/method.md section 6)."""

    feature: Literal["pooled", "cls", "mean", "concat"] = "pooled"
    resolution: int | None = Field(None, ge=1, le=MAX_SIDE, description="pixels; default: each model's own")
    precision: Literal["float32", "bf16", "fp16"] = "float32"

    k: tuple[Count, ...] = Field((20,), min_length=1, description="neighbours, 20 or 1,5,20; the first counts")
    distance: Literal["cosine", "euclidean"] = "cosine"
    votes: Literal["uniform", "distance"] = "uniform"

    head: Literal["auto", "bcos", "linear"] = Field(
        "auto",
        description="auto (bcos on students, linear on teachers), bcos or linear; of depth and normals linear or dpt",
    )
    loss: Literal["cross-entropy", "bce"] = "cross-entropy"
    learning_rates: tuple[PositiveFloat, ...] = Field(LEARNING_RATES, min_length=1)
    epochs: int = Field(50, ge=1, le=MAX_COUNT)
    weight_decay: float = Field(1e-4, ge=0)
    seed: int = Field(0, ge=0, le=MAX_SEED, description="of draws")

    templates: str = Field("single", description="single, openclip, or a file of prompts with {}")
    text_tower: str | None = Field(None, description="SigLIP checkpoint; default: the model's teacher")
    class_names: Path | None = Field(
        None, description="JSON or text file of names for zeroshot; default: the data's own"
    )

    reference: str | None = Field(None, description="teacher that cosine compares with")

    methods: tuple[str, ...] = Field(("all",), min_length=1, description="attribution methods")
    preset: Literal["best", "paper"] = Field(
        "best", description="options of methods: best, or paper, as the authors ran them"
    )
    options: dict[str, dict[str, Any]] = Field({}, description="of attribution methods, by name, before the preset's")
    confidence: float = Field(0.95, ge=0, le=1, description="least probability of images for gridpg, deletion")
    share: float | None = Field(None, gt=0, le=1, description="instead: the most confident share of each class")
    grid_size: int = Field(2, ge=2, le=MAX_SIDE, description="gridpg: cells on a side")
    grids: int = Field(250, ge=1, le=MAX_HELD, description="grids for gridpg")
    grids_file: Path | None = Field(None, description="stored grids of an earlier run")
    first_grids: dict[str, Count] = Field({}, description="gridpg: by method, only so many of them, the first")
    protocol: Literal["windows", "whole", "resized"] = Field(
        "windows", description="what of a grid gridpg shows the model"
    )
    smooth: int = Field(
        0, ge=0, le=MAX_SIDE, description="gridpg: side of the box that maps are averaged over; 0: none"
    )
    images: int = Field(200, ge=1, le=MAX_COUNT, description="images for deletion, inside, clarity")
    block: int = Field(16, ge=1, le=MAX_SIDE, description="pixels on a side of deletion's blocks")
    fill: Literal["zero", "black", "mean", "blur"] = "zero"
    deletion_mode: Literal["deletion", "insertion"] = "deletion"
    fractions: Literal["paper", "fine"] = Field("paper", description="deletion: shares removed; fine: steps of 5 %")
    among: Literal["any", "confident"] = Field("any", description="deletion: which images are drawn")

    compile: bool = Field(False, description="models through torch.compile, where features are read")
    batch_size: int = Field(
        128, ge=1, le=MAX_BATCH, description="images per pass; default: 128, of frames 8, on CUDA what fits"
    )
    workers: int = Field(0, ge=0, le=MAX_WORKERS, description="processes that decode images, at most one per core")

    def batch_on(self, device: str) -> int:
        """Images per pass: those asked for; else, on a GPU, as many as it is tried with first."""
        first = device.startswith("cuda") and "batch_size" not in self.model_fields_set
        return FIRST_BATCH if first else self.batch_size

    @model_validator(mode="before")
    @classmethod
    def _by_its_first_name(cls, values: Any) -> Any:
        """`grid_input`, which the protocol was called when `native` (now `whole`) and `resized` were all there was."""
        if not isinstance(values, dict) or "grid_input" not in values:
            return values
        named = {"native": "whole"}.get(values["grid_input"], values["grid_input"])
        if values.get("protocol", named) != named:
            raise ValueError(f"protocol = {values['protocol']} and grid_input = {values['grid_input']} disagree")
        return {**{k: v for k, v in values.items() if k != "grid_input"}, "protocol": named}

    @model_validator(mode="after")
    def _a_stored_list_is_as_long_as_it_is(self) -> Self:
        beside = sorted({"grids", "grid_size"} & self.model_fields_set) if self.grids_file is not None else []
        if beside:
            raise ValueError(f"grids_file brings its own {' and '.join(beside)}; leave {beside[0]} out")
        return self

    @field_validator("k", "learning_rates", "methods", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return value if isinstance(value, list | tuple) else (value,)
