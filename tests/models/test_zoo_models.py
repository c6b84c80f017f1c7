"""The shipped models: each loads by its name, says what it is, and does what its card claims."""

from __future__ import annotations

import json
import shutil
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import aloe as package
from aloe.core.errors import UserError
from aloe.data.scenes import SceneDataset
from aloe.data.sources import open_images
from aloe.data.transforms import ResizeCenterCrop, to_tensor
from aloe.evaluation.backbones import load_any
from aloe.metrics.clarity import fine_share
from aloe.models.convert import bcosify
from aloe.models.saving import is_student, load, save_student
from aloe.models.teachers import Teacher, load_teacher
from aloe.models.zoo_models import ZOO, locate, zoo_model
from places import DATA

STUDENTS = [m for m in ZOO if m.teacher]
by_name = {"ids": lambda model: model.name}


@pytest.fixture(scope="module")
def scenes():
    """(images (10, 3, 64, 64) in [0, 1], labels (10,)) of a seed that no model was made with."""
    found = list(SceneDataset(10, seed=77))
    images = torch.stack([torch.from_numpy(s.image).permute(2, 0, 1) / 255 for s in found])
    return images, torch.tensor([s.label for s in found])


def test_names_and_teachers_are_known_and_unique():
    names = [m.name for m in ZOO]
    assert len(set(names)) == len(names)
    assert {"photos-aloe", "scenes-vit", "scenes-aloe", "cifar10-vit", "cifar10-aloe"} <= set(names)
    assert {m.teacher for m in STUDENTS if m.teacher_is_here} <= {m.name for m in ZOO if m.teacher is None}


@pytest.mark.parametrize("model", ZOO, **by_name)
def test_a_model_is_loaded_by_its_name(model):
    loaded = load_any(model.id)
    assert is_student(model.id) == (model.teacher is not None) == (not isinstance(loaded, Teacher))
    if isinstance(loaded, Teacher):
        assert loaded.name == model.id
        return
    assert loaded.config.teacher["stage"] == "aligned"
    assert loaded.config.teacher["name"] == (zoo_model(model.teacher).id if model.teacher_is_here else model.teacher)


@pytest.mark.parametrize("model", ZOO, **by_name)
def test_a_model_is_small_and_has_a_card(model):
    assert model.megabytes <= {"scenes-conv-aloe": 5.3, "photos-aloe": 45}.get(model.name, 5)
    _, front, body = model.card.read_text(encoding="utf-8").split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "apache-2.0"
    for field in ("data: ", "training: ", "steps|epochs", "command: ", "limits: ", "licence: apache-2.0", "%"):
        assert any(words in body.lower() for words in field.split("|")), field
    files = {path.name for path in model.folder.iterdir()}
    assert files == {"README.md", "config.json", "model.safetensors", "preprocessor_config.json"}


@pytest.mark.parametrize("model", STUDENTS, **by_name)
def test_a_student_explains_itself_completely(model):
    student = load(model.id)
    side = student.config.resolution
    images = torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(0))
    found = package.explain(student, images)
    assert found.completeness_error().max() < 1e-5
    assert torch.allclose(found.logit, student(images).logits.max(1).values, atol=1e-4)


@pytest.mark.parametrize("name", ["zoo:scenes-aloe", "zoo:scenes-conv-aloe"])
def test_a_scenes_student_has_the_features_of_its_teacher(scenes, name):
    images, labels = scenes
    teacher, student = load_teacher("zoo:scenes-vit"), load(name)
    expected = teacher(images)
    with torch.no_grad():
        found = student(images)
    converted = bcosify(teacher)(images)
    cosine = torch.cosine_similarity(found.pooler_output, expected.pooled)
    assert cosine.mean() > 0.9
    assert cosine.mean() > torch.cosine_similarity(converted.pooler_output, expected.pooled).mean() + 0.5
    assert (found.logits.argmax(1) == labels).sum() >= 8


def test_the_maps_of_the_convolutional_stem_are_clearer(scenes):
    """The cards: 23.0 % and 4.3 % of speckle on 100 scenes."""
    found = {}
    for name in ("zoo:scenes-aloe", "zoo:scenes-conv-aloe"):
        maps = package.explain(load(name), scenes[0]).contributions
        found[name] = float(fine_share(maps).mean())
    assert found["zoo:scenes-conv-aloe"] < 0.1 < 0.15 < found["zoo:scenes-aloe"]


