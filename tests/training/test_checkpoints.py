"""Checkpoints: any state there and back without a pickle, and damage that is noticed."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from aloe.training.checkpoints import SEAL, checkpoints, is_sound, last_sound, read_state, seal, write_state


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
