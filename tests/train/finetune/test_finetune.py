"""Whole runs of `finetune` on tiny models: what is learned, seeds, resume, mistakes, and what is written when."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from classes import COLOURS, class_shown, write_classes

from aloe.bcos.losses import bce_uniform_off_targets
from aloe.core.errors import UserError
from aloe.data.draws import ImageDataset, collate_images
from aloe.data.scenes import teacher_path
from aloe.data.scenes.files import write_scenes
from aloe.data.sources import open_images
from aloe.data.transforms import ResizeCenterCrop
from aloe.models.convert import bcosify
from aloe.models.modeling import BcosViTForImageClassification
from aloe.models.saving import load, save_student
from aloe.train import trainer as trainer_module
from aloe.train.align.calibrate import calibrate
from aloe.train.align.run import align
from aloe.train.checkpoints import checkpoints
from aloe.train.finetune import run as run_module
from aloe.train.finetune.run import finetune
from aloe.train.finetune.settings import FinetuneSettings
from aloe.train.finetune.start import with_head
from aloe.train.finetune.trainer import LabelledModel
from aloe.train.progress import JsonlLog, read_log
from aloe.train.runs import hold_out
from conftest import build_teacher
from killed import killed_after
from pictures import write_pictures
from several import torchrun

TINY = {"steps": 4, "batch_size": 4, "workers": 0, "log_every": 1, "holdout": 0, "device": "cpu", "progress": False}
NAMES = list(COLOURS)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    return write_classes(tmp_path_factory.mktemp("classes"))


def tiny(images, out, model="vit", **settings):
    return finetune(build_teacher(model) if isinstance(model, str) else model, images, out, **{**TINY, **settings})


def logged(folder: Path, name: str) -> list[float]:
    return [row[name] for row in read_log(folder) if name in row]


def same_weights(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def views(source) -> dict[str, torch.Tensor]:
    data = ImageDataset(source, ResizeCenterCrop(32))
    return collate_images([data[i] for i in range(len(data))])


def test_a_teacher_becomes_a_classifier_of_the_data(images, tmp_path):
    student = tiny(images, tmp_path / "run")
    assert isinstance(student, BcosViTForImageClassification)
    assert not student.training
    assert all(p.requires_grad and p.isfinite().all() for p in student.parameters())
    saved = load(tmp_path / "run")
    assert same_weights(saved, student)
    for config in (student.config, saved.config):
        assert config.id2label == dict(enumerate(NAMES))
        assert config.logit_bias == pytest.approx(-math.log(2))
        assert (config.teacher["stage"], config.teacher["name"]) == ("b-cosified", "vit")
    assert (tmp_path / "run" / "preprocessor_config.json").is_file()
    assert not list((tmp_path / "run").glob(".*"))


def test_it_learns(images, tmp_path):
    """Three colours, held out: chance is one third."""
    tiny(images, tmp_path / "run", steps=25, batch_size=8, holdout=9, learning_rate=3e-3, calibrate=True)
    assert logged(tmp_path / "run", "eval_accuracy")[-1] == 1.0
    found = logged(tmp_path / "run", "loss")
    assert sum(found[-5:]) < 0.8 * sum(found[:5])


@pytest.mark.slow
def test_scenes_are_told_apart_better_than_by_chance(tmp_path):
    """The demo's teacher, converted, without its head: the new head learns ten kinds of scenes from 100 of them."""
    train = write_scenes(tmp_path / "train", 100, seed=6)
    test = write_scenes(tmp_path / "test", 60, seed=5)
    settings = {"steps": 20, "batch_size": 16, "learning_rate": 2e-3, "calibrate": True, "crop_scale": (0.5, 1.0)}
    tiny(train, tmp_path / "run", bcosify(teacher_path()).base_model, validation=test, **settings)
    assert logged(tmp_path / "run", "eval_accuracy")[-1] > 0.2
    assert logged(tmp_path / "run", "eval_loss")[-1] < logged(tmp_path / "run", "loss")[0]


