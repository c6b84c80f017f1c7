"""Two processes (gloo on the CPU) take the same steps as one with the same global batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aloe.core.errors import UserError
from aloe.train.align.run import align
from aloe.train.align.settings import AlignSettings
from aloe.train.progress import read_log
from aloe.train.sharding import check_sharding
from conftest import build_teacher
from pictures import write_pictures
from places import TESTS
from train.align.test_run import losses, tiny

pytestmark = pytest.mark.slow


def _align(processes: int, teacher: Path, images: Path, output: Path, batch: int, **more: object) -> list[float]:
    """The losses of a run: of one process in this one, of several by torchrun and the command."""
    settings = {"steps": 3, "batch_size": batch, "workers": 0, "log_every": 1, "holdout": 2, **more}
    if processes == 1:
        align(str(teacher), str(images), output, device="cpu", progress=False, **settings)
    else:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        command += ["-m", "aloe", "align", str(teacher), str(images), "-o", str(output), "--device", "cpu", "--json"]
        command += [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
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
    muon = {"optimizer": "muon"}
    another = _align(1, teacher, images, tmp_path / "muon-one", 8, **muon)
    assert another[0] == one[0]
    assert another[1:] != one[1:]
    np.testing.assert_allclose(_align(2, teacher, images, tmp_path / "muon-two", 4, **muon), another, rtol=1e-4)
    warm = {"stem": "conv-even", "stem_steps": 2, "block_steps": 2, "objective": "standardized"}
    one = _align(1, teacher, images, tmp_path / "warm-one", 8, **warm)
    two = _align(2, teacher, images, tmp_path / "warm-two", 4, **warm)
    np.testing.assert_allclose(two, one, rtol=1e-4)
    for stage in ("stem", "blocks"):
        first, second = (losses(tmp_path / name / stage) for name in ("warm-one", "warm-two"))
        assert len(first) == 2
        np.testing.assert_allclose(second, first, rtol=1e-4)


CONTRASTED = """
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from aloe.train.align.points import teacher_features
from aloe.train.align.run import align
from aloe.train.align.settings import AlignSettings
from aloe.train.align.trainer import AlignmentModel
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
import sys, torch, torch.distributed as dist
from pathlib import Path
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor
from train.align.test_run import losses, tiny
from aloe.train.align.trainer import AlignmentTrainer
from aloe.train import trainer as training
from aloe.train.checkpoints import checkpoints, is_sound
from aloe.train.progress import JsonlLog

images, home = Path(sys.argv[1]), Path(sys.argv[2])
split, kept = {}, AlignmentTrainer.train

def train(self, **options):
    split.update(student=list(self.model.parameters()), teacher=list(self.teach.source.parameters()))
    return kept(self, **options)

class Stops(JsonlLog):
    def on_step_begin(self, args, state, control, **_):
        if state.global_step == 3:
            raise KeyboardInterrupt

AlignmentTrainer.train = train

def run(name, objective="cosine"):
    settings = {"objective": objective, "steps": 4, "save_every": 2, "holdout": 2, "fsdp": True, "optimizer": optimizer}
    return tiny(images, home / name, "siglip", **settings)

optimizer = sys.argv[3]
if optimizer == "adamw":
    run("siglip-two", "siglip")  # which has weights of its own
    run("standardized-two", "standardized")  # which has buffers of its own
whole = run("whole-two")
for parts in split.values():
    assert all(isinstance(part, DTensor) for part in parts)
    assert sum(part.to_local().numel() for part in parts) < 0.6 * sum(part.numel() for part in parts)
training.JsonlLog, usual = Stops, training.JsonlLog
try:
    run("cut")
except KeyboardInterrupt:
    pass
training.JsonlLog = usual
(checkpoint,) = checkpoints(home / "cut")
assert checkpoint.name == "checkpoint-2" and is_sound(checkpoint)
assert {file.suffix for file in checkpoint.iterdir()} == {".json", ".safetensors"}
resumed = run("cut")
dist.barrier()  # the first process writes it
written = load_file(home / "cut" / "model.safetensors")
for name, value in whole.state_dict().items():  # on every process
    assert torch.equal(value, resumed.state_dict()[name]) and torch.equal(value, written[name])
assert losses(home / "cut") == losses(home / "whole-two")
"""


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_sharded_run_equals_one_process_and_resumes(tmp_path, optimizer):
    """Student, teacher and optimiser split over two processes: every loss as without, and a whole checkpoint of it."""
    images = write_pictures(tmp_path / "images", 24)
    _run(SHARDED, tmp_path / "sharded.py", str(images), str(tmp_path), optimizer)
    objectives = {"siglip": "siglip", "standardized": "standardized"} if optimizer == "adamw" else {}
    for name, objective in {**objectives, "whole": "cosine"}.items():
        change = {"objective": objective, "optimizer": optimizer}
        one, two = tmp_path / name, tmp_path / f"{name}-two"
        tiny(images, one, "siglip", **change, steps=4, holdout=2, batch_size=8)
        np.testing.assert_allclose(losses(two), losses(one), rtol=1e-5)
        held_out = [[r["eval_cosine_pooled"] for r in read_log(f) if "eval_cosine_pooled" in r][-1] for f in (one, two)]
        assert held_out[1] == pytest.approx(held_out[0], rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "environment", "words"),
    [
        ({"fsdp": True}, {}, "torchrun --nproc-per-node"),
        ({"fsdp": True, "precision": "fp16"}, {"WORLD_SIZE": "2"}, "float32 or bf16"),
        ({}, {"ACCELERATE_USE_FSDP": "true"}, "Leave out --use_fsdp"),
        ({}, {"ACCELERATE_USE_DEEPSPEED": "true"}, "Leave out --use_deepspeed"),
    ],
)
def test_what_cannot_be_sharded_is_refused(settings, environment, words, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    chosen = AlignSettings.resolve(overrides=settings)
    with pytest.raises(UserError, match=words) as told:
        check_sharding(chosen.fsdp, chosen.precision, int(environment.get("WORLD_SIZE", 1)))
    assert "\n" not in str(told.value)


def _run(code: str, script: Path, *words: str) -> None:
    """On two processes."""
    script.write_text(code)
    tests = TESTS
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script), *words]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{tests}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
