"""A run whose numbers are no longer finite fails by name, whatever is last logged; nothing is called finished."""

from __future__ import annotations

import pytest
from safetensors.torch import load_file

from aloe.core.errors import UserError
from aloe.train.align.run import align
from aloe.train.checkpoints import checkpoints
from aloe.train.finetune.run import finetune
from aloe.train.finetune.trainer import LabelledModel
from aloe.train.stopping import Diverged
from conftest import build_teacher
from pictures import write_pictures

TINY = {"batch_size": 4, "workers": 0, "device": "cpu", "progress": False}


@pytest.mark.parametrize("log_every", [1, 100])
@pytest.mark.parametrize("holdout", [0, 2])
def test_a_rate_that_is_far_too_high_fails(tmp_path, log_every, holdout):
    write_pictures(tmp_path / "images", 20)
    settings = {"learning_rate": 1e30, "log_every": log_every, "holdout": holdout, "steps": 3, "save_every": 100}
    with pytest.raises(Diverged, match=r"step \d.*learning_rate"):
        align(build_teacher("vit"), tmp_path / "images", tmp_path / "run", **TINY, **settings)
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_what_is_said_before_a_run(tmp_path):
    write_pictures(tmp_path / "images", 12)
    call = lambda **settings: align(build_teacher("vit"), tmp_path / "images", tmp_path / "run", **TINY | settings)  # noqa: E731
    for settings, words in (
        ({"batch_size": 60_000}, r"batch_size is 60000, but there are only \d+ images"),
        ({"batch_size": 10**6}, "batch_size"),
        ({"device": "gpu"}, "no device 'gpu'"),
        ({"device": "meta"}, "meta"),
    ):
        with pytest.raises(UserError, match=words):
            call(**settings)
    assert not (tmp_path / "run").exists()


def labelled(folder):
    for label in "ab":
        write_pictures(folder / label, 8)
    return folder


@pytest.mark.parametrize("holdout", [0, 4])
def test_a_finetune_that_diverges_fails_and_keeps_its_last_good_checkpoint(tmp_path, monkeypatch, holdout):
    """The loss becomes NaN at the third step of four."""
    step = LabelledModel.forward
    calls = iter(range(100))

    def forward(self, *args, **kwargs):
        found = step(self, *args, **kwargs)
        if self.training and next(calls) >= 2:
            found["loss"] = found["loss"] * float("nan")
        return found

    monkeypatch.setattr(LabelledModel, "forward", forward)
    settings = {"steps": 4, "holdout": holdout, "save_every": 1, "evaluate_every": 100, "log_every": 100}
    with pytest.raises(Diverged, match=r"step \d.*learning_rate"):
        finetune(build_teacher("vit"), labelled(tmp_path / "images"), tmp_path / "run", **TINY, **settings)
    assert not (tmp_path / "run" / "model.safetensors").exists()
    kept = checkpoints(tmp_path / "run")
    assert kept
    for path in kept:
        assert all(value.isfinite().all() for value in load_file(path / "model.safetensors").values())


def test_a_rate_of_finetune_that_is_far_too_high_fails(tmp_path):
    settings = {"learning_rate": 1e30, "steps": 4, "holdout": 0, "save_every": 100, "log_every": 1}
    with pytest.raises(Diverged, match=r"step \d.*learning_rate"):
        finetune(build_teacher("vit"), labelled(tmp_path / "images"), tmp_path / "run", **TINY, **settings)
    assert not (tmp_path / "run" / "model.safetensors").exists()
