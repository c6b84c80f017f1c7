"""The command line: every mistake is one sentence and exit code 2 with nothing written; every verb works."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers as hf
from PIL import Image
from safetensors.torch import load_file

from aloe.cli import doctor
from aloe.data.sources import open_source
from aloe.models.convert import bcosify
from aloe.models.saving import save_student
from aloe.models.teachers import load_teacher
from aloe.train.align.calibrate import calibrate
from aloe.train.runs import sample_images
from conftest import build_teacher
from docs_pages import extras
from pictures import picture, write_pictures


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A teacher and its student with classes, a foreign model, images, class folders."""
    home = tmp_path_factory.mktemp("home")
    teacher = build_teacher("vit-classifier")
    teacher.model.config.id2label = {i: f"class {i}" for i in range(5)}
    teacher.model.save_pretrained(home / "teacher")
    save_student(bcosify(teacher), home / "student")
    hf.BertModel(hf.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1)).save_pretrained(
        home / "bert"
    )
    write_pictures(home / "images")
    for name in ("one", "two"):
        write_pictures(home / "train" / name, 3)
        write_pictures(home / "test" / name, 3)
    (home / "empty").mkdir()
    (home / "broken.png").write_bytes((home / "images" / "00.png").read_bytes()[:50])
    (home / "foreign").mkdir()
    (home / "foreign" / "thesis.tex").write_text("words")
    return home


