"""Small random teachers of every family, made on the fly: no network, no files."""

from __future__ import annotations

import gc
import sys

import pytest
import torch
import transformers as hf
from torch import nn

from aloe.cli import main
from aloe.models.teachers import Teacher

SIZE = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96}
VISION = {**SIZE, "image_size": 32, "patch_size": 8}
DINOV2 = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "mlp_ratio": 2, "image_size": 32}

BUILDERS = {
    "vit": lambda: hf.ViTModel(hf.ViTConfig(**VISION), add_pooling_layer=False),
    "vit-classifier": lambda: hf.ViTForImageClassification(hf.ViTConfig(**VISION, num_labels=5)),
    "dinov2": lambda: hf.Dinov2Model(hf.Dinov2Config(**DINOV2, patch_size=8)),
    "dinov2-swiglu": lambda: hf.Dinov2Model(hf.Dinov2Config(**DINOV2, patch_size=8, use_swiglu_ffn=True)),
    "dinov2-registers": lambda: hf.Dinov2WithRegistersModel(
        hf.Dinov2WithRegistersConfig(**DINOV2, patch_size=8, num_register_tokens=3)
    ),
    "dinov3": lambda: hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**VISION, num_register_tokens=4)),
    "dinov3-swiglu": lambda: hf.DINOv3ViTModel(
        hf.DINOv3ViTConfig(**VISION, num_register_tokens=2, use_gated_mlp=True, hidden_act="silu")
    ),
    "siglip": lambda: hf.SiglipVisionModel(hf.SiglipVisionConfig(**VISION)),
    "siglip2": lambda: hf.Siglip2VisionModel(hf.Siglip2VisionConfig(**SIZE, patch_size=8, num_patches=16)),
    "clip": lambda: hf.CLIPVisionModel(hf.CLIPVisionConfig(**VISION)),
}
FAMILIES = tuple(BUILDERS)


def build_teacher(family: str, *, zero_bias: bool = False, dtype: torch.dtype = torch.float32) -> Teacher:
    """A random teacher with every constant (norm scales, LayerScale, registers, positions) at a non-trivial value.

    `zero_bias` zeroes the biases of attention, MLP and norms; the patch embedding keeps its own, which is folded.
    """
    with torch.random.fork_rng():
        torch.manual_seed(sum(map(ord, family)))
        model = BUILDERS[family]()
        for name, parameter in model.named_parameters():
            _randomize(name, parameter, zero_bias)
    return Teacher(model.to(dtype), name=family)


def _randomize(name: str, parameter: nn.Parameter, zero_bias: bool) -> None:
    with torch.no_grad():
        if name.endswith("bias"):
            stem = "patch_embed" in name
            parameter.zero_() if zero_bias and not stem else parameter.normal_(0, 0.1)
        elif "lambda1" in name or "norm" in name:
            parameter.uniform_(0.5, 1.5)
        elif parameter.ndim >= 2 and not any(t in name for t in ("token", "position", "probe")):
            parameter.normal_(0, parameter[0].numel() ** -0.5)
        else:
            parameter.normal_(0, 0.5)


def pytest_runtest_setup() -> None:
    """What was imported is no garbage: every training looks for some, half a second among all modules of the tests."""
    if len(sys.modules) > _kept["modules"] + 100:
        gc.collect()
        gc.freeze()
        _kept["modules"] = len(sys.modules)


_kept = {"modules": 0}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(7))


@pytest.fixture
def aloe(monkeypatch, capsys, tmp_path):
    """Runs `aloe WORDS` in an empty folder: (exit code, stdout, stderr)."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(*words) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["aloe", *map(str, words)])
        try:
            main.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def db(tmp_path):
    """A small preference study in its file (`study/studies.py`)."""
    pytest.importorskip("fastapi", reason="the extra `study` is not installed")
    from apps.study.studies import write_study

    return write_study(tmp_path / "study.sqlite")


@pytest.fixture
def client(db):
    """A client of that study's server."""
    from apps.study.studies import serving

    with serving(db) as client:
        yield client
