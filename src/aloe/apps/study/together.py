"""Answers of several files: those of one study count once, however often they were exported, and different studies add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from decimal import Decimal

from aloe.apps.study.answer import Answer
from aloe.core.rows import Keyed, repeats
from aloe.core.typed import whole_number

_SEPARATOR = ":"  # between the study's number and the participant's, where there are several studies
_ZONE = 900.0  # seconds that time zones are whole multiples of
_ALIKE = 0.5
"""Files are of one study if this share of the answers to trials of one number say the same of the same pictures by either
clock: nearly all if they are, nearly none if they are not, also where a rehearsal tells no moments."""


@dataclass(frozen=True)
class _Placed:
    """An answer, where it stands, and the decimals that its file gives of seconds and of moments."""

    place: str
    answer: Answer
    decimals: tuple[int, int]

    def as_quick_as(self, other: _Placed) -> bool:
        """Whether both tell the same seconds, as far as the coarser of the two files tells them."""
        rounding = 0.5 * 10.0 ** -min(self.decimals[0], other.decimals[0])
        return abs(self.answer.seconds - other.answer.seconds) <= rounding + 1e-9 * (1 + abs(self.answer.seconds))


@dataclass
class _Study:
    files: list[str]
    placed: list[_Placed]
    known: dict[tuple[str, int], _Placed] = field(init=False)

    def __post_init__(self) -> None:
        self.known = {_key(row.answer): row for row in self.placed}

    def is_of(self, other: _Study) -> bool:
        """Whether both hold answers of one study: the same ones, or different parts of one participant's."""
        shared = [(row, other.known[key]) for key, row in self.known.items() if key in other.known]
        if not shared:
            return bool({name for name, _ in self.known} & {name for name, _ in other.known})
        same = [(a, b) for a, b in shared if _said(a.answer) == _said(b.answer)]
        moments = _same_moments([(a.answer.answered, b.answer.answered) for a, b in same])
        alike = sum(moment or a.as_quick_as(b) for moment, (a, b) in zip(moments, same, strict=True))
        return alike >= max(1, _ALIKE * len(shared))

    def unique(self) -> tuple[list[Answer], int]:
        """The answers by participant and position, as the most exact file tells them, and how many came again."""
        rows, firsts = Keyed(), dict[tuple[str, int], _Placed]()
        for row in sorted(self.placed, key=lambda row: row.decimals, reverse=True):
            answer = row.answer
            facts = {name: value for name, value in asdict(answer).items() if name != "answered"}
            first = firsts.setdefault(_key(answer), row)
            if first.as_quick_as(row):
                facts["seconds"] = first.answer.seconds
            rows.add(_key(answer), facts, row.place, f"position {answer.position} of participant {answer.participant}")
        return sorted((row.answer for row in firsts.values()), key=_order), rows.repeated


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
        own = [answer for _, answer in placed]
        decimals = (_decimals(a.seconds for a in own), _decimals(a.answered for a in own))
        new = _Study([name], [_Placed(place, answer, decimals) for place, answer in placed])
        mine = [study for study in studies if study.is_of(new)]
        parts = [*mine, new]
        whole = _Study([f for part in parts for f in part.files], [p for part in parts for p in part.placed])
        studies = [whole if mine and study is mine[0] else study for study in studies if study not in mine[1:]]
        studies += [] if mine else [whole]
    answers, notes = [], []
    for number, study in enumerate(studies, 1):
        distinct, repeated = study.unique()
        mark = f"{number}{_SEPARATOR}" if len(studies) > 1 else ""
        answers += [replace(answer, participant=f"{mark}{answer.participant}") for answer in distinct]
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


def _said(answer: Answer) -> tuple[str, str, str, str]:
    return answer.image, answer.left, answer.right, answer.choice


def _decimals(values: Iterable[float]) -> int:
    """The most digits behind the point among numbers."""
    exponents = (Decimal(repr(value)).normalize().as_tuple().exponent for value in values)
    return max((-e for e in exponents if isinstance(e, int) and e < 0), default=0)


def _same_moments(pairs: Sequence[tuple[float, float]]) -> list[bool]:
    """For every pair of moments, whether it is one, less than a second apart but for the time zone that most are shifted by.

    Spreadsheets round moments to seconds and shift them to another time zone; a rehearsal's are 0 and tell nothing.
    """
    zones = [
        round((one - other) / _ZONE) if one and other and abs((one - other + 1) % _ZONE - 1) < 0.999 else None
        for one, other in pairs
    ]
    (most, _), *_ = Counter(zone for zone in zones if zone is not None).most_common(1) or [(0, 0)]
    return [zone is not None and zone in (0, most) for zone in zones]


def _order(answer: Answer) -> tuple[float, str, int]:
    number = whole_number(answer.participant)
    return (float("inf") if number is None else number), answer.participant, answer.position
