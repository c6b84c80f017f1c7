"""What a sweep runs: the grid over settings, its seeds, and how every run is evaluated."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from aloe.core.bounds import MAX_CELLS, check_product
from aloe.core.errors import UserError
from aloe.core.files import read_mapping
from aloe.core.settings import Checked, Count, Seed
from aloe.report.sweep_rows import value_in_words
from aloe.train.align.settings import AlignSettings
from aloe.train.runs import images_per_step

if TYPE_CHECKING:
    from typing_extensions import Self

FRACTION = "fraction"


class SweepPlan(Checked):
    """A grid of alignments and their evaluation; a YAML file of a sweep has these keys."""

    vary: dict[str, list[Any]] = Field({}, description="the axes: settings of an alignment, or fraction, with values")
    seeds: tuple[Seed, ...] = Field((0,), min_length=1, description="0 or 0,1,2: every run once with each")
    recipe: str = "short"
    settings: dict[str, Any] = Field({}, description="of every alignment; holdout is 0 unless it is given here")
    tasks: tuple[str, ...] = Field(("knn",), min_length=1)
    data: tuple[str, ...] = Field((), description="labelled data to evaluate on, NAME=PATH; repeatable")
    train: str | None = Field(None, description="your own training images, class-per-folder")
    test: str | None = Field(None, description="your own test images, class-per-folder")
    evaluate: dict[str, Any] = Field({}, description="settings of every evaluation")
    train_images: Count | None = Field(None, description="evaluate on so many training images; default: on all")
    test_images: Count | None = Field(None, description="evaluate on so many test images; default: on all")
    beside: tuple[str, ...] = Field((), description="another model to measure on the same data; repeatable")

    @model_validator(mode="after")
    def _is_a_sweep(self) -> Self:
        if not self.data and self.test is None:
            raise ValueError("name at least one data set to evaluate on, data or train and test")
        if self.train is not None and self.test is None:
            raise ValueError("train needs test")
        empty = [axis for axis, values in self.vary.items() if not values]
        if empty:
            raise ValueError(f"{empty[0]} has no values to vary over")
        values = {f"values of {axis}": len(choices) for axis, choices in self.vary.items()}
        check_product({**values, "seeds": len(self.seeds)}, MAX_CELLS)
        if "seed" in self.vary or "seed" in self.settings:
            raise ValueError("seeds have an option of their own, seeds")
        twice = [axis for axis in self.vary if axis in self.settings]
        if twice:
            raise ValueError(f"{twice[0]} is varied and given a single value as well")
        return self

    def points(self) -> list[Point]:
        """Every combination of values at the first seed, then at the second, so that a part of a sweep says most.

        Raises:
            UserError: a setting that an alignment does not have or that cannot be, in the words of `AlignSettings`.
        """
        points: dict[str, Point] = {}
        for seed, values in itertools.product(dict.fromkeys(self.seeds), itertools.product(*self.vary.values())):
            point = self._point(dict(zip(self.vary, values, strict=True)), seed)
            points.setdefault(point.settings.model_dump_json() + f"{point.fraction}", point)
        return list(points.values())

    def images_per_step(self) -> int:
        """Images per step before any axis: the usual rate, where none is given, is of these and the same in all runs."""
        before: dict[str, Any] = {name: self.settings.get(name) for name in ("batch_size", "gradient_accumulation")}
        return images_per_step(AlignSettings.resolve(self.recipe, None, before), 1)

    def _point(self, values: dict[str, Any], seed: int) -> Point:
        given = {"holdout": 0, **self.settings, **values, "seed": seed}
        fraction = _fraction(given.pop(FRACTION, 1.0))
        return Point(self.recipe, given, fraction, AlignSettings.resolve(self.recipe, None, given), tuple(values))


@dataclass(frozen=True)
class Point:
    """One run: `given` over `recipe` are the `settings`, on a `fraction` of the images; `axes` are what is varied."""

    recipe: str
    given: dict[str, Any]
    fraction: float
    settings: AlignSettings
    axes: tuple[str, ...] = ()

    def with_rate(self, width: int, blocks: int, images: int) -> Point:
        """This run with the learning rate that it has for a student of that size, see `AlignSettings.with_rate`."""
        return replace(self, settings=self.settings.with_rate(width, blocks, images))

    @property
    def words(self) -> str:
        """The point's place in the grid."""
        settings = {**self.settings.model_dump(mode="json"), FRACTION: self.fraction}
        return " ".join(f"{axis}={value_in_words(settings[axis])}" for axis in (*self.axes, "seed"))


def read_plan(path: Path) -> dict[str, Any]:
    """The keys of a sweep's YAML file.

    Raises:
        UserError: it cannot be read or is not a mapping.
    """
    return read_mapping(path, "sweep file")


def _fraction(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = 0.0
    if not 0 < number <= 1:
        raise UserError(f"fraction: must be above 0 and at most 1 (got {value!r}).")
    return number
