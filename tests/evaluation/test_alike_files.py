"""`aloe explain --like` and `--toward`, `aloe neighbours`: numbers, pictures, and what can be said wrongly."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import aloe as aloe_vit
from aloe.attribution.alike.votes import along, concept, vote
from aloe.core.errors import UserError
from aloe.data.transforms import ResizeCenterCrop, to_tensor
from aloe.evaluation.alike.shelf import shelve
from aloe.models.convert import bcosify
from aloe.models.saving import save_student
from conftest import build_teacher
from pictures import picture, write_pictures


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A student and its teacher, images alone, and images in folders of classes."""
    home = tmp_path_factory.mktemp("home")
    teacher = build_teacher("dinov2")
    teacher.model.save_pretrained(home / "teacher")
    save_student(bcosify(teacher), home / "student")
    write_pictures(home / "images", 3)
    for n, name in enumerate(("cat", "dog", "owl")):
        write_pictures(home / "classes" / name, 3, start=10 * n)
    (home / "empty").mkdir()
    picture(5).resize((60, 40)).save(home / "wide.png")
    return home


@pytest.fixture
def cached(monkeypatch, tmp_path):
    monkeypatch.setenv("ALOE_CACHE", str(tmp_path / "cache"))


def tensor(path: Path) -> torch.Tensor:
    return to_tensor(ResizeCenterCrop(32)(Image.open(path).convert("RGB")))[None]


def test_like_one_image_with_regions_and_pairs(home, aloe):
    words = ("--like", home / "wide.png", "--region", "10,0,20,40", "--region", "30,0,20,40", "--pairs", 5)
    code, out, _ = aloe("explain", home / "student", home / "images" / "00.png", *words, "-o", "out", "--json")
    assert code == 0
    (row,) = json.loads(out)["explanations"]
    student = aloe_vit.load(home / "student")
    found = aloe_vit.similarity(student, tensor(home / "images" / "00.png"), tensor(home / "wide.png"))
    assert row["cosine"] == pytest.approx(float(found.cosine), abs=1e-5)
    assert row["residual"] == pytest.approx(float(found.a.residual), abs=1e-5)
    assert row["residual_like"] == pytest.approx(float(found.b.residual), abs=1e-5)
    # The two regions are the halves of what the student sees of the wide image: its middle, 40 of 60 pixels wide.
    halves = found.regions([(0, 0, 16, 32), (16, 0, 16, 32)])
    assert [r["value"] for r in row["regions"]] == pytest.approx(halves.value.tolist(), abs=1e-5)
    assert sum(r["value"] for r in row["regions"]) + float(halves.residual) == pytest.approx(row["cosine"], abs=1e-5)
    best = [(i, j) for i, j, _ in found.pairs().strongest(5)]
    assert [(i, j) for i, j, _ in row["pairs"]] == best
    record = json.loads(Path("out/alike.json").read_text())["alike"][0]
    for kind in ("picture", "regions_picture", "pairs_picture"):
        assert record[kind] == Path(row[kind]).name
        with Image.open(row[kind]) as shown:
            assert shown.width > 400


def test_each_image_with_its_nearest_of_several(home, aloe):
    code, out, _ = aloe("explain", home / "student", home / "images", "--like", home / "classes", "-o", "out", "--json")
    assert code == 0
    student = aloe_vit.load(home / "student")
    with torch.no_grad():
        names = sorted(path.relative_to(home / "classes").as_posix() for path in (home / "classes").rglob("*.png"))
        bank = F.normalize(student(torch.cat([tensor(home / "classes" / n) for n in names])).pooler_output, dim=1)
        for row in json.loads(out)["explanations"]:
            query = F.normalize(student(tensor(home / "images" / row["file"])).pooler_output, dim=1)
            cosines = (bank @ query.T)[:, 0]
            assert row["like"] == names[int(cosines.argmax())]
            assert row["cosine"] == pytest.approx(float(cosines.max()), abs=1e-5)


def test_neighbours_of_an_archive_leave_nothing_out(home, aloe, cached):
    """The same from a folder, a tar and, where webdataset is installed, shards; the features are cached."""
    with tarfile.open("images.tar", "w") as tar:
        tar.add(home / "classes", "classes")
    query, found = home / "images" / "01.png", {}
    specs = {"folder": home / "classes", "tar": "images.tar"}
    try:
        import webdataset  # noqa: F401

        specs["shards"] = "wds:images.tar"
    except ImportError:
        pass
    for name, spec in specs.items():
        code, out, _ = aloe("neighbours", home / "student", spec, query, "--k", 4, "-o", name, "--json")
        assert code == 0, name
        (row,) = json.loads(out)["neighbours"]
        found[name] = [Path(n["file"]).name for n in row["neighbours"]]
        cosines = [n["cosine"] for n in row["neighbours"]]
        assert cosines == sorted(cosines, reverse=True)
        assert ("vote" in row) == (name != "shards")
    assert len({tuple(names) for names in found.values()}) == 1
    assert len(list(Path("../cache").rglob("part-*.safetensors"))) == len(specs)