MISTAKES = {
    "align {}/teacher {}/empty -o out": "No images found",
    "align {}/teacher {}/none -o out": "does not exist",
    "align ./missing {}/images -o out": "missing",
    "align my-vit {}/images -o out": "There is no folder my-vit here, and a hub id is OWNER/NAME",
    "align some/vit {}/none -o out": "none does not exist",  # before the hub is asked
    "align {}/images {}/images -o out": "config.json",
    "align {}/bert {}/images -o out": "'bert' cannot be converted",
    "align {}/student {}/images -o out": "is a B-cos student, not a teacher",
    "align {}/teacher {}/images -o out --steps 0 --objective best --set lerning_rate=1": "did you mean learning_rate?",
    "align {}/teacher {}/images -o out --set seed": "key=value",
    "align {}/teacher {}/images -o out --set seed=[": "key=value",
    "align {}/teacher {}/images -o out --device abacus": "no device 'abacus'",
    "align {}/teacher {}/images -o out --resolution 33": "whole number of 8-pixel patches; 32 is",
    "align {}/teacher {}/images -o out --config none.yaml": "cannot be read",
    "align {}/teacher {}/images -o {}/foreign": "not empty",
    "align {}/teacher {}/images -o out --after-block 4": "blocks 1 to 3",
    "bcosify {}/teacher -o {}/foreign": "not empty",
    "bcosify {}/teacher -o out --stem tree": "stem must be one of",
    "bcosify {}/teacher -o out --calibrate {}/empty": "No images found",
    "bcosify {}/teacher -o out --calibrate {}/broken.png": "broken.png",
    "explain {}/teacher {}/images -o out": "not a B-cos student",
    "explain my-student {}/images -o out": "There is no folder my-student here",
    "explain zoo:scenes-vit {}/images -o out": "`aloe align zoo:scenes-vit IMAGES -o STUDENT`",
    "explain {}/student {}/images -o out --target zebra": "no class 'zebra'",
    "explain {}/student {}/images -o out --target 5": "out of range",
    "explain {}/student {}/broken.png -o out": "broken.png",
    "explain {}/student {}/empty -o out": "No images found",
    "explain {}/student {}/images -o out --resolution 33": "whole number of 8-pixel patches; 32 is",
    "explain {}/student {}/images -o {}/foreign/thesis.tex": "is a file",
    "explain {}/student {}/images -o {}/images": "overwrite",
    "explain {}/student {}/images/*.png -o {}/images": "overwrite",
    "explain {}/student {}/images/00.png -o {}/images": "overwrite",
    "explain {}/student {}/train/*/*.png -o {}/train/one": "overwrite",
    "explain {}/student {}/train/**/*.png -o {}/train/new": "taken for some",
    "explain {}/student {}/train/* -o {}/train/new": "taken for some",
    "explain {}/student {}/train -o {}/train/one/new": "taken for some",
    "explain {}/student {}/train::one -o {}/train/one": "overwrite",
    "explain {}/student {}/images {}/train/one -o {}/train/one/new": "taken for some",
    "evaluate knn {}/student --test {}/train": "--train",
    "evaluate knn {}/student --train {}/train": "--test",
    "evaluate knn {}/student": "--data NAME",
    "evaluate knn {}/student --data cifar11": "did you mean cifar10",
    "evaluate cosine {}/student --test {}/train": "--reference",
    "evaluate magic {}/student --test {}/train": "tasks: knn, linear",
    "evaluate knn {}/student --train {}/images --test {}/train": "no labels",
    "evaluate knn {}/student --train {}/train --test {}/test": "k is 20 but there are 6",
    "evaluate knn {}/student --train {}/train --test {}/test --k five": "such as 1,5,20",
    "evaluate knn {}/student --train {}/train --test {}/test --k ²": "such as 1,5,20",
    "evaluate knn,,linear {}/student --train {}/train --test {}/test": "TASKS takes one or several words",
    "evaluate gridpg {}/student --test {}/train --methods a,,b": "--methods takes one or several words",
    "align {}/teacher {}/images -o out --after-block 1-2": "such as default, all or 4,8,12",
    "align {}/teacher {}/images -o out --after-block 1,,2": "such as default, all or 4,8,12",
    "align {}/teacher {}/images -o out --after-block ¹": "such as default, all or 4,8,12",
    "align {}/teacher {}/images -o out --after-block \u0661": "such as default, all or 4,8,12",
    "align {}/teacher {}/images -o out --set seed=2024-13-45": "key=value with a YAML value",
    "explain {}/student {}/images -o out --target ²": "There is no class '²'",
    "explain {}/student {}/images -o out --target --5": "There is no class '--5'",
    "sweep {}/teacher {}/images -o out --vary seed=0,1 --seeds 0,,1": "--seeds takes a whole number",
    "sweep {}/teacher {}/images -o out --vary seed=2024-13-45": "--vary takes values with commas",
    "bench --sizes Ti,,S": "--sizes takes one or several words",
    "report {}/images --tables b1,": "--tables takes one or several words",
    "study simulate -o out.csv --scores a=1,b=nan": "--scores takes name=number",
    "study power --difference 0.5 --trials 25,²": "--trials takes a whole number",
    "evaluate knn {}/student --train {}/train --test {}/test --set neighbours=3": "neighbours",
    "demo -o {}/foreign --device cpu": "something else",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_sentence_and_nothing_is_written(aloe, home, line):
    before = {p: p.stat().st_mtime_ns for p in home.rglob("*")}
    code, out, err = aloe(*(word.replace("{}", str(home)) for word in [*line.split(), "--json"]))
    assert (code, out) == (2, "")
    assert err.startswith("aloe: ")
    assert MISTAKES[line] in err
    assert err.count("\n") == 1
    assert list(Path().iterdir()) == []
    assert {p: p.stat().st_mtime_ns for p in home.rglob("*")} == before


@pytest.mark.parametrize("text", ["1 2", " 1 ,, 2", "1,"])
def test_a_list_typed_with_spaces_is_a_sentence(aloe, home, text):
    code, out, err = aloe("align", home / "teacher", home / "images", "-o", home / "out", "--after-block", text)
    assert (code, out) == (2, "")
    assert err == (
        "aloe: --after-block takes a whole number of at least 1, or several with commas, such as default, all or 4,8,12; "
        f"got {text!r}.\n"
    )


def test_wrong_settings_are_listed_together(aloe, home):
    line = (
        "align",
        home / "teacher",
        home / "images",
        "-o",
        "out",
        "--steps",
        0,
        "--objective",
        "best",
        "--set",
        "a=1",
    )
    _, _, err = aloe(*line)
    assert all(words in err for words in ("steps: ", "objective: ", "'best'", "a: unknown"))


@pytest.mark.parametrize(
    "line",
    ["explain", "nonsense", "align a b", "bcosify t -o o --b 0.5", "explain s i -o o --limit 0", "align --wrong"],
)
def test_usage_errors_are_short(aloe, line):
    code, out, err = aloe(*line.split())
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    assert 1 <= err.count("\n") <= 5


def test_help_names_every_verb(aloe):
    code, out, _ = aloe("--help")
    assert code == 0
    assert all(verb in out for verb in ["demo", "align", "explain", "evaluate", "bcosify", "teachers", "doctor"])


@pytest.mark.parametrize(
    ("raised", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "Interrupted"),
        (OSError(28, ""), 2, "full"),
        (
            PermissionError(13, "Permission denied", "a/b"),
            2,
            "aloe: a/b cannot be read or written: Permission denied.\n",
        ),
        (NotADirectoryError(20, "Not a directory", "c"), 2, "aloe: c cannot be read or written: Not a directory.\n"),
    ],
)
def test_interruption_and_files_that_cannot_be_used(aloe, monkeypatch, raised, code, words):
    def fail(*_):
        raise raised

    monkeypatch.setattr(doctor, "table", fail)
    found, _, err = aloe("doctor")
    assert found == code
    assert words in err
    assert "Traceback" not in err


