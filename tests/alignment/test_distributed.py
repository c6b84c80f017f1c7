"""Two processes (gloo on the CPU) take the same steps as one with the same global batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aloe.alignment.progress import read_log
from conftest import build_teacher

pytestmark = pytest.mark.slow


def _align(processes: int, teacher: Path, images: Path, output: Path, batch: int) -> list[float]:
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command += ["-m", "aloe", "align", str(teacher), str(images), "-o", str(output), "--device", "cpu", "--json"]
    command += [
        "--steps",
        "3",
        "--batch-size",
        str(batch),
        "--workers",
        "0",
        "--set",
        "log_every=1",
        "--set",
        "holdout=2",
    ]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [row["loss"] for row in read_log(output) if "loss" in row]


def test_two_processes_equal_one_with_the_same_global_batch(tmp_path):
    teacher, images = tmp_path / "teacher", tmp_path / "images"
    build_teacher("vit-classifier").model.save_pretrained(teacher)
    images.mkdir()
    rng = np.random.default_rng(0)
    for i in range(24):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(images / f"{i}.png")
    one = _align(1, teacher, images, tmp_path / "one", batch=8)
    two = _align(2, teacher, images, tmp_path / "two", batch=4)
    assert len(one) == 3
    np.testing.assert_allclose(two, one, rtol=1e-5)
