"""A small study of random maps, its application, and a client that walks through it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from fastapi.testclient import TestClient

from aloe.apps.study.answers import read_studies
from aloe.apps.study.pictures import image_png, map_png
from aloe.apps.study.server import create_app
from aloe.apps.study.settings import RANDOM, StudySettings
from aloe.apps.study.store import Material, Store, create_study

METHODS = ("inherent", "attnlrp", "lime")
SECRET = "a secret of the tests"
START = {"agree": "yes"}


def write_study(path: Path, images: int = 4, **settings) -> Path:
    """A study of 6 trials, 1 for practice, 1 check of each kind and 1 repeat, unless told otherwise."""
    values = {"methods": METHODS, "trials": 6, "practice": 1, "identical": 1, "random": 1, "repeats": 1} | settings
    chosen, rng = StudySettings.of(**values), torch.Generator().manual_seed(0)
    material = [
        Material(
            f"photo-{i}.jpg",
            "<b>dog</b>",
            image_png(torch.rand(3, 32, 32, generator=rng)),
            {m: map_png(torch.randn(32, 32, generator=rng)) for m in dict.fromkeys((*chosen.methods, RANDOM))},
        )
        for i in range(images)
    ]
    create_study(path, chosen, material)
    return path


@contextmanager
def serving(path: Path, **options) -> Iterator[TestClient]:
    with TestClient(create_app(Store(path), SECRET, **options)) as client:
        yield client


def fields(page: str) -> dict[str, str]:
    """The hidden fields of a page's form."""
    return dict(re.findall(r'type="hidden" name="(\w+)" value="(\w+)"', page))


def start(client: TestClient) -> str:
    """Agree, and return the session's path; the client forgets its cookies, so that the next is another person."""
    form = fields(client.get("/").text)
    response = client.post("/start", data=form | START, follow_redirects=False)
    assert response.status_code == 303
    client.cookies.clear()
    return response.headers["location"]


def answer(client: TestClient, path: str, choice: str = "left"):
    """Answer the trial that is shown, and return the response to it (not that of the next trial)."""
    form = fields(client.get(f"{path}/trial").text)
    return client.post(f"{path}/answer", data=form | {"choice": choice}, follow_redirects=False)


def read_answers(paths):
    """The answers of files, without notes on them."""
    return read_studies(paths)[0]