def test_our_own_errors_keep_their_traceback(aloe, monkeypatch):
    def fail(*_):
        raise OSError("of no file")

    monkeypatch.setattr(doctor, "table", fail)
    with pytest.raises(OSError, match="of no file"):
        aloe("doctor")
    monkeypatch.delattr(doctor, "table")
    with pytest.raises(NameError):
        aloe("doctor")


def test_teachers(aloe):
    _, out, _ = aloe("teachers")
    assert "facebook/dinov3-vitl16-pretrain-lvd1689m" in out
    code, out, _ = aloe("teachers", "--json")
    assert code == 0
    assert len(json.loads(out)["teachers"]) == 8
    assert len(json.loads(out)["published"]) == 21


def test_doctor(aloe):
    code, out, _ = aloe("doctor", "--json")
    assert code == 0
    assert {"aloe", "python", "torch", "cuda device"} <= set(json.loads(out))


def test_doctor_knows_what_every_extra_is_for():
    purposes = " ".join(doctor.PACKAGES.values())
    unnamed = [extra for extra in extras() if f"'aloe-vit[{extra}]'" not in purposes]
    assert sorted(unnamed) == ["dev", "docs", "examples", "grounding"]  # nothing that a verb would need


def test_bcosify(aloe, home):
    code, out, _ = aloe("bcosify", home / "teacher", "-o", "out")
    assert code == 0
    assert "folded" in out
    assert {p.name for p in Path("out").iterdir()} == {"config.json", "model.safetensors", "preprocessor_config.json"}
    assert ["not", "read", "0", "-"] in [line.split() for line in out.splitlines()]


