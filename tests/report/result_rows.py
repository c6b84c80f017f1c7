"""Result rows as `aloe evaluate` writes them, with invented numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

VIT = "google/vit-base-patch16-224"
KNN = {"feature": "pooled", "resolution": None, "k": [20], "distance": "cosine", "votes": "uniform"}
FIT = {
    "loss": "cross-entropy",
    "learning_rates": [0.1, 0.03, 0.01, 0.003, 0.001],
    "epochs": 50,
    "weight_decay": 0.0001,
    "seed": 0,
}


def make_row(stage: str, value: float, data: str = "cifar10", task: str = "knn", **other: Any) -> dict[str, Any]:
    """A row on the official split with the protocol's settings; `settings` are added to those."""
    settings = {
        "knn": KNN,
        "linear": {**FIT, "feature": "pooled", "head": "linear" if stage == "teacher" else "bcos"},
        "zeroshot": {"feature": "pooled", "templates": "openclip"},
    }.get(task, {})
    name = other.get("name", f"my-{stage}")
    row = {
        "task": task,
        "model": f"runs/{name}",
        "name": name,
        "stage": stage,
        "teacher": "my-teacher",
        "architecture": "ViT-B/16" if stage == "teacher" else "B-ViT-B/16",
        "interpretable": stage != "teacher",
        "data": data,
        "metric": "top-1",
        "value": value,
        "official": True,
        "counts": {"train": 50000, "test": 10000},
        "details": {},
        "fingerprints": {"model": f"weights of {name}"},
        "versions": {"torch": "2.13.0"},
        "seconds": 1.5,
        **other,
        "settings": {**settings, **other.get("settings", {})},
    }
    return {"key": json.dumps(row), **row}


def write_rows(folder: Path, *rows: dict[str, Any], tail: str = "") -> Path:
    """A results folder with these rows; `tail` is what an interrupted run left behind them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    return folder
