"""What every matplotlib figure here shares: its style, words taken literally, the same bytes every time."""

from __future__ import annotations

import io
import warnings
from typing import Any

from aloe.core.errors import UserError
from aloe.draw.tables import printable

STYLE = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "hatch.linewidth": 0.5,
    "svg.hashsalt": "aloe",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
}
_DATES: dict[str, dict[str, None]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}


def load_matplotlib() -> Any:
    """matplotlib, without pyplot and its windows.

    Raises:
        UserError: it is not installed.
    """
    try:
        import matplotlib
        import matplotlib.figure
    except ImportError as error:
        raise UserError('The plots need matplotlib: pip install "aloe-vit[report]".') from error
    return matplotlib


def plain(words: str) -> str:
    """Words as they are, where matplotlib would read mathematics or drop what starts with an underscore."""
    literal = "\n".join(map(printable, words.split("\n"))).replace("$", r"\$")
    return f" {literal}" if literal.startswith("_") else literal


def drawn(figure: Any, kind: str, **options: Any) -> bytes:
    """The figure as a file of a kind (`svg`, `pdf`, `png`, `jpg`), without its date."""
    buffer = io.BytesIO()
    with load_matplotlib().rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # names in scripts that the font lacks show boxes
        figure.savefig(buffer, format=kind, metadata=_DATES.get(kind), **options)
    return buffer.getvalue()
