"""Two processes (gloo on the CPU) take the same steps as one with the same global batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aloe.training.progress import read_log
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


CONTRASTED = """
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from aloe.alignment.points import teacher_features
from aloe.alignment.settings import AlignSettings
from aloe.alignment.trainer import AlignmentModel
from aloe.models.convert import bcosify
from conftest import build_teacher

dist.init_process_group("gloo")
rank, teacher = dist.get_rank(), build_teacher("siglip")
images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
for objective in ("infonce", "siglip"):
    def gradients(batch, parallel):
        core = AlignmentModel(bcosify(teacher), teacher, AlignSettings(objective=objective), ()).train()
        # the whole batch on one process: nothing to gather
        model = DistributedDataParallel(core, find_unused_parameters=True) if parallel else core
        core.contrasts = parallel
        loss = sum(model(batch, teacher_features(teacher, batch, core.config, core.blocks)).values())
        loss.backward()
        return loss.detach(), {name: p.grad for name, p in core.named_parameters() if p.grad is not None}
    whole, wanted = gradients(images, False)
    shared, found = gradients(images[4 * rank : 4 * rank + 4], True)
    torch.testing.assert_close(shared, whole, rtol=1e-5, atol=0)
    assert set(wanted) <= set(found) and len(wanted) > 20
    assert objective == "infonce" or "loss.log_scale" in wanted
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))
dist.destroy_process_group()
"""


def test_contrastive_objectives_see_the_images_of_every_process(tmp_path):
    """Loss and every gradient equal those of one process with the whole batch."""
    _run(CONTRASTED, tmp_path / "contrasted.py")


SHARDED = """
import torch, torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from aloe.alignment.points import teacher_features
from aloe.alignment.settings import AlignSettings
from aloe.alignment.trainer import AlignmentModel
from aloe.models.convert import bcosify
from conftest import build_teacher

dist.init_process_group("gloo")
rank, mesh, teacher = dist.get_rank(), init_device_mesh("cpu", (2,)), build_teacher("dinov3")
images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))

def losses(shard):
    model = AlignmentModel(bcosify(teacher), teacher, AlignSettings(), (1, 2, 3)).train()
    if shard:
        for layer in model.student.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    optimizer, found = torch.optim.AdamW(model.parameters(), lr=1e-3), []
    for _ in range(3):
        batch = images[4 * rank : 4 * rank + 4] if shard else images
        loss = sum(model(batch, teacher_features(teacher, batch, model.config, model.blocks)).values())
        loss.backward(); optimizer.step(); optimizer.zero_grad()
        total = loss.detach().clone()
        if shard:
            dist.all_reduce(total)
            total /= 2
        found.append(total)
    return torch.stack(found)

whole, sharded = losses(False), losses(True)
assert whole[-1] < whole[0]
torch.testing.assert_close(sharded, whole, rtol=1e-5, atol=0)
dist.destroy_process_group()
"""


def test_a_sharded_student_takes_the_same_steps(tmp_path):
    """torch's own FSDP on two processes; accelerate's switch for it needs GPUs."""
    _run(SHARDED, tmp_path / "sharded.py")


def _run(code: str, script: Path) -> None:
    """On two processes."""
    script.write_text(code)
    tests = Path(__file__).parents[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{tests}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