def test_what_is_logged_is_what_the_model_does(images, tmp_path):
    """The held-out loss and accuracy against the same numbers from the saved student; the first loss from the start."""
    student = tiny(images, tmp_path / "run", holdout=6, steps=2, evaluate_every=2)
    source = open_images(images)
    _, held_out = hold_out(source, 6, 0, source.labels)
    batch = views(held_out)
    assert sorted(batch["label"].tolist()) == [0, 1, 2]  # a tenth of the images, one of each class
    with torch.no_grad():
        logits = student(batch["pixel_values"]).logits
    row = next(row for row in read_log(tmp_path / "run") if "eval_loss" in row)
    assert row["eval_loss"] == pytest.approx(bce_uniform_off_targets(logits, batch["label"]).item(), rel=1e-5)
    assert row["eval_accuracy"] == pytest.approx((logits.argmax(1) == batch["label"]).float().mean().item())


def test_labels_travel_with_the_images(tmp_path, monkeypatch):
    """Each class has its own colour, so every training batch can be checked; unreadable images are stood in for."""
    images = write_classes(tmp_path / "images")
    for name in ("blue/03", "red/00", "red/07"):
        (images / f"{name}.png").write_bytes(b"nothing")
    original, seen = LabelledModel.forward, []

    def forward(self, pixels, labels):
        seen.extend(zip(class_shown(pixels), labels.tolist(), strict=True))
        return original(self, pixels, labels)

    monkeypatch.setattr(LabelledModel, "forward", forward)
    tiny(images, tmp_path / "run", steps=20, max_bad_fraction=0.2)
    assert len(seen) == 80
    assert all(NAMES[label] == shown for shown, label in seen)
    assert {shown for shown, _ in seen} == set(NAMES)
    assert len((tmp_path / "run" / "unreadable.txt").read_text().splitlines()) == 3


def test_a_head_for_these_classes_is_kept_and_put_in_order(images, tmp_path):
    teacher = build_teacher("vit-classifier")
    named = {0: "RED", 1: "blue", 2: "Green"}
    start, _ = with_head(bcosify(teacher), list(named.values()), FinetuneSettings(seed=3))
    student = tiny(images, tmp_path / "run", start, steps=1, learning_rate=1e-12)
    torch.testing.assert_close(student.classifier.weight, start.classifier.weight[[1, 2, 0]], atol=1e-9, rtol=0)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["head"], record["classes"], record["start_stage"]) == ("kept", 3, "converted")


def test_the_stages_of_a_model(images, tmp_path):
    """teacher -> converted -> aligned -> finetuned; teacher -> converted -> b-cosified, from memory and from folders."""
    teacher, one = build_teacher("vit"), {**TINY, "steps": 1}
    converted = bcosify(teacher)
    assert converted.config.teacher["stage"] == "converted"
    aligned = align(teacher, images, tmp_path / "aligned", **one)
    assert aligned.config.teacher["stage"] == "aligned"
    save_student(converted, tmp_path / "converted")
    for start, stage in (("aligned", "finetuned"), ("converted", "b-cosified")):
        out = tmp_path / f"from {start}"
        student = finetune(tmp_path / start, images, out, **one)
        assert student.config.teacher["stage"] == load(out).config.teacher["stage"] == stage
    assert converted.config.teacher["stage"] == "converted"
    again = finetune(tmp_path / "from converted", images, tmp_path / "again", **one)
    assert again.config.teacher["stage"] == "b-cosified"
    assert json.loads((tmp_path / "again" / "run.json").read_text())["head"] == "kept"


def test_a_student_from_a_folder_and_the_same_in_memory_learn_the_same(images, tmp_path):
    start = bcosify(build_teacher("dinov2"))
    save_student(start, tmp_path / "start")
    before = {k: v.clone() for k, v in start.state_dict().items()}
    from_memory = tiny(images, tmp_path / "memory", start)
    from_folder = tiny(images, tmp_path / "folder", tmp_path / "start")
    assert same_weights(from_memory, from_folder)
    assert all(torch.equal(before[k], v) for k, v in start.state_dict().items())


