"""The folder of a page without a browser: what is in it and says, what it must never hold, every mistake at export."""

from __future__ import annotations

import gzip
import json
import re
import shutil

import numpy as np
import pytest
import torch
from torch import nn

import aloe as package
from aloe.apps.export import formats
from aloe.apps.export.web import build as module
from aloe.apps.export.web.build import build_page
from aloe.apps.export.web.graph import inputs_of, outputs_of, run_one
from aloe.apps.export.web.reference import check_image
from aloe.apps.export.web.student import export_page, texts_of
from aloe.apps.export.web.weights import Measured, rounded
from aloe.attribution.inherent import explain
from aloe.attribution.targets import TextTarget
from aloe.core.errors import UserError
from aloe.models.convert import bcosify
from aloe.models.saving import save_student
from aloe.models.teachers import load_teacher
from aloe.models.text import load_text_tower
from apps.export.students import NAMES, SIZE, WIDTH, build, rand
from apps.export.web_pages import ASSETS, PHOTOGRAPHS, STUDENTS, TEXTS, fake_runtime, made_page
from pairs import write_pair

for needed in formats.PACKAGES["onnx"]:
    pytest.importorskip(needed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return made_page(tmp_path_factory, "classes")


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


@pytest.mark.slow
def test_a_folder_holds_the_page_the_graphs_and_the_runtime(folder):
    said = manifest_of(folder)
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    named = {g["file"] for g in said["graphs"]} | {
        said["runtime"]["wasm"]["module"],
        said["runtime"]["wasm"]["wasm"]["file"],
    }
    assert files == {p.name for p in ASSETS.iterdir()} | named | {"manifest.json", "card.md", "runtime/LICENSE.txt"}
    assert {g["name"]: g["bytes"] for g in said["graphs"]} == {
        name: (folder / f"{name}.onnx").stat().st_size for name in ("float32", "int8")
    }
    assert (said["kind"], said["probability"], said["first"]) == ("classes", "sigmoid", "int8")  # it has a logit bias
    assert said["names"] == list(NAMES.values())
    assert said["preprocessing"] == {"side": SIZE, "shorter": SIZE, "resample": "bicubic"}
    assert (said["aloe"], said["runtime"]["version"]) == (package.__version__, "1.2.3")
    assert max(said["differences"].values()) < 1e-4
    assert gzip.decompress((folder / said["runtime"]["wasm"]["wasm"]["file"]).read_bytes()).startswith(b"/*!")
    assert folder.stat().st_mode & 0o055 == 0o055, "a server of another user could not read it"


@pytest.mark.slow
def test_the_policy_allows_webassembly_and_this_origin_alone(folder):
    text = (folder / "index.html").read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1].replace("&#x27;", "'")
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["script-src"] == "'self' 'wasm-unsafe-eval'"
    assert {rules[name] for name in ("connect-src", "worker-src", "style-src", "img-src")} == {"'self'"}
    assert "unsafe-inline" not in policy
    assert "<title>A classes &lt;student&gt;: a model that explains itself</title>" in text
    assert not re.search(r"\son\w+=|<script(?![^>]*src=)|style=\"|{\w+}", text), "inline code, or a word left out"


def test_the_policy_of_a_page_that_fetches_allows_that_package_alone(tmp_path):
    module._write_page(tmp_path, {"title": "x", "about": ""}, {}, True)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', (tmp_path / "index.html").read_text())[1]
    rules = dict(rule.split(" ", 1) for rule in policy.replace("&#x27;", "'").split("; "))
    assert rules["connect-src"] == "'self' https://cdn.jsdelivr.net/npm/onnxruntime-web@1.30.0/"
    assert [name for name, value in rules.items() if "jsdelivr" in value] == ["connect-src"]


