"""Two images in the explorer: the numbers behind the page, then the page itself in a real browser."""

from __future__ import annotations

import pytest
import torch
from explorers import STUDENT, TEACHER, close, picture, scene, scene_explorer, scene_models, tensor

from aloe.apps.explorer.alike import Features, PairView
from aloe.apps.explorer.explorer import Explorer
from aloe.apps.explorer.page import build_app
from aloe.attribution.alike.similarity import similarity
from aloe.core.errors import UserError
from browser import open_browser, open_page, serving

BOTH = [TEACHER, STUDENT]
SETTLED = "turn => { const d = document.querySelector('.aloe-panels')?.dataset; return d?.turn > turn && !d.busy; }"


@pytest.fixture(scope="module")
def pair():
    explorer = scene_explorer()
    return PairView.of(explorer, BOTH, picture(explorer, 0), picture(explorer, 1))


def expected():
    return similarity(scene_models()[STUDENT], tensor(scene(0)), tensor(scene(1)))


def test_both_maps_are_those_of_the_first_student(pair):
    found = expected()
    assert pair.entry.title == STUDENT
    for answer, side in zip(pair.answers(), (found.a, found.b), strict=True):
        assert close(answer.found.contributions, side.contributions)
        assert float(answer.found.logit) == pytest.approx(float(found.cosine), abs=1e-5)


def test_a_rectangle_on_either_side_is_explained_on_the_other(pair):
    box, pixels = (0.25, 0.125, 0.75, 0.5), (16, 8, 32, 24)
    for side, found in (("b", expected()), ("a", expected().swapped())):
        answer, there = pair.region(side, box), found.regions([pixels])
        assert answer.side == ("a" if side == "b" else "b")
        assert close(answer.found.contributions, there.in_a.contributions)
        back = pair.swapped().region("a" if side == "b" else "b", box)
        assert back.side == side
        assert close(back.found.contributions, answer.found.contributions)


def test_the_nearest_are_those_of_the_largest_cosine():
    explorer = scene_explorer()
    pictures = [picture(explorer, i) for i in range(5)]
    found = Features(explorer).nearest(BOTH, pictures[2], pictures, count=3)
    with torch.no_grad():
        f = scene_models()[STUDENT](torch.cat([tensor(scene(i)) for i in range(5)]), return_dict=True).pooler_output
    cosines = torch.cosine_similarity(f, f[2:3])
    best = [i for i in cosines.argsort(descending=True).tolist() if i != 2][:3]
    assert [i for i, _ in found] == best
    assert [c for _, c in found] == pytest.approx(cosines[best].tolist(), abs=1e-5)


def test_what_cannot_be_compared(pair):
    explorer = scene_explorer()
    mistakes = {
        "choose one under Models": lambda: PairView.of(explorer, [TEACHER], *pair.pictures),
        "on one of the two images": lambda: pair.region("c", (0, 0, 0.5, 0.5)),
        "inside the image": lambda: pair.region("a", (0.5, 0, 0.5, 0.5)),
    }
    for words, ask in mistakes.items():
        with pytest.raises(UserError, match=words):
            ask()


@pytest.mark.browser
def test_the_page_compares_marks_and_swaps(tmp_path):
    for i in range(4):
        scene(i).save(tmp_path / f"{i}.png")
    explorer = Explorer({STUDENT: scene_models()[STUDENT], TEACHER: scene_models()[TEACHER]})
    with serving(build_app(explorer, tmp_path)) as url, open_browser() as browser, open_page(browser) as page:
        page.goto(url)
        page.wait_for_function(SETTLED, arg=0)
        page.get_by_text("Compare with another image").click()
        page.wait_for_selector(".aloe-sides .aloe-panel")
        near = page.locator(".aloe-near button")
        assert near.count() == 3
        assert "0.png" not in [near.nth(i).get_attribute("title") for i in range(3)]
        heads = page.locator(".aloe-sides b").all_inner_texts()
        assert heads == ["0.png", near.first.get_attribute("title")]
        map_of = '.aloe-sides [data-side="a"] .aloe-map'
        before = page.locator(map_of).get_attribute("src")
        stack = page.locator('.aloe-sides [data-side="b"] .aloe-stack')
        stack.scroll_into_view_if_needed()
        box = stack.bounding_box()
        page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.2 * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.6 * box["height"], steps=3)
        page.mouse.up()
        page.wait_for_function("b => document.querySelector(b[0]).src !== b[1]", arg=[map_of, before])
        assert "rectangle" in page.locator('.aloe-sides [data-side="a"] span').inner_text()
        page.keyboard.press("Escape")
        page.get_by_text("Swap sides").click()
        page.wait_for_function("h => document.querySelector('.aloe-sides b').textContent === h", arg=heads[1])
        page.locator(".aloe-thumbnails button").nth(2).click()
        page.wait_for_function("() => document.querySelector('.aloe-near h3')?.textContent.includes('2.png')")
        page.wait_for_selector(".aloe-sides .aloe-panel")
        assert page.locator(".aloe-sides b").first.inner_text() == "2.png"
        turn = int(page.locator(".aloe-panels").get_attribute("data-turn"))
        page.locator('#models input[type="checkbox"]').first.click()
        page.wait_for_function(SETTLED, arg=turn)
        page.get_by_text("Compare with another image").click()
        page.get_by_text("choose one under Models").wait_for()
        assert page.errors == []
