"""The demo's page in a browser: on a phone nothing scrolls sideways, and the tables are whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aloe.apps.demo.localisation import Localisation
from aloe.apps.demo.page import write_page
from browser import DESKTOP, PHONE, open_browser, open_page


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    """A page of made-up numbers and noise, as wide as a whole demo's."""
    rng = np.random.default_rng(0)
    row = {"knn": 98.4, "classifier": 100.0, **{f"after_block_{b}": 0.912 for b in (2, 4, 6)}, "pooled": 0.934}
    facts = {"inside": 81.0, "area": 12.0, "completeness_error": 1.2e-6}
    rows = [{"model": name, **row, **facts} for name in ("teacher", "converted", "aligned")]
    panels = [
        {
            "image": rng.integers(0, 256, (16, 16, 3), dtype=np.uint8),
            "colour": rng.integers(0, 256, (16, 16, 4), dtype=np.uint8),
            "contributions": torch.from_numpy(rng.standard_normal((16, 16), dtype=np.float32)),
            **{
                "label": "cylinder",
                "prediction": "sphere",
                "logit": 4.1,
                "pixels": 4.0,
                "residual": 0.1,
                "inside": 81.0,
            },
        }
        for _ in range(4)
    ]
    tried = ["AttnLRP", "CheferCAM", "LeGrad"]
    found = Localisation(81.2, (74.0, 88.4), "CheferCAM", 41.0, (35.1, 46.9), tried, 8, 25.0)
    log = [{"step": s, "loss": 3.0 / s} for s in (20, 120, 240)]
    return write_page(tmp_path_factory.mktemp("demo"), rows, panels, found, log, {"alignment": 60.0}, 240)


@pytest.mark.parametrize("phone", [True, False])
def test_nothing_scrolls_sideways_and_tables_are_whole(page_file, phone):
    with open_browser() as browser, open_page(browser, phone=phone) as page:
        page.goto(page_file.as_uri())
        width = (PHONE if phone else DESKTOP)["width"]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        ends = "[...document.querySelectorAll('table, figure, svg, code')].map(e => e.getBoundingClientRect().right)"
        assert max(page.evaluate(ends)) <= width, "each part fits without scrolling"
        sizes = "[...document.querySelectorAll('td, th')].map(e => parseFloat(getComputedStyle(e).fontSize))"
        assert min(page.evaluate(sizes)) >= 12
        assert page.errors == []
