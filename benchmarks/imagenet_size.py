"""Evaluation at ImageNet's size with stand-ins of its shape: 1,281,167 features of width 768 on disk, and as many files.

python benchmarks/imagenet_size.py features --home FOLDER
python benchmarks/imagenet_size.py knn --home FOLDER --queries 1000 3000
python benchmarks/imagenet_size.py probe --home FOLDER --steps 6
python benchmarks/imagenet_size.py folder --home FOLDER
python benchmarks/imagenet_size.py starts --home FOLDER
python benchmarks/imagenet_size.py report --home FOLDER
python benchmarks/imagenet_size.py figure --home FOLDER
python benchmarks/imagenet_size.py precision --home FOLDER

Seconds are the processor's, on one thread, since wall time counts what else runs. Plain matrix products of the same sizes run
between the blocks and steps of what is measured, and are not counted in it. Every size is a process of its own, whose peak
memory is read at its end. What is printed is added to FOLDER/measured.jsonl as well, of which `figure` draws the growth.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

TRAIN, WIDTH, CLASSES, PART = 1_281_167, 768, 1000, 8192
SHARES = (64, 16, 4, 1)
BLOCK = (4096, 1024)  # training features and queries that `knn` multiplies at a time
GIB = 2.0**20  # of ru_maxrss, which is in KiB


class Clock:
    """Processor seconds of what runs under it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> Clock:
        self.start = time.process_time()
        return self

    def __exit__(self, *_: Any) -> None:
        self.seconds += time.process_time() - self.start


def spectrum() -> Tensor:
    """(768,) standard deviations of the directions: they fall as 1 / sqrt(i), roughly as those of trained features do."""
    return torch.arange(1, WIDTH + 1).float().rsqrt()


