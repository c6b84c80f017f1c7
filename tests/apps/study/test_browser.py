"""A participant at a real browser and the real server: mouse on a phone, keyboard alone, and without scripts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aloe.apps.study.answers import progress, stored_answers
from apps.study.studies import SECRET, write_study
from browser import open_browser, open_page
from places import ROOT

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with open_browser() as browser:
        yield browser


@pytest.fixture
def study(tmp_path) -> Iterator[tuple[Path, str]]:
    """A study of six trials with its server: the file and the address."""
    db = write_study(tmp_path / "study.sqlite", trials=3, ties=True)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "ALOE_STUDY_SECRET": SECRET}
    command = [sys.executable, "-m", "aloe", "study", "serve", "--db", str(db), "--port", "0"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        yield db, process.stdout.readline().split()[4].rstrip("/")
    finally:
        process.terminate()
        process.wait()


def wait_for(page, position):
    """The trial at a position, with its pictures and scripts."""
    page.locator(f"input[name=position][value='{position}']").wait_for(state="attached")
    page.wait_for_load_state()


def check_end(page, db, count):
    (row,) = progress(db)
    assert row["finished"]
    assert page.locator("#code").inner_text() == row["code"]
    assert [a.position for a in stored_answers(db)] == list(range(count))
    assert page.asked == {"127.0.0.1"}
    assert page.errors == []


def test_with_a_finger_on_a_phone(browser, study):
    db, url = study
    with open_page(browser, phone=True) as page:
        complaints = []
        page.on("console", lambda message: complaints.append(message.text))
        page.goto(url)
        page.get_by_role("button", name="Start").tap()
        assert "/s/" not in page.url  # not without the tick
        page.get_by_role("checkbox").tap()
        page.get_by_role("button", name="Start").tap()
        page.get_by_role("link", name="Practice").tap()
        for i in range(7):
            wait_for(page, i)
            buttons = page.locator(".maps button")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            assert page.evaluate("document.documentElement.scrollHeight <= innerHeight")  # a trial is one screen
            assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 100)")
            (buttons.nth(i % 2) if i < 6 else page.get_by_text("No difference")).tap()
        page.locator("#code").wait_for()
        check_end(page, db, 7)
        assert complaints == []  # the policy of contents blocks nothing of ours
    assert [a.choice for a in stored_answers(db)] == ["left", "right"] * 3 + ["tie"]


def test_with_the_keyboard_alone(browser, study):
    db, url = study
    with open_page(browser) as page:
        page.goto(url)
        page.keyboard.press("Tab")
        page.keyboard.press("Space")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_url("**/s/*")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_url("**/trial")
        for i, key in enumerate(("1", "2", "3", "ArrowLeft", "ArrowRight", "ArrowDown", "Tab")):
            wait_for(page, i)
            page.keyboard.press("Enter")  # nothing is marked yet: no answer
            assert len(stored_answers(db)) == i
            page.keyboard.press(key)
            page.keyboard.press("Enter")
        page.locator("#code").wait_for()
        check_end(page, db, 7)
    assert [a.choice for a in stored_answers(db)] == ["left", "right", "tie"] * 2 + ["left"]


def test_without_scripts_and_after_going_back_and_reloading(browser, study):
    db, url = study
    with open_page(browser, java_script_enabled=False) as page:
        page.goto(url)
        page.get_by_role("checkbox").check()
        page.get_by_role("button", name="Start").click()
        link = page.url
        page.get_by_role("link", name="Practice").click()
        page.get_by_role("button", name="The first picture").click()
        wait_for(page, 1)
        page.go_back()
        page.reload()
        assert "1 of 6" in page.content()  # the next trial, not the one that was answered
    with open_page(browser, java_script_enabled=False) as page:  # on another device, by the link
        page.goto(link)
        assert "1 of 6" in page.content()
        for i in range(1, 7):
            wait_for(page, i)
            page.get_by_role("button", name="The second picture").click()
        check_end(page, db, 7)
    assert [a.choice for a in stored_answers(db)] == ["left"] + ["right"] * 6
