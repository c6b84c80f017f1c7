"""`aloe teachers`: the paper's teachers (Table A1), the students its authors published, and the zoo."""

from __future__ import annotations

from aloe.cli.common import Json, say, table


def teachers(json: Json = False) -> None:
    """List the paper's eight teachers (identifier, family, resolution, patch, layers, width), its students, and the zoo."""
    from dataclasses import asdict

    from aloe.models.published_layout import LICENCE, REPOSITORIES
    from aloe.models.zoo import TEACHERS
    from aloe.models.zoo_models import ZOO

    header = ("identifier", "family", "pixels", "patch", "layers", "width", "student pixels")
    rows = [(t.id, t.family, t.image_size, t.patch_size, t.layers, t.width, t.student_image_size) for t in TEACHERS]
    published = f"Students its authors published ({LICENCE}), for aloe.load and the verbs:\n" + "\n".join(REPOSITORIES)
    shipped = [(m.id, "student" if m.teacher else "teacher", f"{m.megabytes:.1f}", m.about) for m in ZOO]
    ours = f"Models that come with this package, likewise:\n{table(shipped, ('name', 'kind', 'MB', 'what it knows'))}"
    facts = {
        "teachers": [asdict(t) for t in TEACHERS],
        "published": list(REPOSITORIES),
        "published_licence": LICENCE,
        "zoo": [{"name": m.id, "teacher": m.teacher, "about": m.about, "card": str(m.card)} for m in ZOO],
    }
    say(facts, "\n\n".join([table(rows, header), published, ours]), json)
