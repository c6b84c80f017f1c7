"""The study's web application: pages made on the server, plain forms, no script needed, nothing from other hosts.

A participant's state is in the file, never in the process: a link shows where its session stands, whenever it is opened. An
answer is acknowledged (by the redirect to the next trial) after it is durable. Every form carries a signature of the session,
the trial and the time at which it was shown, so that no other page and no other session can send it.
"""

from __future__ import annotations

import asyncio
import secrets
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from typing import Annotated, Any

import jinja2
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from starlette.exceptions import HTTPException as AnyHTTPException

from aloe.apps.study.answers import FORMATS, progress, stored_answers
from aloe.apps.study.security import SecurityHeaders, TooLarge, number, read_form, same, sign
from aloe.apps.study.store import LEFT, RIGHT, TIE, Refused, Session, Store
from aloe.apps.study.trials import PRACTICE

SESSION, START = "aloe-study", "aloe-study-start"  # cookies: the personal link's token; what the start form is bound to
_MONTH = 30 * 24 * 3600
_STATIC = {"study.css": "text/css", "study.js": "text/javascript", "icon.svg": "image/svg+xml"}
_WORDS = {
    401: "This page needs the study's secret as its password.",
    404: "There is no such page; please check the link that you were given.",
    405: "There is no such page; please check the link that you were given.",
}


def create_app(store: Store, secret: str, *, invited_only: bool = False) -> FastAPI:
    """The application for an open study; it closes the store when it stops.

    Args:
        secret: the password of /admin, of at least 16 characters.
        invited_only: sessions only by links of `aloe study invite`; otherwise whoever opens / may start one.
    """
    if len(secret) < 16:
        raise ValueError("The secret of the admin page has at least 16 characters.")

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        store.close()

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.add_middleware(SecurityHeaders)
    page = _Pages(store)

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        token = request.path_params.get("token")
        status, link = 413 if isinstance(error, TooLarge) else 409, f"/s/{token}" if token else None
        return page("message.html", status, words=str(error), link=link)

    @app.exception_handler(AnyHTTPException)
    async def failed(_request: Request, error: AnyHTTPException) -> Response:
        words = _WORDS.get(error.status_code, "This does not work.")
        return page("message.html", error.status_code, error.headers, words=words, link=None)

    @app.get("/")
    async def home(request: Request) -> Response:
        token = request.cookies.get(SESSION, "")
        if token and store.session(token):
            return page("welcome_back.html", link=f"/s/{token}")
        if invited_only:
            words = "This study is by invitation; please open the personal link that you were given."
            return page("message.html", words=words, link=None)
        nonce = request.cookies.get(START) or secrets.token_urlsafe(16)
        response = page("consent.html", action="/start", form=sign(store.key, "start", nonce))
        _set_cookie(response, request, START, nonce)
        return response

    @app.post("/start")
    async def start(request: Request) -> Response:
        form, nonce = await read_form(request), request.cookies.get(START, "")
        if not nonce or not same(form.get("form", ""), sign(store.key, "start", nonce)):
            raise Refused("Please start from the study's first page, with cookies allowed.")
        _check_consent(form)
        if invited_only:
            raise HTTPException(404)
        cookie = request.cookies.get(SESSION, "")
        token = cookie if cookie and store.session(cookie) else await asyncio.wrap_future(store.start())
        return _begin(request, token)

    _add_session(app, store, page)
    _add_files(app, store)
    _add_admin(app, store, page, secret)
    return app


def _add_session(app: FastAPI, store: Store, page: _Pages) -> None:
    """The pages of a participant's own link."""

    @app.get("/s/{token}")
    async def resume(token: str) -> Response:
        session = _session(store, token)
        if not session.started:
            return page("consent.html", action=f"/s/{token}/start", form=sign(store.key, "consent", token))
        if session.answered:
            return _see(f"/s/{token}/trial")
        return page("instructions.html", session=session, link=f"/s/{token}")

    @app.post("/s/{token}/start")
    async def consent(request: Request, token: str) -> Response:
        form = await read_form(request)
        _session(store, token)
        if not same(form.get("form", ""), sign(store.key, "consent", token)):
            raise Refused("Please use the form of the page.")
        _check_consent(form)
        return _begin(request, await asyncio.wrap_future(store.start(token)))

    @app.get("/s/{token}/trial")
    async def trial(token: str) -> Response:
        session = _session(store, token)
        if not session.started:
            return _see(f"/s/{token}")
        if session.finished:
            return page("finished.html", session=session)
        shown, now = store.shown(session.participant, session.answered), int(1000 * time.time())
        form = sign(store.key, "answer", token, shown.position, now)
        practising = shown.kind == PRACTICE
        at, of = shown.position + 1, store.settings.practice if practising else session.total - store.settings.practice
        step = {"practice": practising, "at": at if practising else at - store.settings.practice, "of": of}
        return page("trial.html", trial=shown, step=step, form=form, shown=now, link=f"/s/{token}")

    @app.post("/s/{token}/answer")
    async def answer(request: Request, token: str) -> Response:
        form = await read_form(request)
        session = _session(store, token)
        position, shown = number(form.get("position", "")), number(form.get("shown", ""))
        if not same(form.get("form", ""), sign(store.key, "answer", token, position, shown)):
            raise Refused("This form belongs to another session.")
        seconds = max(0.0, time.time() - shown / 1000)
        await asyncio.wrap_future(store.answer(session.participant, position, form.get("choice", ""), seconds))
        return _see(f"/s/{token}/trial")


