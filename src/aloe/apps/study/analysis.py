"""A whole analysis on disk: answers in; tables.md, tables.tex, fit.json and plots out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aloe.apps.study.agreement import Agreement, agreement
from aloe.apps.study.answers import Answer
from aloe.apps.study.exclusions import Judged, Rules, judge, keep, report
from aloe.apps.study.fit import SAMPLES, Fit, Ties, fit
from aloe.apps.study.tables import agreement_words, participants_table, scores_plot, scores_table, wins_plot, wins_table
from aloe.core.errors import UserError
from aloe.core.files import write_whole
from aloe.draw.tables import Table


@dataclass
class Analysis:
    """Who was counted, what they say, and how far they agree."""

    judged: list[Judged]
    rules: Rules
    fit: Fit
    agreement: Agreement

    @property
    def words(self) -> list[str]:
        """Sentences on exclusions and agreement."""
        return report(self.judged, self.rules) + agreement_words(self.agreement, self.judged)

    def tables(self, with_paper: bool = True) -> list[Table]:
        """Table B7, the win rates, and the participants."""
        return [scores_table(self.fit, with_paper), wins_table(self.fit), participants_table(self.judged)]

    def summary(self) -> dict[str, Any]:
        """For machines."""
        f = self.fit
        arrays = ("scores", "low", "high", "wins", "rates", "rate_low", "rate_high")
        numbers = {name: _known(getattr(f, name)) for name in arrays}
        counts = {"participants": f.participants, "answers": f.answers, "ties": f.ties}
        return {
            "methods": f.methods,
            **numbers,
            **counts,
            "notes": f.notes,
            "agreement": asdict(self.agreement),
            "rules": self.rules.model_dump(),
            "judged": [asdict(each) for each in self.judged],
        }


def analyse(
    answers: Sequence[Answer],
    rules: Rules,
    *,
    ties: Ties = "half",
    samples: int = SAMPLES,
    seed: int = 0,
    notes: Sequence[str] = (),
) -> Analysis:
    """Judge participants, fit the answers of those who are kept, and measure their agreement; `notes` are on the answers'
    files and stand among the fit's.

    Raises:
        UserError: as `fit`; the rules that left people out are named where nobody is left.
    """
    judged = judge(answers, rules)
    kept = keep(answers, judged)
    if not kept:
        raise UserError(f"The rules leave nobody to count. {' '.join(report(judged, rules)[1:])}")
    fitted = fit(kept, ties=ties, samples=samples, seed=seed)
    fitted.notes[:0] = notes
    return Analysis(judged, rules, fitted, agreement(kept))


def write_analysis(found: Analysis, folder: Path, with_paper: bool = True) -> list[str]:
    """Write the analysis to a folder; returns the files' names.

    Raises:
        UserError: the folder cannot be written, or matplotlib is missing.
    """
    tables = found.tables(with_paper)
    markdown = "\n".join([*(table.to_markdown() for table in tables), *(f"- {line}" for line in found.words), ""])
    files = {
        "tables.md": markdown.encode(),
        "tables.tex": "\n".join(table.to_latex() for table in tables).encode(),
        "fit.json": (json.dumps(found.summary(), indent=1) + "\n").encode(),
    }
    for name, plot in (("scores", scores_plot(found.fit)), ("wins", wins_plot(found.fit))):
        files |= {f"{name}.{kind}": data for kind, data in plot.items()}
    for name, data in files.items():
        write_whole(folder / name, data)
    return list(files)


def _known(array: np.ndarray) -> list[Any]:
    """Nested lists as JSON takes them: None for what is not known."""
    lists: list[Any] = np.asarray(np.where(np.isnan(array), None, array), dtype=object).tolist()  # type: ignore[call-overload, type-var]
    return lists