def test_a_vote_is_the_winner_s_cosines_less_the_runner_up_s(home, aloe, cached):
    line = ("neighbours", home / "student", home / "classes", home / "images", "--k", 6, "-o", "out", "--json")
    code, out, _ = aloe(*line)
    assert code == 0
    first_time, again = json.loads(out), json.loads(aloe(*line)[1])
    assert (first_time["kept"], again["kept"]) == (0, 3)
    assert again["neighbours"] == first_time["neighbours"]
    for row in first_time["neighbours"]:
        sums: dict[str, float] = {}
        for n in row["neighbours"]:
            sums[n["class"]] = sums.get(n["class"], 0) + n["cosine"]
        first, second = sorted(sums, key=lambda name: -sums[name])[:2]
        assert (row["vote"]["class"], row["vote"]["second"]) == (first, second)
        assert row["vote"]["value"] == pytest.approx(sums[first] - sums[second], abs=1e-4)
    student = aloe_vit.load(home / "student")
    image = tensor(home / "images" / "00.png")
    with torch.no_grad():
        features = student(torch.cat([image, *(tensor(home / "images" / f"0{i}.png") for i in (1, 2))])).pooler_output
    one_class = vote(features[0], features[1:], torch.tensor([4, 4]))
    assert (one_class.winner, one_class.second) == (4, None)
    found = along(student, image, one_class.direction)
    assert float(found.logit[0]) == pytest.approx(one_class.sums[4], abs=1e-5)
    assert float(found.completeness_error()) <= 1e-5


def test_an_image_is_no_neighbour_of_itself(home, aloe, cached):
    inside = home / "classes" / "cat" / "00.png"
    code, out, _ = aloe("neighbours", home / "student", home / "classes", inside, "--k", 8, "-o", "out", "--json")
    assert code == 0
    (row,) = json.loads(out)["neighbours"]
    assert "cat/00.png" not in [n["file"] for n in row["neighbours"]]
    code, _, err = aloe("neighbours", home / "student", home / "classes", inside, "--k", 9, "-o", "out")
    assert code == 2
    assert "there are 8 images besides the query" in err


def test_pictures_that_showed_something_else_are_named(home, aloe, cached):
    image, classes = home / "images" / "00.png", home / "classes"
    for first, second in (
        (("explain", "--like", home / "images" / "01.png"), ("explain", "--like", home / "wide.png")),
        (("explain", "--toward", classes / "cat"), ("explain", "--toward", classes / "dog")),
        (("neighbours", classes, "--k", "2"), ("neighbours", classes, "--k", "1")),
    ):
        told, kind = [], {"--like": "alike", "--toward": "toward"}.get(first[1], "neighbours")
        more = [(*first, "--pairs", "2"), (*first, "--region", "0,0,9,9")] if kind == "alike" else []
        for verb, *words in (first, first, *more, second):  # more pictures of the same replace none
            places = (words[0], image, *words[1:]) if verb == "neighbours" else (image, *words)
            code, out, err = aloe(verb, home / "student", *places, "-o", kind, "--json")
            assert code == 0, err
            told.append(json.loads(out)["replaced"])
        assert told == [*[[]] * (2 + len(more)), [f"00_{kind}.png"]]
    like = ("explain", home / "student", image, "--like", home / "images" / "01.png", "-o", "further", "--json")
    for words, names in (  # further pictures, also where a run without them lay between
        (("--pairs", "2", "--region", "0,0,9,9"), []),
        ((), []),
        (("--pairs", "2", "--region", "0,0,5,5"), ["00_regions.png"]),
        (("--pairs", "3"), ["00_pairs.png"]),
    ):
        code, out, err = aloe(*like, *words)
        assert code == 0, err
        assert json.loads(out)["replaced"] == names
    code, _, err = aloe("explain", home / "student", image, "--like", image, "-o", "more", "--batch-size", "1000")
    assert code == 2
    assert "batch_size is 1000, but there are only 1 images" in err


