"""The controls of two images beside one another: which pair, rectangles, swapped sides, and the panel of nearest images."""

from __future__ import annotations

from time import perf_counter
from typing import Any

import gradio as gr
import numpy as np

from aloe.apps.explorer.alike import Answer, Features, PairView
from aloe.apps.explorer.explorer import Explorer
from aloe.apps.explorer.payload import png, thumbnail
from aloe.apps.explorer.requests import box_of, data_of, says, words_of
from aloe.apps.explorer.sessions import Sessions
from aloe.core.errors import UserError
from aloe.draw.explanations import signed_map


class PairControls:
    """What the pair's script asks for; the first image is the one that the page looks at."""

    def __init__(self, explorer: Explorer, sessions: Sessions) -> None:
        self.explorer, self.sessions, self.features = explorer, sessions, Features(explorer)

    def wire(self, pair: Any, models: Any, status: Any, plain: dict[str, Any]) -> None:
        """Connect the script's events."""
        shown = [pair, status]
        pair.near(self.near, models, shown, **plain)
        pair.second(self.second, models, shown, **plain)
        pair.swap(self.swap, models, shown, **plain)
        pair.part(self.part, None, shown, **plain)

    def near(self, titles: Any, request: gr.Request) -> tuple[Any, Any]:
        """The images that are nearest to the first."""
        session = self.sessions.of(request)
        if session.view is None:
            return gr.skip(), gr.skip()
        pictures = self.sessions.pictures(session)
        try:
            nearest = self.features.nearest(words_of(titles), session.view.picture, pictures)
        except UserError as error:
            return _mistake(error)
        near = [
            {"index": i, "name": pictures[i].name, "picture": thumbnail(pictures[i]), "cosine": c} for i, c in nearest
        ]
        return gr.update(near={"of": session.view.picture.name, "images": near}), ""

    def second(self, titles: Any, event: gr.EventData, request: gr.Request) -> tuple[Any, Any]:
        """Compare with another image."""
        session, index = self.sessions.of(request), data_of(event).get("index")
        pictures = self.sessions.pictures(session)
        if session.view is None or not isinstance(index, int) or not 0 <= index < len(pictures):
            return _mistake(UserError("There is no such image."))
        try:
            session.pair = PairView.of(self.explorer, words_of(titles), session.view.picture, pictures[index])
        except UserError as error:
            return _mistake(error)
        return gr.update(value=pair_payload(session.pair), answer=None), ""

    def swap(self, titles: Any, request: gr.Request) -> tuple[Any, Any]:
        """Exchange the sides."""
        session = self.sessions.of(request)
        if session.pair is None:
            return gr.skip(), gr.skip()
        session.pair = session.pair.swapped()
        return gr.update(value=pair_payload(session.pair), answer=None), ""

    def part(self, event: gr.EventData, request: gr.Request) -> tuple[Any, Any]:
        """What is like a rectangle; while it is dragged, only the last of those that wait."""
        session, data = self.sessions.of(request), data_of(event)
        session.drag += 1
        drag, pair = session.drag, session.pair
        with session.dragging:
            if pair is None or session.drag != drag:
                return gr.skip(), gr.skip()
            try:
                answer = pair.region(str(data.get("side")), box_of(data.get("box")))
            except UserError as error:
                return _mistake(error)
        return gr.update(answer=answer_payload(answer)), ""


def _mistake(error: UserError) -> tuple[Any, Any]:
    """The sentence; and a number that is new, by which the script knows that nothing else comes."""
    return gr.update(mistake=perf_counter()), says(error)


def pair_payload(pair: PairView) -> dict[str, Any]:
    """Both images with their maps, and what they add up to."""
    pixels = pair.entry.side
    sides: dict[str, Any] = {}
    for answer, picture in zip(pair.answers(), pair.pictures, strict=True):
        image = {"name": picture.name, "picture": png(np.asarray(picture.crops[pixels])), "pixels": pixels}
        sides[answer.side] = {**image, **answer_payload(answer)}
    return {"model": pair.entry.title, "cosine": float(pair.found.cosine[0]), **sides}


def answer_payload(answer: Answer) -> dict[str, Any]:
    """A map in colour and signed; `sum` of its pixels and the `residual` add up to the `value`."""
    explanation = answer.found
    maps = {"colour": explanation.to_rgba(), "signed": signed_map(explanation.contributions)}
    return {
        "side": answer.side,
        "maps": {kind: png(array[0].cpu().numpy()) for kind, array in maps.items()},
        "value": float(explanation.logit[0]),
        "sum": float(explanation.contributions[0].double().sum()),
        "residual": float(explanation.residual[0]),
        "seconds": round(answer.seconds, 3),
    }
