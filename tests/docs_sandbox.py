"""Furniture for the documentation's commands: what they name (`facebook/dinov2-small`, `photo.jpg`) exists here, tiny.

transformers, datasets and ALOE all prefer a local path to a hub id, so every command runs as it is printed. Class k of
every labelled data set is picture k, and the probes are sure of their classes, as explanations need it.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import transformers as hf
from safetensors.torch import save_file

import published
import timm_models
from aloe.data.benchmarks import open_benchmark
from aloe.data.scenes import teacher_path
from aloe.evaluation.features import extract
from aloe.models.modeling import BcosViTForImageClassification
from aloe.models.saving import load, save_student
from aloe.models.teachers import Teacher, load_teacher
from aloe.train.align.run import align
from pairs import write_tokenizer
from pictures import picture

SIZE = {"hidden_size": 24, "num_attention_heads": 2, "intermediate_size": 48}
BLOCKS, SIDE, PATCH = 6, 32, 8
VISION = {**SIZE, "num_hidden_layers": BLOCKS, "image_size": SIDE, "patch_size": PATCH}
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FOOD101 = tuple(f"dish {k:03}" for k in range(101))
CLASSES = {"cifar10": CIFAR10, "food101": FOOD101, "pets": ("beagle", "tabby", "parrot")}
SHORT = {"steps": 1, "batch_size": 2, "holdout": 2, "workers": 0}


class Furniture:
    """Makes each kind of thing once, in `home`, and lays copies where a page names it."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def lay(self, kind: str, at: Path) -> None:
        made = self.get(kind)
        at.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(made, at) if made.is_dir() else shutil.copy(made, at)

    def get(self, kind: str) -> Path:
        """A path to the thing; its builder is the part before a colon, called with the part after it."""
        path = self.home / kind.replace("/", "_")
        if not path.exists():
            name, *rest = kind.split(":")
            with torch.random.fork_rng():
                torch.manual_seed(sum(map(ord, kind)))
                BUILDERS[name](self, path, *rest)
        return path


def _photos(_: Furniture, path: Path, count: str = "10") -> None:
    path.mkdir()
    for k in range(int(count)):
        picture(k, SIDE).save(path / f"{k:02}.png")


def _photo(_: Furniture, path: Path, number: str = "0") -> None:
    picture(int(number), SIDE).save(path, "PNG")


def _tar(furniture: Furniture, path: Path, kind: str) -> None:
    with tarfile.open(path, "w") as archive:
        archive.add(furniture.get(kind), path.name)


def _labelled(_: Furniture, path: Path, data: str) -> None:
    """train/CLASS and test/CLASS; more for training than any k of a page."""
    for part, count in (("train", 12 if data == "cifar10" else 3), ("test", 2)):
        for k, name in enumerate(CLASSES[data]):
            (path / part / name).mkdir(parents=True)
            for n in range(count):
                picture(k, SIDE).save(path / part / name / f"{n}.png")


def _cifar10(furniture: Furniture, path: Path) -> None:
    with tarfile.open(path, "w:xz", preset=0) as archive:
        archive.add(furniture.get("labelled:cifar10"), "cifar10")


def _food101(furniture: Furniture, path: Path) -> None:
    """As `DatasetDict.save_to_disk` leaves it, under the hub's own name."""
    import datasets

    parts = {}
    for part, split in (("train", "train"), ("test", "validation")):
        files = sorted((furniture.get("labelled:food101") / part).rglob("*.png"))
        columns = {"image": [str(f) for f in files], "label": [FOOD101.index(f.parent.name) for f in files]}
        features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(FOOD101))}
        parts[split] = datasets.Dataset.from_dict(columns, datasets.Features(features))
    datasets.DatasetDict(parts).save_to_disk(path)


def _capture(_: Furniture, path: Path) -> None:
    from captures import write_capture

    write_capture(path, range(6))


def _nyuv2(_: Furniture, path: Path) -> None:
    from captures import nyu_arrays, write_labelled

    path.mkdir()
    write_labelled(path, *nyu_arrays(2))
    (path / "train_SN40.json").write_text(json.dumps([{"img": "0002_rgb.png"}]))
    (path / "test_SN40.json").write_text(json.dumps([{"img": "0001_rgb.png"}]))


def _vit(_: Furniture, path: Path, data: str = "cifar10") -> None:
    names = dict(enumerate(CLASSES[data]))
    config = hf.ViTConfig(**VISION, id2label=names, label2id={name: k for k, name in names.items()})
    hf.ViTForImageClassification(config).save_pretrained(path)


def _dinov2(_: Furniture, path: Path) -> None:
    config = hf.Dinov2Config(**SIZE, num_hidden_layers=12, mlp_ratio=2, image_size=28, patch_size=14)
    hf.Dinov2Model(config).save_pretrained(path)


