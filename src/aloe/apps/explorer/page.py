"""The page of `aloe app`: Gradio's controls around two HTML components of ours, the picker of images and the view.

Every control leads to one of the methods of `Page`, which ask the explorer and send what the scripts in `assets/` draw. A
person's images stay in the memory of this process, until there have been `sessions.REMEMBERED` newer visitors.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI

from aloe.apps.explorer.explorer import MAX_BYTES, Explorer, Picture, default_images
from aloe.apps.explorer.pair_controls import PairControls
from aloe.apps.explorer.payload import change_payload, draw_sheet, panel_payload, thumbnail, view_payload
from aloe.apps.explorer.requests import box_of, bytes_of, data_of, says, words_of
from aloe.apps.explorer.server import Guard
from aloe.apps.explorer.sessions import Run, Session, Sessions
from aloe.apps.explorer.view import Aim, View
from aloe.attribution.methods import METHODS
from aloe.core.errors import UserError
from aloe.data.sources import open_images
from aloe.metrics.deletion import FILLS

UPLOADS, SHOWN = 12, 40  # of each visitor, images of a folder that are offered
FIRST_METHODS = ("inherent", "attnlrp")
FILL_WORDS = {"zero": "zero input", "black": "black", "mean": "mean colour", "blur": "blurred"}
Update = tuple[Any, ...]


def build_app(
    explorer: Explorer,
    images: str | Path | Sequence[str | Path] | None = None,
    *,
    limit: int = SHOWN,
    local: bool = True,
) -> Guard:
    """The explorer as an ASGI application, guarded; `server.serve` runs it.

    Args:
        images: what to offer, in any form that `aloe.data` reads, at most `limit` of them; default: three photographs,
            or rendered scenes for models of 64 pixels and less.
        local: answer to hosts of this machine only.

    Raises:
        UserError: there are no images.
    """
    page = Page(explorer, _offered(explorer, images, limit))
    app, blocks = FastAPI(openapi_url=None), page.blocks()
    # Gradio checks the paths of requests only where this is true, and not at all in an app that is mounted.
    blocks.has_launched = True
    gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        show_error=False,
        max_file_size=1,  # byte: images do not come as files
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        css=_asset("style.css"),
    )
    return Guard(app, local=local)


class Page:
    """The controls and what they do; `offered` are the images that everybody may pick.

    Handlers get the values of their inputs, and by their annotations Gradio's event (what a script sent) and request (whose
    it is). They give updates of the view and of the sentence that tells a mistake, and where the image changes of the picker.
    """

    def __init__(self, explorer: Explorer, offered: Sequence[Picture]) -> None:
        self.explorer, self.sessions = explorer, Sessions(offered)
        self.thumbnails = [{"name": p.name, "picture": thumbnail(p)} for p in offered]
        self.pairs = PairControls(explorer, self.sessions)

    def blocks(self) -> gr.Blocks:
        """The layout and its wiring."""
        entries = list(self.explorer.entries.values())
        titles = [e.title for e in entries]
        keys = [key for key in METHODS if any(key in e.methods for e in entries)]
        classes, towers = self.explorer.classes, any(e.tower is not None for e in entries)
        with gr.Blocks(title="ALOE: explanations", analytics_enabled=False, fill_width=True) as blocks:
            with gr.Row(elem_id="aloe-page"):
                with gr.Column(elem_id="aloe-images"):
                    picker = _html("picker", max_bytes=MAX_BYTES)
                    status = gr.HTML("", elem_id="aloe-status", js_on_load=None)
                with gr.Column(elem_id="aloe-explained"):
                    view = _html("view", change=None, fills=[[key, FILL_WORDS[key]] for key in FILLS])
                    pair = _html("pair", near=None, answer=None, mistake=0)
                with gr.Column(elem_id="aloe-settings"):
                    about = "; ".join(
                        f"{t}: {words}" for t, words in self.explorer.standings().items() if words != "teacher"
                    )
                    models = gr.CheckboxGroup(
                        titles, value=titles[:4], label="Models", info=about or None, elem_id="models"
                    )
                    methods = gr.CheckboxGroup(
                        [(METHODS[key].title, key) for key in keys],
                        value=[key for key in FIRST_METHODS if key in keys],
                        label="Explanations",
                        info="Integrated Gradients and LIME take many passes: minutes for a large model.",
                        elem_id="methods",
                    )
                    label = gr.Dropdown(
                        classes, value=None, label="Explain a class", visible=bool(classes), elem_id="class"
                    )
                    text = gr.Textbox(
                        label="Explain a text",
                        placeholder="a photo of a cactus",
                        max_length=400,
                        submit_btn=True,
                        visible=towers,
                        elem_id="text",
                    )
            # Plain requests: each explanation is asked for when the last is there (`more`), so a new question waits for
            # one at most. Gradio's queue would stream them, but it loses questions asked while an answer ends.
            plain: dict[str, Any] = {"queue": False, "trigger_mode": "multiple"}
            plain |= {"show_progress": "hidden", "api_visibility": "private"}
            choices, shown = [models, methods], [view, status]
            looked = [*shown, picker, pair]
            blocks.load(self.start, choices, looked, **plain)
            picker.pick(self.pick, choices, looked, **plain)
            picker.upload(self.upload, choices, looked, **plain)
            self.pairs.wire(pair, models, status, plain)
            view.more(self.more, None, shown, **plain)
            view.choose(self.choose, choices, shown, **plain)
            view.region(self.region, models, shown, **plain)
            label.input(self.name, [*choices, label], shown, **plain)
            text.submit(self.say, [*choices, text], shown, **plain)
            models.change(self.again, choices, shown, **plain)
            methods.change(self.again, choices, shown, **plain)
        return blocks

    def start(self, titles: Any, keys: Any, request: gr.Request) -> Update:
        """The first image, when the page is opened."""
        return self._look(self.sessions.of(request), 0, titles, keys)

    def pick(self, titles: Any, keys: Any, event: gr.EventData, request: gr.Request) -> Update:
        """Look at one of the images."""
        return self._look(self.sessions.of(request), data_of(event).get("index"), titles, keys)

    def upload(self, titles: Any, keys: Any, event: gr.EventData, request: gr.Request) -> Update:
        """Take an image of the visitor's and look at it; of more than `UPLOADS` the first goes."""
        session, data = self.sessions.of(request), data_of(event)
        name = str(data.get("name") or "image")[:100]
        try:
            picture = self.explorer.open(bytes_of(data, name), name)
        except UserError as error:
            return gr.skip(), says(error), gr.skip(), gr.skip()
        session.uploads = [*session.uploads, picture][-UPLOADS:]
        return self._look(session, len(self.sessions.pictures(session)) - 1, titles, keys)

    def choose(self, titles: Any, keys: Any, event: gr.EventData, request: gr.Request) -> Update:
        """Explain the class or text of a prediction."""
        label, index = data_of(event).get("label"), data_of(event).get("index")
        if not isinstance(label, str):
            return gr.skip(), gr.skip()
        return self._ask(request, Aim(label, index) if isinstance(index, int) else Aim(text=label), titles, keys)

    def name(self, titles: Any, keys: Any, label: Any, request: gr.Request) -> Update:
        """Explain a class by name; an empty name: the predicted one."""
        return self._ask(request, Aim(label) if isinstance(label, str) else Aim(), titles, keys)

    def say(self, titles: Any, keys: Any, text: Any, request: gr.Request) -> Update:
        """Explain a text; an empty one: what comes by itself."""
        words = " ".join(str(text or "").split())
        return self._ask(request, Aim(text=words) if words else Aim(), titles, keys)

    def again(self, titles: Any, keys: Any, request: gr.Request) -> Update:
        """The same with other models or methods."""
        return self._ask(request, None, titles, keys)

    def more(self, event: gr.EventData, request: gr.Request) -> Update:
        """The next explanation of a question that is still the newest."""
        run = self.sessions.of(request).run
        if run is None or run.turn != data_of(event).get("turn"):
            return gr.skip(), gr.skip()
        return self._next(run), ""

    def region(self, titles: Any, event: gr.EventData, request: gr.Request) -> Update:
        """Delete or keep a rectangle; while it is dragged, only the last of those that wait."""
        session, data = self.sessions.of(request), data_of(event)
        session.drag += 1
        drag, view = session.drag, session.view
        with session.dragging:
            if view is None or session.drag != drag:
                return gr.skip(), gr.skip()
            try:
                change = view.region(
                    words_of(titles), box_of(data.get("box")), keep=data.get("keep") is True, fill=str(data.get("fill"))
                )
            except UserError as error:
                return gr.skip(), says(error)
        return gr.update(change=[change_payload(c) for c in change]), ""

    def _look(self, session: Session, index: Any, titles: Any, keys: Any) -> Update:
        pictures = self.sessions.pictures(session)
        if not isinstance(index, int) or not 0 <= index < len(pictures):
            return gr.skip(), says(UserError("There is no such image.")), gr.skip(), gr.skip()
        session.view, session.pair = View(self.explorer, pictures[index]), None
        own = [{"name": p.name, "picture": thumbnail(p)} for p in session.uploads]
        images = {"images": [*self.thumbnails, *own], "index": index}
        first = gr.update(value={"first": pictures[index].name}, near=None, answer=None)
        return *self._begin(session, titles, keys), images, first

    def _ask(self, request: gr.Request, aim: Aim | None, titles: Any, keys: Any) -> Update:
        session = self.sessions.of(request)
        if session.view is None:
            return gr.skip(), gr.skip()
        session.view = session.view.aimed(session.view.aim if aim is None else aim)
        return self._begin(session, titles, keys)

    def _begin(self, session: Session, titles: Any, keys: Any) -> Update:
        """A new question and its first explanation."""
        view, titles = session.view, words_of(titles)
        assert view is not None
        session.turn += 1
        session.run = run = Run(
            session.turn, view, titles, view.jobs(titles, [k for k in words_of(keys) if k in METHODS])
        )
        try:
            return self._next(run), ""
        except UserError as error:
            return gr.skip(), says(error)

    def _next(self, run: Run) -> dict[str, Any]:
        """The next panel; the picture of all when there is none left. `busy` says what comes then, `at` which panel it is."""
        with run.lock:
            at = len(run.panels)
            payload: dict[str, Any] = {"turn": run.turn, "at": at, "panels": [], "busy": "", "sheet": None}
            if at < len(run.jobs):
                run.panels.append(run.view.panel(*run.jobs[at], run.titles))
                payload["panels"] = [panel_payload(run.panels[-1], self.explorer)]
                left = run.jobs[at + 1 :]
                payload["busy"] = f"{METHODS[left[0][1]].title} of {left[0][0].title}" if left else "picture of all"
            else:
                payload["sheet"] = draw_sheet(run.view, run.panels)
        return payload if at else {**view_payload(run.view, run.titles), **payload}


def _offered(explorer: Explorer, images: str | Path | Sequence[str | Path] | None, limit: int) -> list[Picture]:
    """The images of a folder that can be read, or those of `default_images`."""
    models = {title: entry.model for title, entry in explorer.entries.items()}
    source = open_images(default_images(models) if images is None else images)
    pictures, unreadable = [], []
    for i in range(min(limit, len(source))):
        try:
            pictures.append(explorer.open(source.load(i), source.name(i)))
        except UserError as error:
            unreadable.append(str(error))
    if not pictures:
        raise UserError(f"None of the images could be read: {'; '.join(unreadable[:3])}.")
    return pictures


def _html(name: str, **options: Any) -> gr.HTML:
    """One of our own components: its skeleton and its script, with what the scripts share before it."""
    return gr.HTML(
        html_template=_asset(f"{name}.html"),
        js_on_load=f"{_asset('shared.js')}\n{_asset(f'{name}.js')}",
        apply_default_css=False,
        elem_id=f"aloe-{name}",
        **options,
    )


def _asset(name: str) -> str:
    return resources.files("aloe.apps.explorer").joinpath("assets", name).read_text(encoding="utf-8")
