"""Settings tell every mistake in one sentence, also one of several fields together."""

from __future__ import annotations

import pytest
from pydantic import model_validator

from aloe.core.errors import UserError
from aloe.core.settings import Checked


class Range(Checked):
    low: int = 0
    high: int = 1

    @model_validator(mode="after")
    def _order(self):
        if self.low > self.high:
            raise ValueError("Low is above high")
        return self


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"low": 3}, r"^Wrong settings: low is above high\.$"),
        ({"low": "a", "high": "b"}, r"^Wrong settings: low: .* \(got 'a'\); high: .* \(got 'b'\)\.$"),
        ({"side": 1}, r"^Wrong settings: side: unknown\.$"),
        ({"hihg": 1}, r"high"),
    ],
)
def test_mistakes_are_one_sentence(values, words):
    with pytest.raises(UserError, match=words):
        Range.of(**values)
    assert Range.of(low=0, high=2).high == 2
