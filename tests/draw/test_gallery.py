"""Rows, stacks and saved pictures."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from aloe.core.errors import UserError
from aloe.draw.gallery import GAP, row, save_png, stack


def test_a_row_places_pictures_side_by_side_with_captions():
    red, blue = np.zeros((4, 4, 3), np.uint8), Image.new("RGB", (90, 90), (0, 0, 255))
    red[..., 0] = 255
    sheet = row([red, blue], ["a very long caption that cannot fit into the width of a picture", "b"], side=40)
    assert sheet.size == (40 + GAP + 40, 40 + 26)
    assert sheet.getpixel((0, 0)) == sheet.getpixel((39, 39)) == (255, 0, 0)
    assert sheet.getpixel((40 + GAP, 39)) == (0, 0, 255)
    assert sheet.getpixel((40 + GAP // 2, 20)) == (255, 255, 255)
    below = np.asarray(sheet.convert("L"))[40:]
    assert (below[:, :40] < 255).any(), "the caption is drawn"
    assert (below[:, 40 : 40 + GAP] == 255).all(), "and shortened to its picture"


def test_small_pictures_stay_pixels():
    tiny = np.array([[[0, 0, 0], [255, 255, 255]]] * 2, np.uint8)
    assert set(np.asarray(row([tiny], [""], side=8)).flatten()) == {0, 255}


def test_a_row_wants_a_caption_for_every_picture():
    with pytest.raises(ValueError, match="zip"):
        row([np.zeros((4, 4, 3), np.uint8)], [])


def test_a_stack_is_as_wide_as_its_widest_row():
    sheet = stack([Image.new("RGB", (30, 10)), Image.new("RGB", (20, 5))])
    assert sheet.size == (30, 10 + GAP + 5)
    assert sheet.getpixel((25, 10 + GAP + 2)) == (255, 255, 255)


def test_a_png_is_saved_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "new" / "a.png"
    save_png(Image.new("RGB", (5, 5), "red"), path)
    with Image.open(path) as image:
        assert image.getpixel((2, 2)) == (255, 0, 0)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UserError, match=r"a\.png cannot be written: No space left"):
        save_png(Image.new("RGB", (5, 5), "blue"), path)
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]
    assert path.read_bytes() == before


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        save_png(Image.new("RGB", (5, 5)), tmp_path / "file" / "a.png")
