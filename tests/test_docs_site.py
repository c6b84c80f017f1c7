"""The documentation site builds strictly (no link or anchor leads nowhere), from the disk alone, and asks no other host."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import aloe
from places import ROOT

DOCS = ROOT / "docs"
# What a browser fetches by itself when it opens a page; links that people follow may lead anywhere.
FETCHED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*?\bsrc=[\"']?(?:https?:)?//|<link\b[^>]*?\bhref=[\"']?https?://"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
    folder = tmp_path_factory.mktemp("site")
    offline = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | offline, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_nothing_is_fetched_from_other_hosts(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        assert not FETCHED.search(page.read_text()), page.name
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\([\"']?https?://|@import", sheet.read_text()), sheet.name


def test_every_public_name_and_every_verb_is_in_the_reference(site):
    public = (site / "reference" / "public.html").read_text()
    assert [n for n in aloe.__all__ if f'id="aloe.{n}"' not in public] == []
    from typer.main import get_command

    from aloe.cli.main import app

    commands = (site / "reference" / "commands.html").read_text()
    assert [v for v in get_command(app).commands if f'id="aloe-{v}' not in commands] == []


def test_pages_name_no_place_of_their_making():
    for page in [ROOT / "README.md", ROOT / "CHANGELOG.md", *DOCS.rglob("*.md")]:
        assert not re.search(r"(?<![\w.])/(?:work|root|tmp|home)/", page.read_text()), page
