"""`aloe demo`: the embedded teacher, converted, aligned on rendered scenes, compared and explained, on one page.

Nothing is fetched: the scenes are rendered here and the teacher comes with the package. The images are written to a folder
and aligned from there without labels, exactly as a user's own would be. Run again with the same folder to resume.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from aloe.apps.demo.localisation import Localisation, localise
from aloe.apps.demo.page import write_page
from aloe.attribution.inherent import explain
from aloe.core.errors import UserError
from aloe.core.progress import say
from aloe.data.draws import ImageDataset, collate_images
from aloe.data.scenes import CLASSES, SceneDataset
from aloe.data.scenes.files import write_scenes
from aloe.data.sources import open_images
from aloe.data.transforms import ResizeCenterCrop, to_tensor
from aloe.evaluation.features import classify, extract
from aloe.evaluation.knn import knn_predict
from aloe.evaluation.tasks import score
from aloe.models.backbone import Backbone
from aloe.models.convert import bcosify
from aloe.models.teachers import Teacher, load_teacher
from aloe.train.align.compare import mean_cosines
from aloe.train.align.run import align
from aloe.train.progress import read_log

TRAIN_SCENES, TEST_SCENES, PIXELS = 2000, 400, 64
TRAIN_SEED, TEST_SEED = 101, 202  # neither is a seed the teacher was trained on
NEIGHBOURS, PICTURED = 20, 10
_CONTENTS = {"scenes", "student", "index.html", ".index.html"}


@dataclass
class DemoResult:
    """Where the page is, the table on it, and how long everything took."""

    page: Path
    rows: list[dict[str, Any]]
    seconds: dict[str, float]
    localisation: Localisation | None

    def summary(self) -> dict[str, Any]:
        localisation = None if self.localisation is None else asdict(self.localisation)
        return {"page": str(self.page), "rows": self.rows, "localisation": localisation, "seconds": self.seconds}

    def words(self) -> str:
        lines = [
            f"  {r['model']:10} k-NN {r['knn']:5.1f} %   class head {r['classifier']:5.1f} %   cosine {r['pooled']:.3f}"
            for r in self.rows
        ]
        spent = ", ".join(f"{name} {value:.0f} s" for name, value in self.seconds.items())
        lines += [f"  {self.localisation.words()}"] if self.localisation else []
        return "\n".join([*lines, f"Time: {spent}", f"Open {self.page}"])


def run_demo(output_dir: Path, *, steps: int = 240, device: str = "cpu", progress: bool = True) -> DemoResult:
    """Render, convert, align, compare, explain, and write `index.html`.

    Raises:
        UserError: the folder holds something else or cannot be written.
    """
    if output_dir.exists() and (not output_dir.is_dir() or {p.name for p in output_dir.iterdir()} - _CONTENTS):
        raise UserError(f"{output_dir} holds something else than a demo; give another --output-dir.")
    seconds: dict[str, float] = {}
    with _timed(seconds, "rendering", progress):
        train = write_scenes(output_dir / "scenes" / "train", TRAIN_SCENES, TRAIN_SEED, PIXELS)
        test = write_scenes(output_dir / "scenes" / "test", TEST_SCENES, TEST_SEED, PIXELS)
    teacher = load_teacher("zoo:scenes-vit")
    converted = bcosify(teacher)
    with _timed(seconds, "alignment", progress):
        aligned = align(
            teacher,
            train,
            output_dir / "student",
            device=device,
            progress=progress,
            steps=steps,
            batch_size=64,
            holdout=120,
            evaluate_every=max(1, steps // 2),
            save_every=max(1, steps // 4),
            log_every=max(1, steps // 40),
            crop_scale=(0.35, 1.0),
            **_settings(output_dir / "student"),
        )
    with _timed(seconds, "comparison", progress):
        rows = _compare({"teacher": teacher, "converted": converted, "aligned": aligned}, teacher, train, test, device)
    with _timed(seconds, "explanation", progress):
        aligned.to(torch.device(device))  # type: ignore[arg-type]
        panels = _explanations(aligned, rows)
    with _timed(seconds, "localisation", progress):
        localisation = localise(aligned, teacher, *_scenes(), device=device)
    page = write_page(output_dir, rows, panels, localisation, read_log(output_dir / "student"), seconds, steps)
    return DemoResult(page, rows, seconds, localisation)


def _settings(student: Path) -> dict[str, Any]:
    """Recipe `small` at all blocks; a demo that an earlier version began goes on with its own."""
    try:
        record = json.loads((student / "run.json").read_text())
        return {
            "recipe": "short" if record["objective"] == "cosine" else "small",
            "after_block": record["after_block"],
            "learning_rate": record["learning_rate"],
        }
    except (OSError, ValueError, TypeError, KeyError):
        return {"recipe": "small", "after_block": "all"}


def _compare(
    models: dict[str, Backbone], teacher: Teacher, train: Path, test: Path, device: str
) -> list[dict[str, Any]]:
    """One row per model: k-NN and class-head accuracy, cosine to the teacher per block."""
    source, queries = open_images(train), open_images(test)
    blocks = tuple(range(1, teacher.num_layers + 1))
    rows = []
    for name, model in models.items():
        bank, test_features = (extract(model, s, device=device) for s in (source, queries))
        predicted = knn_predict(bank, bank.labels, test_features.tensor(), NEIGHBOURS)
        logits = classify(model, test_features.tensor())
        assert logits is not None
        row: dict[str, Any] = {
            "model": name,
            "knn": score(predicted, test_features.labels, "top-1"),
            "classifier": score(logits.argmax(1), test_features.labels, "top-1"),
        }
        if model is teacher:
            row |= {**{f"after_block_{k}": 1.0 for k in blocks}, "pooled": 1.0}
        else:
            loader = torch.utils.data.DataLoader(
                ImageDataset(queries, ResizeCenterCrop(PIXELS)), batch_size=128, collate_fn=collate_images
            )
            row |= mean_cosines(model, teacher.to(device), loader, blocks, device)
        rows.append(row)
    return rows


def _explanations(student: Any, rows: list[dict[str, Any]], batch: int = 100) -> list[dict[str, Any]]:
    """Explanations of held-out scenes: pictures of one per class, and how much of the positive share is on the object."""
    data = SceneDataset(TEST_SCENES, seed=TEST_SEED, resolution=PIXELS)
    scenes = [data[i] for i in range(min(batch, TEST_SCENES))]
    images = torch.stack([to_tensor(Image.fromarray(s.image)) for s in scenes])
    labels = [int(s.label) for s in scenes]
    explanation = explain(student, images, torch.tensor(labels))
    positive = explanation.contributions.clamp_min(0).cpu()
    masks = torch.from_numpy(np.stack([s.mask for s in scenes]))
    inside = (positive * masks).sum((1, 2)) / positive.sum((1, 2)).clamp_min(1e-12)
    rows[-1]["inside"] = 100 * float(inside.mean())
    rows[-1]["area"] = 100 * float(masks.float().mean())
    rows[-1]["completeness_error"] = float(explanation.completeness_error().max())
    indices = sorted({label: i for i, label in reversed(list(enumerate(labels)))}.values())[:PICTURED]
    colours = explanation.to_rgba().cpu().numpy()
    return [
        {
            "index": i,
            "label": CLASSES[labels[i]],
            "prediction": student.config.id2label[int(explanation.prediction[i])],  # type: ignore[index]
            "image": scenes[i].image,
            "colour": colours[i],
            "contributions": explanation.contributions[i].cpu(),
            "logit": float(explanation.logit[i]),
            "pixels": float(explanation.contributions[i].sum()),
            "residual": float(explanation.residual[i]),
            "inside": 100 * float(inside[i]),
        }
        for i in indices
    ]


def _scenes() -> tuple[torch.Tensor, torch.Tensor]:
    """The held-out scenes, (N, 3, H, W), and their classes."""
    scenes = [SceneDataset(TEST_SCENES, seed=TEST_SEED, resolution=PIXELS)[i] for i in range(min(TEST_SCENES, 200))]
    images = torch.stack([to_tensor(Image.fromarray(scene.image)) for scene in scenes])
    return images, torch.tensor([int(scene.label) for scene in scenes])


@contextmanager
def _timed(seconds: dict[str, float], name: str, progress: bool) -> Iterator[None]:
    """Notes how long a block took and says what is going on."""
    if progress:
        say(f"{name} ...")
    start = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - start, 1)
