"""What the report's pictures share: panels in rows, their titles, words and legends, the colour of a stage, and the bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from aloe.draw.figures import STYLE, drawn, load_matplotlib, plain
from aloe.models import stages
from aloe.report.lines import Line

COLOURS = {name: stage.colour for name, stage in stages.STAGES.items()}
DASHES: tuple[Any, ...] = ("-", "--", ":", "-.")
MARKERS = "os^Dvp"
Picture = dict[str, bytes]
"""By format, `svg` and `png`; every chart raises UserError where matplotlib is not installed."""


@contextmanager
def sheet(size: tuple[float, float], down: int, across: int = 1, **options: Any) -> Iterator[tuple[Any, Any]]:
    """A figure of a size in inches and its panels (down, across), drawn on in the report's style."""
    matplotlib = load_matplotlib()
    with matplotlib.rc_context(STYLE):
        figure = matplotlib.figure.Figure(size, layout="constrained")
        yield figure, figure.subplots(down, across, squeeze=False, **options)


@contextmanager
def tiles(
    count: int, most: int, each: tuple[float, float], margin: tuple[float, float], least: float = 0.0
) -> Iterator[tuple[Any, Any]]:
    """A figure and its first `count` panels, at most so many beside one another; sizes in inches, `least` of the width."""
    down, across = in_rows(count, most)
    size = (max(least, margin[0] + each[0] * across), margin[1] + each[1] * down)
    with sheet(size, down, across) as (figure, table):
        panels = table.flatten()
        for panel in panels[count:]:
            panel.set_visible(False)
        yield figure, panels[:count]


def in_rows(count: int, most: int) -> tuple[int, int]:
    """(down, across) for panels of which at most so many stand beside one another."""
    across = min(most, count)
    return -(-count // across), across


def colour_of(stage: str) -> str:
    return COLOURS.get(stage, "#000000")


def twin(lines: Iterable[Line], line: Line) -> int:
    """0 for the first model of its stage, 1 for the second ..."""
    alike = (other for other in lines if other.stage == line.stage)
    return next(i for i, other in enumerate(alike) if other is line)


def rule(panel: Any, axis: str = "both") -> None:
    """Faint lines across a panel."""
    panel.grid(axis=axis, alpha=0.25, linewidth=0.6)


def entitle(panel: Any, words: str) -> None:
    panel.set_title(plain(words), loc="left", fontsize=8)


def above(panel: Any, words: str, at: tuple[float, float], up: float = 3, **style: Any) -> None:
    """Words over a point. The limits of the panel make room for them: the layout need not look at hundreds."""
    text = panel.annotate(words, at, (0, up), textcoords="offset points", ha="center")
    text.set(in_layout=False, **style)


def stroke(**style: Any) -> Any:
    """A line or marker of a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], **style)


def swatch(**style: Any) -> Any:
    """A bar of a legend."""
    from matplotlib.patches import Patch

    return Patch(edgecolor="white", linewidth=0, **style)


def legend_above(figure: Any, handles: Sequence[Any], names: Iterable[str], columns: int, **style: Any) -> None:
    """In the middle over all panels."""
    figure.legend(handles, [*map(plain, names)], loc="outside upper center", ncols=columns, frameon=False, **style)


def legend_beside(panel: Any, handles: Sequence[Any], names: Iterable[str], **style: Any) -> None:
    """On the right of a panel."""
    style = {"loc": "upper left", "fontsize": 6.5, **style}
    panel.legend(handles, [*map(plain, names)], bbox_to_anchor=(1, 1), frameon=False, **style)


def as_files(figure: Any) -> Picture:
    return {"svg": drawn(figure, "svg"), "png": drawn(figure, "png", dpi=200)}
