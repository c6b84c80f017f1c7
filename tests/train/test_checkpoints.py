"""Checkpoints: any state there and back without a pickle, and damage that is noticed."""

from __future__ import annotations

import json
import random
import shutil

import numpy as np
import pytest
import torch

from aloe.core.errors import UserError
from aloe.train.checkpoints import SEAL, checkpoints, is_sound, last_sound, read_state, rotate, seal, write_state


def same(a, b) -> bool:
    if isinstance(a, (torch.Tensor, np.ndarray)):
        return type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or (a != a and b != b))


def test_a_state_there_and_back(tmp_path):
    shared = torch.arange(6.0)
    state = {
        0: {"step": torch.tensor(3.0), "square": torch.randn(2, 3, dtype=torch.float64), "part": shared[2:4]},
        "shared": [shared, shared.view(2, 3).T, shared[::2]],
        "words": ("a", ["tensor", "0"], None, True, 1, 0.1 + 0.2, float("inf"), float("nan")),
        "empty": [{}, [], (), torch.zeros(0)],
        "random": (random.getstate(), np.random.RandomState(3).get_state(), torch.get_rng_state()),
        1.5: {True: torch.tensor([1, 2], dtype=torch.bfloat16)},
    }
    write_state(tmp_path / "state.safetensors", state)
    assert same(read_state(tmp_path / "state.safetensors"), state)
    assert b"pickle" not in (tmp_path / "state.safetensors").read_bytes()


def test_an_optimizer_goes_on_from_its_state(tmp_path):
    def stepped(weight, optimizer, steps):
        for _ in range(steps):
            weight.grad = weight.detach().sin()
            optimizer.step()
            schedule.step()
        return weight

    weight = torch.nn.Parameter(torch.linspace(-1, 1, 5))
    optimizer = torch.optim.AdamW([weight], 0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=10)
    stepped(weight, optimizer, 3)
    write_state(tmp_path / "s.safetensors", {"o": optimizer.state_dict(), "s": schedule.state_dict()})
    kept = weight.detach().clone()
    expected = stepped(weight, optimizer, 4).detach().clone()
    weight = torch.nn.Parameter(kept)
    optimizer = torch.optim.AdamW([weight], 0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=10)
    state = read_state(tmp_path / "s.safetensors")
    optimizer.load_state_dict(state["o"])
    schedule.load_state_dict(state["s"])
    assert torch.equal(stepped(weight, optimizer, 4), expected)


def test_what_a_checkpoint_cannot_hold(tmp_path):
    with pytest.raises(TypeError, match="cannot hold a set"):
        write_state(tmp_path / "s.safetensors", {"a": {1}})
    assert not (tmp_path / "s.safetensors").exists()
    (tmp_path / "s.safetensors").write_bytes(b"\x80\x04K\x01.")  # a pickle of 1
    with pytest.raises(ValueError, match="holds no state"):
        read_state(tmp_path / "s.safetensors")


def sealed(folder, number):
    path = folder / f"checkpoint-{number}"
    (path / "inner").mkdir(parents=True)
    write_state(path / "state.safetensors", {"step": torch.full((100,), float(number))})
    (path / "inner" / "words.json").write_text(f"{number}")
    seal(path)
    return path


def flipped(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


DAMAGES = {
    "truncated": lambda p: (p / "state.safetensors").write_bytes((p / "state.safetensors").read_bytes()[:-7]),
    "empty": lambda p: (p / "state.safetensors").write_bytes(b""),
    "one bit": lambda p: flipped(p / "state.safetensors"),
    "missing": lambda p: (p / "inner" / "words.json").unlink(),
    "seal truncated": lambda p: (p / SEAL).write_text((p / SEAL).read_text()[:20]),
    "seal empty": lambda p: (p / SEAL).write_text("{}"),
    "seal of something else": lambda p: (p / SEAL).write_text("[1]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_noticed_and_the_one_before_is_used(tmp_path, damage):
    paths = [sealed(tmp_path, number) for number in (2, 10, 4)]
    (tmp_path / "checkpoint-11").mkdir()  # never sealed
    assert checkpoints(tmp_path) == [paths[0], paths[2], paths[1]]
    assert last_sound(tmp_path) == (paths[1], [])
    DAMAGES[damage](paths[1])
    assert not is_sound(paths[1])
    assert last_sound(tmp_path) == (paths[2], [paths[1]])
    for path in (paths[0], paths[2]):
        flipped(path / "state.safetensors")
    assert last_sound(tmp_path) == (None, [paths[1], paths[2], paths[0]])


OTHERS = (
    "checkpoint-8.bak",
    "checkpoint-best",
    "checkpoint-08",
    "checkpoint-",
    "checkpoint-8 (copy)",
    "checkpoint-8-old",
)


@pytest.mark.parametrize("name", [*OTHERS, "checkpoint--8", "checkpoint-٨"])
def test_what_we_did_not_name_is_left_alone(tmp_path, name):
    path = sealed(tmp_path, 2)
    shutil.copytree(path, tmp_path / name)
    assert checkpoints(tmp_path) == [path]
    assert last_sound(tmp_path) == (path, [])
    rotate(tmp_path, 1, 9)
    assert (tmp_path / name / SEAL).is_file()


def of_run(home, number, step=None, **record):
    path = home / f"checkpoint-{number}"
    path.mkdir(parents=True)
    (path / "run.json").write_text(json.dumps({"seed": 1, "data_fingerprint": "a", "versions": {}, **record}))
    (path / "trainer_state.json").write_text(json.dumps({"global_step": number if step is None else step}))
    seal(path)
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 2}, r"checkpoint-9 is a checkpoint of another run \(seed 2, here 1\); move it out of run"),
        ({"data_fingerprint": "b"}, "of another run \\(data_fingerprint 'b', here 'a'"),
        ({"more": 1}, "of another run \\(more 1, here None"),
        ({"step": 5}, "checkpoint-9 is a copy of the checkpoint at step 5 under another number"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_by_name_and_never_removed(tmp_path, change, words):
    home = tmp_path / "run"
    ours = [of_run(home, number) for number in (2, 4)]
    shutil.copyfile(ours[0] / "run.json", home / "run.json")
    assert last_sound(home) == (ours[1], [])
    other = of_run(home, 9, **change)
    with pytest.raises(UserError, match=words):
        last_sound(home)
    rotate(home, 1, 9)
    assert checkpoints(home) == [other]
    shutil.rmtree(other)
    told = of_run(home, 9, versions={"torch": "2"})  # another version of a library is the same run
    assert last_sound(home) == (told, [])


def test_damaged_checkpoints_ahead_do_not_push_out_sound_ones(tmp_path):
    paths = [sealed(tmp_path, number) for number in (2, 4, 8)]
    flipped(paths[2] / "state.safetensors")
    rotate(tmp_path, 2, 4)
    assert checkpoints(tmp_path) == paths
    rotate(tmp_path, 1, 4)
    assert checkpoints(tmp_path) == paths[1:]
