"""`build_page`: a student's graph, the runtime and the page, checked, in a folder that appears whole."""

from __future__ import annotations

import copy
import html
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import aloe
from aloe.apps.export import formats
from aloe.apps.export.graphs import IMAGE
from aloe.apps.export.run import check_student, side_of
from aloe.apps.export.web.graph import Texts, inputs_of, kind_of, outputs_of, page_program, verify_page
from aloe.apps.export.web.reference import expected, expected_of
from aloe.apps.export.web.runtime import CDN, copy_runtime, find_runtime, words_of
from aloe.apps.export.web.weights import Measured, measure_weights, round_weights
from aloe.core.errors import UserError
from aloe.core.files import read_json, replace_folder
from aloe.core.progress import announce
from aloe.models.stages import standing
from aloe.models.unwrap import unwrapped

MANIFEST, CARD, RUNTIME = "manifest.json", "card.md", "runtime"
POLICY = {
    "default-src": "'none'",
    "script-src": "'self' 'wasm-unsafe-eval'",
    "worker-src": "'self'",
    "connect-src": "'self'",
    "img-src": "'self'",
    "style-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
}


@dataclass(frozen=True)
class Page:
    """A page on disk: `files` of `folder` with their bytes, and what a visitor loads by the name of the weights.

    `differences` and `completeness` are those of the float32 graph against PyTorch; `int8` is what was measured of the
    rounded weights, which are there only where they are faithful; `notes` are sentences for whoever exports.
    """

    folder: Path
    kind: str
    image_size: int
    files: dict[str, int]
    loads: dict[str, int]
    runtime: str
    differences: dict[str, float]
    completeness: float
    int8: Measured | None
    notes: list[str]

    def row(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {**asdict(self), "folder": str(self.folder), "int8": self.int8.row() if self.int8 else None}


def build_page(
    model: nn.Module,
    output: str | Path,
    *,
    title: str | None = None,
    card: str | None = None,
    runtime: str | Path | None = None,
    texts: Texts | None = None,
    int8: bool = False,
    images: Tensor | None = None,
    image_source: str = "given",
    only_int8: bool = False,
    webgpu: bool = False,
    cdn: bool = False,
    image_size: int | None = None,
    more: Mapping[str, str] | None = None,
    tolerance: float = 1e-4,
    overwrite: bool = False,
) -> Page:
    """Write a student as a folder that any static server shows: drop an image, see W(x)x, computed on the visitor's device.

    Args:
        model: a `BcosViTModel` or `BcosViTForImageClassification`; it is left as it was.
        output: the folder, which must not be there; with `overwrite` an earlier page is replaced.
        title: default: the model's own name. card: the model card in Markdown; default: what the student records.
        runtime: folder of the npm package onnxruntime-web; default: fetched through npm into the cache.
        texts: what a student without classes is asked about.
        int8: offer rounded weights too, where they are faithful on `images` (B, 3, S, S) of `image_source`.
        only_int8: and leave the float32 weights out then.
        webgpu: add the runtime for graphics processors. cdn: let the page fetch the WebAssembly from jsDelivr.
        image_size: pixels on a side; default: the model's own resolution.
        more: further files of text by their names.
        tolerance: largest difference of an output from PyTorch, relative to its largest value.

    Returns:
        `Page`.

    Raises:
        UserError: a wrong option, not a student, a package, npm or the runtime's files missing, a folder that exists or
            cannot be written, a model that cannot be traced or is too large, or a graph that differs from the model.
    """
    home = Path(output)
    check_page(home, overwrite=overwrite, int8=int8, only_int8=only_int8, measured=images is not None)
    model = unwrapped(model)
    check_student(model)
    size, kind = side_of(model, image_size), kind_of(model, texts)
    source = find_runtime(runtime, webgpu)
    reference: Any = copy.deepcopy(model).cpu().float().eval()
    home.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{home.name}.", dir=home.parent))
    try:
        folder = aside / "page"
        folder.mkdir()
        said_runtime = copy_runtime(source, folder / RUNTIME, webgpu=webgpu, cdn=cdn)
        differences, completeness = _write_graph(reference, folder / "float32.onnx", size, texts, tolerance, webgpu)
        measured = None
        if int8:
            assert images is not None
            announce("Rounding the weights to int8, and comparing explanations ...")
            round_weights(folder / "float32.onnx", folder / "int8.onnx")
            width = reference.config.hidden_size
            measured = measure_weights(folder / "float32.onnx", folder / "int8.onnx", kind, width, images, image_source)
            left_out = "float32.onnx" if measured.faithful and only_int8 else "" if measured.faithful else "int8.onnx"
            if left_out:
                (folder / left_out).unlink()
        name = title or Path(str(getattr(model, "name_or_path", "") or "student")).name
        manifest = _manifest(reference, name, size, texts, folder, differences, measured, said_runtime)
        _write_page(folder, manifest, {CARD: card or _card(reference, name, size), **(more or {})}, cdn)
        files = {p.relative_to(folder).as_posix(): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
        replace_folder(home, folder)
    except OSError as error:
        raise UserError(f"{home} could not be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    own = sum(n for name, n in files.items() if "/" not in name and not name.endswith((".onnx", ".md")))
    loads = {g["name"]: g["bytes"] + said_runtime["wasm"]["bytes"] + own for g in manifest["graphs"]}
    changes = [measured.words()] if measured and not measured.faithful else []
    notes = [f"int8 weights are left out, because they change the explanations: {words}." for words in changes]
    notes += words_of(said_runtime)
    return Page(home, kind, size, files, loads, said_runtime["version"], differences, completeness, measured, notes)


def check_page(
    output: Path, *, overwrite: bool = False, int8: bool = False, only_int8: bool = False, measured: bool = False
) -> None:
    """Before any model is read.

    Raises:
        UserError: a package is missing, options do not go together, or the folder cannot be written.
    """
    formats.check_packages("onnx")
    if only_int8 and not int8:
        raise UserError("--only-int8 belongs to --int8; give it as well.")
    if int8 and not measured:
        raise UserError("int8 is offered only where it is measured: name photographs with --images.")
    if os.path.lexists(output) and not output.is_dir():
        raise UserError(f"{output} is a file; give a folder.")
    if output.is_dir() and any(output.iterdir()):
        if not overwrite:
            raise UserError(f"{output} exists; give another folder, or --overwrite.")
        if not _is_page(output):
            raise UserError(f"{output} holds no page of aloe export, and is left alone; give another folder.")
        if Path.cwd().resolve().is_relative_to(output.resolve()):
            raise UserError(f"{output} is the folder you are in, and is to be replaced; give another one.")
    above = next(p for p in (output.absolute().parent, *output.absolute().parents) if p.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise UserError(f"The folder {above} cannot be written to.")


def _is_page(folder: Path) -> bool:
    try:
        return "aloe" in read_json(folder / MANIFEST)
    except (OSError, ValueError, TypeError):
        return False


def _write_graph(
    model: nn.Module, path: Path, size: int, texts: Texts | None, tolerance: float, webgpu: bool
) -> tuple[dict[str, float], float]:
    """Trace, write and check the float32 graph; its differences from PyTorch and its completeness error."""
    kind = kind_of(model, texts)
    announce(f"Tracing the explanation of {size} x {size} pixels ...")
    with formats.told("The model cannot be traced"):
        program = page_program(model, size, texts, webgpu)
    announce("Translating the graph to ONNX; this takes about a minute ...")
    said = {"aloe.version": aloe.__version__, "aloe.what": "page", "aloe.image": IMAGE}
    with formats.told("The model cannot be written as ONNX"):
        formats.write_onnx(program, path, inputs=inputs_of(kind), outputs=outputs_of(kind), metadata=said)
    if len(formats.files_of(path)) > 1:
        raise UserError(f"The model has {formats.file_size(path) / 1e9:.1f} GB of weights, more than a browser loads.")
    announce("Comparing the graph with PyTorch ...")
    return verify_page(model, formats.run_onnx(path), size, texts, tolerance)


def _manifest(
    model: Any,
    title: str,
    size: int,
    texts: Texts | None,
    folder: Path,
    differences: Mapping[str, float],
    measured: Measured | None,
    runtime: dict[str, Any],
) -> dict[str, Any]:
    """All that the page needs to know, in one file."""
    config, kind = model.config, kind_of(model, texts)
    names = list(texts.names) if texts else [str(config.id2label[i]) for i in range(config.num_labels)]
    graphs = []
    for name in ("float32", "int8"):
        if (path := folder / f"{name}.onnx").is_file():
            exact = name == "float32"
            check = expected(model, size, texts) if exact else expected_of(formats.run_onnx(path), model, size, texts)
            graphs.append({"name": name, "file": path.name, "bytes": path.stat().st_size, "check": check})
    return {
        "aloe": aloe.__version__,
        "title": title,
        "about": standing(config.teacher),
        "licence": str(config.teacher.get("licence") or ""),
        "kind": kind,
        "names": [] if kind == "features" else names,
        "probability": "sigmoid" if kind == "texts" or model.by_sigmoids else "softmax",
        "width": config.hidden_size,
        "preprocessing": {"side": size, "shorter": size, "resample": "bicubic"},  # as `ResizeCenterCrop`
        "graphs": graphs,
        "first": graphs[-1]["name"],
        "differences": dict(differences),
        "runtime": runtime,
        "int8": measured.row() if measured else None,
    }


def _write_page(folder: Path, manifest: Mapping[str, Any], texts: Mapping[str, str], cdn: bool) -> None:
    """The page's own files, with the words that must stand in the HTML itself, and further ones by their names."""
    policy = POLICY | ({"connect-src": f"'self' {CDN}"} if cdn else {})
    words: dict[str, str] = {
        "policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "title": manifest["title"],
        "about": manifest["about"],
    }
    for asset in resources.files("aloe.apps.export.web").joinpath("assets").iterdir():
        if not asset.is_file():
            continue
        text = asset.read_text(encoding="utf-8")
        if asset.name == "index.html":
            for name, value in words.items():
                text = text.replace(f"{{{name}}}", html.escape(str(value)))
        (folder / asset.name).write_text(text, encoding="utf-8")
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def _card(model: Any, title: str, size: int) -> str:
    """What a student without a card says of itself."""
    config = model.config
    lines = [
        f"# {title}\n",
        f"A B-cos Vision Transformer that explains itself: {standing(config.teacher)}.\n",
        f"- {sum(p.numel() for p in model.parameters()):,} parameters, {size} x {size} pixels, B = {config.b:g}",
        f"- teacher: {config.teacher.get('name') or 'not recorded'}",
        f"- licence: {config.teacher.get('licence') or 'not recorded'}",
    ]
    return "\n".join(lines) + "\n"
