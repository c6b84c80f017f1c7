"""The written folder: what is in it, what the card says, when it is refused, and that it is whole or not there."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from runs_to_publish import VIT, fingerprint_of, result_row, write_results, write_run

from aloe.apps.publish import folder as module
from aloe.apps.publish.folder import publish
from aloe.core.errors import UserError
from aloe.models.saving import load, save_student
from pictures import picture

MODEL = ["config.json", "model.safetensors", "preprocessor_config.json"]


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


def dry(run, tmp_path, **options):
    return publish(run, "me/x", output_dir=tmp_path / "out" / "x", dry_run=True, **options)


def card_of(done) -> ModelCard:
    return ModelCard((done.folder / "README.md").read_text())


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_nothing_else_of_the_run_gets_out(run, tmp_path):
    done = dry(run, tmp_path)
    assert sorted(everything(done.folder)) == done.files == ["README.md", *MODEL]
    assert done.url is None
    assert sorted(p.name for p in done.folder.parent.iterdir()) == ["x"]


@pytest.mark.parametrize("family", ["vit-classifier", "siglip", "dinov3"])
def test_the_published_student_is_the_student(family, tmp_path, images):
    run = write_run(tmp_path / "run", family=family)
    done = dry(run, tmp_path)
    before, after = load(run), load(done.folder)
    assert type(before) is type(after)
    for (name, one), (other, two) in zip(before.state_dict().items(), after.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(one, two)
    with torch.no_grad():
        assert torch.equal(before(images)[0], after(images)[0])


def test_the_card_says_how_many_images(run, tmp_path):
    assert re.search(r"Images, held-out ones included \| 41,250 ", card_of(dry(run, tmp_path)).text)


def test_front_matter(run, tmp_path):
    ours, teacher = result_row(fingerprint_of(run), 58.12), result_row("t", 60.5, stage="teacher")
    results = write_results(tmp_path / "results", ours, teacher)
    data = card_of(dry(run, tmp_path, results=[results], data_name="cifar10")).data
    assert data.license == "apache-2.0"
    assert (data.base_model, data.base_model_relation) == (VIT, "finetune")
    assert data.pipeline_tag == "image-classification"
    assert data.library_name == "aloe-vit"
    assert data.datasets == ["uoft-cs/cifar10"]
    [evaluation] = data.eval_results
    assert (evaluation.metric_value, evaluation.metric_type) == (58.12, "accuracy")
    assert (evaluation.dataset_type, evaluation.dataset_name) == ("uoft-cs/cifar10", "CIFAR-10, 10000 images")


def test_front_matter_of_a_backbone_on_a_local_teacher(tmp_path):
    run = write_run(tmp_path / "run", teacher="my-teacher", family="dinov2")
    data = card_of(dry(run, tmp_path, licence="my-own-1.0")).data.to_dict()
    assert "base_model" not in data
    assert "model-index" not in data
    assert "datasets" not in data
    assert (data["license"], data["license_name"]) == ("other", "my-own-1.0")
    assert data["pipeline_tag"] == "image-feature-extraction"


def test_base_model_names_the_teacher_and_its_licence(tmp_path):
    run = write_run(tmp_path / "run", teacher="dino", family="dinov3")
    ours, teacher = result_row(fingerprint_of(run), 58.12), result_row("t", 60.5, stage="teacher", teacher="dino")
    results = write_results(tmp_path / "results", ours, teacher)
    hub = "facebook/dinov3-vits16-pretrain-lvd1689m"
    done = dry(run, tmp_path, base_model=hub, results=[results])
    card = card_of(done)
    assert (card.data.license, card.data.license_name, card.data.base_model) == ("other", "dinov3-license", hub)
    assert load(done.folder).config.teacher["name"] == hub
    assert "60.50" in card.text
    assert any("dinov3-license" in note for note in done.notes)


def test_the_card_tells_what_the_run_recorded(run, tmp_path):
    text = card_of(dry(run, tmp_path)).text
    assert "30 of 48 images, 1,440 drawn in all" in text
    assert "warmed up alone for 12 steps" in text
    assert "cosine, residual stream after blocks 1, 2, 3 and pooled output" in text
    assert re.search(r"\| Seed +\| 17 +\|", text)
    assert "cosine after block 3 0.7500, cosine pooled 0.8750" in text
    assert re.search(r"\| f1d2f1d2f1d2f1d2 +\|", text)
    assert "0.5000" not in text
    assert "**aligned to the features of `google/vit-tiny` on unlabelled images**" in text
    assert "No measured numbers" in text
    assert "patents" in text
    assert re.search(r"\| Optimiser +\| AdamW, learning rate 0.0005", text)


def test_another_optimiser_is_named(run, tmp_path):
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "optimizer": "muon"}))
    text = card_of(dry(run, tmp_path)).text
    assert "| Muon for the blocks' matrices, AdamW for the rest, learning rate 0.0005" in text


def test_the_table_equals_the_rows(run, tmp_path):
    values = {"knn": 58.126, "linear": 59.52, "classifier": 59.04}
    rows = [result_row(fingerprint_of(run), value, task) for task, value in values.items()]
    rows += [result_row("t", value + 1, task, stage="teacher") for task, value in values.items()]
    card = card_of(dry(run, tmp_path, results=[write_results(tmp_path / "results", *rows)]))
    found = re.findall(r"^\|.*, top-1 .*\| +([\d.]+) \| +([\d.]+) \|$", card.text, re.MULTILINE)
    assert found == [("58.13", "59.13"), ("59.52", "60.52"), ("59.04", "60.04")]
    assert [e.metric_value for e in card.data.eval_results] == list(values.values())
    assert "aloe evaluate knn,linear,classifier me/x --data cifar10" in card.text


@pytest.mark.parametrize("family", ["vit-classifier", "dinov2"])
def test_the_code_of_the_card_runs(family, tmp_path, monkeypatch, capsys):
    run = write_run(tmp_path / "run", family=family)
    monkeypatch.chdir(tmp_path)
    done = publish(run, "me/x", output_dir="me/x", dry_run=True)
    picture(3).save("photo.jpg")
    [code] = re.findall(r"```python\n(.*?)\n```", card_of(done).text, re.DOTALL)
    assert len(code.splitlines()) <= 6
    exec(code, {})
    assert Path("explanation.png").is_file()
    assert capsys.readouterr().out.startswith("LABEL_") == (family == "vit-classifier")


def test_no_path_of_this_machine_gets_out(tmp_path):
    home = str(tmp_path)
    run = write_run(tmp_path / "run", teacher=f"{home}/teachers/vit-tiny")
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, "images": f"{home}/images", "output": home}))
    row = result_row(
        fingerprint_of(run),
        58.0,
        "zeroshot",
        data=f"{home}/pets",
        official=False,
        notes=[f"2 test images could not be read, first {home}/pets/a.jpg"],
        settings={"text_tower": f"{home}/siglip", "templates": f"{home}/prompts.txt"},
    )
    picture(1).save(tmp_path / "jo.png")
    done = dry(
        run,
        tmp_path,
        results=[write_results(tmp_path / "results", row)],
        licence="mit",
        data_name=f"{home}/images",
        data_licence=f"see {home}/images/LICENCE",
        examples=[tmp_path / "jo.png"],
    )
    for name, data in everything(done.folder).items():
        for secret in (home, tmp_path.name, "jo.png", str(Path.home()) + "/"):
            assert secret.encode() not in data, (name, secret)
    text = card_of(done).text
    for public in ("vit-tiny", "pets", "first a.jpg", "images |", "prompts.txt"):
        assert public in text
    assert "58.00†" in text


def test_words_of_users_stay_words(run, tmp_path):
    nasty = "a | b\n---\n# <script>x</script> ![x](y) `c`"
    ours = result_row(fingerprint_of(run), 58.0, data=nasty, official=False, notes=[nasty])
    done = dry(run, tmp_path, data_name=nasty, data_licence=nasty, results=[write_results(tmp_path / "r", ours)])
    card = card_of(done)
    assert card.data.license == "apache-2.0"
    assert "<script>" not in card.text
    assert "\n# <" not in card.text
    outside_code = re.sub(r"```.*?```", "", card.text, flags=re.DOTALL)
    assert "![x]" not in outside_code
    assert outside_code.count("`c") == outside_code.count("\\`c")
    [command] = re.findall(r"^aloe evaluate knn .*$", card.text, re.MULTILINE)
    assert shlex.split(command)[4:] == ["--data", nasty.replace("\n", " ").split("/")[-1]]


def test_examples_are_explained_by_the_student(run, tmp_path):
    for i in range(2):
        picture(i).save(tmp_path / f"{i}.png")
    done = dry(run, tmp_path, examples=[tmp_path / "0.png", tmp_path / "1.png"])
    assert done.files == ["README.md", "config.json", "example-1.png", "example-2.png", *MODEL[1:]]
    assert card_of(done).text.count("](example-") == 2
    data = everything(done.folder)
    assert data["example-1.png"][:4] == b"\x89PNG"
    assert data["example-1.png"] != data["example-2.png"]
    again = dry(run, tmp_path)
    assert again.files == ["README.md", *MODEL] == sorted(everything(again.folder))


def test_the_same_again_gives_the_same_bytes(run, tmp_path):
    first = everything(dry(run, tmp_path).folder)
    assert everything(dry(run, tmp_path).folder) == first


@pytest.mark.parametrize(
    ("stage", "why"), [("converted", "only converted"), (None, "does not say"), ("mine", "does not say")]
)
def test_a_converted_student_is_refused_unless_asked_for(stage, why, tmp_path):
    run = write_run(tmp_path / "run", stage)
    with pytest.raises(UserError, match=rf"{why}.*--allow-unaligned"):
        dry(run, tmp_path)
    assert not (tmp_path / "out").exists()
    card = card_of(dry(run, tmp_path, allow_unaligned=True))
    converted = stage == "converted"
    assert ("neither aligned nor fine-tuned" in card.text) == converted
    assert ("Whether it was trained after its conversion is not recorded" in card.text) == (not converted)
    assert "made to stand in" not in card.text
    assert f"aloe-{'converted' if converted else 'unknown'}" in card.data.tags


@pytest.mark.parametrize(
    ("stage", "words"), [("b-cosified", "not aligned to its features"), ("finetuned", "fine-tuned on labelled images")]
)
def test_other_stages_say_so(stage, words, tmp_path):
    run = write_run(tmp_path / "run", stage)
    finetuned = {
        "task": "finetune",
        "model": "/home/jo/my-student",
        "start_stage": "aligned",
        "loss": "bce",
        "freeze": "none",
    }
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**record, **finetuned}))
    text = card_of(dry(run, tmp_path)).text
    assert words in text
    assert "labels, bce loss, frozen: none" in text
    assert "my-student, aligned" in text
    assert "/home/jo" not in text


def test_a_student_without_a_run(tmp_path):
    save_student(load(write_run(tmp_path / "run")), tmp_path / "bare")
    done = dry(tmp_path / "bare", tmp_path)
    assert "## Training" not in card_of(done).text
    assert "not recorded with it" in card_of(done).text
    assert any("run.json" in note for note in done.notes)


def test_mistakes_are_one_sentence_and_leave_nothing(run, tmp_path):
    other = write_results(tmp_path / "other", result_row("another", 1.0))
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "config.json").write_text('{"model_type": "vit"}')
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "run.json").write_text("{}")
    cases = [
        (run, {"licence": "apache2.0"}, "did you mean apache-2.0"),
        (run, {"base_model": "/models/vit"}, "--base-model"),
        (run, {"results": [other]}, "None of the 1 result rows"),
        (run, {"results": [tmp_path / "nowhere"]}, "does not exist"),
        (run, {"examples": [tmp_path / "nothing.png"]}, "not a file"),
        (run, {"examples": [tmp_path / "text.png"]}, "text.png"),
        (tmp_path / "nowhere", {}, "not a folder"),
        (tmp_path / "unfinished", {}, "not finished"),
        (tmp_path / "teacher", {}, "not a B-cos student"),
    ]
    for student, options, said in cases:
        with pytest.raises(UserError, match=re.escape(said)):
            dry(student, tmp_path, **options)
        assert not (tmp_path / "out").exists()
    (run / "run.json").write_text("{")
    with pytest.raises(UserError, match=r"run\.json is damaged"):
        dry(run, tmp_path)


def test_a_published_checkpoint_hands_its_own_licence_on(tmp_path):
    made = load(write_run(tmp_path / "run"))
    for source, base in (("rmaser/aloe-vit-base", "rmaser/aloe-vit-base"), ("aloe-vit-base", VIT)):
        made.config.teacher = {**made.config.teacher, "source": source, "licence": "CC BY-NC-SA 4.0"}
        save_student(made, tmp_path / "translated")
        card = card_of(dry(tmp_path / "translated", tmp_path))
        assert (card.data.license, card.data.base_model) == ("cc-by-nc-sa-4.0", base)
        assert re.search(rf"\| The teacher, {VIT} +\| apache-2.0, ", card.text)
        assert re.search(rf"\| The checkpoint, {source} +\| cc-by-nc-sa-4.0, ", card.text)
        with pytest.raises(UserError, match=rf"{source} is under cc-by-nc-sa-4\.0, which asks"):
            dry(tmp_path / "translated", tmp_path, licence="apache-2.0")


def test_an_unknown_licence_has_to_be_named(tmp_path):
    run = write_run(tmp_path / "run", teacher="my-teacher")
    with pytest.raises(UserError, match="licence of my-teacher is not known here"):
        dry(run, tmp_path)
    text = card_of(dry(run, tmp_path, licence="mit")).text
    assert re.search(r"\| The teacher, my-teacher +\| not known here; ask its authors +\|", text)


def test_only_its_own_earlier_folder_is_replaced(run, tmp_path):
    done = dry(run, tmp_path)
    card = done.folder / "README.md"
    written = card.read_text()

    (done.folder / "LICENSE").write_text("mine")
    with pytest.raises(UserError, match="holds LICENSE, which"):
        dry(run, tmp_path)
    (done.folder / "LICENSE").unlink()

    card.write_text(written.replace("## Limits", "## My limits"))
    with pytest.raises(UserError, match="changed by hand"):
        dry(run, tmp_path)
    card.write_text(written)

    with pytest.raises(UserError, match="written for me/x, not for me/y"):
        publish(run, "me/y", output_dir=done.folder, dry_run=True)
    with pytest.raises(UserError, match="the student itself"):
        publish(done.folder, "me/x", output_dir=done.folder, dry_run=True, licence="mit")
    with pytest.raises(UserError, match="which `aloe publish` did not write"):
        publish(run, "me/x", output_dir=write_run(tmp_path / "another"), dry_run=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        publish(run, "me/x", output_dir=tmp_path / "file", dry_run=True)
    assert card.read_text() == written


def test_not_into_the_folder_one_is_in(run, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(UserError, match="the folder you are in"):
        publish(run, "me/x", output_dir=".", dry_run=True)
    assert publish(run, "me/x", dry_run=True).folder == tmp_path / "empty" / "published" / "x"


class Killed(BaseException):
    """As good as a signal: nothing catches it."""


@pytest.mark.parametrize("moment", ["save_student", "write_card", "replace_folder"])
@pytest.mark.parametrize("before", [False, True])
def test_killed_between_files_leaves_the_old_or_nothing(moment, before, run, tmp_path, monkeypatch):
    old = everything(dry(run, tmp_path).folder) if before else {}
    home = tmp_path / "out" / "x"

    def kill(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        where = "aloe.models.saving" if moment == "save_student" else module.__name__
        patch.setattr(f"{where}.{moment}", kill)
        patch.setattr(module.shutil, "rmtree", lambda *_, **__: None)  # nor does anything tidy up
        with pytest.raises(Killed):
            dry(run, tmp_path, data_name="cifar10")
    assert everything(home) == old
    assert home.exists() == before
    done = dry(run, tmp_path, data_name="cifar10")
    assert sorted(everything(home)) == done.files
    assert [p.name for p in home.parent.iterdir()] == ["x"]


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(run, tmp_path, monkeypatch):
    old, replace = everything(dry(run, tmp_path).folder), os.replace

    def failing(source, target):
        if str(source).endswith(".publishing"):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(UserError, match="cannot be written: No space left"):
        dry(run, tmp_path, data_name="cifar10")
    assert everything(tmp_path / "out" / "x") == old


def test_the_front_matter_is_plain_yaml(run, tmp_path):
    text = (dry(run, tmp_path).folder / "README.md").read_text()
    start, front, _ = text.split("---\n", 2)
    assert start == ""
    assert yaml.safe_load(front)["license"] == "apache-2.0"


def test_the_command(aloe, run):
    code, out, err = aloe("publish", run, "me/x", "--dry-run", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["url"] is None
    assert found["files"] == ["README.md", *MODEL]
    assert Path(found["folder"]) == Path.cwd() / "published" / "x"
    code, out, err = aloe("publish", run, "no-owner", "--dry-run")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
