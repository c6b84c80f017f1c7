"""What is measured is the alignment that `aloe align` runs; every number against what it must be."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch

from aloe.apps.bench import measure as measuring
from aloe.apps.bench.measure import measure
from aloe.data.sources import open_source
from aloe.train.align.settings import AlignSettings
from aloe.train.align.trainer import AlignmentTrainer
from conftest import build_teacher
from pictures import write_pictures

RATES = {"data", "teacher", "student_forward", "student_step", "full_step"}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_pictures(tmp_path_factory.mktemp("images"))


def settings(**values):
    return AlignSettings.resolve(overrides={"batch_size": 4, "workers": 0, **values})


def products(tokens: int, batch: int, *, patch: int) -> int:
    """FLOPs of a network of `conftest.SIZE` with `patch` inputs per patch token: projections, MLP, attention."""
    layer = tokens * 2 * 48 * (4 * 48 + 2 * 96) + 2 * 2 * tokens * tokens * 48
    return batch * (3 * layer + 2 * 16 * 48 * patch)


def test_numbers_of_one_alignment(images):
    teacher = build_teacher("vit")
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    found = measure(teacher, open_source(images), settings(), rounds=2)
    assert set(found.images_per_second) == RATES
    assert set(found.utilisation) == set(found.flops_per_image) == RATES - {"data"}
    assert all(0 < share < 1 for share in found.utilisation.values())
    work = found.flops_per_image
    assert work["teacher"] == products(17, 1, patch=3 * 64)
    assert work["student_forward"] == products(17, 1, patch=6 * 64)
    assert work["full_step"] == work["teacher"] + work["student_step"]
    assert 2.5 * work["student_forward"] < work["student_step"] < 3.01 * work["student_forward"]
    rate = found.images_per_second["teacher"]
    assert found.utilisation["teacher"] == pytest.approx(rate * work["teacher"] / found.matmul_flops_per_second)
    weights = sum(p.nbytes for p in teacher.parameters())
    assert found.memory > 4.5 * weights  # teacher, student, two moments, gradients; activations come on top
    assert found.largest_batch is None
    assert (found.batch_size, found.processes, found.resolution, found.steps) == (4, 1, 32, 2)
    assert json.loads(json.dumps(asdict(found)))["name"] == "vit"
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_the_parts_are_the_trainers_own_calls(images, monkeypatch):
    """Data, teacher, loss and step go through the methods that an alignment calls, and nothing is left behind."""
    called = []
    for owner, name in (
        (AlignmentTrainer, "compute_loss"),
        (AlignmentTrainer, "train"),
        (AlignmentTrainer, "get_train_dataloader"),
        (measuring.Trainer, "training_step"),
    ):
        original = getattr(owner, name)

        def watch(*arguments, original=original, name=name, **options):
            called.append(name)
            return original(*arguments, **options)

        monkeypatch.setattr(owner, name, watch)
    homes = []
    monkeypatch.setattr(measuring.tempfile, "tempdir", None)
    plain = measuring.tempfile.TemporaryDirectory

    def remember(*arguments):
        made = plain(*arguments)
        homes.append(made.name)
        return made

    monkeypatch.setattr(measuring.tempfile, "TemporaryDirectory", remember)
    measure(build_teacher("siglip"), open_source(images), settings(objective="infonce"), rounds=1)
    assert called.count("train") == 1
    assert called.count("get_train_dataloader") == 2  # alone, and in train()
    # 2 trained, 1 for memory, 1 counted, 2 in turns; each of them and 1 + 2 forward passes alone ask for the loss
    assert called.count("training_step") == 2 + 1 + 1 + 2
    assert called.count("compute_loss") == 6 + 3
    assert not any(measuring.Path(home).exists() for home in homes)


def test_command(aloe, images, tmp_path):
    build_teacher("vit").model.save_pretrained(tmp_path / "teacher")
    words = ["bench", tmp_path / "teacher", images, "--device", "cpu", "--steps", 1, "--batch-size", 2, "-o", tmp_path]
    code, out, err = aloe(*words)
    assert code == 0, err
    assert "full step/s" in out
    assert "Measuring" in err
    code, out, _ = aloe(*words, "--json", "--set", "objective=mse")
    assert code == 0
    (row,) = json.loads(out)["rows"]
    assert set(row["images_per_second"]) == RATES
    kept = [json.loads(line) for line in (tmp_path / "bench.jsonl").read_text().splitlines()]
    assert len(kept) == 2
    assert kept[1] == row
    for wrong, told in (
        ([tmp_path / "teacher", "--sizes", "Ti"], "not both"),
        (["--sizes", "Ti,XL"], "no size 'XL'"),
        ([tmp_path / "teacher", "--resolution", "100"], "not a whole number of 8-pixel patches"),
        (["--set", "objectiv=mse"], "did you mean objective"),
        (["--precision", "int8"], "precision"),
        (["--set", "precision=int8"], "precision: "),
        (["--batch-size", 0, "--workers", -1], "workers: "),
        (["--batch-size", 1, "--set", "batch_size=2"], "given twice"),
    ):
        code, _, err = aloe("bench", *wrong, "--device", "cpu")
        assert code == 2
        assert told in err