def _add_files(app: FastAPI, store: Store) -> None:
    """Pictures of the trials, style and script."""

    @app.get("/picture/{identity}")
    async def picture(identity: str) -> Response:
        png = store.picture(identity)
        if png is None:
            raise HTTPException(404)
        return Response(png, media_type="image/png", headers={"Cache-Control": f"private, max-age={_MONTH}, immutable"})

    static = {name: resources.files("aloe.apps.study").joinpath("static", name).read_bytes() for name in _STATIC}

    @app.get("/static/{name}")
    async def file(name: str) -> Response:
        if name not in static:
            raise HTTPException(404)
        return Response(static[name], media_type=_STATIC[name], headers={"Cache-Control": "max-age=3600"})


def _add_admin(app: FastAPI, store: Store, page: _Pages, secret: str) -> None:
    """The page of those who ask, behind the password."""

    def admin(given: Annotated[HTTPBasicCredentials, Depends(HTTPBasic(realm="study"))]) -> None:
        if not same(given.password, secret):
            raise HTTPException(401, headers={"WWW-Authenticate": 'Basic realm="study"'})

    @app.get("/admin", dependencies=[Depends(admin)])
    def overview() -> Response:
        return page("admin.html", rows=(rows := progress(store.path)), counts=_counts(rows))

    @app.get("/admin/answers.{kind}", dependencies=[Depends(admin)])
    def export(kind: str) -> Response:
        if kind not in FORMATS:
            raise HTTPException(404)
        headers = {"Content-Disposition": f'attachment; filename="answers.{kind}"'}
        return PlainTextResponse(FORMATS[kind](stored_answers(store.path)), headers=headers)


class _Pages:
    """Templates with everything escaped."""

    def __init__(self, store: Store) -> None:
        loader = jinja2.PackageLoader("aloe.apps.study")
        self._environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, loader=loader)
        self._environment.filters["moment"] = lambda t: time.strftime("%Y-%m-%d %H:%M", time.gmtime(t)) if t else ""
        choices = {"LEFT": LEFT, "RIGHT": RIGHT, "TIE": TIE}
        self._environment.globals.update(settings=store.settings, **choices)

    def __call__(self, name: str, status: int = 200, headers: Any = None, **values: Any) -> HTMLResponse:
        return HTMLResponse(self._environment.get_template(name).render(**values), status, headers)


def _session(store: Store, token: str) -> Session:
    session = store.session(token)
    if session is None:
        raise HTTPException(404)
    return session


def _check_consent(form: dict[str, str]) -> None:
    if form.get("agree") != "yes":
        raise Refused("To take part, please say on the page before that you agree.")


def _begin(request: Request, token: str) -> Response:
    response = _see(f"/s/{token}")
    _set_cookie(response, request, SESSION, token)
    return response


def _see(path: str) -> RedirectResponse:
    """The next page, which the browser gets with GET: reloading it sends nothing again."""
    return RedirectResponse(path, 303)


def _set_cookie(response: Response, request: Request, name: str, value: str) -> None:
    secure = request.url.scheme == "https"
    response.set_cookie(name, value, _MONTH, httponly=True, samesite="lax", secure=secure)


def _counts(rows: list[dict[str, Any]]) -> dict[str, Any]:
    took = [row["finished"] - row["started"] for row in rows if row["finished"]]
    return {
        "invited": sum(row["started"] is None for row in rows),
        "started": sum(row["started"] is not None for row in rows),
        "finished": len(took),
        "answers": sum(row["answered"] for row in rows),
        "minutes": statistics.median(took) / 60 if took else None,
    }