def test_a_frozen_backbone_stays_and_the_head_learns(images, tmp_path):
    start, _ = with_head(bcosify(build_teacher("vit")), NAMES, FinetuneSettings())
    student = tiny(images, tmp_path / "run", start, freeze="backbone", weight_decay=0.1)
    assert same_weights(student.vit, start.vit)
    assert not torch.equal(student.classifier.weight, start.classifier.weight)
    assert all(p.requires_grad for p in student.parameters())
    whole = tiny(images, tmp_path / "whole", start)
    assert not any(torch.equal(a, b) for a, b in zip(whole.parameters(), start.parameters(), strict=True))


def test_calibration_is_off_and_can_be_asked_for(images, tmp_path):
    teacher = build_teacher("vit")
    plain, _ = with_head(bcosify(teacher), NAMES, FinetuneSettings())
    still = {"steps": 1, "learning_rate": 1e-12}
    vanilla = tiny(images, tmp_path / "vanilla", **still)
    rescaled = tiny(images, tmp_path / "rescaled", calibrate=True, **still)
    factors = calibrate(plain, views(open_images(images))["pixel_values"])
    assert max(factors.values()) > 1.5
    name, factor = "layers.0.mlp.up", factors["layers.0.mlp.up"]
    ratio = rescaled.vit.get_submodule(name).weight / vanilla.vit.get_submodule(name).weight
    torch.testing.assert_close(ratio, torch.full_like(ratio, factor), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "cross-entropy"},
        {"stem": "conv"},
        {"b": 1.5},
        {"resolution": 48},
        {"precision": "bf16"},
        {"precision": "bf16", "optimizer": "muon"},
        {"freeze": "backbone", "optimizer": "muon"},
        {"gradient_checkpointing": True},
        {"gradient_checkpointing": True, "freeze": "backbone"},
        {"schedule": "warmup-constant-cosine"},
        {"workers": 1},
        {"flip": False, "crop_scale": (0.5, 1.0)},
        {"model": "siglip"},
        {"model": "dinov3"},
    ],
    ids=str,
)
def test_every_kind_of_run(images, tmp_path, changes):
    student = tiny(images, tmp_path / "run", **{"steps": 2, "holdout": 3, **changes})
    assert len(logged(tmp_path / "run", "loss")) == 2
    assert all(map(math.isfinite, logged(tmp_path / "run", "loss") + logged(tmp_path / "run", "eval_loss")))
    assert all(0 <= value <= 1 for value in logged(tmp_path / "run", "accuracy"))
    assert min(logged(tmp_path / "run", "grad_norm")) > 0
    assert all(p.isfinite().all() and p.dtype == torch.float32 for p in student.parameters())
    assert student.config.resolution == changes.get("resolution", 32)
    assert (student.config.logit_bias == 0) == (changes.get("loss") == "cross-entropy")


def test_two_accumulated_batches_of_4_are_one_of_8(images, tmp_path):
    tiny(images, tmp_path / "one", batch_size=8, steps=1)
    tiny(images, tmp_path / "two", batch_size=4, gradient_accumulation=2, steps=1)
    one, two = (next(r for r in read_log(tmp_path / n) if "loss" in r) for n in ("one", "two"))
    assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)
    assert one["grad_norm"] == pytest.approx(two["grad_norm"], rel=1e-3)
    assert one["accuracy"] == pytest.approx(two["accuracy"])


def test_validation_images_of_their_own(images, tmp_path):
    """All images train, and labels follow the names where the validation folder lacks a class."""
    test = write_classes(tmp_path / "test", 4, ["green", "red"], start=50)
    student = tiny(images, tmp_path / "run", validation=test, holdout=9)
    batch = views(open_images(test))
    with torch.no_grad():
        right = student(batch["pixel_values"]).logits.argmax(1) == batch["label"] + 1
    assert logged(tmp_path / "run", "eval_accuracy")[-1] == pytest.approx(right.float().mean().item())
    with pytest.raises(UserError, match="validation_fingerprint"):
        tiny(images, tmp_path / "run", holdout=9)


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


