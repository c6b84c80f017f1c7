"""Evaluation rows on tiny class folders: a teacher, its converted student, and mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from aloe.data.sources import open_images
from aloe.errors import UserError
from aloe.models.convert import bcosify
from aloe.models.saving import save_student
from aloe.probes.evaluate import cosine_rows, knn_rows
from aloe.probes.features import extract
from conftest import build_teacher
from pictures import write_pictures


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[str, str]:
    """A teacher with zero biases and its student at B = 1, which answers the same; both on disk."""
    home = tmp_path_factory.mktemp("models")
    teacher = build_teacher("vit", zero_bias=True)
    teacher.model.save_pretrained(home / "teacher")
    save_student(bcosify(teacher, b=1.0), home / "student")
    return str(home / "teacher"), str(home / "student")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[str, str]:
    """Two classes, red and blue with noise."""
    home = tmp_path_factory.mktemp("classes")
    for part, offset in (("train", 0), ("test", 50)):
        for name, colour in (("blue", (0, 0, 200)), ("red", (200, 0, 0))):
            folder = write_pictures(home / part / name, 4, offset)
            for path in folder.iterdir():
                with Image.open(path) as image:
                    Image.blend(image, Image.new("RGB", image.size, colour), 0.9).save(path)
    return str(home / "train"), str(home / "test")


def test_knn_rows(models, folders):
    rows = knn_rows(models, *folders, k=3, batch_size=3, device="cpu", progress=False)
    assert [(r["model"], r["knn"], r["classifier"]) for r in rows] == [(m, 100.0, "-") for m in models]


def test_cosine_of_a_student_that_equals_its_teacher_is_1(models, folders):
    teacher, student = models
    (row,) = cosine_rows([student], teacher, folders[1], batch_size=3, device="cpu")
    assert list(row) == ["model", "after_block_1", "after_block_2", "after_block_3", "pooled"]
    assert all(row[k] == pytest.approx(1, abs=1e-5) for k in row if k != "model")


def test_cosine_refuses_a_student_of_another_teacher(models, folders, tmp_path):
    config = bcosify(build_teacher("vit")).config
    config.num_hidden_layers = 2
    save_student(type(bcosify(build_teacher("vit")))(config), tmp_path / "shallow")
    with pytest.raises(UserError, match="number of blocks is 2 and the teacher's 3"):
        cosine_rows([str(tmp_path / "shallow")], models[0], folders[1], batch_size=3, device="cpu")
    with pytest.raises(UserError, match="not a B-cos student"):
        cosine_rows([models[0]], models[0], folders[1], batch_size=3, device="cpu")


def test_cosine_needs_a_readable_image(models, tmp_path):
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match="could be read"):
        cosine_rows([models[1]], models[0], str(tmp_path), batch_size=3, device="cpu")


def test_classes_that_differ(models, folders, tmp_path):
    train, test = folders
    write_pictures(tmp_path / "other" / "red", 1)
    write_pictures(tmp_path / "other" / "green", 1)
    options = {"k": 1, "batch_size": 2, "device": "cpu", "progress": False}
    with pytest.raises(UserError, match="blue, green is in one of them only"):
        knn_rows(models, train, str(tmp_path / "other"), **options)
    with pytest.raises(UserError, match="test images are not in class folders"):
        knn_rows(models, train, str(Path(test) / "red"), **options)


def test_features_leave_out_what_is_unreadable(tmp_path):
    write_pictures(tmp_path / "a", 2)
    write_pictures(tmp_path / "b", 2)
    (tmp_path / "a" / "00.png").write_bytes(b"nothing")
    found = extract(build_teacher("vit-classifier"), open_images(tmp_path), batch_size=1)
    assert found.labels.tolist() == [0, 1, 1]
    assert found.pooled.shape == (3, 48)
    assert found.logits is not None
    assert found.logits.shape == (3, 5)
    assert not torch.equal(found.pooled[0], found.pooled[1])


class Reordered:
    """The images of a source with its classes listed the other way round."""

    def __init__(self, source):
        self._source, self.classes = source, source.classes[::-1]
        self.labels = len(self.classes) - 1 - source.labels

    def __len__(self):
        return len(self._source)

    def __getattr__(self, name):
        return getattr(self._source, name)


@pytest.mark.parametrize("part", ["train", "test"])
def test_classes_are_matched_by_name(models, folders, monkeypatch, part):
    def opened(spec):
        source = open_images(spec)
        return Reordered(source) if spec == folders[part == "test"] else source

    monkeypatch.setattr("aloe.probes.evaluate.open_images", opened)
    (row,) = knn_rows(models[:1], *folders, k=3, batch_size=3, device="cpu", progress=False)
    assert row["knn"] == 100


@pytest.mark.parametrize(
    ("names", "right"),
    [(["RED", "Blue"], 100), (["blue", "red"], 0), (["red", "blue", "green"], 100), (["cat", "blue"], "-")],
    ids=str,
)
def test_a_classifier_is_read_by_the_names_of_its_classes(folders, tmp_path, names, right):
    """A classifier whose first logit is high for red and second for blue, whatever they are called."""
    teacher = build_teacher("vit-classifier")
    assert teacher.classifier is not None
    found = extract(teacher, open_images(folders[0]))
    blue, red = (found.pooled[found.labels == i].mean(0) for i in range(2))
    weight = torch.stack([red - blue, blue - red, 0 * red])[: len(names)]
    middle = weight @ (red + blue) / 2
    teacher.model.config.id2label = dict(enumerate(names))
    teacher.model.classifier = torch.nn.Linear(48, len(names))
    teacher.model.classifier.weight.data, teacher.model.classifier.bias.data = weight, -middle
    teacher.model.classifier.bias.data[2:] = -1e6
    teacher.model.save_pretrained(tmp_path)
    (row,) = knn_rows([str(tmp_path)], *folders, k=3, batch_size=3, device="cpu", progress=False)
    assert row["classifier"] == right
