"""What a fit says, for people: Table B7 with the paper's numbers below, win rates, who was left out; and two plots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aloe.apps.study.agreement import Agreement
from aloe.apps.study.exclusions import Judged
from aloe.apps.study.fit import Fit
from aloe.draw.figures import STYLE, drawn, load_matplotlib, plain
from aloe.draw.tables import Block, Cell, Row, Table
from aloe.report.methods import INHERENT, look

PAPER = {  # Table B7: score, and ALOE's win rate in percent
    "inherent": (0.97, None),
    "intgrad": (0.41, 63.5),
    "attnlrp": (0.11, 70.2),
    "chefercam": (-0.11, 74.5),
    "legrad": (-0.59, 82.6),
    "lime": (-0.79, 85.3),
}


def reference(fit: Fit) -> int:
    """The method whose win rates the table shows: ALOE's W(x)x, or where it took no part the best one."""
    return fit.methods.index(INHERENT) if INHERENT in fit.methods else fit.order[0]


def scores_table(fit: Fit, with_paper: bool = True) -> Table:
    """Table B7: methods from the best, scores and the reference's win rates with their intervals."""
    best, rows = reference(fit), []
    for i in fit.order:
        cells = [Cell(fit.scores[i], bold=i == fit.order[0], note=_interval(fit.low[i], fit.high[i]))]
        if i == best:
            cells += [Cell(), Cell()]
        else:
            ends = (100 * fit.rate_low[best, i], 100 * fit.rate_high[best, i])
            cells.append(Cell(100 * fit.rates[best, i], 1, note=_interval(*ends, decimals=1)))
            cells.append(_percent(fit.observed[best, i]))
        rows.append(Row((look(fit.methods[i]).title,), tuple(cells)))
    blocks = [Block("", tuple(rows))]
    if with_paper and INHERENT in fit.methods:
        paper = [(key, PAPER[key]) for key in PAPER if key in fit.methods]
        blocks.append(
            Block(
                "the paper: DINOv3 ViT-B/16, 41 participants, 50 trials each",
                tuple(
                    Row((look(k).title,), (Cell(score), Cell(rate, 1), Cell()), "paper") for k, (score, rate) in paper
                ),
            )
        )
    name = look(fit.methods[best]).title
    return Table(
        "b7",
        f"Human evaluation: {fit.participants} participants, {fit.answers} answers ({fit.ties} ties)",
        ("Method",),
        ("BT score ↑", f"{name} wins, % (model)", f"{name} wins, % (counted)"),
        tuple(blocks),
        ("95 % intervals: percentile bootstrap over participants.", *fit.notes),
    )


def wins_table(fit: Fit) -> Table:
    """Counted win rates in percent, row against column."""
    titles = [look(fit.methods[i]).short for i in fit.order]
    rows = [
        Row((look(fit.methods[i]).title,), tuple(Cell() if i == j else _percent(fit.observed[i, j]) for j in fit.order))
        for i in fit.order
    ]
    caption = "How often the row's method was chosen over the column's, %; a tie is half"
    return Table("b7-wins", caption, ("Method",), tuple(titles), (Block("", tuple(rows)),))


def participants_table(judged: Sequence[Judged]) -> Table:
    """Every participant by the rules, those who were left out at the end."""
    rows = [
        Row(
            (each.participant, ", ".join(each.broken) or "counted"),
            (
                Cell(each.answered, 0),
                _percent(each.noise),
                _percent(each.identical),
                Cell(each.seconds, 1),
                _percent(each.one_side),
                _percent(each.inconsistent),
            ),
        )
        for each in sorted(judged, key=lambda each: bool(each.broken))
    ]
    columns = ("answers", "random preferred %", "identical told apart %", "seconds", "one side %", "repeats changed %")
    return Table("b7-participants", "Participants", ("Participant", "Rules broken"), columns, (Block("", tuple(rows)),))


def agreement_words(found: Agreement, judged: Sequence[Judged]) -> list[str]:
    """Sentences on how far participants agree with one another and with themselves."""
    words = []
    if found.same is None:
        words.append("No comparison was judged by two participants, so that their agreement is not known.")
    else:
        alpha = "not defined" if found.alpha is None else f"{found.alpha:.2f}"
        words.append(
            f"Two participants who judged the same two maps chose the same in {100 * found.same:.1f} % of the cases;"
            f" Krippendorff's alpha {alpha} ({found.answers} answers to {found.comparisons} shared comparisons)."
        )
    own = [each.inconsistent for each in judged if each.inconsistent is not None and not each.broken]
    if own:
        words.append(f"Shown a pair again with sides exchanged, they repeated {100 * (1 - sum(own) / len(own)):.1f} %.")
    return words


def scores_plot(fit: Fit) -> dict[str, bytes]:
    """Scores with their intervals, the best on top, as SVG and PNG."""
    matplotlib = load_matplotlib()
    with matplotlib.rc_context(STYLE):
        figure = matplotlib.figure.Figure((4.2, 0.6 + 0.28 * len(fit.methods)), layout="constrained")
        axes = figure.subplots()
        for y, i in enumerate(reversed(fit.order)):
            style = look(fit.methods[i])
            axes.plot([fit.low[i], fit.high[i]], [y, y], color=style.colour, linewidth=1.5)
            axes.plot(fit.scores[i], y, style.marker, color=style.colour, markersize=6)
        axes.axvline(0, color="#999999", linewidth=0.6, zorder=0)
        axes.set_yticks(range(len(fit.order)), [plain(look(fit.methods[i]).title) for i in reversed(fit.order)])
        axes.set_xlabel("Bradley-Terry score, 95 % interval")
    return _both(figure)


def wins_plot(fit: Fit) -> dict[str, bytes]:
    """The counted win rates as a matrix, as SVG and PNG."""
    matplotlib = load_matplotlib()
    order, titles = fit.order, [plain(look(fit.methods[i]).title) for i in fit.order]
    with matplotlib.rc_context(STYLE):
        side = 1.6 + 0.45 * len(order)
        figure = matplotlib.figure.Figure((side, side - 0.3), layout="constrained")
        axes = figure.subplots()
        axes.imshow(fit.observed[order][:, order], cmap="PuOr", vmin=0, vmax=1)
        for y, i in enumerate(order):
            for x, j in enumerate(order):
                if i != j and (fit.wins[i, j] + fit.wins[j, i]) > 0:
                    share = fit.observed[i, j]
                    colour = "white" if abs(share - 0.5) > 0.3 else "black"
                    axes.text(x, y, f"{100 * share:.0f}", ha="center", va="center", color=colour)
        axes.set_xticks(range(len(order)), titles, rotation=35, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(order)), titles)
        axes.set_title("Row chosen over column, %", fontsize=8)
    return _both(figure)


def _both(figure: Any) -> dict[str, bytes]:
    return {"svg": drawn(figure, "svg"), "png": drawn(figure, "png", dpi=200)}


def _interval(low: float, high: float, decimals: int = 2) -> str:
    if low != low or high != high:  # of a single participant
        return ""
    ends = [Cell(end, decimals).text for end in (low, high)]
    return f" [{ends[0]}, {ends[1]}]"


def _percent(share: float | None) -> Cell:
    return Cell() if share is None or share != share else Cell(100 * share, 1)