def test_bcosify_calibrates_on_images_and_names_the_unreadable(aloe, home, tmp_path):
    write_pictures(tmp_path / "some", 5)
    (tmp_path / "some" / "broken.png").write_bytes((home / "broken.png").read_bytes())
    code, out, _ = aloe("bcosify", home / "teacher", "-o", "out", "--calibrate", tmp_path / "some", "--json")
    assert code == 0
    result = json.loads(out)
    assert result["calibrated"] is True
    assert [words.split(":")[0] for words in result["unreadable"]] == ["broken.png"]
    assert aloe("bcosify", home / "teacher", "-o", "plain")[0] == 0
    code, out, _ = aloe("bcosify", home / "teacher", "-o", "again", "--calibrate", tmp_path / "some")
    assert "Converted and calibrated student" in out
    assert "broken.png" in out
    weights, plain = (load_file(f"{name}/model.safetensors") for name in ("out", "plain"))
    source = open_source(tmp_path / "some")
    wanted = bcosify(load_teacher(home / "teacher"))
    calibrate(wanted, sample_images(source, 32, seed=0))
    assert all(torch.equal(value, weights[name]) for name, value in wanted.state_dict().items())
    assert any(not torch.equal(value, plain[name]) for name, value in weights.items())


def test_bcosify_names_what_was_not_read(aloe, home, tmp_path):
    hf.ViTModel(build_teacher("vit").model.config).save_pretrained(tmp_path / "pooler")
    code, out, _ = aloe("bcosify", tmp_path / "pooler", "-o", "out", "--json")
    assert code == 0
    result = json.loads(out)
    assert result["unread"] == ["pooler.dense.bias", "pooler.dense.weight"]
    assert all(set(result[k]) == {"tensors", "parameters"} for k in ("copied", "fused", "folded", "new", "dropped"))
    assert ["not", "read", "2", "-"] in [
        line.split() for line in aloe("bcosify", tmp_path / "pooler", "-o", "again")[1].splitlines()
    ]


def test_bcosify_leaves_no_empty_folder_behind(aloe, home, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hf.PreTrainedModel, "save_pretrained", fail)
    code, _, err = aloe("bcosify", home / "teacher", "-o", "new/out")
    assert code == 2
    assert "could not be written to new/out" in err
    assert list(Path().iterdir()) == []
    Path("old").mkdir()
    assert aloe("bcosify", home / "teacher", "-o", "old")[0] == 2
    assert list(Path().rglob("*")) == [Path("old")]


@pytest.mark.parametrize("verb", ["bcosify", "convert-checkpoint"])
def test_a_student_is_written_to_a_new_folder(aloe, home, verb):
    Path("out").mkdir()
    Path("out/notes").write_text("mine")
    for place in ("out", "out/notes"):
        code, _, err = aloe(verb, home / "teacher", "-o", place)
        assert (code, err) == (2, f"aloe: {place} is not empty; give another --output-dir.\n")
    assert Path("out/notes").read_text() == "mine"


def test_find_rate_proposes_and_writes_nothing(aloe, home):
    line = ("align", home / "teacher", home / "images", "-o", "out", "--batch-size", 4, "--find-rate", "--lr", 9)
    code, out, _ = aloe(*line, "--device", "cpu", "--json")
    assert code == 0
    found = json.loads(out)
    assert set(found) == {"learning_rate", "rates", "losses"}
    words = aloe(*line, "--device", "cpu")[1]
    assert f"Proposed: --lr {found['learning_rate']:.1e}" in words
    assert list(Path().iterdir()) == []


def test_align_twice_then_explain(aloe, home):
    line = ("align", home / "teacher", home / "images", "-o", "out", "--steps", 2, "--batch-size", 4, "--workers", 0)
    line += ("--after-block", "1,3", "--set", "evaluate_every=1", "--device", "cpu", "--json")
    code, out, err = aloe(*line)
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert set(result) == {"student", "cosine_after_block_1", "cosine_after_block_3", "cosine_pooled"}
    assert json.loads(aloe(*line)[1]) == result, "a finished run answers at once"
    code, out, _ = aloe("explain", "out", home / "images" / "00.png", "-o", "pictures", "--target", "Class 3", "--json")
    assert code == 0
    (row,) = json.loads(out)["explanations"]
    assert row["prediction"].startswith("class ")
    assert row["target"] == "Class 3", "the logit is of this class, whatever was predicted"
    assert Path(row["picture"]).is_file()


