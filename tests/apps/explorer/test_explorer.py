"""The explorer without its page: the numbers are those of the models, of `explain`, `attribute` and the deletion metric."""

from __future__ import annotations

import base64
import json
import threading

import numpy as np
import pytest
import torch
from explorers import STUDENT, TEACHER, bomb, close, encoded, picture, scene, scene_explorer, scene_models, tensor
from PIL import Image

import aloe.apps.explorer.explorer as explorer_module
from aloe.apps.explorer.explorer import Explorer, default_images, default_models, load_models
from aloe.apps.explorer.payload import change_payload, draw_sheet, panel_payload, thumbnail, view_payload
from aloe.apps.explorer.view import Aim, View
from aloe.attribution.inherent import explain
from aloe.attribution.methods import attribute
from aloe.attribution.subject import opened
from aloe.core.errors import UserError
from aloe.data.sources import open_images
from aloe.evaluation.zeroshot import text_targets
from aloe.metrics.deletion import FILLS, deletion_curves
from aloe.models.convert import bcosify
from aloe.models.saving import save_student
from aloe.models.teachers import load_teacher
from aloe.models.text import load_text_tower
from conftest import build_teacher
from pairs import write_pair

BOTH = [TEACHER, STUDENT]
BOX = (0.25, 0.25, 0.75, 0.5)  # whole blocks of 16 pixels of 64


@pytest.fixture
def view() -> View:
    return View(scene_explorer(), picture(scene_explorer()))


def panel_of(view: View, title: str, method: str, titles=BOTH):
    return next(p for p in view.panels(titles, [method]) if p.title == title)


def test_a_picture_is_what_every_model_reads():
    small, large = build_teacher("vit"), scene_models()[TEACHER]
    explorer = Explorer({"small": small, "large": large})
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 130, 3), dtype=np.uint8))
    found = explorer.open(encoded(image), "noise.png")
    assert found.size == (130, 90)
    assert (explorer.side, found.tensor(32).shape, found.tensor(64).shape) == (64, (1, 3, 32, 32), (1, 3, 64, 64))
    expected = explain(bcosify(small), image).contributions
    assert close(explain(bcosify(small), found.tensor(32)).contributions, expected)


def test_panels_are_the_models_own_explanations(view):
    model = scene_models()[STUDENT]
    expected = explain(model, tensor(scene()), "cup")
    found = panel_of(view.aimed(Aim(label="cup")), STUDENT, "inherent")
    assert close(found.values, expected.contributions[0])
    assert np.abs(found.colour.astype(int) - expected.to_rgba()[0].numpy()).max() <= 1
    assert (found.value, found.residual) == pytest.approx((float(expected.logit), float(expected.residual)), abs=1e-6)
    assert found.target == "cup"
    assert found.values.sum(dtype=np.float64) + found.residual == pytest.approx(found.value, abs=1e-5)


@pytest.mark.parametrize("method", ["attnlrp", "legrad", "rollout"])
@pytest.mark.parametrize("title", BOTH)
def test_maps_are_those_of_attribute_at_every_pixel(view, method, title):
    expected = attribute(scene_models()[title], tensor(scene()), "car", method)
    found = panel_of(view.aimed(Aim(label="car")), title, method)
    assert close(found.values, expected.pixels()[0])
    assert found.value == pytest.approx(float(expected.value[0]), abs=1e-5)
    assert found.values.shape == (64, 64)
    assert found.colour is None
    assert found.residual is None


def test_methods_have_the_options_they_were_started_with():
    explorer = Explorer(scene_models(), options={"legrad": {"layers": 1}})
    found = panel_of(View(explorer, picture(explorer), Aim(label="car")), TEACHER, "legrad")
    expected = attribute(scene_models()[TEACHER], tensor(scene()), "car", "legrad", layers=1)
    assert close(found.values, expected.pixels()[0])
    with pytest.raises(UserError, match="has no option 'depth'"):
        Explorer(scene_models(), options={"legrad": {"depth": 1}})


