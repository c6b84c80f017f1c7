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


def make_gridpg(stage: str, method: str, value: float, **other: Any) -> dict[str, Any]:
    """A GridPG row of 2 x 2 grids; `details` and `settings` are added to the usual ones."""
    details = {
        "method": method,
        "interval": [value - 1.5, value + 2.0],
        "per_cell": [value - 3, value, value + 1, value + 2],
        "grids": 250,
        "cells": 1000,
        "discarded": 2,
        "protocol": "windows",
        "chance": 25.0,
        "cost": {"forward": 1.0, "backward": 1.0, "seconds": 0.0123, "peak_bytes": 3 << 19},
    }
    settings = {"n": 2, "threshold": 0.95, "count": 250, "images": 400, "grids": "0a1b2c3d", "protocol": "windows"}
    settings |= {"smooth": 0, "preset": "best"}
    return _explained("gridpg", stage, method, value, details, settings, other, metric="GridPG")


def make_deletion(stage: str, method: str, value: float, steps: int = 11, **other: Any) -> dict[str, Any]:
    """A row of pixel deletion whose curves fall from 90 % the faster, the smaller its area is."""
    fractions = [i / (steps - 1) for i in range(steps)]
    most = [10 + 80 * (1 - x) ** (80 / value) for x in fractions]
    least = [10 + 80 * (1 - x) ** 0.4 for x in fractions]
    details = {
        "method": method,
        "mode": "deletion",
        "fill": "zero",
        "block": 16,
        "images": 100,
        "fractions": fractions,
        **{name: curve for name, curve in (("most", most), ("least", least))},
        **{f"{name}_low": [v - 4 for v in curve] for name, curve in (("most", most), ("least", least))},
        **{f"{name}_high": [v + 5 for v in curve] for name, curve in (("most", most), ("least", least))},
        "area_most": value,
        "area_most_interval": [value - 2.0, value + 3.0],
        "area_least": 67.0,
        "area_least_interval": [65.5, 69.25],
    }
    settings = {"fill": "zero", "block": 16, "deletion_mode": "deletion", "images": "4e5f6a7b"}
    settings |= {"fractions": "paper", "among": "any", "preset": "best"}
    return _explained("deletion", stage, method, value, details, settings, other, metric="area")


def make_inside(stage: str, method: str, value: float, **other: Any) -> dict[str, Any]:
    """A row of attribution against object masks."""
    interval = [value - 1, value + 1]
    details = {"method": method, "interval": interval, "pointing": value + 10, "area": 20.0, "images": 64}
    return _explained(
        "inside", stage, method, value, details, {"threshold": 0.95, "images": "4e5f6a7b"}, other, metric="inside"
    )


def make_clarity(stage: str, method: str, value: float, **other: Any) -> dict[str, Any]:
    """A row of the clarity of attribution."""
    details = {"method": method, "interval": [value - 1, value + 1], "seams": 1.5, "patch": 16, "images": 64}
    return _explained(
        "clarity", stage, method, value, details, {"resolution": None, "images": "4e5f6a7b"}, other, metric="fine"
    )


def make_depth(
    stage: str, delta1: float, rmse: float, absolute: tuple[float, float], data: str = "nyuv2", **other: Any
):
    """A row of depth: relative and absolute (delta1, RMSE)."""
    details = {
        "relative": {"delta1": delta1, "delta2": 0.98, "delta3": 0.99, "rmse": rmse},
        "absolute": {"delta1": absolute[0], "delta2": 0.97, "delta3": 0.98, "rmse": absolute[1]},
        "images": 654,
    }
    return _dense("depth", stage, 100 * delta1, details, other, data=data, metric="relative delta1")


def make_normals(stage: str, deltas: tuple[float, float, float], rmse: float, data: str = "nyuv2", **other: Any):
    """A row of surface normals."""
    details = {**{f"delta{n}": value for n, value in enumerate(deltas, 1)}, "rmse": rmse, "images": 654}
    return _dense("normals", stage, 100 * deltas[0], details, other, data=data, metric="delta 11.25")


def make_correspondence(stage: str, recalls: tuple[float, float, float], data: str = "navi", **other: Any):
    """A row of correspondence: recall within 1, 2 and 5 cm; the third of its bins has no pair."""
    details = {
        "thresholds": [0.01, 0.02, 0.05],
        "global": [value - 1 for value in recalls],
        "bins": [[0.0, 30.0], [30.0, 60.0], [60.0, 90.0]],
        "binned": [[value + 5, value - 5, None] for value in recalls],
        "mean_of_bins": list(recalls),
        "pairs": 12,
        "matches": 12000,
        "pairs_in_bins": [8, 4, 0],
        "reachable": {"global": [70.0, 80.0, 90.0]},
    }
    return _dense("correspondence", stage, recalls[1], details, other, data=data, metric="recall@2cm")


def _dense(task, stage, value, details, other, **row):
    probe = {"head": "linear", "kernel": 1, "blocks": "last", "cls": False, "loss": "probe3d", "resolution": None}
    probe |= {"epochs": 10, "learning_rate": 0.0005, "batch_size": 8, "seed": 0}
    match = {"blocks": "last", "resolution": None, "scale": 0.25, "num_corr": 1000, "thresholds": [0.01, 0.02, 0.05]}
    settings = {**(match if task == "correspondence" else probe), **other.pop("settings", {})}
    prints = {"model": f"weights of {other.get('name', f'my-{stage}')}", "test": "frames"}
    prints |= {"pairs": "and bins"} if task == "correspondence" else {"train": "more frames"}
    counts = {"frames": 20, "pairs": 12} if task == "correspondence" else {"train": 795, "test": 654}
    return make_row(
        stage,
        value,
        task=task,
        details={**details, **other.pop("details", {})},
        settings=settings,
        fingerprints={**prints, **other.pop("fingerprints", {})},
        **{"counts": counts, **row, **other},
    )


def _explained(task, stage, method, value, details, settings, other, metric):
    details = {**details, **other.pop("details", {})}
    settings = {**settings, "resolution": None, "seed": 0, "options": {}, "method": method, **other.pop("settings", {})}
    prints = {
        "model": f"weights of {other.get('name', f'my-{stage}')}",
        "test": "images",
        **other.pop("fingerprints", {}),
    }
    return make_row(
        stage, value, task=task, metric=metric, details=details, settings=settings, fingerprints=prints, **other
    )
