"""The explorer's page in a real browser: every control, by mouse, finger and keyboard, and no host but this machine."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager

import pytest
from explorers import STUDENT, TEACHER, bomb, encoded, scene, scene_explorer, scene_models

from aloe.apps.explorer.explorer import Explorer
from aloe.apps.explorer.page import build_app
from aloe.apps.explorer.view import Aim, View
from aloe.attribution.inherent import explain
from aloe.models.convert import bcosify
from aloe.models.teachers import load_teacher
from aloe.models.text import load_text_tower
from browser import open_browser, open_page, serving
from pairs import write_pair

pytestmark = pytest.mark.browser
HOSTILE = "1 <img src=x onerror=window.hacked=1> & 'quotes'.png"
OWN = f'.aloe-panel[data-model="{STUDENT}"][data-method="inherent"]'


@pytest.fixture(scope="module")
def browser():
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    (folder / "0.png").write_bytes(encoded(scene(0)))
    (folder / HOSTILE).write_bytes(encoded(scene(1)))
    explorer = Explorer({STUDENT: scene_models()[STUDENT], TEACHER: scene_models()[TEACHER]}, options={})
    with serving(build_app(explorer, folder)) as url:
        yield url


@pytest.fixture(scope="module")
def desktop(browser):
    with open_page(browser) as page:
        yield page


@pytest.fixture
def page(desktop, url):
    """The page as it is opened."""
    yield from opened(desktop, url)


@pytest.fixture
def phone(browser, url):
    with open_page(browser, phone=True) as page:
        yield from opened(page, url)


def opened(page, url):
    page.goto(url)
    settled(page)
    yield page
    assert page.asked == {"127.0.0.1"}
    assert page.errors == []


def settled(page, turn: int = 0) -> None:
    """Wait until all explanations of a question after the one of that turn are there."""
    script = "turn => { const d = document.querySelector('.aloe-panels')?.dataset; return d?.turn > turn && !d.busy; }"
    page.wait_for_function(script, arg=turn)


@contextmanager
def answered(page):
    """What is done within the block asks a question; on leaving it is answered."""
    turn = int(page.locator(".aloe-panels").get_attribute("data-turn"))
    yield
    settled(page, turn)


def target(page) -> str:
    return page.locator(f"{OWN} .aloe-value").inner_text().split(":")[0]


def shown(page) -> str:
    return page.locator(f"{OWN} .aloe-map").get_attribute("src")


def choose(page, label: str) -> None:
    with answered(page):
        page.locator(f'.aloe-prediction[data-label="{label}"]').first.click()


def centre(page, row: int, column: int, selector: str = f"{OWN} .aloe-stack") -> tuple[float, float]:
    box = page.locator(selector).bounding_box()
    return box["x"] + box["width"] * (column + 0.5) / 64, box["y"] + box["height"] * (row + 0.5) / 64


def drag(page, corners: tuple[float, float, float, float]) -> None:
    box = page.locator(".aloe-input").bounding_box()
    x0, y0, x1, y1 = (box["xy"[i % 2]] + box[("width", "height")[i % 2]] * share for i, share in enumerate(corners))
    page.mouse.move(x0, y0)
    page.mouse.down()
    page.mouse.move((x0 + x1) / 2, (y0 + y1) / 2, steps=3)
    page.mouse.move(x1, y1, steps=3)
    page.mouse.up()


def after(page, title: str) -> float:
    return float(page.locator(f'.aloe-change[data-model="{title}"]').get_attribute("data-after"))


def test_the_first_image_is_explained_with_top_predictions(page):
    logits = scene_models()[TEACHER](explorer_input(0)).logits[0].softmax(0)
    rows = page.locator(".aloe-list").filter(has_text=TEACHER).locator(".aloe-prediction").all_inner_texts()
    names = scene_models()[TEACHER].config.id2label
    assert [re.split(r"\s+", r)[0] for r in rows] == [names[i] for i in logits.topk(5).indices.tolist()]
    assert f"{100 * float(logits.max()):.1f}" in rows[0]
    methods = page.locator("figure[data-method]").evaluate_all("all => all.map(f => f.dataset.method)")
    assert methods == ["inherent", "attnlrp", "attnlrp"]
    assert page.title() == "ALOE: explanations"


def explorer_input(index: int):
    explorer = scene_explorer()
    return explorer.open(scene(index), "x").tensor(64)


def test_another_image_and_another_class_change_the_picture(page):
    first = shown(page)
    with answered(page):
        page.get_by_role("button", name="1 <img").click()
    assert shown(page) != first
    assert page.evaluate("window.hacked") is None  # the name of the file is text
    assert HOSTILE in page.locator(".aloe-panel").first.inner_text()
    assert page.locator("img[src=x]").count() == 0
    second, label = (
        shown(page),
        page.locator('.aloe-prediction[aria-pressed="false"]').nth(2).get_attribute("data-label"),
    )
    choose(page, label)
    assert shown(page) != second
    assert target(page) == label
    assert page.locator(f'.aloe-prediction[data-label="{label}"][aria-pressed="true"]').count() >= 1


def test_a_pixel_reads_its_contribution(page):
    choose(page, "cup")
    expected = explain(scene_models()[STUDENT], explorer_input(0), "cup").contributions[0]
    for row, column in ((0, 0), (30, 41), (63, 63)):
        page.mouse.move(*centre(page, row, column))
        reading = page.locator(f"{OWN} .aloe-reading")
        assert reading.get_attribute("data-row") == str(row)
        assert reading.get_attribute("data-column") == str(column)
        value = float(expected[row, column])
        assert float(reading.get_attribute("data-value")) == pytest.approx(value, rel=1e-4, abs=1e-9)
        said = reading.inner_text().partition(": ")[2].replace("\u2212", "-")
        assert float(said) == pytest.approx(value, rel=1e-3)
        # the other maps are read at the same place
        assert page.locator("figure[data-method=attnlrp] .aloe-reading").first.get_attribute("data-row") == str(row)


def test_the_overlay_goes_from_the_image_to_the_explanation(page):
    under, over = page.locator(f"{OWN} img").first, page.locator(f"{OWN} .aloe-map")
    looks = []
    for value in (100, 50, 0):
        page.locator(".aloe-overlay").fill(str(value))
        opacity = [float(img.evaluate("img => getComputedStyle(img).opacity")) for img in (under, over)]
        assert opacity == [1 - value / 100, min(1, value / 50)]
        looks.append(page.locator(f"{OWN} .aloe-stack").screenshot())
    assert len(set(looks)) == 3
    colour = shown(page)
    page.locator(".aloe-signed").check()
    assert shown(page) != colour


def test_a_rectangle_changes_the_probability(page):
    explorer = scene_explorer()
    label = target(page)
    before = View(explorer, explorer.open(scene(0), "x")).predictions(TEACHER)[0].probability
    drag(page, (0.2, 0.2, 0.7, 0.7))
    page.wait_for_function("document.querySelectorAll('.aloe-change').length === 2")
    read = "s => ['left', 'top', 'width', 'height'].map(k => parseFloat(s.style[k]) / 100)"
    left, top, width, height = page.locator(".aloe-selection").evaluate(read)
    corners = (left, top, left + width, top + height)
    assert corners == pytest.approx((0.2, 0.2, 0.7, 0.7), abs=0.01)
    view = View(explorer, explorer.open(scene(0), "x"), Aim(label=label))
    for keep in (False, True):
        if keep:
            page.locator(".aloe-region select").first.select_option("1")
        expected = [(c.title, c.after) for c in view.region([STUDENT, TEACHER], corners, keep=keep)]
        assert expected[1][1] != pytest.approx(before, abs=1e-3)
        page.wait_for_function(  # the last of the drag's questions comes last
            "all => all.every(([title, after]) => [...document.querySelectorAll('.aloe-change')].some("
            "c => c.dataset.model === title && Math.abs(c.dataset.after - after) < 1e-5))",
            arg=expected,
        )
    kept = after(page, TEACHER)
    page.locator(".aloe-region select").nth(1).select_option("blur")
    page.wait_for_function(
        "([title, kept]) => document.querySelector(`.aloe-change[data-model='${title}']`).dataset.after !== String(kept)",
        arg=[TEACHER, kept],
    )


def test_what_is_downloaded_is_complete(page):
    choose(page, "tree")
    with page.expect_download() as download:
        page.get_by_role("button", name="JSON").click()
    found = json.loads(download.value.path().read_text())
    own = next(p for p in found["panels"] if p["method"] == "inherent")
    total = sum(map(sum, own["contributions"])) + own["residual"]
    assert total == pytest.approx(own["value"], abs=1e-5)
    logit = scene_models()[STUDENT](explorer_input(0)).logits[0, scene_models()[STUDENT].config.label2id["tree"]]
    assert own["value"] == pytest.approx(float(logit.detach()), abs=1e-4)
    assert (len(own["contributions"]), len(own["contributions"][0])) == (64, 64)
    assert found["aim"]["class"] == "tree"
    assert found["image"]["name"] == "0.png"
    assert [p["model"] for p in found["predictions"]] == [STUDENT, TEACHER]
    for selector in (".aloe-png", f"{OWN} .aloe-save"):
        with page.expect_download() as download:
            page.locator(selector).click()
        assert download.value.path().read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
        assert download.value.suggested_filename.endswith(".png")


def test_an_upload_is_explained_and_a_wrong_one_is_a_sentence(page, tmp_path):
    def upload(name: str, data: bytes) -> None:
        (tmp_path / name).write_bytes(data)
        page.set_input_files("input[type=file]", tmp_path / name)

    with answered(page):
        upload("mine.png", encoded(scene(3).resize((200, 120))))
    page.wait_for_selector('button[aria-label="mine.png"][aria-pressed="true"]')
    assert re.search("mine.png, 200 . 120", page.locator(".aloe-panel").first.inner_text())
    before = shown(page)
    wrong = {
        "words.png": (b"words", "words.png: not an image"),
        "cut.png": (encoded(scene(2).resize((300, 300)))[:4000], "cut.png: image file is truncated"),
        "bomb.png": (bomb(), "bomb.png has 8000 x 8000 pixels; an image may have 50 million."),
        "huge.png": (bytes(21 << 20), "huge.png has 21.0 MiB; an image may have 20 MiB."),
        "<b>.png": (b"", "<b>.png: not an image"),
    }
    for name, (data, words) in wrong.items():
        upload(name, data)
        page.wait_for_function("words => document.querySelector('#aloe-status').innerText.startsWith(words)", arg=words)
        assert "\n" not in page.locator("#aloe-status [role=alert]").inner_text()
        assert shown(page) == before
    assert page.get_by_text("Traceback").count() == 0


def test_everything_can_be_done_by_keyboard(page):
    page.locator("body").click(position={"x": 5, "y": 5})
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("(document.activeElement.className + ' ' + document.activeElement.type).trim()"))
    for control in (
        "file",
        "range",
        "checkbox",
        "aloe-prediction",
        "aloe-input",
        "select-one",
        "aloe-json",
        "aloe-save",
    ):
        assert any(control in r for r in reached), control
    page.locator('button[aria-label^="1 <img"]').focus()
    with answered(page):
        page.keyboard.press("Enter")
    page.wait_for_selector('button[aria-label^="1 <img"][aria-pressed="true"]')
    button = page.locator('.aloe-prediction[aria-pressed="false"]').first
    label = button.get_attribute("data-label")
    button.focus()
    with answered(page):
        page.keyboard.press("Enter")
    assert target(page) == label
    assert page.evaluate("document.activeElement.dataset.label") == label  # the focus is not lost
    page.locator(".aloe-overlay").focus()
    page.keyboard.press("Home")
    assert page.locator(f"{OWN} .aloe-map").evaluate("img => getComputedStyle(img).opacity") == "0"
    page.locator(".aloe-input").focus()
    page.keyboard.press("ArrowRight")
    reading = page.locator(f"{OWN} .aloe-reading")
    column = int(reading.get_attribute("data-column"))
    page.keyboard.press("ArrowRight")
    assert int(reading.get_attribute("data-column")) > column
    for key in ["Shift+ArrowRight"] * 8 + ["Shift+ArrowDown"] * 8:
        page.keyboard.press(key)
    page.wait_for_selector(".aloe-change")
    page.keyboard.press("Escape")
    assert page.locator(".aloe-selection").is_hidden()
    page.locator("#methods input").last.focus()
    with answered(page):
        page.keyboard.press("Space")
    assert page.locator("figure[data-method=random]").count() == 2


def test_it_works_with_a_finger(phone):
    page = phone
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator(f"{OWN} .aloe-stack").scroll_into_view_if_needed()
    page.touchscreen.tap(*centre(page, 20, 30))
    expected = explain(scene_models()[STUDENT], explorer_input(0), target(page)).contributions[0, 20, 30]
    reading = page.locator(f"{OWN} .aloe-reading")
    assert float(reading.get_attribute("data-value")) == pytest.approx(float(expected), rel=1e-4, abs=1e-9)
    images, explained, settings = (
        page.locator(f"#aloe-{p}").bounding_box()["y"] for p in ("images", "explained", "settings")
    )
    assert images < explained < settings


def test_a_text_is_explained(browser, tmp_path):
    teacher = load_teacher(write_pair(tmp_path / "siglip", "siglip"))
    explorer = Explorer({"student": bcosify(teacher)}, towers={"student": load_text_tower(tmp_path / "siglip")})
    with serving(build_app(explorer, "scenes:2@7@32")) as url, open_page(browser) as page:
        page.goto(url)
        settled(page)
        for words in ("a photo of a cactus", "<i>the tree</i>"):
            page.get_by_label("Explain a text").fill(words)
            with answered(page):
                page.get_by_label("Explain a text").press("Enter")
            page.wait_for_selector(f'.aloe-prediction[data-label="{words}"][aria-pressed="true"]')
        assert page.locator(".aloe-prediction").count() == 2
        with answered(page):
            page.locator(".aloe-prediction").filter(has_text="cactus").click()
        page.wait_for_selector('.aloe-prediction[data-label="a photo of a cactus"][aria-pressed="true"]')
        assert page.errors == []
        assert page.asked == {"127.0.0.1"}
