"""The part of a configuration that every training shares: strict, resolved from recipe, file and flags, saved with the run.

Order of precedence: explicit values, then the file, then the recipe, then the defaults. Every mistake is listed at once, and
an unknown key names the nearest known one.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from aloe.core.bounds import MAX_BATCH, MAX_COUNT, MAX_PREFETCH, MAX_SEED, MAX_SIDE, MAX_WORKERS
from aloe.core.errors import UserError
from aloe.core.files import read_mapping
from aloe.core.names import meant
from aloe.core.settings import Checked

if TYPE_CHECKING:
    from typing_extensions import Self


class TrainSettings(Checked):
    """Conversion, data, optimiser, schedule and run. Batch sizes are per process; steps are optimiser steps.

    A training subclasses this with its own fields and names the package that holds its recipes.
    """

    recipe_package: ClassVar[str]

    stem: Literal["patch", "conv", "conv-even"] = Field(
        "patch", description="patch (folded from the teacher), conv (new, the paper's) or conv-even"
    )
    b: float = Field(2.0, ge=1, le=100)
    calibrate: bool = Field(False, description="rescale the converted units before training")

    resolution: int | None = Field(
        None, ge=1, le=MAX_SIDE, description="student pixels; default: the student's native size"
    )
    crop_scale: tuple[float, float] = (0.08, 1.0)
    flip: bool = True
    holdout: int = Field(256, ge=0, le=MAX_COUNT, description="images kept out of training for validation")
    max_bad_fraction: float = Field(0.05, ge=0, le=1)

    steps: int = Field(30_000, ge=1, le=MAX_COUNT, description="optimiser steps")
    batch_size: int = Field(64, ge=1, le=MAX_BATCH, description="images per step and process")
    gradient_accumulation: int = Field(1, ge=1, le=MAX_BATCH)
    optimizer: Literal["adamw", "muon"] = Field(
        "adamw", description="muon: of the matrices of the blocks, beside adamw for the rest"
    )
    learning_rate: float = Field(1e-3, gt=0, description="the highest of the schedule")
    schedule: Literal["one-cycle", "warmup-constant-cosine"] = "one-cycle"
    warmup: float = Field(0.1, ge=0, le=1, description="share of the steps")
    decay: float = Field(0.2, ge=0, le=1, description="share of the steps, warmup-constant-cosine only")
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)

    seed: int = Field(0, ge=0, le=MAX_SEED, description="of draws and order")
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    matmul_precision: Literal["highest", "high", "medium"] = Field(
        "highest", description="of products of float32 numbers, in the words of torch.set_float32_matmul_precision"
    )
    gradient_checkpointing: bool = False
    fsdp: bool = Field(False, description="split weights, gradients and optimiser over the processes")
    workers: int = Field(1, ge=0, le=MAX_WORKERS, description="processes that decode images, at most one per core")
    prefetch: int = Field(4, ge=1, le=MAX_PREFETCH, description="batches that each worker reads ahead")
    log_every: int = Field(20, ge=1, le=MAX_COUNT)
    evaluate_every: int = Field(500, ge=1, le=MAX_COUNT)
    save_every: int = Field(500, ge=1, le=MAX_COUNT)
    keep_checkpoints: int = Field(2, ge=1, le=MAX_COUNT)
    report_to: list[str] = Field(default_factory=list, description="tensorboard, wandb, ...")

    @classmethod
    def recipes(cls) -> list[str]:
        """Names of the recipes that come with the package."""
        return sorted(p.name.removesuffix(".yaml") for p in cls._recipe_folder().iterdir() if p.name.endswith(".yaml"))

    @classmethod
    def resolve(
        cls, recipe: str = "short", file: str | Path | None = None, overrides: Mapping[str, Any] | None = None
    ) -> Self:
        """The settings of a recipe, changed by a YAML file, changed by explicit values.

        Raises:
            UserError: listing every mistake, or naming a recipe or file that does not exist.
        """
        values = cls._read_recipe(recipe)
        if file is not None:
            values |= read_mapping(Path(file), "configuration file")
        values |= {k: v for k, v in (overrides or {}).items() if v is not None}
        return cls.of(**values)

    @field_validator("crop_scale")
    @classmethod
    def _scale_is_a_range(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1] <= 1:
            raise ValueError("must satisfy 0 < low <= high <= 1")
        return value

    @model_validator(mode="after")
    def _schedule_fits_the_run(self) -> Self:
        if self.warmup + (self.decay if self.schedule == "warmup-constant-cosine" else 0) > 1:
            raise ValueError("warmup and decay together exceed the run")
        return self

    @classmethod
    def _recipe_folder(cls) -> Any:
        return resources.files(cls.recipe_package) / "recipes"

    @classmethod
    def _read_recipe(cls, name: str) -> dict[str, Any]:
        recipes = cls.recipes()
        if name not in recipes:
            raise UserError(f"There is no recipe {name!r}{meant(str(name), recipes, 'recipes')}")
        return yaml.safe_load(cls._recipe_folder().joinpath(f"{name}.yaml").read_text()) or {}
