"""A run whose numbers are no longer finite fails by name, whatever is last logged; nothing is called finished."""

from __future__ import annotations

import pytest

from aloe.core.errors import UserError
from aloe.train.align.run import align
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
