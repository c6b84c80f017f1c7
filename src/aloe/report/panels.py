"""What the report's pictures share: panels in rows, the colour of a stage, faint grid lines, and the bytes of a figure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aloe.draw.figures import STYLE, drawn, load_matplotlib
from aloe.models import stages

COLOURS = {name: stage.colour for name, stage in stages.STAGES.items()}
DASHES: tuple[Any, ...] = ("-", "--", ":", "-.")


@contextmanager
def sheet(size: tuple[float, float], down: int, across: int = 1, **options: Any) -> Iterator[tuple[Any, Any]]:
    """A figure of a size in inches and its panels (down, across), drawn on in the report's style.

    Raises:
        UserError: matplotlib is not installed.
    """
    matplotlib = load_matplotlib()
    with matplotlib.rc_context(STYLE):
        figure = matplotlib.figure.Figure(size, layout="constrained")
        yield figure, figure.subplots(down, across, squeeze=False, **options)


def in_rows(count: int, most: int) -> tuple[int, int]:
    """(down, across) for panels of which at most so many stand beside one another."""
    across = min(most, count)
    return -(-count // across), across


def colour_of(stage: str) -> str:
    return COLOURS.get(stage, "#000000")


def rule(panel: Any, axis: str = "both") -> None:
    """Faint lines across a panel."""
    panel.grid(axis=axis, alpha=0.25, linewidth=0.6)


def as_files(figure: Any) -> dict[str, bytes]:
    """The picture's bytes by format."""
    return {"svg": drawn(figure, "svg"), "png": drawn(figure, "png", dpi=200)}