@pytest.mark.parametrize("changes", [{}, {"freeze": "backbone"}, {"calibrate": True}, {"optimizer": "muon"}], ids=str)
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(images, tmp_path, interrupt, changes):
    settings = {"steps": 6, "save_every": 2, "evaluate_every": 2, "holdout": 3, **changes}
    whole = tiny(images, tmp_path / "whole", **settings)
    interrupt(5)
    with pytest.raises(KeyboardInterrupt):
        tiny(images, tmp_path / "cut", **settings)
    assert [p.name for p in checkpoints(tmp_path / "cut")] == ["checkpoint-2", "checkpoint-4"]
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    interrupt(None)
    resumed = tiny(images, tmp_path / "cut", **settings)
    assert same_weights(whole, resumed)
    for name in ("loss", "accuracy", "eval_loss", "eval_accuracy"):
        assert logged(tmp_path / "cut", name) == logged(tmp_path / "whole", name)
    assert len(logged(tmp_path / "cut", "loss")) == 6


@pytest.mark.slow
def test_a_killed_run_goes_on_as_if_nothing_had_happened(images, tmp_path):
    """kill -9 right after the first checkpoint of a run in another process."""
    assert killed_after(3, lambda: tiny(images, tmp_path / "cut", save_every=2))
    (tmp_path / "cut" / ".saving").mkdir()  # as if killed while saving
    whole, resumed = tiny(images, tmp_path / "whole", save_every=2), tiny(images, tmp_path / "cut", save_every=2)
    assert logged(tmp_path / "cut", "loss") == logged(tmp_path / "whole", "loss")
    assert same_weights(whole, resumed)
    assert not (tmp_path / "cut" / ".saving").exists()


def test_a_finished_run_is_not_trained_again(images, tmp_path):
    student = tiny(images, tmp_path / "run", steps=1)
    before = contents(tmp_path / "run")
    assert same_weights(tiny(images, tmp_path / "run", steps=1, log_every=7), student)
    assert contents(tmp_path / "run") == before


def test_another_run_s_folder_is_refused_naming_what_differs(images, tmp_path):
    tiny(images, tmp_path / "run", steps=1)
    align(build_teacher("vit"), images, tmp_path / "aligned", **{**TINY, "steps": 1})
    before = contents(tmp_path)
    other = write_classes(tmp_path / "other" / "images", 11)
    changed = build_teacher("vit")
    next(changed.tower.parameters()).data.add_(0.01)
    for changes, words in (
        ({"steps": 2}, "steps was 1, now 2"),
        ({"loss": "cross-entropy"}, "loss was 'bce', now 'cross-entropy'"),
        ({"model": "dinov2"}, "model was 'vit', now 'dinov2'"),
        ({"model": changed}, r"another run \(start_fingerprint was"),
        ({"images": other}, "data_fingerprint was"),
        ({"out": tmp_path / "aligned"}, "task was None, now 'finetune'"),
    ):
        arguments = {"images": images, "out": tmp_path / "run", "steps": 1, **changes}
        with pytest.raises(UserError, match=words):
            tiny(**arguments)
    with pytest.raises(UserError, match="teacher was None, now 'vit'"):
        align(build_teacher("vit"), images, tmp_path / "run", **{**TINY, "steps": 1})
    assert {k: v for k, v in contents(tmp_path).items() if not k.startswith("other")} == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": 0, "loss": "hinge"}, "steps: .*; loss: "),
        ({"resolution": 33}, "whole number of 8-pixel patches"),
        ({"recipe": "long"}, "no recipe"),
        ({"images": "nowhere"}, "does not exist"),
        ({"images": "wds:part.tar"}, "stream of shards"),
        ({"images": "unlabelled"}, "no labels"),
        ({"images": "broken"}, "No training image of class green is readable"),
        ({"images": "broken::green"}, "no labels"),
        ({"validation": "nowhere"}, "does not exist"),
        ({"validation": "unlabelled"}, "validation images .* no labels"),
        ({"model": "./nowhere"}, "nowhere"),
        ({"device": "cuda:1"}, "CUDA_VISIBLE_DEVICES=1 aloe finetune"),
        ({"report_to": ["telegraph"]}, "telegraph"),
        ({"max_bad_fraction": 0.0, "images": "partly"}, "unreadable"),
    ],
    ids=str,
)
def test_nothing_is_written_when_something_is_wrong(images, tmp_path, monkeypatch, changes, words):
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "unlabelled", 3)
    for name, count in (("broken", 3), ("partly", 1)):
        write_classes(tmp_path / name, 3)
        for i in range(count):
            (tmp_path / name / "green" / f"{i:02}.png").write_bytes(b"nothing")
    before = contents(tmp_path)
    arguments = {"model": build_teacher("vit"), "images": images, **TINY, **changes}
    with pytest.raises(UserError, match=words) as caught:
        finetune(arguments.pop("model"), arguments.pop("images"), tmp_path / "run", **arguments)
    assert "\n" not in str(caught.value)
    assert contents(tmp_path) == before
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(images, tmp_path, monkeypatch):
    original = run_module.FinetuneTrainer.compute_loss

    def poisoned(self, *args, **kwargs):
        return original(self, *args, **kwargs) * (math.nan if self.state.global_step >= 3 else 1)

    monkeypatch.setattr(run_module.FinetuneTrainer, "compute_loss", poisoned)
    with pytest.raises(UserError, match="lower learning_rate"):
        tiny(images, tmp_path / "run", steps=6, save_every=2)
    monkeypatch.undo()
    assert [p.name for p in checkpoints(tmp_path / "run")] == ["checkpoint-2"]
    assert not (tmp_path / "run" / "model.safetensors").exists()
    resumed = tiny(images, tmp_path / "run", steps=6, save_every=2)
    assert same_weights(resumed, tiny(images, tmp_path / "whole", steps=6, save_every=2))


