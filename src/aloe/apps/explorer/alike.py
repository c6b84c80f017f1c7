"""Two images of the explorer beside one another: why they are alike, what in one is like a rectangle of the other, and which
of all images are nearest to the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from aloe.apps.explorer.explorer import Entry, Explorer, Picture
from aloe.attribution.alike.regions import shares
from aloe.attribution.alike.similarity import Similarity, pooled, recorded
from aloe.attribution.inherent import Explanation, check_student
from aloe.core.errors import UserError

Box = tuple[float, float, float, float]
NEAREST = 8
SIDES = ("a", "b")


@dataclass(frozen=True, eq=False)
class Answer:
    """A map over the image of one side (`a` or `b`), the value that it explains, and the seconds that it took."""

    side: str
    found: Explanation
    seconds: float


@dataclass(frozen=True, eq=False)
class PairView:
    """Two pictures under one student; the operators of both are recorded, so a rectangle costs two passes."""

    explorer: Explorer
    entry: Entry
    pictures: tuple[Picture, Picture]
    found: Similarity

    @classmethod
    def of(cls, explorer: Explorer, titles: Sequence[str], a: Picture, b: Picture) -> PairView:
        """By the first student of those that are chosen.

        Raises:
            UserError: none of them is a student.
        """
        entry = student_of(explorer, titles)
        model = check_student(entry.model)
        like = next(model.parameters())
        with explorer.lock:
            first, second = (picture.tensor(entry.side)[0].to(like.device, like.dtype) for picture in (a, b))
            return cls(explorer, entry, (a, b), recorded(model, first, second))

    def swapped(self) -> PairView:
        """The same with the sides exchanged; nothing is computed."""
        return PairView(self.explorer, self.entry, self.pictures[::-1], self.found.swapped())

    def answers(self) -> list[Answer]:
        """The map of either side for the whole of the other."""
        return [Answer("a", self.found.a, 0.0), Answer("b", self.found.b, 0.0)]

    def region(self, side: str, box: Box) -> Answer:
        """What in the other image is like a rectangle of this one.

        Args:
            side: of the rectangle, `a` or `b`. box: (left, top, right, bottom) as shares of the square.

        Raises:
            UserError: an unknown side, or a rectangle that is empty or outside.
        """
        left, top, right, bottom = box
        if side not in SIDES:
            raise UserError("Drag a rectangle on one of the two images.")
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise UserError("Drag a rectangle inside the image: its sides are shares from 0 to 1.")
        start, pixels = perf_counter(), self.entry.side
        mask = shares([(left * pixels, top * pixels, (right - left) * pixels, (bottom - top) * pixels)], pixels, pixels)
        with self.explorer.lock:
            explanation = (self.found if side == "b" else self.found.swapped()).masked(mask).in_a
        return Answer("a" if side == "b" else "b", explanation, perf_counter() - start)


@dataclass(eq=False)
class Features:
    """Unit features of pictures, each computed once for every student while the picture is there."""

    explorer: Explorer
    _known: dict[str, WeakKeyDictionary[Picture, Tensor]] = field(default_factory=dict)

    def nearest(
        self, titles: Sequence[str], query: Picture, pictures: Sequence[Picture], count: int = NEAREST
    ) -> list[tuple[int, float]]:
        """Numbers of the pictures nearest to a query, itself left out, with their cosines."""
        entry = student_of(self.explorer, titles)
        mine = self._of(entry, [query])[0]
        cosines = self._of(entry, pictures) @ mine
        order = cosines.argsort(descending=True, stable=True).tolist()
        return [(i, float(cosines[i])) for i in order if pictures[i] is not query][:count]

    def _of(self, entry: Entry, pictures: Sequence[Picture]) -> Tensor:
        features = self._known.setdefault(entry.title, WeakKeyDictionary())
        like = next(entry.model.parameters())
        for picture in pictures:
            if picture not in features:
                with self.explorer.lock:  # one image at a time, so that no other question waits for all of them
                    image = picture.tensor(entry.side).to(like.device, like.dtype)
                    features[picture] = F.normalize(pooled(entry.model, image)[0].float().cpu(), dim=0)
        return torch.stack([features[picture] for picture in pictures])


def student_of(explorer: Explorer, titles: Sequence[str]) -> Entry:
    """The first student among the chosen models.

    Raises:
        UserError: there is none.
    """
    entry: Any = next((e for e in explorer.chosen(titles) if "inherent" in e.methods), None)
    if entry is None:
        raise UserError("Two images are compared by a student: choose one under Models.")
    return entry
