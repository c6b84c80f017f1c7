"""The demo's page: one self-contained HTML file with the table, the loss curve and the picture grid."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from aloe.apps.demo.localisation import Localisation
from aloe.core.files import write_whole
from aloe.draw.explanations import over_white, signed_map
from aloe.draw.gallery import data_uri

SIDE = 192


def write_page(
    folder: Path,
    rows: list[dict[str, Any]],
    panels: list[dict[str, Any]],
    localisation: Localisation | None,
    log: list[dict[str, Any]],
    seconds: dict[str, float],
    steps: int,
) -> Path:
    """Write `index.html` into the folder, whole or not at all, and return its path."""
    template = resources.files("aloe.apps.demo").joinpath("page.html.j2").read_text()
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    html = environment.from_string(template).render(
        rows=rows,
        blocks=[k for k in rows[0] if k.startswith("after_block_")],
        aligned=rows[-1],
        panels=[_panel(p) for p in panels],
        curve=_curve([(r["step"], r["loss"]) for r in log if "loss" in r]),
        localisation=localisation,
        seconds=seconds,
        steps=steps,
    )
    path = folder / "index.html"
    write_whole(path, html)
    return path


def _panel(panel: dict[str, Any]) -> dict[str, Any]:
    import torch

    colour = over_white(torch.from_numpy(panel["colour"])[None])[0].numpy()
    signed = signed_map(panel["contributions"][None])[0].numpy()
    pictures = {"image": panel["image"], "colour": colour, "signed": signed}
    return {**panel, **{name: _data_uri(array) for name, array in pictures.items()}}


def _data_uri(array: np.ndarray) -> str:
    return data_uri(Image.fromarray(array).resize((SIDE, SIDE), Image.Resampling.NEAREST), optimize=True)


def _curve(points: list[tuple[int, float]], width: int = 420, height: int = 120) -> dict[str, Any] | None:
    """The loss over steps as an SVG polyline, with its ends."""
    if len(points) < 2:
        return None
    last, top = points[-1][0], max(v for _, v in points)
    line = " ".join(f"{s / last * width:.1f},{height - v / top * height:.1f}" for s, v in points)
    return {"line": line, "width": width, "height": height, "first": points[0][1], "last": points[-1][1], "steps": last}
