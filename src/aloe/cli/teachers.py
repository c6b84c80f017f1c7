"""`aloe teachers`: the paper's teachers (Table A1)."""

from __future__ import annotations

from aloe.cli.common import Json, say, table


def teachers(json: Json = False) -> None:
    """List the paper's eight teachers: identifier, family, resolution, patch, layers, width."""
    from dataclasses import asdict

    from aloe.models.zoo import TEACHERS

    header = ("identifier", "family", "pixels", "patch", "layers", "width", "student pixels")
    rows = [(t.id, t.family, t.image_size, t.patch_size, t.layers, t.width, t.student_image_size) for t in TEACHERS]
    say({"teachers": [asdict(t) for t in TEACHERS]}, table(rows, header), json)