def odd_images(folder: Path) -> Path:
    """Whatever people have: CMYK, 16 bits, a palette, a turned camera, two files of one name, and a truncated one."""
    write_pictures(folder, 1)
    image = picture(3)
    image.convert("CMYK").save(folder / "cmyk.jpg")
    Image.new("I;16", (40, 40), 40_000).save(folder / "deep.png")
    image.convert("P").save(folder / "palette.gif")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(4, 64).resize((64, 40)).save(folder / "turned.jpg", exif=exif)
    image.save(folder / "00.jpg")
    (folder / "truncated.png").write_bytes((folder / "00.png").read_bytes()[:60])
    return folder


@pytest.mark.parametrize("spec", ["{}", "{}/*.*"])
def test_explain_a_folder_and_a_glob_of_odd_images(aloe, home, tmp_path, spec):
    folder = odd_images(tmp_path / "odd")
    words = ("explain", home / "student", spec.format(folder), "-o", "out", "--batch-size", 2, "--device", "cpu")
    code, out, _ = aloe(*words, "--json")
    assert code == 0
    result = json.loads(out)
    assert [r["file"] for r in result["explanations"]] == [
        "00.jpg",
        "00.png",
        "cmyk.jpg",
        "deep.png",
        "palette.gif",
        "turned.jpg",
    ]
    written = [Path(r["picture"]) for r in result["explanations"]]
    assert len(set(written)) == 6, "00.jpg and 00.png have a picture each"
    assert sorted(written) == sorted(Path("out").glob("*.png"))
    assert [line.split(":")[0] for line in result["unreadable"]] == ["truncated.png"]
    assert "truncated.png" in aloe(*words)[1]


def test_pictures_beside_the_images_are_allowed_and_replace_only_themselves(aloe, home):
    write_pictures(Path(), 2)
    code, first, _ = aloe("explain", home / "student", "00.png", "01.png", "-o", "why", "--json")
    assert code == 0
    assert [r["picture"] for r in json.loads(first)["explanations"]] == ["why/00_explained.png", "why/01_explained.png"]
    code, again, _ = aloe("explain", home / "student", "*.png", "-o", "why", "--json")
    assert {**json.loads(again), "kept": 0} == json.loads(first)
    assert json.loads(again)["kept"] == 2
    assert sorted(p.name for p in Path("why").glob("*.png")) == ["00_explained.png", "01_explained.png"]


def test_a_linked_image_is_never_overwritten(aloe, home):
    """The folder that is read links into the folder that is written."""
    write_pictures(Path("out"), 1).joinpath("00.png").rename("out/a_explained.png")
    Path("in").mkdir()
    Path("in/a_explained.png").symlink_to(Path("out/a_explained.png").resolve())
    picture(5).save("in/a.png")
    before = Path("out/a_explained.png").read_bytes()
    code, out, _ = aloe("explain", home / "student", "in", "-o", "out", "--json")
    assert code == 0
    assert [r["picture"] for r in json.loads(out)["explanations"]] == [
        "out/a.png_explained.png",
        "out/a_explained_explained.png",
    ]
    assert Path("out/a_explained.png").read_bytes() == before


def test_evaluate(aloe, home):
    options = ("--test", home / "test", "--device", "cpu", "--cache", "cache")
    models = (home / "teacher", home / "student")
    code, out, _ = aloe("evaluate", "knn,linear", *models, "--train", home / "train", "--k", "1,3", *options, "--json")
    assert code == 0
    rows = json.loads(out)["rows"]
    assert [(Path(r["model"]).name, r["task"]) for r in rows] == [
        (m, t) for m in ("teacher", "student") for t in ("knn", "linear")
    ]
    assert all(0 <= r["value"] <= 100 for r in rows)
    assert sorted(rows[0]["details"]["by_k"]) == ["1", "3"]
    code, out, _ = aloe("evaluate", "cosine", home / "student", "--teacher", home / "teacher", *options)
    assert code == 0
    assert "cosine" in out
    assert len(Path("results/results.jsonl").read_text().splitlines()) == 5
    assert len(list(Path("cache").iterdir())) == 2  # train and test are the same images


