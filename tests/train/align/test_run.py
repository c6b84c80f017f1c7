"""Whole runs of `align` on tiny teachers: seeds, resume, mistakes, faults, and what is written when."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from aloe.core.errors import UserError
from aloe.data.transforms import ResizeCenterCrop, to_tensor
from aloe.models.saving import load, save_student
from aloe.train import runs as runs_module
from aloe.train import trainer as trainer_module
from aloe.train.align import run as run_module
from aloe.train.align import teaching as teaching_module
from aloe.train.align.run import align
from aloe.train.align.settings import AlignSettings, usual_rate
from aloe.train.checkpoints import checkpoints
from aloe.train.progress import JsonlLog, read_log
from aloe.train.sealed import SealedTrainer
from conftest import build_teacher
from killed import killed_after
from pictures import picture, write_pictures
from several import run_in

TINY = {"batch_size": 4, "workers": 0, "log_every": 1, "holdout": 0, "device": "cpu", "progress": False}


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("images"))


def tiny(images, out, family="vit", **settings):
    return align(build_teacher(family), images, out, **{**TINY, "steps": 4, **settings})


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read_log(folder) if "loss" in row]


def same_weights(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def interrupt(monkeypatch):
    """`interrupt(k)`: the next run is stopped after k steps; `interrupt(None)`: no more."""

    def arm(after):
        class Log(JsonlLog):
            def on_step_end(self, args, state, control, **_):
                if state.global_step == after:
                    raise KeyboardInterrupt

        monkeypatch.setattr(trainer_module, "JsonlLog", Log)

    return arm


def test_same_seed_same_losses_bit_for_bit_and_another_seed_others(images, tmp_path):
    runs = {name: tiny(images, tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))}
    a, b, c = (losses(tmp_path / name) for name in runs)
    assert len(a) == 4
    assert a == b
    assert all(x != y for x, y in zip(a, c, strict=True))
    assert same_weights(runs["a"], runs["b"])
    assert not same_weights(runs["a"], runs["c"])


CHANGES = [
    {},
    {"objective": "siglip"},
    {"objective": "standardized"},
    {"resolutions": [16, 32, 40]},
    {"optimizer": "muon", "weight_decay": 0.1},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(images, tmp_path, interrupt, change):
    settings = {"steps": 6, "save_every": 2, **change}
    whole = tiny(images, tmp_path / "whole", **settings)
    interrupt(5)
    with pytest.raises(KeyboardInterrupt):
        tiny(images, tmp_path / "cut", **settings)
    assert [p.name for p in checkpoints(tmp_path / "cut")] == ["checkpoint-2", "checkpoint-4"]
    interrupt(None)
    resumed = tiny(images, tmp_path / "cut", **settings)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert same_weights(whole, resumed)
    steps = [row["step"] for row in read_log(tmp_path / "cut") if "loss" in row]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_every_step_has_one_of_the_resolutions(images, tmp_path, monkeypatch):
    sides = []
    original = teaching_module.teacher_features

    def watch(source, batch, *rest):
        sides.append(batch.shape[-1])
        return original(source, batch, *rest)

    monkeypatch.setattr(teaching_module, "teacher_features", watch)
    student = tiny(images, tmp_path / "run", resolutions=[16, 24, 40], steps=12, gradient_accumulation=2)
    pairs = [tuple(sides[i : i + 2]) for i in range(0, 24, 2)]
    assert all(a == b for a, b in pairs)  # of the two halves of a step
    settings = AlignSettings.resolve(overrides={"resolutions": [16, 24, 40]})
    assert [a for a, _ in pairs] == [settings.resolution_at(step, 0) for step in range(12)]
    assert set(sides) == {16, 24, 40}
    assert student.config.resolution == 32
    with pytest.raises(UserError, match="20 is not a whole number of 8-pixel patches"):
        tiny(images, tmp_path / "bad", resolutions=[16, 20])
    assert not (tmp_path / "bad").exists()


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_nothing_had_happened(images, tmp_path):
    """kill -9 right after the first checkpoint of a run in another process."""
    assert killed_after(3, lambda: tiny(images, tmp_path / "cut", save_every=2))
    (tmp_path / "cut" / ".saving").mkdir()  # as if killed while saving
    whole, resumed = tiny(images, tmp_path / "whole", save_every=2), tiny(images, tmp_path / "cut", save_every=2)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert same_weights(whole, resumed)
    assert not (tmp_path / "cut" / ".saving").exists()


def test_a_saved_student_answers_bit_for_bit_and_a_finished_run_is_not_trained_again(images, tmp_path):
    student = tiny(images, tmp_path / "run", family="vit-classifier")
    before = contents(tmp_path / "run")
    again = tiny(images, tmp_path / "run", family="vit-classifier")
    assert contents(tmp_path / "run") == before
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        for other in (load(tmp_path / "run"), again):
            assert torch.equal(other(x).logits, student(x).logits)
            assert torch.equal(other(x).pooler_output, student(x).pooler_output)


def test_another_run_s_folder_is_refused_naming_what_differs(images, tmp_path):
    tiny(images, tmp_path / "run", steps=1)
    before = contents(tmp_path / "run")
    with pytest.raises(UserError, match="steps was 1, now 2"):
        tiny(images, tmp_path / "run", steps=2)
    with pytest.raises(UserError, match="teacher was 'vit', now 'dinov2'"):
        tiny(images, tmp_path / "run", steps=1, family="dinov2")
    with pytest.raises(UserError, match="data_fingerprint"):
        tiny([str(images / "00.png")], tmp_path / "run", steps=1)
    assert contents(tmp_path / "run") == before


def test_free_settings_may_change_between_the_parts_of_a_run(images, tmp_path):
    tiny(images, tmp_path / "run", steps=1)
    tiny(images, tmp_path / "run", steps=1, log_every=7, save_every=9, keep_checkpoints=1)


def test_a_record_that_another_process_of_the_run_writes_at_this_moment_is_its_own(images, tmp_path, monkeypatch):
    record = json.dumps({"steps": 4})
    home, listed = tmp_path / "run", Path.iterdir
    home.mkdir()

    def write_and_list(folder):
        (home / "run.json").write_text(record)
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", write_and_list)
    with runs_module.claim(home, json.loads(record)) as state:
        assert state == "resume"


def test_a_foreign_folder_is_refused_and_untouched(images, tmp_path):
    home = tmp_path / "thesis"
    home.mkdir()
    (home / "chapter.tex").write_text("words")
    with pytest.raises(UserError, match="not empty"):
        tiny(images, home)
    with pytest.raises(UserError, match="is a file; give a folder"):
        tiny(images, home / "chapter.tex")
    assert contents(home) == {"chapter.tex": b"words"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 0}, "steps"),
        ({"resolution": 33}, "whole number of 8-pixel patches"),
        ({"after_block": [4]}, "blocks 1 to 3"),
        ({"recipe": "long"}, "no recipe"),
        ({"images": "nowhere"}, "does not exist"),
        ({"teacher": "./nowhere"}, "nowhere"),
    ],
)
def test_nothing_is_written_when_something_is_wrong(images, tmp_path, changes, words):
    arguments = {"teacher": build_teacher("vit"), "images": images, **TINY, "steps": 1, **changes}
    with pytest.raises(UserError, match=words):
        align(arguments.pop("teacher"), arguments.pop("images"), tmp_path / "run", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(images, tmp_path, monkeypatch):
    original = run_module.AlignmentTrainer.compute_loss

    def poisoned(self, *args, **kwargs):
        return original(self, *args, **kwargs) * (math.nan if self.state.global_step >= 3 else 1)

    monkeypatch.setattr(run_module.AlignmentTrainer, "compute_loss", poisoned)
    with pytest.raises(UserError, match="lower learning_rate"):
        tiny(images, tmp_path / "run", steps=6, save_every=2)
    assert not (tmp_path / "run" / "model.safetensors").exists()
    monkeypatch.undo()
    kept = checkpoints(tmp_path / "run")
    assert [p.name for p in kept] == ["checkpoint-2"]
    tiny(images, tmp_path / "run", steps=6, save_every=2)
    assert all(map(math.isfinite, losses(tmp_path / "run")))


def test_weights_that_are_not_finite_are_never_saved(images, tmp_path):
    with pytest.raises(UserError, match="lower learning_rate"):
        tiny(images, tmp_path / "run", learning_rate=1e38, steps=6, save_every=1, log_every=100, keep_checkpoints=9)
    for checkpoint in checkpoints(tmp_path / "run"):
        assert all(t.isfinite().all() for t in load_file(checkpoint / "model.safetensors").values())
    assert not (tmp_path / "run" / "model.safetensors").exists()


def full_disk(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("writer", ["_save", "_save_optimizer_and_scheduler", "_save_rng_state"])
def test_a_full_disk_leaves_no_half_checkpoint_and_the_run_resumes(images, tmp_path, monkeypatch, writer):
    original = getattr(SealedTrainer, writer)

    def save(self, *args, **kwargs):
        original(self, *args, **kwargs)
        if self.state.global_step == 3:
            full_disk()

    monkeypatch.setattr(SealedTrainer, writer, save)
    with pytest.raises(UserError, match=r"step 3 could not be written.*No space left"):
        tiny(images, tmp_path / "run", save_every=1)
    monkeypatch.undo()
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "checkpoint-1",
        "checkpoint-2",
        "log.jsonl",
        "run.json",
    ]
    resumed = tiny(images, tmp_path / "run", save_every=1)
    assert same_weights(resumed, tiny(images, tmp_path / "whole", save_every=1))


@pytest.mark.slow
def test_a_real_write_error_of_every_library_is_one_sentence(images, tmp_path):
    """A limit on the size of files stands for a full disk: safetensors and torch each have their own error for it."""

    def job() -> list[str]:
        import resource

        student = tiny(images, tmp_path / "fine", steps=1)
        told = []
        for limit in (100_000, 400_000):  # less than the weights; less than the optimiser's state
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
            with pytest.raises(UserError) as error:
                tiny(images, tmp_path / "full", steps=1)
            told.append(str(error.value))
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        with pytest.raises(UserError) as error:
            save_student(student, tmp_path / "student")
        return [*told, str(error.value)]

    (told,) = run_in(1, job, joined=False)
    assert [line.count("could not be written") for line in told] == [1, 1, 1], told
    assert sorted(p.name for p in (tmp_path / "full").iterdir()) == ["log.jsonl", "run.json"]
    assert not (tmp_path / "student").exists()


def test_unreadable_images_are_skipped_counted_and_listed(tmp_path):
    images = write_pictures(tmp_path / "images", 22)
    (images / "03.png").write_bytes((images / "03.png").read_bytes()[:60])
    tiny(images, tmp_path / "run", steps=6, max_bad_fraction=0.2)  # 24 draws see every image
    assert (tmp_path / "run" / "unreadable.txt").read_text().splitlines()[0].startswith("03.png: ")
    with pytest.raises(UserError, match=r"1 of 22 images are unreadable.*03\.png"):
        tiny(images, tmp_path / "strict", max_bad_fraction=0.01)
    assert not (tmp_path / "strict").exists()


def test_unreadable_held_out_images_do_not_enter_the_cosine(tmp_path):
    images = write_pictures(tmp_path / "images", 20)
    broken, sound = sorted(np.random.default_rng(0).permutation(20)[:2])
    (images / f"{broken:02}.png").write_bytes(b"nothing")
    settings = {"steps": 1, "holdout": 2, "evaluate_every": 1, "batch_size": 1, "max_bad_fraction": 0.5}
    student = tiny(images, tmp_path / "run", **settings)
    row = next(row for row in read_log(tmp_path / "run") if "eval_cosine_pooled" in row)
    pixels = to_tensor(ResizeCenterCrop(32)(picture(sound)))[None]
    with torch.no_grad():
        ours, theirs = student(pixels).pooler_output, build_teacher("vit")(pixels).pooled
    assert row["eval_cosine_pooled"] == pytest.approx(torch.cosine_similarity(ours, theirs).item(), abs=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_two_accumulated_batches_of_4_are_one_of_8(images, tmp_path, optimizer):
    settings = {"steps": 2, "learning_rate": 1e-3, "optimizer": optimizer}
    tiny(images, tmp_path / "one", batch_size=8, **settings)
    tiny(images, tmp_path / "two", batch_size=4, gradient_accumulation=2, **settings)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    one, two = (next(r for r in read_log(tmp_path / n) if "loss" in r) for n in ("one", "two"))
    assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)
    assert one["grad_norm"] == pytest.approx(two["grad_norm"], rel=1e-3)
    assert one["loss_pooled"] == pytest.approx(two["loss_pooled"], rel=1e-4)


def test_the_usual_rate_is_recorded_and_counts_all_images_of_a_step(images, tmp_path):
    settings = {"steps": 2, "gradient_accumulation": 2, "schedule": "warmup-constant-cosine", "warmup": 0, "decay": 0}
    tiny(images, tmp_path / "run", **settings)
    rate = usual_rate(16, 2, 8)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["learning_rate"] == rate
    assert {row["learning_rate"] for row in read_log(tmp_path / "run") if "loss" in row} == {rate}


def test_a_run_that_goes_on_from_a_student_takes_a_third_of_the_usual_rate(images, tmp_path):
    student = tiny(images, tmp_path / "run", steps=1)
    tiny(images, tmp_path / "more", steps=1, student=student)
    rate = json.loads((tmp_path / "more" / "run.json").read_text())["learning_rate"]
    assert rate == pytest.approx(usual_rate(16, 2, 4) / 3, rel=0.05)


@pytest.mark.parametrize("trained", [True, False])
def test_a_run_that_an_earlier_version_began_keeps_its_rate(images, tmp_path, trained):
    tiny(images, tmp_path / "run", learning_rate=1e-3)
    if trained:
        tiny(images, tmp_path / "run")  # finished with the default of then
    else:
        for path in (tmp_path / "run").iterdir():
            if path.name != "run.json":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        tiny(images, tmp_path / "run")
    rate = json.loads((tmp_path / "run" / "run.json").read_text())["learning_rate"]
    assert rate == (1e-3 if trained else usual_rate(16, 2, 4))


def test_the_logged_loss_is_the_sum_of_the_points(images, tmp_path):
    tiny(images, tmp_path / "run", steps=2, log_every=2)
    row = next(r for r in read_log(tmp_path / "run") if "loss" in r)
    parts = [v for k, v in row.items() if k.startswith("loss_")]
    assert len(parts) == 4
    assert row["loss"] == pytest.approx(sum(parts), rel=1e-3)


def test_a_run_begun_before_a_setting_was_known_goes_on(images, tmp_path):
    tiny(images, tmp_path / "run")
    assert "stem_steps" not in json.loads((tmp_path / "run" / "run.json").read_text())
    tiny(images, tmp_path / "other", stem="conv", stem_steps=1)
    assert json.loads((tmp_path / "other" / "run.json").read_text())["stem_steps"] == 1


def test_medium_products_are_recorded_change_little_and_end_with_the_run(images, tmp_path):
    settings = {"steps": 1, "learning_rate": 1e-3}
    tiny(images, tmp_path / "exact", **settings)
    tiny(images, tmp_path / "medium", matmul_precision="medium", **settings)
    exact, medium = (next(r for r in read_log(tmp_path / n) if "loss" in r) for n in ("exact", "medium"))
    assert torch.get_float32_matmul_precision() == "highest"
    assert "matmul_precision" not in json.loads((tmp_path / "exact" / "run.json").read_text())
    assert json.loads((tmp_path / "medium" / "run.json").read_text())["matmul_precision"] == "medium"
    assert medium["loss"] == pytest.approx(exact["loss"], rel=2e-2)


def test_the_teacher_s_classifier_is_carried_over_unchanged(images, tmp_path):
    teacher = build_teacher("vit-classifier")
    student = tiny(images, tmp_path / "run", family="vit-classifier")
    assert torch.equal(student.classifier.weight, teacher.classifier.weight)
    assert not torch.equal(student.vit.layers[0].attention.qkv.weight[:48], _query(teacher))


def _query(teacher):
    return next(p for n, p in teacher.tower.named_parameters() if n.endswith(("query.weight", "q_proj.weight")))


@pytest.mark.parametrize(
    "changes",
    [
        {"stem": "conv"},
        {"objective": "siglip"},
        {"objective": "infonce"},
        {"objective": "mse"},
        {"objective": "standardized"},
        {"objective": "standardized", "family": "siglip", "after_block": []},
        {"family": "dinov3"},
        {"family": "siglip"},
        {"precision": "bf16"},
        {"precision": "bf16", "optimizer": "muon"},
        {"stem": "conv", "stem_steps": 1, "block_steps": 1, "optimizer": "muon"},
        {"resolution": 48},
        {"gradient_checkpointing": True},
        {"schedule": "warmup-constant-cosine"},
        {"pooled": False, "after_block": [3]},
        {"workers": 1},
    ],
    ids=str,
)
def test_every_kind_of_run_moves_the_weights(images, tmp_path, changes):
    student = tiny(images, tmp_path / "run", steps=2, **changes)
    found = losses(tmp_path / "run")
    assert len(found) == 2
    assert all(map(math.isfinite, found))
    assert all(p.isfinite().all() and p.dtype == torch.float32 for p in student.parameters())
    first, last = (row["grad_norm"] for row in read_log(tmp_path / "run") if "loss" in row)
    assert min(first, last) > 0


def test_shards_with_an_unreadable_member(tmp_path):
    with tarfile.open(tmp_path / "part-000.tar", "w") as archive:
        for i in range(12):
            buffer = io.BytesIO()
            picture(i).save(buffer, "PNG")
            data = buffer.getvalue() if i != 5 else b"nothing"
            member = tarfile.TarInfo(f"{i:03}.png")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    runs = [tiny(f"wds:{tmp_path}/part-000.tar", tmp_path / name, steps=4) for name in "ab"]
    assert len(losses(tmp_path / "a")) == 4
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert same_weights(*runs)
    assert "005.png" in (tmp_path / "a" / "unreadable.txt").read_text()


def test_the_loss_falls(images, tmp_path):
    tiny(images, tmp_path / "run", steps=12, batch_size=8, learning_rate=3e-3)
    found = losses(tmp_path / "run")
    assert sum(found[-3:]) < 0.9 * sum(found[:3])


def test_the_record_says_what_was_run(images, tmp_path):
    tiny(images, tmp_path / "run", steps=1)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["blocks"] == [1, 2, 3]
    assert record["steps"] == 1
    assert record["resolution"] == 32
    assert set(record["versions"]) == {"aloe-vit", "torch", "transformers"}
