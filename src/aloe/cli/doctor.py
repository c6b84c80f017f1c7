"""`aloe doctor`: what is installed, found and missing."""

from __future__ import annotations

from aloe.cli.common import Json, say, table

PACKAGES = {
    "torch": "core",
    "transformers": "core",
    "accelerate": "core",
    "datasets": "hf: data sets (pip install 'aloe-vit[data]')",
    "webdataset": "wds: shards (pip install 'aloe-vit[data]')",
    "scikit-learn": "LIME (pip install 'aloe-vit[attribution]')",
    "gradio": "aloe app (pip install 'aloe-vit[app]')",
    "fastapi": "aloe study serve (pip install 'aloe-vit[study]')",
    "matplotlib": "the plots of aloe report (pip install 'aloe-vit[report]')",
    "choix": "aloe study fit (pip install 'aloe-vit[study]')",
    "h5py": "the data set NYUv2 (pip install 'aloe-vit[probe3d]')",
    "onnxscript": "aloe export to ONNX (pip install 'aloe-vit[export]')",
    "tensorboard": "--set report_to=[tensorboard] (pip install 'aloe-vit[logging]')",
}


def doctor(json: Json = False) -> None:
    """Print versions, devices and what is missing for which feature."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import torch

    import aloe

    rows: list[tuple[str, str, str]] = [("aloe", aloe.__version__, ""), ("python", platform.python_version(), "")]
    for name, purpose in PACKAGES.items():
        try:
            rows.append((name, version(name), ""))
        except PackageNotFoundError:
            rows.append((name, "missing", purpose))
    cuda = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    rows += [("cpu threads", str(torch.get_num_threads()), ""), ("cuda device", cuda, "")]
    say({name: found for name, found, _ in rows}, table(rows, ("what", "found", "needed for")), json)