def test_no_address_of_the_page_leaves_its_folder():
    for path in ASSETS.iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|[\"'(]//|[\"'(]/[a-z]|eval\(|new Function|innerHTML|insertAdjacentHTML", text), (
            path.name
        )


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(STUDENTS))
def test_graphs_give_pythons_explanations(tmp_path_factory, kind):
    """Of whole images, of the answer that the graph chooses itself, and completely."""
    graph, model = made_page(tmp_path_factory, kind) / "float32.onnx", STUDENTS[kind]()
    run = formats.run_onnx(graph)
    image = rand(3, SIZE, SIZE, seed=11)
    found = run_one(run, kind, image, WIDTH)
    assert list(found) == outputs_of(kind)
    best = int(found["logits"].argmax()) if kind != "features" else None
    expected = explain(model, image[None], TEXTS.target(best) if kind == "texts" else best)
    for name in ("logit", "contributions", "weights", "residual"):
        reference = getattr(expected, name).numpy()
        assert np.abs(found[name] - reference).max() <= 1e-4 * np.abs(reference).max(), name
    if kind == "classes":
        np.testing.assert_allclose(found["logits"], expected.logits, rtol=1e-4, atol=1e-4)
    if kind == "texts":
        each = [float(explain(model, image[None], TEXTS.target(i)).logit[0]) for i in range(3)]
        np.testing.assert_allclose(found["logits"][0], each, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_what_is_deleted_contributes_nothing(folder):
    """keep multiplies the six channels: the value is that of a forward pass on what is left, and the rest is 0."""
    model, run = STUDENTS["classes"](), formats.run_onnx(folder / "float32.onnx")
    image = rand(1, 3, SIZE, SIZE, seed=5)
    keep = torch.ones(1, 1, SIZE, SIZE)
    keep[..., 4:20, 9:30] = 0
    feeds = dict(zip(inputs_of("classes"), (image, keep, torch.tensor([2])), strict=True))
    found = run({name: value.numpy() for name, value in feeds.items()})
    six = torch.cat([image, 1 - image], 1) * keep
    with torch.no_grad():
        logits = model(six).logits
    np.testing.assert_allclose(found["logits"], logits, rtol=1e-4, atol=1e-5)
    assert (found["contributions"][0, 4:20, 9:30] == 0).all()
    assert np.abs(found["contributions"]).max() > 0
    total = found["contributions"].astype(float).sum() + found["residual"][0]
    assert abs(found["logit"][0] - total) < 1e-5 * np.abs(found["contributions"]).sum()


@pytest.mark.slow
def test_the_picture_that_devices_are_compared_on(folder):
    """By its formula, pixel by pixel, and PyTorch's answer to it."""
    image = check_image(SIZE)
    for c, y, x in ((0, 0, 0), (1, 3, 9), (2, 31, 30)):
        assert float(image[c, y, x]) == pytest.approx(
            ((7 + 4 * c) * x + (13 - 3 * c) * y + 5 * (x // 4) * (y // 4)) % 256 / 255
        )
    check = manifest_of(folder)["graphs"][0]["check"]
    found = explain(STUDENTS["classes"](), image[None], 0)
    assert check["value"] == pytest.approx(float(found.logit[0]), rel=1e-4)
    cells = [
        float(found.contributions[0, 8 * r : 8 * r + 8, 8 * c : 8 * c + 8].sum()) for r in range(4) for c in range(4)
    ]
    np.testing.assert_allclose(check["contributions"], cells, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_rounded_weights_are_measured_and_said(folder):
    said = manifest_of(folder)["int8"]
    assert said["faithful"]
    assert said["images"] == len(PHOTOGRAPHS)
    assert said["words"].startswith("on 6 images (noise): the same answer for ")
    assert (folder / "int8.onnx").stat().st_size < (folder / "float32.onnx").stat().st_size


@pytest.fixture
def traced_before(folder, monkeypatch):
    """The graph of the classes' student is there already: tracing takes long."""

    def copy(model, path, *_):
        shutil.copyfile(folder / "float32.onnx", path)
        return {"logit": 1e-6}, 1e-7

    monkeypatch.setattr(module, "_write_graph", copy)


@pytest.mark.slow
def test_unfaithful_weights_are_left_out_and_said(tmp_path, monkeypatch, traced_before):
    monkeypatch.setattr("aloe.apps.export.web.weights.LEAST", 1.1)
    runtime_folder = fake_runtime(tmp_path / "runtime")
    done = build_page(
        STUDENTS["classes"](), tmp_path / "page", int8=True, only_int8=True, images=PHOTOGRAPHS, runtime=runtime_folder
    )
    assert not done.int8.faithful
    assert done.notes[0].startswith(
        "int8 weights are left out, because they change the explanations: on 6 images (given):"
    )
    assert [g["name"] for g in manifest_of(done.folder)["graphs"]] == ["float32"]
    assert "int8.onnx" not in done.files
    assert "faithful" in manifest_of(done.folder)["int8"]
    with monkeypatch.context() as patch:  # and an earlier page is replaced, by one with int8 alone
        patch.setattr("aloe.apps.export.web.weights.LEAST", -1.0)
        patch.setattr("aloe.apps.export.web.weights.SAME", 0.0)
        patch.setattr("aloe.apps.export.web.weights.MEAN", -1.0)
        options = {"int8": True, "only_int8": True, "images": PHOTOGRAPHS, "overwrite": True}
        done = build_page(STUDENTS["classes"](), tmp_path / "page", runtime=runtime_folder, **options)
    assert list(done.loads) == ["int8"]
    assert "float32.onnx" not in done.files
    assert sorted(p.name for p in tmp_path.iterdir()) == ["page", "runtime"]


def test_rounding_loses_at_most_half_a_step():
    """Twin of the rule: whole numbers of [-127, 127] times the largest value of each row, or column, over 127."""
    values = rand(40, 60).numpy() - 0.5
    values[:, 3] *= 50  # a column that would spoil every row
    axis, whole, scale = rounded(values)
    assert (axis, whole.dtype, scale.shape) == (1, np.int8, (60,))
    for column in range(60):
        step = np.abs(values[:, column]).max() / 127
        assert scale[column] == pytest.approx(step)
        assert np.abs(whole[:, column] * scale[column] - values[:, column]).max() <= 0.5001 * step
    assert rounded(values.T.copy())[0] == 0


def test_what_counts_as_faithful():
    good = Measured(50, "photos", 1.0, 0.999, 0.99, 0.01)
    assert good.faithful
    for spoiled in ({"same": 0.9}, {"cosine_mean": 0.98}, {"cosine_least": 0.9}, {"cosine_mean": float("nan")}):
        assert not Measured(**{**vars(good), **spoiled}).faithful


def test_texts_are_directions_of_the_own_text_tower(tmp_path):
    write_pair(tmp_path / "pair", "siglip")
    model = bcosify(load_teacher(tmp_path / "pair"))
    names = ["a red square", "a blue circle"]
    texts, tower = texts_of(model, names, str(tmp_path / "pair")), load_text_tower(tmp_path / "pair")
    assert texts.names == tuple(names)
    image = torch.rand(1, 3, model.config.resolution, model.config.resolution)
    for i, embedding in enumerate(tower.encode(names)):
        theirs = explain(model, image, TextTarget(embedding, tower.scale, tower.bias))
        ours = explain(model, image, texts.target(i))
        torch.testing.assert_close(ours.logit, theirs.logit)
        torch.testing.assert_close(ours.contributions, theirs.contributions)
    with pytest.raises(UserError, match="'a red square' comes twice"):
        texts_of(model, [*names, names[0]])


@pytest.fixture
def nothing_traced(monkeypatch):
    monkeypatch.setattr(module, "page_program", None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"only_int8": True}, "--only-int8 belongs to --int8"),
        ({"int8": True}, "int8 is offered only where it is measured: name photographs with --images"),
        ({"model": nn.Linear(2, 2)}, "Linear is not a B-cos student"),
        ({"texts": TEXTS}, "has a classifier, whose classes the page explains"),
        ({"image_size": 30}, "not a whole number of 8-pixel patches"),
        ({"runtime": "nowhere"}, "nowhere does not hold onnxruntime-web's files"),
        ({"output": "file"}, "file is a file; give a folder"),
        ({"output": "mine"}, "mine exists; give another folder, or --overwrite"),
        ({"output": "mine", "overwrite": True}, "mine holds no page of aloe export, and is left alone"),
        ({"output": "file/page"}, "file cannot be written to"),
        ({"cdn": True}, "--cdn is for onnxruntime-web 1.30.0, whose digests are known"),
    ],
)
def test_bad_requests(tmp_path, monkeypatch, nothing_traced, options, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    fake_runtime(tmp_path / "runtime")
    before = sorted(tmp_path.rglob("*"))
    model, output = options.pop("model", None) or build(classifier=True), options.pop("output", "page")
    with pytest.raises(UserError, match=words):
        build_page(model, output, **{"runtime": "runtime", **options})
    assert sorted(tmp_path.rglob("*")) == before


def test_a_model_that_cannot_be_traced_says_so(tmp_path, monkeypatch):
    def forward(self, x):
        return x * (1 if float(x.detach().sum()) > 0 else 2)

    model = build(classifier=True).requires_grad_(False)
    monkeypatch.setattr(type(model.classifier), "forward", forward)
    with pytest.raises(UserError, match=r"cannot be traced: .*[a-z]{4}"):
        build_page(model, tmp_path / "page", runtime=fake_runtime(tmp_path / "runtime"))
    assert [p.name for p in tmp_path.iterdir()] == ["runtime"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["logits", "logit", "contributions", "weights", "residual"])
def test_a_graph_that_differs_from_the_model_is_not_shown(folder, tmp_path, monkeypatch, name):
    run = formats.run_onnx(folder / "float32.onnx")
    spoiled = lambda feeds: {**run(feeds), name: run(feeds)[name] * np.float32(1.001)}  # noqa: E731
    monkeypatch.setattr(module, "page_program", lambda *_: None)
    monkeypatch.setattr(module.formats, "write_onnx", lambda _, path, **__: path.write_bytes(b"x"))
    monkeypatch.setattr(module.formats, "run_onnx", lambda _: spoiled)
    with pytest.raises(UserError, match=f"Nothing was written: the graph differs from the model in {name} by 1.0e-03"):
        build_page(STUDENTS["classes"](), tmp_path / "page", runtime=fake_runtime(tmp_path / "runtime"))
    assert [p.name for p in tmp_path.iterdir()] == ["runtime"]


def test_a_model_too_large_for_a_browser_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "page_program", lambda *_: None)

    def write(_, path, **__):
        path.write_bytes(b"x")
        path.with_name(f"{path.name}.data").write_bytes(b"x")

    monkeypatch.setattr(module.formats, "write_onnx", write)
    with pytest.raises(UserError, match=r"GB of weights, more than a browser loads"):
        build_page(build(classifier=True), tmp_path / "page", runtime=fake_runtime(tmp_path / "runtime"))


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    home = tmp_path_factory.mktemp("student")
    save_student(STUDENTS["classes"](), home)
    (home / "README.md").write_text("# The card of this student\n")
    return home


@pytest.mark.slow
def test_the_command(aloe, student, tmp_path, traced_before):
    where = tmp_path / "deep" / "page"
    code, out, err = aloe(
        "export", student, "--to", "web", "-o", where, "--runtime", fake_runtime(tmp_path / "runtime")
    )
    assert code == 0, err
    assert f"page of {student} at 32 x 32 pixels" in out
    assert "a visitor loads" in out
    assert "python -m http.server --directory" in out
    assert (where / "card.md").read_text() == "# The card of this student\n"
    assert manifest_of(where)["title"] == student.name


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--to", "phone"], "--to must be file or web"),
        (["--to", "web", "--what", "explanation"], "--what is not for --to web"),
        (["--to", "web", "--opset", 20], "--opset is not for --to web"),
        (["--webgpu"], "--webgpu is for --to web"),
        (["--to", "web", "--images", "x"], "--images belongs to --int8"),
        (["--to", "web", "--limit", 5], "--limit belongs to --images"),
        (["--int8", "--limit", 5], "--limit belongs to --images"),
        (["--to", "web", "--only-int8"], "--only-int8 belongs to --int8"),
        (["--to", "web", "--text-tower", "x"], "--text-tower belongs to --texts"),
        (["--to", "web", "--texts", "none.txt"], "none.txt cannot be read"),
        (["--to", "web", "--texts", "empty.txt"], "empty.txt holds no texts"),
        (["--to", "web", "--texts", "texts.txt"], "has a classifier"),
        (["--to", "web", "--int8"], "name photographs with --images"),
        (["--to", "web", "--int8", "--images", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_at_the_command(aloe, student, tmp_path, monkeypatch, nothing_traced, words, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "texts.txt").write_text("a cat\na dog\n")
    runtime_words = ["--runtime", str(fake_runtime(tmp_path / "runtime"))] if "--to" in words and "web" in words else []
    output = "page" if "--to" in words else "page.onnx"
    code, _, err = aloe("export", student, "-o", output, *words, *runtime_words)
    assert code == 2
    assert sentence in err
    assert err.count("\n") == 1
    assert not (tmp_path / "page").exists()


@pytest.mark.parametrize(
    ("card", "sentence"),
    [
        ("Käfer".encode("latin-1"), "README.md is not a text file in UTF-8; save it as UTF-8."),
        (b"x" * (1 << 21), "2 MB"),
    ],
    ids=["latin-1", "huge"],
)
def test_a_card_that_cannot_be_shown_is_one_sentence(student, tmp_path, nothing_traced, card, sentence):
    shutil.copytree(student, tmp_path / "student")
    (tmp_path / "student" / "README.md").write_bytes(card)
    with pytest.raises(UserError, match=sentence):
        export_page(str(tmp_path / "student"), tmp_path / "page", runtime=fake_runtime(tmp_path / "runtime"))
    assert not (tmp_path / "page").exists()
