"""The ten recognition data sets of the paper's Tables B1 and B2 by name, and any other labelled data, as `Splits`.

The paper names the sets [appendix A, "Evaluation datasets"] but neither their splits nor their metrics. Both are as
customary in the evaluation of transfer (Kornblith et al., "Do better ImageNet models transfer better?", CVPR 2019): mean
per class for Caltech-101, Flowers-102 and FGVC-Aircraft, top-1 for the others; sizes are those of each set's own release.
The hub ids were written down without a connection: none of them was opened. Whatever they hold is therefore checked
(number of classes, sizes of the splits), and `NAME=PATH_OR_HUB_ID` puts another copy in their place.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from aloe.core.errors import UserError
from aloe.core.printable import shown
from aloe.data.hub import is_dataset_folder
from aloe.data.official.layouts import official_parts, recognised
from aloe.data.official.sizes import reduced, sizes_that_differ, uneven
from aloe.data.sources import ImageSource, split_inner
from aloe.data.splits import (
    Metric,
    Opener,
    Splits,
    check_classes,
    draw_per_class,
    has_labels,
    in_order_of,
    labelled,
    open_parts,
    part_given,
)

TWO = {"train": ("train",), "test": ("test",)}
THREE = {"train": ("train",), "validation": ("validation",), "test": ("test",)}
ANY = {"train": ("train",), "test": ("test", "validation")}  # of data that are not registered


@dataclass(frozen=True)
class Benchmark:
    """One registered data set: where it is, what it holds, how it is measured.

    Attributes:
        column: its heading in the paper's tables.
        hub, config, image, label: the dataset on the hub, its configuration and its columns.
        splits: which split plays which part; of several names the first one that is there.
        sizes: official number of images of each part.
        train_per_class: for a set without official splits: the number of training images drawn from each class.
        left_out: classes, in lower case, that are in some copies and not in the protocol.
        terms: licence or terms of use, in short; those of its owners count.
        source: where the splits come from.
        first: what has to be done before the download.
        per_class: images of each class in the parts where all classes have as many.
        short_side: pixels on the short side, where all official images have as many.
    """

    name: str
    title: str
    column: str
    hub: str
    classes: int
    sizes: Mapping[str, int]
    terms: str
    source: str
    metric: Metric = "top-1"
    splits: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: TWO)
    image: str = "image"
    label: str = "label"
    config: str | None = None
    train_per_class: int | None = None
    left_out: tuple[str, ...] = ()
    first: str = ""
    per_class: Mapping[str, int] = field(default_factory=dict)
    short_side: int | None = None

    @property
    def how_to_get(self) -> str:
        """One clause, to be put into a sentence."""
        layout = "a folder of class folders" if self.train_per_class else "train/ and test/ with a folder per class"
        return (
            f'{self.first}download it with "hf download {self.hub} --repo-type dataset --local-dir {self.name}" and give'
            f" {self.name}={self.name}, or lay it out as {layout} and give {self.name}=FOLDER, or name another copy on the"
            f" hub with {self.name}=HUB_ID (ours was written down unverified)"
        )


BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            name="imagenet",
            title="ImageNet-1k",
            column="IN1k",
            hub="ILSVRC/imagenet-1k",
            classes=1000,
            sizes={"train": 1_281_167, "test": 50_000},
            splits={"train": ("train",), "test": ("validation", "test")},
            per_class={"test": 50},
            terms="non-commercial research and education; its terms must be accepted",
            source="ILSVRC 2012; the labels of its test images are not public, so its 50 000 validation images are the test",
            first="accept its terms on its hub page, log in with `hf auth login`, ",
        ),
        Benchmark(
            name="caltech101",
            title="Caltech-101",
            column="Cal101",
            hub="flwrlabs/caltech101",
            classes=101,
            sizes={"train": 3_030, "test": 5_647},
            metric="mean per class",
            train_per_class=30,
            left_out=("background_google", "background"),
            terms="CC BY 4.0",
            source="Fei-Fei et al. 2004: 30 training images per class, the rest is the test; no list is official, so one is"
            " drawn here by class and file name, seed 0; without the background class",
        ),
        Benchmark(
            name="flowers102",
            title="Oxford Flowers-102",
            column="Flowers",
            hub="dpdl-benchmark/oxford_flowers102",
            classes=102,
            sizes={"train": 1_020, "validation": 1_020, "test": 6_149},
            metric="mean per class",
            splits=THREE,
            per_class={"train": 10, "validation": 10},
            short_side=500,
            terms="no licence is stated by its authors; research use",
            source="Nilsback and Zisserman 2008",
        ),
        Benchmark(
            name="food101",
            title="Food-101",
            column="Food",
            hub="ethz/food101",
            classes=101,
            sizes={"train": 75_750, "test": 25_250},
            splits={"train": ("train",), "test": ("test", "validation")},
            per_class={"train": 750, "test": 250},
            terms="photographs of Foodspotting's users; scientific fair use",
            source="Bossard et al. 2014; the hub calls its test images validation",
        ),
        Benchmark(
            name="aircraft",
            title="FGVC-Aircraft (variants)",
            column="Aircr",
            hub="Donghyun99/FGVC-Aircraft",
            classes=100,
            sizes={"train": 3_334, "validation": 3_333, "test": 3_333},
            metric="mean per class",
            splits=THREE,
            terms="non-commercial research only",
            source="Maji et al. 2013",
        ),
        Benchmark(
            name="dtd",
            title="Describable Textures (split 1)",
            column="DTD",
            hub="tanganke/dtd",
            classes=47,
            sizes={"train": 1_880, "validation": 1_880, "test": 1_880},
            splits=THREE,
            per_class={"train": 40, "validation": 40, "test": 40},
            terms="research purposes",
            source="Cimpoi et al. 2014, the first of ten splits",
        ),
        Benchmark(
            name="cars",
            title="Stanford Cars",
            column="Cars",
            hub="tanganke/stanford_cars",
            classes=196,
            sizes={"train": 8_144, "test": 8_041},
            terms="non-commercial research",
            source="Krause et al. 2013",
        ),
        Benchmark(
            name="sun397",
            title="SUN397 (partition 1)",
            column="SUN",
            hub="tanganke/sun397",
            classes=397,
            sizes={"train": 19_850, "test": 19_850},
            per_class={"train": 50, "test": 50},
            terms="research purposes",
            source="Xiao et al. 2010, the first of ten partitions: 50 training and 50 test images per class",
        ),
        Benchmark(
            name="cifar10",
            title="CIFAR-10",
            column="C10",
            hub="uoft-cs/cifar10",
            config="plain_text",
            image="img",
            classes=10,
            sizes={"train": 50_000, "test": 10_000},
            per_class={"train": 5_000, "test": 1_000},
            short_side=32,
            terms="no licence is stated by its authors; cite them",
            source="Krizhevsky 2009",
        ),
        Benchmark(
            name="cifar100",
            title="CIFAR-100",
            column="C100",
            hub="uoft-cs/cifar100",
            config="cifar100",
            image="img",
            label="fine_label",
            classes=100,
            sizes={"train": 50_000, "test": 10_000},
            per_class={"train": 500, "test": 100},
            short_side=32,
            terms="no licence is stated by its authors; cite them",
            source="Krizhevsky 2009",
        ),
    )
}


def open_benchmark(spec: str) -> Splits:
    """Labelled data with a training and a test part.

    Args:
        spec: a registered name, for the dataset on the hub; `NAME=PATH_OR_HUB_ID` for another copy of it; or any other
            data as a path or `hf:NAME`. A path is a folder or an archive (`ARCHIVE[::INNER]`) with train/ and test/ of
            class folders, a folder of parquet files, or what `save_to_disk` wrote.

    Raises:
        UserError: what was named is not there or cannot be opened (with how to get it), lacks a part, labels or classes,
            or has not the number of classes of the registered data set.
    """
    benchmark, where = _read(str(spec))
    if benchmark is None:
        opened, notes = _opened(open_parts(where), where, ANY, advice=_unregistered(where))
        return _agreeing(where, where, opened, notes=notes)
    name, advice = benchmark.name, benchmark.how_to_get
    config = benchmark.config if where == f"hf:{benchmark.hub}" else None
    parts = _official(name, where) or open_parts(
        where, config=config, image=benchmark.image, label=benchmark.label, advice=advice
    )
    drawn, left_out = benchmark.train_per_class, benchmark.left_out
    opened, notes = _opened(parts, where, benchmark.splits, advice=advice, train_per_class=drawn, left_out=left_out)
    count = len(opened["train"].classes or [])
    if count != benchmark.classes:
        raise UserError(
            f"{name} has {benchmark.classes} classes and {where} has {count}; give the whole data set, or leave out {name}="
            " to take it for data of its own."
        )
    differences = sizes_that_differ(benchmark.sizes, {part: len(source) for part, source in opened.items()})
    differences = differences or uneven(benchmark.per_class, opened)
    differences += reduced(benchmark.short_side, opened["test"])
    notes = (*notes, *differences)
    return _agreeing(name, benchmark.title, opened, metric=benchmark.metric, official=not differences, notes=notes)


def pair(train: str | Path, test: str | Path) -> Splits:
    """Training and test images that are given apart, each as `open_images` takes it.

    Of data that have parts the part of the name is taken, and noted.

    Raises:
        UserError: either cannot be opened, has no labels, or has other classes than the other; both are the same images.
    """
    places = {"train": str(train), "test": str(test)}
    parts = {part: part_given(where, part) for part, where in places.items()}
    notes = {part: note for part, (_, note) in parts.items() if note}
    if not notes and _place(places["train"]) == _place(places["test"]):
        raise UserError(
            f"{shown(places['test'])} is given for training and for testing, and has no train and test parts; give two"
            " folders."
        )
    opened = {part: source for part, (source, _) in parts.items()}
    return _agreeing(places["test"], places["test"], opened, notes=tuple(notes.values()))


def _place(where: str) -> tuple[Any, str]:
    path, inner = split_inner(where)
    return (path.resolve(), inner.strip("/")) if path.exists() else (where, "")


def _read(spec: str) -> tuple[Benchmark | None, str]:
    """The registered data set, if one is meant, and where the images are."""
    if spec in BENCHMARKS:
        return BENCHMARKS[spec], f"hf:{BENCHMARKS[spec].hub}"
    if spec.startswith("hf:") or split_inner(spec)[0].exists():
        return None, spec
    name, equals, where = spec.partition("=")
    if name in BENCHMARKS and equals:
        if where.startswith("hf:") or (where and split_inner(where)[0].exists()):
            return BENCHMARKS[name], where
        if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", where):
            return BENCHMARKS[name], f"hf:{where}"
        raise UserError(f"There is nothing at {where!r} to take as {name}; {BENCHMARKS[name].how_to_get}.")
    if equals and where and (where.startswith("hf:") or split_inner(where)[0].exists()):
        raise UserError(
            f"{shown(name)} is not one of the registered data sets ({', '.join(BENCHMARKS)}); leave out {shown(name)}= to"
            f" take {shown(where)} as data of its own."
        )
    near = difflib.get_close_matches(name.lower(), BENCHMARKS, n=1)
    meant = f"; did you mean {near[0]}?" if near else f": {', '.join(BENCHMARKS)}."
    raise UserError(f"{name} is neither a path nor one of the registered data sets{meant}")


def _opened(
    parts: Mapping[str, Opener],
    where: str,
    splits: Mapping[str, tuple[str, ...]],
    *,
    advice: str,
    train_per_class: int | None = None,
    left_out: tuple[str, ...] = (),
) -> tuple[dict[str, ImageSource], tuple[str, ...]]:
    """The parts that `splits` asks for, checked, and notes on them."""
    names: dict[str, str] = {}
    unlabelled: tuple[str, ...] = ()
    for part in ("train", "test", "validation"):
        free = [name for name in splits.get(part, (part,)) if name in parts and name not in names.values()]
        if splits is ANY and part == "test" and len(free) > 1 and not has_labels(parts[free[0]]()):
            unlabelled = (f"its {free[0]} images have no labels",)
            free = free[1:]
        names |= {part: free[0]} if free else {}
    whole = names.get("train", "")
    if train_per_class and "test" not in names and whole in parts:
        source = labelled(parts[whole](), "given", where, left_out=left_out)
        train, test = draw_per_class(source, train_per_class, where)
        note = f"{train_per_class} training images per class drawn by file name, the rest is the test"
        return {"train": train, "test": test}, (note,)
    missing = [part for part in ("train", "test") if part not in names]
    if missing:
        there = ", ".join(filter(None, parts)) or "none"
        raise UserError(
            f"{where} has no {' and no '.join(missing)} part (folder or split; there is {there}); {advice}."
        )
    note = "its validation images are the test"
    notes = (*unlabelled, note) if splits is ANY and names["test"] == "validation" else ()
    return {part: labelled(parts[name](), part, where, left_out=left_out) for part, name in names.items()}, notes


def _official(name: str, where: str) -> dict[str, Opener] | None:
    """The parts of a data set that lies in its authors' own layout."""
    path, inner = split_inner(where)
    if where.startswith("hf:") or (path.is_dir() and not inner and is_dataset_folder(path)):
        return None
    parts = official_parts(name, path, inner)
    return None if parts is None else {part: partial(_itself, source) for part, source in parts.items()}


def _itself(source: ImageSource) -> ImageSource:
    return source


def _unregistered(where: str) -> str:
    """What to do with data of no registered name that lack a part."""
    names = [] if where.startswith("hf:") else list(recognised(*split_inner(where)))
    if names:
        return f"it looks like {BENCHMARKS[names[0]].title} as its authors publish it: give {names[0]}={shown(where)}"
    return "give the two apart, with --train and --test"


def _agreeing(name: str, title: str, opened: Mapping[str, ImageSource], **facts: Any) -> Splits:
    """The parts with their labels in the order of the training classes."""
    train, test, validation = opened["train"], opened["test"], opened.get("validation")
    check_classes(train, test)
    if validation is not None:
        validation = in_order_of(train, validation)
    return Splits(name, title, train, in_order_of(train, test), validation, **facts)