def test_unreadable_held_out_images_do_not_count(tmp_path):
    images = write_classes(tmp_path / "images")
    test = write_classes(tmp_path / "test", 2, start=50)
    (test / "green" / "50.png").write_bytes(b"nothing")
    settings = {"validation": test, "steps": 1, "batch_size": 1, "max_bad_fraction": 0.5}
    student = tiny(images, tmp_path / "run", **settings)
    batch = views(open_images(test))
    assert len(batch["label"]) == 5
    with torch.no_grad():
        loss = bce_uniform_off_targets(student(batch["pixel_values"]).logits, batch["label"])
    assert logged(tmp_path / "run", "eval_loss")[-1] == pytest.approx(loss.item(), rel=1e-4)


@pytest.mark.slow
def test_two_processes_equal_one_with_the_same_global_batch(images, tmp_path):
    """gloo on the CPU: labels are dealt out with their images, numbers are means over both."""
    build_teacher("vit").model.save_pretrained(tmp_path / "teacher")

    def rows(processes: int, batch: int) -> list[tuple[float, float]]:
        out = tmp_path / str(processes)
        settings = {"steps": 3, "batch_size": batch, "workers": 0, "log_every": 1}
        if processes == 1:
            finetune(str(tmp_path / "teacher"), str(images), out, device="cpu", progress=False, **settings)
        else:
            words = ["finetune", tmp_path / "teacher", images, "-o", out, "--json", "--device", "cpu"]
            code, said = torchrun(*words, *(w for k, v in settings.items() for w in ("--set", f"{k}={v}")))
            assert code == 0, said[-2000:]
        return [(row["loss"], row["accuracy"]) for row in read_log(out) if "loss" in row]

    one, two = rows(1, 8), rows(2, 4)
    assert len(one) == 3
    torch.testing.assert_close(torch.tensor(two), torch.tensor(one), rtol=1e-5, atol=1e-6)


def test_all_checkpoints_damaged_is_the_run_from_its_beginning_with_calibration(images, tmp_path):
    settings = {"steps": 4, "save_every": 2, "stem": "conv"}
    whole = tiny(images, tmp_path / "whole", **settings)
    tiny(images, tmp_path / "run", **settings)
    (tmp_path / "run" / "model.safetensors").unlink()
    for path in checkpoints(tmp_path / "run"):
        (path / "model.safetensors").write_bytes(b"")
    assert same_weights(tiny(images, tmp_path / "run", **settings), whole)
