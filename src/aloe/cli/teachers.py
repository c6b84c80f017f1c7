"""`aloe teachers`: the paper's teachers (Table A1), and the students its authors published."""

from __future__ import annotations

from aloe.cli.common import Json, say, table


def teachers(json: Json = False) -> None:
    """List the paper's eight teachers (identifier, family, resolution, patch, layers, width) and its published students."""
    from dataclasses import asdict

    from aloe.models.published_layout import LICENCE, REPOSITORIES
    from aloe.models.zoo import TEACHERS

    header = ("identifier", "family", "pixels", "patch", "layers", "width", "student pixels")
    rows = [(t.id, t.family, t.image_size, t.patch_size, t.layers, t.width, t.student_image_size) for t in TEACHERS]
    words = f"{table(rows, header)}\n\nStudents its authors published ({LICENCE}), for aloe.load and the verbs:\n"
    facts = {"teachers": [asdict(t) for t in TEACHERS], "published": list(REPOSITORIES), "published_licence": LICENCE}
    say(facts, words + "\n".join(REPOSITORIES), json)
