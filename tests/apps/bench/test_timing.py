"""Counts done by hand, and the search for the largest number that fits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from aloe.apps.bench.sizes import SIZES, generated_photos, random_teacher
from aloe.apps.bench.timing import count_flops, fits_in_memory, largest, matmul, median_seconds
from aloe.core.errors import UserError


@pytest.mark.parametrize(
    ("true", "start", "low"), [(100, 8, 94), (7, 8, 7), (1, 8, 1), (0, 8, 0), (8, 8, 8), (64, 1, 61)]
)
def test_the_largest_that_fits(true, start, low):
    asked = []

    def fits(count):
        asked.append(count)
        return count <= true

    found = largest(fits, start)
    assert low <= found <= true
    assert len(asked) < 16
    assert len(set(asked)) == len(asked)


def test_the_search_ends_at_its_limit():
    assert largest(lambda count: True, 8, limit=64) == 64


def test_out_of_memory_is_an_answer_and_other_errors_are_not():
    def too_large():
        raise torch.OutOfMemoryError("CUDA out of memory.")

    def broken():
        raise RuntimeError("shapes differ")

    assert fits_in_memory(lambda: None)
    assert not fits_in_memory(too_large)
    with pytest.raises(RuntimeError, match="shapes"):
        fits_in_memory(broken)


def test_flops_of_products_forward_and_backward():
    x, w = torch.randn(5, 7), torch.randn(11, 7, requires_grad=True)
    assert count_flops(lambda: F.linear(x, w)) == 2 * 5 * 7 * 11
    assert count_flops(lambda: F.linear(x, w).sum().backward()) == 2 * 2 * 5 * 7 * 11  # x needs no gradient
    total, a, b = (torch.zeros(shape) for shape in ((5, 11), (5, 7), (7, 11)))
    assert count_flops(lambda: total.addmm_(a, b)) == 2 * 5 * 7 * 11
    q = torch.randn(1, 2, 5, 8, requires_grad=True)
    attention = 2 * (2 * 2 * 5 * 5 * 8)  # heads, scores and values
    assert count_flops(lambda: F.scaled_dot_product_attention(q, q, q)) == attention
    assert count_flops(lambda: F.scaled_dot_product_attention(q, q, q).sum().backward()) == 3.5 * attention
    call, flops = matmul(torch.device("cpu"), torch.float32)
    assert count_flops(call) == flops


def test_calls_are_taken_in_turns_and_the_first_round_is_left_out():
    order, device = [], torch.device("cpu")
    found = median_seconds({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3, device)
    assert order == ["a", "b"] * 4
    assert set(found) == {"a", "b"}
    assert all(taken > 0 for taken in found.values())


def test_sizes_photos_and_the_callers_random_state():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    teacher = random_teacher("Ti", 64)
    assert torch.equal(torch.rand(1), expected)
    assert (teacher.width, teacher.num_layers, teacher.resolution) == (192, 12, 64)
    assert teacher.model.config.intermediate_size == SIZES["Ti"].hidden
    with pytest.raises(UserError, match=r"no size 'XL'.*; sizes: Ti, S, B"):
        random_teacher("XL")
    a, b = generated_photos(2), generated_photos(2)
    assert a.load(1).size == (500, 375)
    assert a.fingerprint() == b.fingerprint() != generated_photos(2, seed=1).fingerprint()
    assert 30_000 < len(a.images[0][1]) < 150_000