def _dinov3(_: Furniture, path: Path) -> None:
    hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**VISION | {"patch_size": 16}, num_register_tokens=2)).save_pretrained(path)


def _siglip(_: Furniture, path: Path) -> None:
    special = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "vocab_size": 120}
    text = {**SIZE, **special, "num_hidden_layers": 2, "max_position_embeddings": 128}
    hf.SiglipModel(hf.SiglipConfig(vision_config=VISION, text_config=text)).save_pretrained(path)
    write_tokenizer(path, "GemmaTokenizer")


def _scenes(_: Furniture, path: Path) -> None:
    shutil.copytree(teacher_path(), path)


def _timm(_: Furniture, path: Path, architecture: str) -> None:
    path.mkdir()
    save_file(timm_models.build(architecture), path / "model.safetensors")
    view = {"tag": "x", "input_size": [3, SIDE, SIDE], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    stated = {"architecture": architecture, "pretrained_cfg": view, "model_args": {"num_heads": timm_models.HEADS_}}
    (path / "config.json").write_text(json.dumps(stated))


def _timm_file(_: Furniture, path: Path) -> None:
    """A bare file: heads follow from the width, so it has one of timm's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timm_models, "D", 192)
        save_file(timm_models.build("vit_base_patch16_224"), path)


def _published(_: Furniture, path: Path, kind: str, labels: str = "0") -> None:
    published.make(kind, path, labels=int(labels))


def _llava(_: Furniture, path: Path) -> None:
    from apps.grounding import vlms

    known = {"cup": "man", "tree": "surfboard", "house": "with"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vlms, "WORDS", [known.get(word, word) for word in vlms.WORDS])
        model = vlms.build("gemma2")
    model.model.save_pretrained(path)
    model.tokenizer.save_pretrained(path)
    half, size = [0.5] * 3, {"height": SIDE, "width": SIDE}
    hf.SiglipImageProcessor(size=size, image_mean=half, image_std=half).save_pretrained(path)


def _llava_student(_: Furniture, path: Path) -> None:
    from apps.grounding.vlms import build, student_of

    save_student(student_of(build("gemma2")), path)


def _part(furniture: Furniture, path: Path, data: str, part: str) -> None:
    shutil.copytree(furniture.get(f"labelled:{data}") / part, path)


def _zoo(_: Furniture, path: Path, name: str) -> None:
    load(f"zoo:{name}").save_pretrained(path)


def _student(furniture: Furniture, path: Path, *teacher: str) -> None:
    """Aligned to a teacher of this kind in one step."""
    _align(load_teacher(furniture.get(":".join(teacher))), furniture, path)


def _student_of(furniture: Furniture, path: Path, name: str, *teacher: str) -> None:
    """The same of a teacher that has a hub id, as licences and text towers are found by."""
    model = load_teacher(furniture.get(":".join(teacher)))
    model.name = name
    _align(model, furniture, path)


def _align(teacher: Teacher, furniture: Furniture, path: Path) -> None:
    align(teacher, furniture.get("photos"), path, device="cpu", progress=False, **SHORT)


def _probe(furniture: Furniture, path: Path, data: str = "cifar10", *, whose: str) -> None:
    """A teacher's or student's classifier that is right, and sure, about every picture of the data."""
    name = f"vit:{data}" if whose == "teacher" else f"student:vit:{data}"
    folder = furniture.get(name)
    model = load_teacher(folder) if whose == "teacher" else load(folder)
    test = open_benchmark(str(furniture.get(f"labelled:{data}"))).test
    found = extract(model, test)
    of_class = torch.stack([found.tensor()[torch.as_tensor(found.labels) == k][0] for k in range(len(CLASSES[data]))])
    classifier = model.model if isinstance(model, Teacher) else model
    _make_sure(classifier, of_class)
    classifier.save_pretrained(path) if whose == "teacher" else save_student(classifier, path)


def _make_sure(model: torch.nn.Module, features: torch.Tensor) -> None:
    """Row k of the head answers to features (C, D) k: by distance on a teacher, by angle on a student."""
    with torch.no_grad():
        if isinstance(model, BcosViTForImageClassification):
            weight = torch.nn.functional.normalize(features, dim=-1)
            logits = features.norm(dim=-1, keepdim=True) * (weight @ weight.T) ** 2
            model.classifier.weight.copy_(weight * _scale(logits))
        else:
            weight, bias = features, -features.square().sum(-1) / 2
            scale = _scale(features @ weight.T + bias)
            model.classifier.weight.copy_(weight * scale)
            model.classifier.bias.copy_(bias * scale)


def _scale(logits: torch.Tensor) -> float:
    """What makes the right logit lead by ten."""
    others = logits.masked_fill(torch.eye(len(logits), dtype=torch.bool), -torch.inf)
    return 10 / float((logits.diagonal() - others.amax(1)).min())


BUILDERS: dict[str, Callable[..., None]] = {
    "photos": _photos,
    "photo": _photo,
    "tar": _tar,
    "labelled": _labelled,
    "cifar10": _cifar10,
    "food101": _food101,
    "capture": _capture,
    "nyuv2": _nyuv2,
    "vit": _vit,
    "dinov2": _dinov2,
    "dinov3": _dinov3,
    "siglip": _siglip,
    "scenes": _scenes,
    "timm": _timm,
    "timm-file": _timm_file,
    "published": _published,
    "llava": _llava,
    "llava-student": _llava_student,
    "part": _part,
    "zoo": _zoo,
    "student": _student,
    "student-of": _student_of,
    "teacher-probe": partial(_probe, whose="teacher"),
    "student-probe": partial(_probe, whose="student"),
}

# What pages call things; a page's own names go before those of every page.
SIGLIP2 = "student-of:google/siglip2-base-patch16-224:siglip"
NAMES: dict[str, dict[str, str]] = {
    "": {
        "photo.jpg": "photo",
        "other.jpg": "photo:3",
        **dict.fromkeys(("path/to/images", "photos", "PHOTOS", "IMAGES", "PHOTOGRAPHS", "TEN", "TWENTY"), "photos"),
        "HUNDRED": "photos",
        "imagenet-sample-images.tar": "tar:photos",
        "cifar10.tar.xz": "cifar10",
        "path/with/train/and/test": "labelled:cifar10",
        "flowers/train": "part:cifar10:train",
        "flowers/test": "part:cifar10:test",
        "ethz/food101": "food101",
        "my-room.tar": "tar:capture",
        "rgbd-scene.tar": "tar:capture",
        "nyuv2": "nyuv2",
        "facebook/dinov2-small": "dinov2",
        "facebook/dinov3-vits16-pretrain-lvd1689m": "dinov3",
        "facebook/dinov3-vitb16-pretrain-lvd1689m": "dinov3",
        "google/siglip2-base-patch16-224": "siglip",
        "google/siglip2-so400m-patch14-384": "siglip",
        "timm/vit_base_patch16_dinov3.lvd1689m": "timm:vit_base_patch16_dinov3",
        "timm/vit_base_patch16_clip_224.openai": "timm:vit_base_patch16_clip_224",
        "vit_base_patch16_224.augreg_in21k.safetensors": "timm-file",
        "rmaser/aloe-dinov3-base": "published:dinov3",
        "rmaser/aloe-dinov3-base-in1k-lp": "published:dinov3:5",
        "rmaser/aloe-dinov3-small-in1k-lp": "published:dinov3:5",
        "rmaser/aloe-siglip2-base-in1k-lp": "published:siglip2:5",
        "vit-cifar10": "vit",
        "path/to/my-vit": "vit",
        "my-student": "student:vit",
        "cifar10-converted": "student:vit",
        "cifar10-aligned": "student:vit",
        "cifar10-bcosified": "student:vit",
        **dict.fromkeys(("TEACHER", "my-teacher", "scene-teacher", "grid-teacher"), "scenes"),
        **dict.fromkeys(("CONVERTED", "ALIGNED"), "student:scenes"),
        **dict.fromkeys(("vit-probe", "TEACHER-PROBE", "results/probes/teacher-..."), "teacher-probe"),
        **dict.fromkeys(("student-probe", "STUDENT-PROBE", "results/probes/student-...", "my-probe"), "student-probe"),
        "llava-folder": "llava",
        "siglip": "siglip",
        "siglip-student": SIGLIP2,
        "siglip2-student": SIGLIP2,
        "student": "student-probe",
    },
    "docs/alike.md": {"gallery": "photos"},
    "docs/app.md": {"dinov2-small": "dinov2", "student": "student:siglip"},
    "docs/grounding.md": {"student": "llava-student", "captioner/tower": "siglip", "pairs": "photos"},
    "docs/howto/explain.md": {"my-student": "student:vit:pets"},
    "docs/publishing.md": {"my-student": "student-of:facebook/dinov2-small:dinov2"},
    "docs/results.md": {
        "vits14": "dinov2",
        "scene-siglip": "siglip",
        "grids": "photos",
        "grid-student": "zoo:scenes-aloe",
        "conv-first": "zoo:scenes-aloe",
        "zoo:cifar10-vit": "teacher-probe",  # that are right about the pictures here
        "zoo:cifar10-aloe": "student-probe",
    },
}
# One step makes no student that explanations can be measured on, and one of a local teacher forgets the teacher's hub id:
# here the furniture takes the place of what the page's command has made.
REPLACED = {"docs/howto/align-siglip2.md": {"siglip2-student"}, "docs/results.md": {"grid-student"}}
# What commands look for without naming it.
BESIDE = {"docs/howto/explain.md": ("google/siglip2-base-patch16-224",)}