@pytest.mark.slow
def test_the_cifar_models_know_real_images():
    archive = DATA / "cifar10.tar.xz"
    if not archive.is_file():
        pytest.skip("../shared/data/cifar10.tar.xz is not beside this checkout")
    source = open_images(f"{archive}::cifar10/test")
    picked = np.arange(0, len(source), 10)
    images = torch.stack([torch.from_numpy(np.array(source.load(int(i)))).permute(2, 0, 1) / 255 for i in picked])
    labels = torch.as_tensor(source.labels)[picked]
    teacher, student = load_teacher("zoo:cifar10-vit"), load("zoo:cifar10-aloe")
    assert [student.config.id2label[i] for i in range(10)] == source.classes
    expected = teacher(images)
    with torch.no_grad():
        found = student(images)
    assert torch.cosine_similarity(found.pooler_output, expected.pooled).mean() > 0.9
    right = (found.logits.argmax(1) == labels).double().mean()
    assert right > 0.64, "the card says 70.9 %; the standard error over 500 images is 2"


def test_the_student_of_photographs_says_what_it_does_not_know():
    """Of the photographs that come along the cat and the cup of coffee are none of its 111 kinds of things, it says."""
    student = load("zoo:photos-aloe")
    assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}  # whatever the file holds
    assert student.by_sigmoids
    assert len(student.config.id2label) == 112
    source = open_images(str(resources.files("aloe.data") / "photographs"))
    images = torch.stack([to_tensor(ResizeCenterCrop(student.side())(source.load(i))) for i in range(len(source))])
    with torch.no_grad():
        chances = student.probabilities(student(images).logits)
    names = [Path(source.name(i)).stem for i in range(len(source))]
    seen = {name: student.config.id2label[int(chance.argmax())] for name, chance in zip(names, chances, strict=True)}
    assert seen == {"astronaut": "french_horn", "chelsea": "something else", "coffee": "something else"}
    assert student.knows(float(chances[names.index("astronaut")].max())), "its shortcut, told in docs/results.md"


def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = bcosify(load_teacher("zoo:scenes-vit"))
    save_student(own, "zoo:scenes-aloe")
    assert locate("zoo:scenes-aloe") == "zoo:scenes-aloe"
    assert load("zoo:scenes-aloe").config.teacher["stage"] == "converted"
    shutil.rmtree("zoo:scenes-aloe")
    assert load("zoo:scenes-aloe").config.teacher["stage"] == "aligned"


@pytest.mark.parametrize("name", ["scenes-aloe", "aloe/scenes-aloe", "google/vit-base-patch16-224", "./zoo"])
def test_names_without_the_prefix_are_not_the_zoos(name):
    assert locate(name) == name


@pytest.mark.parametrize("read", [load, load_teacher, is_student, load_any])
def test_an_unknown_name_is_one_sentence_with_the_known_ones(read):
    with pytest.raises(UserError, match=r"The zoo has no model 'zoo:nothing'; models: zoo:photos-aloe, zoo:scenes-vit"):
        read("zoo:nothing")


def test_a_student_is_no_teacher_and_the_other_way_round():
    with pytest.raises(UserError, match="not a teacher"):
        load_teacher("zoo:scenes-aloe")
    with pytest.raises(UserError, match="not a B-cos student"):
        load("zoo:scenes-vit")


def test_the_verb_lists_them(aloe):
    code, out, _ = aloe("teachers", "--json")
    assert code == 0
    listed = json.loads(out)["zoo"]
    assert [row["name"] for row in listed] == [m.id for m in ZOO]
    assert aloe("teachers")[1].count("zoo:") == len(ZOO)


def test_a_verb_takes_a_name(aloe, tmp_path):
    code, out, err = aloe("explain", "zoo:scenes-aloe", "scenes:2@5", "-o", str(tmp_path / "why"))
    assert code == 0, err
    assert len(list((tmp_path / "why").glob("*.png"))) == 2, out
    code, _, err = aloe("explain", "zoo:other", "scenes:2@5", "-o", str(tmp_path / "no"))
    assert code == 2
    assert "The zoo has no model 'zoo:other'" in err