def test_without_a_choice_all_explain_what_the_first_model_with_classes_predicts(view):
    label = scene_models()[TEACHER].config.id2label[int(scene_models()[TEACHER](tensor(scene())).logits.argmax())]
    assert {p.target for p in view.panels(BOTH, ["inherent", "legrad"])} == {label}
    alone = panel_of(View(scene_explorer(), view.picture), STUDENT, "inherent", [STUDENT])
    assert (
        alone.target
        == scene_models()[STUDENT].config.id2label[int(explain(scene_models()[STUDENT], scene()).prediction)]
    )


def test_only_supported_methods_of_chosen_models_are_shown_students_own_first(view):
    found = [(p.title, p.method) for p in view.panels([STUDENT, TEACHER, "nobody"], ["legrad", "inherent"])]
    assert found == [(STUDENT, "inherent"), (TEACHER, "legrad"), (STUDENT, "legrad")]


def test_predictions_are_the_softmax_of_the_logits(view):
    logits = scene_models()[TEACHER](tensor(scene())).logits[0]
    top = view.predictions(TEACHER)
    assert [p.index for p in top] == logits.topk(5).indices.tolist()
    assert [p.probability for p in top] == pytest.approx(logits.softmax(0).topk(5).values.tolist(), abs=1e-6)
    assert top[0].label == scene_models()[TEACHER].config.id2label[top[0].index]


@pytest.mark.parametrize(("shift", "known"), [(-30.0, False), (30.0, True)])
def test_where_sigmoids_tell_the_classes_an_image_may_be_none_of_them(shift, known):
    student = bcosify(build_teacher("vit-classifier"))
    student.config.logit_bias = shift
    explorer = Explorer({"student": student})
    view = View(explorer, picture(explorer))
    answer = view_payload(view, ["student"])["predictions"][0]
    assert answer["known"] is known
    first = view.predictions("student")[0]
    assert first.probability == pytest.approx(torch.tensor(first.logit).sigmoid().item(), abs=1e-6)


def test_classes_of_one_name_are_told_apart_and_unknown_ones_said():
    teacher = build_teacher("vit-classifier")
    teacher.config.id2label = {0: "crane", 1: "crane", 2: "c", 3: "d", 4: "e"}
    explorer = Explorer({"two cranes": teacher, **scene_models()})
    view = View(explorer, picture(explorer))
    expected = attribute(teacher, view.picture.tensor(32), 1, "inputxgrad").pixels()[0].numpy()
    found = panel_of(view.aimed(Aim("crane", 1)), "two cranes", "inputxgrad", ["two cranes"])
    assert close(found.values, expected)
    other = panel_of(view.aimed(Aim("crane", 1)), STUDENT, "inherent")
    assert other.values is None
    assert other.note.startswith("There is no class 'crane'")


@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("title", BOTH)
@pytest.mark.parametrize("keep", [False, True])
def test_a_region_is_deleted_and_kept_as_the_metric_does(view, fill, title, keep):
    images, model = tensor(scene()), scene_models()[title]
    chosen = torch.zeros(1, 64, 64)
    chosen[:, 16:32, 16:48] = 1
    with opened(model) as subject:
        curves = deletion_curves(
            chosen,
            images,
            torch.tensor([3]),
            prepare=subject.prepare,
            probability=lambda x, y: subject.forward(x).logits.softmax(1).gather(1, y[:, None])[:, 0],
            fractions=(0, 2 / 16),
            fill=fill,
            mode="insertion" if keep else "deletion",
        )
    (found,) = view.aimed(Aim(index=3, label="donut")).region([title], BOX, keep=keep, fill=fill)
    assert found.after == pytest.approx(float(curves.most[0, 1]), abs=1e-6)
    assert found.before == pytest.approx(float(model(images).logits.detach().softmax(1)[0, 3]), abs=1e-6)
    assert found.what == "probability"
    inside, outside = found.image[16:32, 16:48], found.image[:16]
    kept, gone = (inside, outside) if keep else (outside, inside)
    original = np.asarray(scene())[16:32, 16:48] if keep else np.asarray(scene())[:16]
    assert np.array_equal(kept[..., :3], original)
    assert (kept[..., 3] == 255).all()
    assert (gone[..., 3] == (0 if fill == "zero" else 255)).all()