def test_toward_some_images_and_against_others(home, aloe, cached):
    for against in ((), ("--against", home / "classes" / "dog")):
        words = ("--toward", home / "classes" / "cat", *against, "-o", f"out{len(against)}", "--json")
        code, out, _ = aloe("explain", home / "student", home / "images", *words)
        assert code == 0
        student = aloe_vit.load(home / "student")
        with torch.no_grad():
            means = [
                student(torch.cat([tensor(p) for p in sorted((home / "classes" / n).glob("*.png"))])).pooler_output
                for n in ("cat", "dog")
            ]
            direction = means[0].mean(0) - means[1].mean(0) * bool(against)
            for row in json.loads(out)["explanations"]:
                feature = student(tensor(home / "images" / row["file"])).pooler_output[0]
                assert row["value"] == pytest.approx(
                    float(torch.cosine_similarity(feature, direction, dim=0)), abs=1e-5
                )
                assert Path(row["picture"]).is_file()
    assert float(concept(torch.eye(3)).norm()) == pytest.approx(1)


def test_images_that_cannot_be_read_are_told(home, aloe, cached, tmp_path):
    shutil.copytree(home / "images", tmp_path / "some")
    (tmp_path / "some" / "bad.png").write_bytes(b"no image")
    code, out, _ = aloe(
        "explain", home / "student", tmp_path / "some", "--like", home / "wide.png", "-o", "out", "--json"
    )
    assert code == 0
    assert len(json.loads(out)["unreadable"]) == 1
    code, out, _ = aloe("neighbours", home / "student", tmp_path / "some", home / "wide.png", "--k", 2, "-o", "near")
    assert code == 0
    assert "left out: unreadable: bad.png" in out


MISTAKES = {
    "a region outside": (
        ("--like", "wide.png", "--region", "50,30,20,20"),
        "does not lie in wide.png, which is 60 x 40",
    ),
    "a region that is cropped away": (("--like", "wide.png", "--region", "0,0,5,40"), "outside the central square"),
    "a reversed region": (("--like", "wide.png", "--region", "20,20,-5,4"), "holds no pixels"),
    "an empty region": (("--like", "wide.png", "--region", "20,20,0,4"), "holds no pixels"),
    "a region in words": (("--like", "wide.png", "--region", "left"), "A region is x,y,width,height"),
    "a region of several": (
        ("--like", "images", "--region", "0,0,4,4"),
        "--region is of one image, but --like names 3",
    ),
    "a region of none": (("--region", "0,0,4,4"), "belong to --like"),
    "against nothing": (("--against", "images"), "--against belongs to --toward"),
    "a folder without images": (("--like", "empty"), "No images found in"),
    "toward nothing": (("--toward", "empty"), "No images found in"),
    "the same twice": (("--toward", "images", "--against", "images"), "have the same mean feature"),
    "two questions": (("--like", "wide.png", "--toward", "images"), "Give one of"),
    "half a patch": (("--like", "wide.png", "--resolution", "30"), "not a whole number of 8-pixel patches; 32 is"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence(home, aloe, name):
    words, told = MISTAKES[name]
    words = [str(home / w) if (home / w).exists() else w for w in words]
    code, _, err = aloe("explain", home / "student", home / "images" / "00.png", *words, "-o", "out")
    said = [line for line in err.splitlines() if line.startswith("aloe: ")]
    assert (code, len(said)) == (2, 1), err
    assert told in said[0]
    assert not Path("out").exists()


def test_other_mistakes_are_one_sentence(home, aloe, cached):
    image, out = home / "images" / "00.png", ("-o", "out")
    for words, told in (
        (("explain", home / "teacher", image, "--like", image, *out), "not a B-cos student; align it first"),
        (("neighbours", home / "teacher", home / "classes", image, *out), "not a B-cos student; align it first"),
        (("neighbours", home / "student", home / "empty", image, *out), "No images found in"),
        (
            ("neighbours", home / "student", home / "images", image, "--k", "4", *out),
            "there are 3 images to choose from",
        ),
        (("neighbours", home / "student", home / "classes", image, "-o", home / "classes"), "images' own folders"),
    ):
        code, _, err = aloe(*words)
        said = [line for line in err.splitlines() if line.startswith("aloe: ")]
        assert (code, len(said)) == (2, 1), err
        assert told in said[0]
    with pytest.raises(UserError, match="0 neighbours were asked for"):
        shelve(aloe_vit.load(home / "student"), home / "images").nearest(torch.rand(1, 48), 0)