def drawn(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """(features (n, D), labels (n,)): a centre for each class and noise, both of the spectrum."""
    draws = torch.Generator().manual_seed(seed)
    centres = torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(CLASSES, (count,), generator=draws)
    return (torch.randn(count, WIDTH, generator=draws) + 0.5 * centres[labels]) * spectrum(), labels


def make_features(home: Path) -> None:
    from aloe.evaluation.cache import PartFolder

    folder = PartFolder(home / "features")
    for i, start in enumerate(range(0, TRAIN, PART)):
        if not folder.has(i):
            features, labels = drawn(min(PART, TRAIN - start), i + 1)
            index = torch.arange(start, start + len(labels))
            folder.write(i, {"features": features, "labels": labels, "index": index}, [])


def parts(home: Path, share: int) -> tuple[Any, int]:
    """A `FeatureSet` of the first part of the features, and how many it has."""
    from aloe.evaluation.cache import PartFolder, read_part
    from aloe.evaluation.features import FeatureSet

    count = -(-TRAIN // share // PART) * PART if share > 1 else TRAIN
    paths = [PartFolder(home / "features").path(i) for i in range(-(-count // PART))]
    labels = torch.cat([read_part(path, without=("features",))["labels"] for path in paths])
    return FeatureSet(tuple(paths), labels, torch.arange(len(labels)), WIDTH), len(labels)


class WithProducts:
    """The chunks of a feature set; before each is handed out, the plain products of its size are timed."""

    def __init__(self, features: Any, queries: Tensor) -> None:
        self.features, self.queries, self.clock = features, queries, Clock()

    def chunks(self) -> Iterator[Tensor]:
        for chunk in self.features.chunks():
            with self.clock:
                for rows in chunk.split(BLOCK[0]):
                    for some in self.queries.split(BLOCK[1]):
                        some @ rows.T
            yield chunk


def knn(home: Path, share: int, queries: list[int]) -> dict[str, Any]:
    from aloe.evaluation.knn import knn_predict

    features, count = parts(home, share)
    (test, truth), found = drawn(max(queries), 10_000), {}
    for number in queries:
        watched, clock = WithProducts(features, test[:number]), Clock()
        with clock:
            predicted = knn_predict(watched, features.labels, test[:number], 20)
        own = clock.seconds - watched.clock.seconds
        found[number] = {"product": watched.clock.seconds, "knn": own, "ratio": own / watched.clock.seconds}
        found[number]["correct"] = float((predicted == truth[:number]).double().mean())
    few, many = min(queries), max(queries)
    if few < many:  # what a query costs beyond the passes over the training features
        slope = {k: (found[many][k] - found[few][k]) / (many - few) for k in ("knn", "product")}
        whole = found[many]["knn"] + slope["knn"] * (50_000 - many)
        found["50000, calculated"] = {"ratio": whole / (found[many]["product"] / many * 50_000), "knn": whole}
    return {"rows": count, **found}


def probe(home: Path, share: int, steps: int) -> dict[str, Any]:
    from aloe.evaluation.linear import ProbeSettings, _Training

    features, count = parts(home, share)
    rows = features.rows(limit=0)
    settings, size, found = ProbeSettings(epochs=1, batch_size=PART), PART, {"rows": count}
    chosen = torch.randperm(count, generator=torch.Generator().manual_seed(0))[: steps * size].sort().values
    rates = settings.learning_rates
    x, w = torch.randn(size, WIDTH), torch.randn(len(rates) * CLASSES, WIDTH)
    product = Clock()

    class Watched(_Training):
        def _batches(self, rows: Tensor, size: int, total: int) -> Iterator[Tensor]:
            for batch in super()._batches(rows, size, total):
                with product:
                    outputs = x @ w.T
                    outputs.T @ x
                yield batch

        def _preconditioning(self, rows: Tensor) -> tuple[Tensor, Tensor]:
            with passes:
                return super()._preconditioning(rows)

        def _first(self, *arguments: Tensor) -> Tensor:
            with passes:
                return super()._first(*arguments)

    passes, clock = Clock(), Clock()
    with clock:
        Watched(rows, features.labels, CLASSES, settings, torch.device("cpu"), None).heads(chosen, rates)
    done = len(chosen) // size
    own = clock.seconds - product.seconds - passes.seconds
    return {
        **found,
        "steps": done,
        "product": product.seconds / done,
        "step": own / done,
        "ratio": own / product.seconds,
        "passes_us_per_row": 1e6 * passes.seconds / len(chosen),
    }


def make_files(home: Path) -> Path:
    """As many files of 1 KiB as ImageNet has, in 1000 class folders: hard links to a few, so that they fill no disk."""
    root = home / "files"
    if (root / "done").exists():
        return root
    (home / "one").mkdir(parents=True, exist_ok=True)
    for k in range(CLASSES):
        folder, start = root / "train" / f"n{k:08}", k * TRAIN // CLASSES
        folder.mkdir(parents=True, exist_ok=True)
        if k % 40 == 0:  # a file takes 65,000 links
            original = home / "one" / f"{k}.jpg"
            Image.new("RGB", (16, 16), (k % 256, 90, 200)).save(original, quality=50)
            original.write_bytes(original.read_bytes().ljust(1024, b"\0"))
        for i in range(start, (k + 1) * TRAIN // CLASSES):
            if not (folder / f"n{k:08}_{i}.JPEG").exists():
                os.link(original, folder / f"n{k:08}_{i}.JPEG")
    (root / "done").touch()
    return root


def part_of_files(home: Path, share: int) -> Path:
    """A folder of links to the first class folders."""
    root = home / "files" / "train"
    chosen = sorted(root.iterdir())[: -(-CLASSES // share)]
    part = home / f"files-{share}"
    part.mkdir(exist_ok=True)
    for path in chosen:
        if not (part / path.name).exists():
            (part / path.name).symlink_to(path)
    return part


def folder(home: Path, share: int, _: Any) -> dict[str, Any]:
    from aloe.data.sources import open_images

    part, found = part_of_files(home, share), {}
    steps: dict[str, Callable[[Any], Any]] = {
        "listing": lambda _: open_images(part),
        "labels": lambda source: source.labels,
        "fingerprint": lambda source: source.fingerprint(),
        "state": lambda source: source.state(),
    }
    source: Any = None
    for name, step in steps.items():
        clock, wall = Clock(), time.perf_counter()
        with clock:
            made = step(source)
        found[name], found[f"{name}_wall"] = clock.seconds, time.perf_counter() - wall
        source = made if source is None else source
    return {"rows": len(source), **found}


def starts(home: Path, share: int, _: Any) -> dict[str, Any]:
    """The explorer's page that offers 40 of the images, and a study of 8 of them, with a student of random weights."""
    from transformers import ViTConfig, ViTForImageClassification

    from aloe.apps.explorer.explorer import Explorer
    from aloe.apps.explorer.page import build_app
    from aloe.apps.study.build import build_study
    from aloe.apps.study.settings import StudySettings
    from aloe.models.convert import bcosify
    from aloe.models.teachers import Teacher

    shape = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96}
    plain = ViTForImageClassification(ViTConfig(image_size=32, patch_size=8, num_labels=5, **shape))
    student: Any = bcosify(Teacher(plain, (0.5,) * 3, (0.5,) * 3)).eval()
    part, db = part_of_files(home, share), home / "study.db"
    db.unlink(missing_ok=True)
    explorer = Explorer({"student": student})
    build_app(explorer, sorted(map(str, (home / "one").iterdir())))  # what is imported at the first one
    settings, clock, found = StudySettings(methods=("inherent", "inputxgrad"), trials=8), Clock(), {}
    with clock:
        build_app(explorer, part)
    found["explorer"], clock = clock.seconds, Clock()
    with clock:
        build_study(db, part, student, None, settings, limit=8)
    return {"rows": -(-CLASSES // share) * TRAIN // CLASSES, **found, "study": clock.seconds}


GROWTH = {
    "knn": ("k-NN, 3000 queries", lambda row: row["3000"]["knn"]),
    "probe": ("one step of the probe", lambda row: row["step"]),
    "folder": ("listing and state of a folder", lambda row: row["listing"] + row["state"]),
    "starts": ("start of the explorer", lambda row: row["explorer"]),
    "report": ("report", lambda row: row["report"]),
}


def figure(home: Path) -> None:
    """Processor seconds against the size, of what was measured last, to FOLDER/imagenet-size.png."""
    from aloe.draw.figures import STYLE, drawn, load_matplotlib

    lines: dict[str, dict[int, float]] = {}
    for text in (home / "measured.jsonl").read_text().splitlines():
        row = json.loads(text)
        if row["what"] in GROWTH:
            lines.setdefault(row["what"], {})[row["rows"]] = GROWTH[row["what"]][1](row)
    matplotlib = load_matplotlib()
    with matplotlib.rc_context(STYLE):
        sheet = matplotlib.figure.Figure((5.2, 3.2), layout="constrained")
        panel = sheet.subplots()
        for what, points in lines.items():
            rows = sorted(points)
            panel.plot(rows, [points[n] for n in rows], marker="o", markersize=4, linewidth=1.2, label=GROWTH[what][0])
        ends = (500, TRAIN)
        panel.plot(ends, [n * 1e-5 for n in ends], color="0.7", linestyle=":", label="in proportion")
        panel.set(xscale="log", yscale="log", xlabel="training features, files, rows", ylabel="processor seconds")
        panel.legend(frameon=False, fontsize=7)
        (home / "imagenet-size.png").write_bytes(drawn(sheet, "png", dpi=150))


def report(home: Path, share: int, _: Any) -> dict[str, Any]:
    """The report of 10,000 rows: 100 models on 100 data sets, by k-NN."""
    from aloe.report.files import write_report

    results = home / f"results-{share}"
    results.mkdir(exist_ok=True)
    with (results / "results.jsonl").open("w") as file:
        for i in range(10_000 // share):
            model, data = divmod(i, 100)
            row = {
                "key": f"{i:016x}", "task": "knn", "model": f"model{model}", "name": f"model{model}", "stage": "student",
                "teacher": "teacher", "architecture": "B-ViT-B/16", "interpretable": True, "data": f"set{data}",
                "metric": "top-1", "value": i % 97 + 0.5, "official": True, "notes": [], "counts": {"test": 50_000},
                "details": {}, "settings": {"k": [20]}, "fingerprints": {"model": f"{model:016x}"}, "versions": {},
                "device": "cpu", "seconds": 1.0,
            }  # fmt: skip
            file.write(json.dumps(row) + "\n")
    clock = Clock()
    with clock:
        write_report([results], home / f"report-{share}")
    return {"rows": 10_000 // share, "report": clock.seconds}


def precision(home: Path, share: int, images: int) -> dict[str, Any]:
    """Forward passes of a plain and a B-cos ViT-B/16 of random weights at 224 pixels, float32 and bf16 in turns."""
    from transformers import ViTConfig, ViTModel

    from aloe.models.convert import bcosify
    from aloe.models.teachers import Teacher

    plain = ViTModel(ViTConfig(), add_pooling_layer=False).eval()
    teacher = Teacher(plain, (0.5,) * 3, (0.5,) * 3)
    student, found = bcosify(teacher).eval(), {}
    pixels = torch.rand(images, 3, 224, 224)
    kept: dict[str, Tensor] = {}
    seconds: dict[str, list[float]] = {}
    for _ in range(3):
        for name, model in (("teacher", teacher), ("student", student)):
            for kind in ("float32", "bf16"):
                clock = Clock()
                with clock, torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=kind == "bf16"):
                    kept[f"{name} {kind}"] = model.read(pixels).pooled.float()
                seconds.setdefault(f"{name} {kind}", []).append(clock.seconds)
    for name in ("teacher", "student"):
        pair = (kept[f"{name} float32"], kept[f"{name} bf16"])
        found[f"{name} least cosine"] = float(torch.nn.functional.cosine_similarity(*pair).min())
    return {**{f"{name} images/s": images / min(spent) for name, spent in seconds.items()}, **found}


def _measured(pipe: Any, part: Callable[..., Any], *arguments: Any) -> None:
    torch.set_num_threads(1)
    torch.randn(256, 256) @ torch.randn(256, 256)  # the matrix library loads itself at its first product
    found = part(*arguments)
    pipe.send({**found, "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GIB})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what", choices=["features", "knn", "probe", "folder", "starts", "report", "precision", "figure"]
    )
    parser.add_argument(
        "--home", type=Path, required=True, help="holds 4 GB of features and the links; remove it afterwards"
    )
    parser.add_argument("--shares", type=int, nargs="+", default=SHARES, help="one in so many of the training images")
    parser.add_argument("--queries", type=int, nargs="+", default=[1000, 3000])
    parser.add_argument("--steps", type=int, default=6)
    args = parser.parse_args()
    if args.what == "features":
        torch.set_num_threads(1)
        return make_features(args.home)
    if args.what == "figure":
        return figure(args.home)
    if args.what in ("folder", "starts"):
        make_files(args.home)
    from aloe.core.files import append_line

    option = {"knn": args.queries, "probe": args.steps, "precision": 8}.get(args.what)
    context = multiprocessing.get_context("spawn")
    for share in args.shares if args.what != "precision" else [1]:
        ours, theirs = context.Pipe()
        process = context.Process(target=_measured, args=(theirs, globals()[args.what], args.home, share, option))
        process.start()
        theirs.close()
        line = json.dumps({"what": args.what, "share": f"1/{share}", **_rounded(ours.recv())})
        print(line, flush=True)
        append_line(args.home / "measured.jsonl", json.loads(line))
        process.join()
    return None


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _rounded(v) for k, v in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
