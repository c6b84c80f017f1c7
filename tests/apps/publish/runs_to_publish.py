"""A small finished run as `aloe align` leaves it, with everything in it that must not get out, and result rows of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aloe.evaluation.backbones import model_fingerprint
from aloe.models.convert import bcosify
from aloe.models.saving import load, save_student
from conftest import build_teacher

VIT = "google/vit-tiny"
RUN = {
    "teacher": VIT,
    "student_fingerprint": None,
    "blocks": [1, 2, 3],
    "data_fingerprint": "f1d2" * 16,
    "image_count": 41_250,
    "processes": 2,
    "steps": 30,
    "batch_size": 8,
    "gradient_accumulation": 3,
    "learning_rate": 0.0005,
    "weight_decay": 0.0,
    "schedule": "one-cycle",
    "warmup": 0.1,
    "crop_scale": [0.35, 1.0],
    "flip": True,
    "precision": "float32",
    "seed": 17,
    "objective": "cosine",
    "stem_steps": 12,
    "pooled": True,
    "versions": {"aloe-vit": "0.1.0"},
}
LOG = [
    {"step": 15, "eval_cosine_pooled": 0.5},
    {"step": 30, "loss": 0.25},
    {"step": 30, "eval_cosine_after_block_3": 0.75, "eval_cosine_pooled": 0.875},
    {"step": 30, "train_runtime": 9.0},
]
SETTINGS = {"feature": "pooled", "resolution": None, "precision": "float32"}


def write_run(folder: Path, stage: str | None = "aligned", teacher: str = VIT, family: str = "vit-classifier") -> Path:
    """A student of `teacher` with its run's other files; of no stage if None."""
    made = build_teacher(family)
    made.name = teacher
    student = bcosify(made)
    student.config.teacher = {**student.config.teacher, "stage": stage}
    if stage is None:
        del student.config.teacher["stage"]
    save_student(student, folder)
    (folder / "run.json").write_text(json.dumps(RUN))
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in LOG) + '{"step": 31, "eval_cos')
    (folder / "unreadable.txt").write_text("secret.jpg\n")
    (folder / "checkpoint-30").mkdir()
    (folder / "checkpoint-30" / "optimizer.pt").write_bytes(b"pickle")
    return folder


def result_row(model: str, value: float, task: str = "knn", stage: str = "aligned", **other: Any) -> dict[str, Any]:
    """A row of a model with this fingerprint."""
    row = {
        "task": task,
        "model": "/runs/x",
        "name": "x",
        "stage": stage,
        "teacher": VIT,
        "interpretable": stage != "teacher",
        "data": "cifar10",
        "metric": "top-1",
        "value": value,
        "official": True,
        "counts": {"train": 50000, "test": 10000},
        "details": {},
        **other,
        "settings": {**SETTINGS, **({"k": [20]} if task == "knn" else {}), **other.get("settings", {})},
        "fingerprints": {"model": model, "train": "a", "test": "b", **other.get("fingerprints", {})},
    }
    return {"key": json.dumps(row), **row}


def write_results(folder: Path, *rows: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def fingerprint_of(run: Path) -> str:
    return model_fingerprint(load(run))