def test_a_region_of_a_pixel_and_one_of_everything(view):
    (all_gone,) = view.region([TEACHER], (0, 0, 1, 1))
    assert (all_gone.image[..., 3] == 0).all()
    (one,) = view.region([TEACHER], (0.999, 0.999, 1, 1))
    assert (one.image[..., 3] == 0).sum() == 1
    (everything,) = view.region([TEACHER], (0, 0, 1, 1), keep=True)
    assert everything.after == everything.before


@pytest.mark.parametrize(
    "box", [(0.5, 0, 0.5, 1), (0.6, 0, 0.5, 1), (-0.1, 0, 1, 1), (0, 0, 1, 1.1), (0, float("nan"), 1, 1)]
)
def test_a_region_outside_or_empty_is_a_mistake(view, box):
    with pytest.raises(UserError, match="rectangle"):
        view.region(BOTH, box)
    with pytest.raises(UserError, match="no fill 'pink'"):
        view.region(BOTH, BOX, fill="pink")


def test_a_model_without_classes_explains_its_own_features():
    teacher = build_teacher("dinov2")
    explorer = Explorer({"student": bcosify(teacher)})
    view = View(explorer, picture(explorer))
    assert view.predictions("student") == []
    expected = explain(explorer.entries["student"].model, view.picture.tensor(32))
    found = panel_of(view, "student", "inherent", ["student"])
    assert close(found.values, expected.contributions[0])
    (change,) = view.region(["student"], BOX)
    assert change.before == pytest.approx(1, abs=1e-6)
    assert change.after < 1
    assert change.what.startswith("similarity")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A SigLIP teacher with both towers and its student, saved."""
    home = tmp_path_factory.mktemp("pair")
    write_pair(home / "siglip", "siglip")
    save_student(bcosify(load_teacher(home / "siglip")), home / "student")
    return home


def test_texts_are_explained_where_there_is_a_text_tower(pair):
    models, towers = load_models([str(pair / "siglip"), str(pair / "student")])
    assert list(towers) == list(models)  # the student shares its teacher's
    explorer = Explorer({**models, **scene_models()}, towers=towers)
    teacher, student = models
    words = "a photo of a cactus"
    view = View(explorer, picture(explorer)).aimed(Aim(text=words))
    target = text_targets(load_text_tower(pair / "siglip"), [words])[words]
    expected = explain(models[student], view.picture.tensor(32), target)
    found = panel_of(view, student, "inherent", [student])
    assert close(found.values, expected.contributions[0])
    assert found.value == pytest.approx(float(expected.logit), abs=1e-5)
    assert found.values.sum(dtype=np.float64) + found.residual == pytest.approx(found.value, abs=1e-4)
    assert panel_of(view, TEACHER, "legrad").note == f"{TEACHER} has no text tower: it knows no texts."
    both = view.aimed(Aim(text="the tree"))
    top = both.predictions(student)
    assert {p.label for p in top} == {words, "the tree"}
    assert top[0].logit >= top[1].logit
    assert next(p for p in top if p.label == words).logit == pytest.approx(found.value, abs=1e-5)
    assert [c.title for c in view.region([*models, TEACHER], BOX)] == [teacher, student]
    long = both.aimed(Aim(text="the " * 60))
    assert "tokens but the text tower reads" in panel_of(long, student, "inherent", [student]).note
    assert len(long.predictions(student)) == 2
    (change,) = view.region([student], BOX)
    assert change.before == pytest.approx(float(torch.tensor(found.value).sigmoid()), abs=1e-6)


def test_a_text_tower_that_is_named_fits_by_its_width(pair):
    models, towers = load_models([str(pair / "student")], str(pair / "siglip"))
    assert list(towers) == list(models)
    assert load_models([str(pair / "student")])[1] == {}
    with pytest.raises(UserError, match="width 32, which none of the models has"):
        load_models([], str(pair / "siglip"))


UPLOADS = {
    "words": (b"these are words", "not an image"),
    "nothing": (b"", "not an image"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "not an image"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    "truncated": (encoded(scene().resize((300, 300)))[:4000], "truncated"),
    "pixels": (bomb(), "8000 x 8000 pixels; an image may have 50 million"),
    "more pixels": (bomb(14_000), "too many pixels|14000 x 14000"),
    "bytes": (b"\xff\xd8" + bytes(21 << 20), "21.0 MiB; an image may have 20 MiB"),
}


@pytest.mark.parametrize("kind", UPLOADS)
def test_a_wrong_upload_is_one_sentence_with_its_name(kind):
    data, words = UPLOADS[kind]
    with pytest.raises(UserError, match=words) as error:
        scene_explorer().open(data, f"{kind}.png")
    assert str(error.value).startswith(f"{kind}.png")
    assert "\n" not in str(error.value)


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(explorer_module, "decode_image", lambda *a, **k: pytest.fail("decoded"))
    with pytest.raises(UserError, match="million"):
        scene_explorer().open(bomb(), "bomb.png")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_uploads_of_every_format_are_read(kind):
    assert scene_explorer().open(encoded(scene(), kind), f"x.{kind}").crops[64].size == (64, 64)


def test_the_default_needs_no_files_and_takes_the_demos_student(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = default_models()
    assert list(first) == ["zoo:photos-aloe (aligned student)"]
    assert len(open_images(default_images(first))) == 3
    save_student(scene_models()[STUDENT], tmp_path / "demo-out" / "student")
    assert list(default_models()) == ["scenes teacher", "scenes (converted)"]
    assert default_images(default_models()).startswith("scenes:")
    weight = next(scene_models()[STUDENT].parameters())
    student = next(m for t, m in default_models().items() if t != "scenes teacher")
    assert torch.equal(next(student.parameters()), weight)


def test_models_of_one_name_keep_their_paths(tmp_path):
    for folder in ("a", "b"):
        save_student(scene_models()[STUDENT], tmp_path / folder / "student")
    models, _ = load_models([str(tmp_path / f / "student") for f in ("a", "b")])
    assert len(models) == 2


def test_questions_at_the_same_time_get_the_answers_they_would_get_alone():
    explorer, methods = scene_explorer(), ["inherent", "attnlrp", "legrad"]
    alone = {i: [p.values for p in View(explorer, picture(explorer, i)).panels(BOTH, methods)] for i in range(4)}
    found: dict[int, list[np.ndarray]] = {}

    def ask(i: int) -> None:
        found[i] = [p.values for p in View(explorer, picture(explorer, i)).panels(BOTH, methods)]

    threads = [threading.Thread(target=ask, args=(i,)) for i in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, values in alone.items():
        assert all(close(a, b) for a, b in zip(values, found[i], strict=True))


def test_what_is_sent_holds_every_value_exactly(view):
    panels = list(view.panels(BOTH, ["inherent", "legrad"]))
    sent = [panel_payload(p, scene_explorer()) for p in panels]
    payload = json.loads(json.dumps({**view_payload(view, BOTH), "panels": sent}))
    assert [p["model"] for p in payload["predictions"]] == BOTH
    for panel, part in zip(panels, payload["panels"], strict=True):
        values = np.frombuffer(base64.b64decode(part["values"]), "<f4").reshape(part["shape"])
        assert np.array_equal(values, panel.values)
        assert part["sum"] == panel.values.sum(dtype=np.float64)
    own = payload["panels"][0]
    assert own["sum"] + own["residual"] == pytest.approx(own["value"], abs=1e-5)
    assert set(own["pictures"]) == {"colour", "signed"}
    assert draw_sheet(view, panels).startswith("data:image/png;base64,")
    assert thumbnail(view.picture).startswith("data:image/jpeg;base64,")
    (change,) = view.region([TEACHER], BOX)
    assert {"model", "before", "after", "picture"} <= set(json.loads(json.dumps(change_payload(change))))


def test_an_explorer_has_models():
    with pytest.raises(UserError, match="at least one model"):
        Explorer({})
