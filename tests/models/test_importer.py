"""The importer: every word of the tables, blocks written out, and the same sentences for every layout."""

from __future__ import annotations

import pytest
import torch

from aloe.core.errors import UserError
from aloe.models.families import FAMILIES
from aloe.models.geometry import square_grid
from aloe.models.importer import import_tensors, translated, written_out
from aloe.models.published_layout import TENSORS
from aloe.models.rules import Concat, Copy, Either, Fold, Kernel, Part, Positions, Zeros, renamed, sources_of
from aloe.models.timm_layouts import LAYOUTS

A, B = torch.arange(6.0).view(2, 3), torch.arange(6.0, 12.0).view(2, 3)


def made(rule, shape, **source):
    model = {"x": torch.empty(shape)}
    return import_tensors(model, {"x": rule}, source, "here", "the layout", unread=None).tensors["x"]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Copy("a"), A),
        (Concat(("a", "b")), torch.cat((A, B))),
        (Part("a", 1, 2), A[1:]),
        (Part("a", 0, 2, stop=2), A),
        (Kernel("a"), A.view(2, 3, 1, 1)),
        (Positions("a"), A),
        (Positions("a"), torch.cat((torch.zeros(1, 3), A))),
        (Zeros(), torch.zeros(4)),
        (Either((Copy("c"), Copy("b"))), B),
        (Copy("a"), A[None]),
    ],
    ids=str,
)
def test_what_a_rule_makes(rule, expected):
    found = made(rule, expected.shape, a=A, b=B)
    assert torch.equal(found, expected)
    assert found.data_ptr() not in (A.data_ptr(), B.data_ptr())


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (Copy("c"), r"here: tensor 'c' of the layout is missing\."),
        (Either((Copy("c"), Copy("d"))), r"here: tensor 'c' of the layout is missing\."),
        (Copy("a"), r"here: 'a' has shape \(2, 3\), from which x of shape \(7,\) cannot be made."),
        (Part("a", 2, 3), r"'a' has shape \(2, 3\), from which x"),
        (Kernel("a"), r"'a' has shape \(2, 3\), from which x"),
        (Concat(("a", "e")), r"'a' has shape \(2, 3\), from which x"),
    ],
    ids=str,
)
def test_what_is_refused(rule, words):
    with pytest.raises(UserError, match=words):
        made(rule, (7,), a=A, b=B, e=torch.ones(5))


def test_what_is_left_over():
    model, rules, source = {"x": A, "new": A}, {"x": Copy("a")}, {"a": A, "head.weight": B, "b": B}
    result = import_tensors(model, rules, source, "here", "the layout", unread=None)
    assert (list(result.tensors), result.left) == (["x"], ["head.weight", "b"])
    with pytest.raises(UserError, match=r"here: 1 tensors are no part of the layout, first 'b'\."):
        import_tensors(model, rules, source, "here", "the layout", unread=("head",))


def test_a_table_is_written_out():
    table = {"layers.{i}.w": Concat(("b.{i}.q", "b.{i}.k")), "stem.{j}": Either((Copy("s.{j}"),)), "n": Zeros()}
    assert written_out(table, i=2, j=1) == {
        "layers.0.w": Concat(("b.0.q", "b.0.k")),
        "layers.1.w": Concat(("b.1.q", "b.1.k")),
        "stem.0": Either((Copy("s.0"),)),
        "n": Zeros(),
    }


def test_words_of_a_rule():
    rule = Fold("{i}.weight", "{i}.bias", (0.5,) * 3)
    assert sources_of(rule) == ["{i}.weight", "{i}.bias"]
    assert renamed(rule, "{i}", "4") == Fold("4.weight", "4.bias", (0.5,) * 3)
    assert sources_of(Fold("w", None)) == ["w"]
    assert translated("encoder.layer.0.mlp", [("encoder.layer.", "layers.")]) == "layers.0.mlp"


@pytest.mark.parametrize("rows", [16, 17, 18, 0])
def test_square_grids(rows):
    assert square_grid(rows, (0, 1)) == {16: 4, 17: 4}.get(rows)


def test_every_table_numbers_what_it_reads_as_it_numbers_what_it_makes():
    tables = [f.tensors for f in FAMILIES] + [layout.tensors for layout in LAYOUTS] + [TENSORS]
    for table in tables:
        for name, rule in table.items():
            rules = rule.rules if isinstance(rule, Either) else (rule,)
            for source in (s for r in rules for s in sources_of(r)):
                assert [mark in name for mark in ("{i}", "{j}")] == [mark in source for mark in ("{i}", "{j}")]