def test_importing_aloe_and_help_do_not_import_torch():
    code = "import sys, aloe, aloe.cli.main; sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'datasets')))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.slow
def test_python_m_aloe(home):
    words = ["align", "./missing", str(home / "images"), "-o", "never"]
    done = subprocess.run([sys.executable, "-m", "aloe", *words], capture_output=True, text=True, cwd=home / "empty")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("aloe: ")
    assert done.stderr.count("\n") == 1


def test_pictures_of_other_images_that_are_replaced_are_named(aloe, home):
    write_pictures(Path("a"), 2)
    write_pictures(Path("b"), 1)
    picture(9).save("b/00.png")
    line = ("explain", home / "student")
    assert "replaced" not in aloe(*line, "a", "-o", "why")[1]
    assert "replaced" not in aloe(*line, "a", "-o", "why")[1], "the same pictures again"
    out = aloe(*line, "b", "-o", "why")[1]
    assert "1 pictures of other images, or for another target, were replaced: 00_explained.png" in out
    assert json.loads(aloe(*line, "a", "-o", "why", "--target", 1, "--json")[1])["replaced"] == [
        "00_explained.png",
        "01_explained.png",
    ]


def test_a_batch_of_many_more_images_than_there_are(aloe, home):
    for line in (
        f"explain {home}/student {home}/images -o out --batch-size 60000",
        f"evaluate classifier {home}/student --test {home}/train --batch-size 60000",
        f"align {home}/teacher {home}/images -o out --batch-size 60000",
        f"finetune {home}/teacher {home}/train -o out --batch-size 60000",
    ):
        code, _, err = aloe(*line.split())
        assert (code, err.count("\n")) == (2, 1), err
        assert "batch_size is 60000, but there are only" in err
        assert "give at most 256" in err
    assert not Path("out").exists()


def test_a_task_that_cannot_be_is_named_before_another_runs(aloe, home):
    for name in ("one", "two"):
        write_pictures(Path("test") / name, 2)
    line = ("evaluate", "gridpg,knn", home / "student", "--test", "test", "--train", home / "train", "--set", "k=2")
    code, _, err = aloe(*line)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("aloe: gridpg: the classifier of")
    assert "leave gridpg out" in err
    assert not Path("results/results.jsonl").exists()


def test_what_is_blamed_is_what_was_typed(aloe, home):
    """A teacher that nobody typed, a folder that is sound, a class that nobody named."""
    for name in ("one", "two"):
        write_pictures(Path("test") / name, 2)
    data = ("--test", "test", "--no-cache", "--device", "cpu")
    err = aloe("evaluate", "zeroshot", "zoo:cifar10-aloe", *data)[2]
    assert err.startswith("aloe: The teacher of zoo:cifar10-aloe, zoo:cifar10-vit, is not here")
    assert "--text-tower" in err
    err = aloe("evaluate", "knn", home / "student", "--train", home / "train", *data, "--k", 100_000)[2]
    assert "k is 100000 but there are 6" in err
    assert "test" not in err
    models = ("-m", "zoo:cifar10-aloe", "-m", home / "student")
    err = aloe("attribute", home / "images", *models, "--methods", "inherent", "-o", "out")[2]
    assert "The models do not know the same classes" in err
    assert "Give --target" in err


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "WORLD_SIZE"])
@pytest.mark.parametrize("value", ["", "x", "-1", "1_0", "1.5"])
def test_numbers_of_processes_that_are_none(aloe, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    code, _, err = aloe("teachers")
    assert code == 2
    assert err.startswith(f"aloe: The environment's {name} is {value!r}")
