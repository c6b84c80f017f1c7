"""Answers of several files: those of one study count once, however often they were exported, and different studies add up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from aloe.core.rows import Keyed, repeats
from aloe.core.typed import whole_number

if TYPE_CHECKING:
    from aloe.apps.study.answers import Answer

_SEPARATOR = ":"  # between the study's number and the participant's, where there are several studies
_ALIKE = 0.1
"""Files are of one study if this share of the answers to trials of one number were given in the same time at the same moment:
nearly all if they are, nearly none if they are not, also where a rehearsal tells no moments."""


@dataclass
class _Study:
    files: list[str]
    placed: list[tuple[str, Answer]]
    known: dict[tuple[str, int], Answer] = field(init=False)

    def __post_init__(self) -> None:
        self.known = {_key(answer): answer for _, answer in self.placed}

    def is_of(self, other: _Study) -> bool:
        """Whether both hold answers of one study: the same ones, or different parts of one participant's."""
        shared = [(answer, other.known[key]) for key, answer in self.known.items() if key in other.known]
        if not shared:
            return bool({name for name, _ in self.known} & {name for name, _ in other.known})
        # Spreadsheets round the moment to seconds.
        alike = sum(a.seconds == b.seconds and abs(a.answered - b.answered) <= 1 for a, b in shared)
        return alike >= max(1, _ALIKE * len(shared))

    def unique(self) -> tuple[list[Answer], int]:
        """The answers by participant and position, and how many came again."""
        rows, found = Keyed(), []
        for place, answer in self.placed:
            facts = {name: value for name, value in asdict(answer).items() if name != "answered"}
            if rows.add(_key(answer), facts, place, f"position {answer.position} of participant {answer.participant}"):
                found.append(answer)
        return sorted(found, key=_order), rows.repeated


def put_together(
    files: Iterable[tuple[str, Sequence[tuple[str, Answer]]]],
) -> tuple[list[Answer], list[str]]:
    """The answers of all studies, and sentences on what came more than once and which files are of which study.

    Args:
        files: each one's name, and its answers with the place of each.

    Raises:
        UserError: two answers of a participant to one trial of a study contradict each other.
    """
    studies: list[_Study] = []
    for name, placed in files:
        new = _Study([name], list(placed))
        mine = [study for study in studies if study.is_of(new)]
        parts = [*mine, new]
        whole = _Study([f for part in parts for f in part.files], [p for part in parts for p in part.placed])
        studies = [whole if mine and study is mine[0] else study for study in studies if study not in mine[1:]]
        studies += [] if mine else [whole]
    answers, notes = [], []
    for number, study in enumerate(studies, 1):
        found, repeated = study.unique()
        mark = f"{number}{_SEPARATOR}" if len(studies) > 1 else ""
        answers += [replace(answer, participant=f"{mark}{answer.participant}") for answer in found]
        files_of = " and ".join(study.files)
        if len(study.files) > 1:
            notes.append(f"{files_of} are of one study.")
        if len(studies) > 1:
            notes.append(
                f"Study {number} of {len(studies)} is {files_of}; its participants are named {mark}1 and so on."
            )
        notes += repeats(repeated, "answer")
    return answers, notes


def _key(answer: Answer) -> tuple[str, int]:
    return answer.participant, answer.position


def _order(answer: Answer) -> tuple[float, str, int]:
    number = whole_number(answer.participant)
    return (float("inf") if number is None else number), answer.participant, answer.position
