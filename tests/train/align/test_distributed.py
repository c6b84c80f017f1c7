"""Two processes (gloo on the CPU) take the same steps as one with the same global batch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from aloe.core.errors import UserError
from aloe.models.convert import bcosify
from aloe.train import trainer as training
from aloe.train.align.points import teacher_features
from aloe.train.align.run import align
from aloe.train.align.settings import AlignSettings
from aloe.train.align.trainer import AlignmentModel, AlignmentTrainer
from aloe.train.checkpoints import checkpoints, is_sound
from aloe.train.progress import JsonlLog, read_log
from aloe.train.sharding import check_sharding
from conftest import build_teacher
from pictures import write_pictures
from several import run_in, torchrun
from train.align.test_run import losses, tiny

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("images"), 24)


def in_two(job: Callable[[], Any]) -> list[Any]:
    """What the job returns in each of two processes that know of each other as a training's do."""

    def training() -> Any:
        AcceleratorState._reset_state(reset_partial_state=True)  # of what the test has run before
        return job()

    return run_in(2, training, limit=240, joined=False)


def _align(teacher: Path, images: Path, output: Path, batch: int, **more: Any) -> list[float]:
    settings = {"steps": 3, "batch_size": batch, "workers": 0, "log_every": 1, "holdout": 2, **more}
    align(str(teacher), str(images), output, device="cpu", progress=False, **settings)
    return losses(output)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    build_teacher("vit-classifier").model.save_pretrained(folder)
    return folder


def test_two_processes_of_the_command_equal_one_with_the_same_global_batch(teacher, images, tmp_path):
    words = ["align", teacher, images, "-o", tmp_path / "two", "--device", "cpu", "--json"]
    settings = {"steps": 3, "batch_size": 4, "workers": 0, "log_every": 1, "holdout": 2}
    words += [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    code, said = torchrun(*words)
    assert code == 0, said[-2000:]
    one = _align(teacher, images, tmp_path / "one", batch=8)
    assert len(one) == 3
    np.testing.assert_allclose(losses(tmp_path / "two"), one, rtol=1e-5)
    another = _align(teacher, images, tmp_path / "muon", 8, optimizer="muon")
    assert another[0] == one[0]
    assert another[1:] != one[1:]


WARM = {"stem": "conv-even", "stem_steps": 2, "block_steps": 2, "objective": "standardized"}


@pytest.mark.parametrize(("change", "stages"), [({"optimizer": "muon"}, ()), (WARM, ("stem", "blocks"))])
def test_every_stage_of_two_processes_equals_that_of_one(teacher, images, tmp_path, change, stages):
    in_two(lambda: _align(teacher, images, tmp_path / "two", 4, **change))
    one = _align(teacher, images, tmp_path / "one", 8, **change)
    np.testing.assert_allclose(losses(tmp_path / "two"), one, rtol=1e-4)
    for stage in stages:
        first, second = (losses(tmp_path / name / stage) for name in ("one", "two"))
        assert len(first) == 2
        np.testing.assert_allclose(second, first, rtol=1e-4)


@pytest.mark.parametrize("objective", ["infonce", "siglip"])
def test_contrastive_objectives_see_the_images_of_every_process(objective):
    """Loss and every gradient equal those of one process with the whole batch."""

    def gradients(teacher: Any, batch: torch.Tensor, parallel: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        core = AlignmentModel(bcosify(teacher), teacher, AlignSettings(objective=objective), ()).train()
        # the whole batch on one process: nothing to gather
        model = DistributedDataParallel(core, find_unused_parameters=True) if parallel else core
        core.contrasts = parallel
        loss = sum(model(batch, teacher_features(teacher, batch, core.config, core.blocks)).values())
        loss.backward()
        return loss.detach(), {name: p.grad for name, p in core.named_parameters() if p.grad is not None}

    def job() -> None:
        dist.init_process_group("gloo")
        rank, teacher = dist.get_rank(), build_teacher("siglip")
        images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        whole, wanted = gradients(teacher, images, False)
        shared, found = gradients(teacher, images[4 * rank : 4 * rank + 4], True)
        torch.testing.assert_close(shared, whole, rtol=1e-5, atol=0)
        assert set(wanted) <= set(found)
        assert len(wanted) > 20
        assert objective == "infonce" or "loss.log_scale" in wanted
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))

    in_two(job)


class Stops(JsonlLog):
    def on_step_begin(self, args, state, control, **_):
        if state.global_step == 3:
            raise KeyboardInterrupt


def sharded(images: Path, home: Path, optimizer: str, objectives: dict[str, str]) -> None:
    """On each of two processes: runs of every objective, of which the last is repeated, cut off and gone on with."""
    split: dict[str, list[Any]] = {}
    kept = AlignmentTrainer.train

    def train(self: Any, **options: Any) -> Any:
        split.update(student=list(self.model.parameters()), teacher=list(self.teach.source.parameters()))
        return kept(self, **options)

    def run(name: str, objective: str = "cosine") -> Any:
        settings = {"objective": objective, "steps": 4, "save_every": 2, "holdout": 2, "fsdp": True}
        return tiny(images, home / name, "siglip", optimizer=optimizer, **settings)

    AlignmentTrainer.train = train
    for name, objective in objectives.items():
        whole = run(f"{name}-two", objective)
    for parts in split.values():
        assert all(isinstance(part, DTensor) for part in parts)
        assert sum(part.to_local().numel() for part in parts) < 0.6 * sum(part.numel() for part in parts)
    training.JsonlLog, usual = Stops, training.JsonlLog
    with suppress(KeyboardInterrupt):
        run("cut")
    training.JsonlLog = usual
    (checkpoint,) = checkpoints(home / "cut")
    assert checkpoint.name == "checkpoint-2"
    assert is_sound(checkpoint)
    assert {file.suffix for file in checkpoint.iterdir()} == {".json", ".safetensors"}
    resumed = run("cut")
    dist.barrier()  # the first process writes it
    written = load_file(home / "cut" / "model.safetensors")
    for name, value in whole.state_dict().items():  # on every process
        assert torch.equal(value, resumed.state_dict()[name])
        assert torch.equal(value, written[name])
    assert losses(home / "cut") == losses(home / "whole-two")


OBJECTIVES = {"siglip": "siglip", "standardized": "standardized"}  # with weights of its own, with buffers of its own


@pytest.mark.parametrize(("optimizer", "more"), [("adamw", OBJECTIVES), ("muon", {})], ids=["adamw", "muon"])
def test_a_sharded_run_equals_one_process_and_resumes(images, tmp_path, optimizer, more):
    """Student, teacher and optimiser split over two processes: every loss as without, and a whole checkpoint of it."""
    objectives = {**more, "whole": "cosine"}
    in_two(lambda: sharded(images, tmp_path, optimizer, objectives))
    for name, objective in objectives.items():
        one, two = tmp_path / name, tmp_path / f"{name}-two"
        change = {"objective": objective, "optimizer": optimizer}
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
