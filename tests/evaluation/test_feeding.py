"""Batches to a frozen model: what does not fit is made in pieces, the next is copied beside; a model may be compiled."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from aloe.core.errors import UserError
from aloe.core.torch_state import check_fast, compiled, matrix_products
from aloe.data.sources import open_images
from aloe.evaluation import feeding
from aloe.evaluation.evaluate import evaluate_all
from aloe.evaluation.features import extract
from aloe.evaluation.settings import EvaluateSettings
from conftest import build_teacher
from pictures import write_pictures


def images(count: int) -> torch.Tensor:
    return torch.arange(float(count)).view(-1, 1, 1, 1).expand(-1, 3, 4, 4)


class Small:
    """A GPU that holds so many images at once."""

    def __init__(self, holds: int) -> None:
        self.holds, self.asked = holds, []

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        self.asked.append(len(pixels))
        if len(pixels) > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return pixels[:, :, 0, 0]


def test_a_batch_that_does_not_fit_is_halved_until_it_does_and_the_next_begins_there():
    gpu, fitting = Small(3), feeding.Fitting()
    torch.testing.assert_close(fitting(gpu, images(13)), images(13)[:, :, 0, 0], rtol=0, atol=0)
    assert gpu.asked == [13, 6, 3, 3, 3, 3, 1]
    gpu.asked.clear()
    fitting(gpu, images(5))
    assert gpu.asked == [3, 2]


def test_an_image_that_does_not_fit_is_one_sentence():
    with pytest.raises(UserError, match="One image of 4 pixels does not fit"):
        feeding.Fitting()(Small(0), images(4))


def test_other_errors_are_seen():
    def broken(_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no kernel")

    with pytest.raises(RuntimeError, match="no kernel"):
        feeding.Fitting()(broken, images(4))


def test_on_cuda_two_batches_are_under_way(monkeypatch):
    told: list[str] = []

    class Pixels:
        def __init__(self, number: int) -> None:
            self.number = number

        def to(self, device: str, non_blocking: bool = False) -> Pixels:
            told.append(f"copy {self.number} {device} {non_blocking}")
            return self

        def record_stream(self, stream: object) -> None:
            told.append(f"keep {self.number}")

    done = iter(range(9))

    def event() -> SimpleNamespace:
        number = next(done)
        return SimpleNamespace(synchronize=lambda: told.append(f"finished {number}"))

    stream = SimpleNamespace(wait_stream=lambda other: told.append("wait for the copy"), record_event=event)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: "beside")
    monkeypatch.setattr(torch.cuda, "stream", lambda other: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    for batch in feeding.fed(({"pixel_values": Pixels(k)} for k in range(3)), "cuda:1"):
        told.append(f"compute {batch['pixel_values'].number}")
    each = [[f"copy {k} cuda:1 True", "wait for the copy", f"keep {k}", f"compute {k}"] for k in range(3)]
    assert told == [*each[0], *each[1], "finished 0", *each[2], "finished 1"]


def test_a_batch_that_nobody_asked_for_is_found_on_cuda_only():
    assert EvaluateSettings().batch_on("cpu") == 128 < EvaluateSettings().batch_on("cuda:3") == 1024
    assert EvaluateSettings(batch_size=64).batch_on("cuda") == 64


def test_blocks_are_compiled_for_a_while(monkeypatch):
    calls: list[nn.Module] = []

    def compile(self, *_, **__):
        calls.append(self)
        self._compiled_call_impl = self._call_impl

    monkeypatch.setattr(nn.Module, "compile", compile)
    model = build_teacher("vit")
    with compiled(model, wanted=False):
        assert calls == []
    with compiled(model):
        assert calls == list(model.blocks)
    assert all(block._compiled_call_impl is None for block in model.blocks)


def test_compiled_features_have_keys_and_rows_of_their_own(monkeypatch, tmp_path):
    compile = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self: compile(self, backend="eager"))
    for part, offset in (("train", 0), ("test", 50)):
        for name in ("blue", "red"):
            write_pictures(tmp_path / part / name, 4, offset)
            offset += 10
    model, source = build_teacher("vit"), open_images(tmp_path / "test")
    plain = extract(model, source, cache=tmp_path / "cache")
    other = extract(model, source, cache=tmp_path / "cache", compile=True)
    torch.testing.assert_close(other.tensor(), plain.tensor(), rtol=1e-5, atol=1e-6)
    assert len(list((tmp_path / "cache").iterdir())) == 2
    model.model.save_pretrained(tmp_path / "vit")
    rows = [
        evaluate_all(
            [str(tmp_path / "vit")],
            ["knn"],
            [(tmp_path / "train", tmp_path / "test")],
            tmp_path / "out",
            k=1,
            device="cpu",
            **more,
        )[0]
        for more in ({}, {"compile": True}, {"compile": False})
    ]
    assert [row["settings"].get("compile") for row in rows] == [None, True, None]
    assert rows[0]["key"] == rows[2]["key"] != rows[1]["key"]


@pytest.mark.parametrize(("device", "plainly"), [("cpu", True), ("cuda:0", False), ("mps", False)])
def test_products_are_made_as_the_device_in_use_makes_them(monkeypatch, device, plainly):
    used: list[object] = []
    monkeypatch.setattr("torch.nn.attention.sdpa_kernel", lambda kind: used.append(kind) or nullcontext())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: not plainly)
    with matrix_products("medium", device):
        assert torch.get_float32_matmul_precision() == "medium"
    assert bool(used) is plainly


@pytest.mark.parametrize("units", ["_is_amx_tile_supported", "_is_avx512_bf16_supported", ""])
def test_bf16_is_for_devices_that_are_fast_at_it(monkeypatch, units):
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda name=name: name == units, raising=False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bool(units))
    check_fast("float32", "mps")
    for device in ("cpu", "cuda:1"):
        if units:
            check_fast("bf16", device)
        else:
            with pytest.raises(UserError, match="has no fast bf16 products; leave --precision out"):
                check_fast("bf16", device)
    with pytest.raises(UserError, match="This mps has no fast bf16"):
        check_fast("bf16", "mps")
