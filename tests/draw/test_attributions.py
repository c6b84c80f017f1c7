"""Galleries of attributions: which picture stands where, how it is drawn, and what is written."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from aloe.core.errors import UserError
from aloe.draw.attributions import Column, comparison_gallery, comparison_row, save_gallery, to_pixels
from aloe.draw.explanations import over_white, signed_map
from aloe.draw.figures import drawn


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.fixture
def images(random):
    return random.integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)


def maps(random, count=3, side=8):
    return [random.normal(size=(side, side)) for _ in range(count)]


def texts(figure):
    return [text.get_text() for text in figure.texts]


def test_an_image_stays_rgba_goes_over_white_and_a_map_becomes_signed_colours(random):
    rgb, rgba = (random.integers(0, 256, (5, 6, c), dtype=np.uint8) for c in (3, 4))
    signed = random.normal(size=(5, 6)).astype(np.float32)
    assert to_pixels(rgb) is rgb
    assert np.array_equal(to_pixels(rgba), over_white(torch.from_numpy(rgba)).numpy())
    assert np.array_equal(to_pixels(signed), signed_map(torch.from_numpy(signed)[None])[0].numpy())


def test_values_that_are_not_finite_are_grey_and_do_not_change_the_scale():
    values = np.array([[1.0, -1.0, 0.0], [np.nan, np.inf, -np.inf]])
    pixels = to_pixels(values)
    assert (pixels[1] == 190).all()
    assert np.array_equal(pixels[0], to_pixels(np.nan_to_num(values, nan=0, posinf=0, neginf=0))[0])
    assert (pixels[0, 2] == 255).all()
    assert (to_pixels(np.full((2, 2), np.nan)) == 190).all()
    assert (to_pixels(np.zeros((2, 2))) == 255).all()


@pytest.mark.parametrize("picture", [np.zeros((4, 4, 4)), np.zeros((4, 4, 2), np.uint8), np.zeros(4)])
def test_another_array_is_no_picture(picture):
    with pytest.raises(ValueError, match="A picture is"):
        to_pixels(picture)


def test_a_gallery_has_a_picture_for_every_image_and_method_in_their_order(random, images):
    columns = [Column(title, maps(random)) for title in ("AttnLRP", "LIME")]
    figure = comparison_gallery(images, columns, ["a\n0.9", "b", "c"])
    shown = [axes.images[0].get_array() for axes in figure.axes]
    expected = [p for n in range(3) for p in (images[n], *(to_pixels(c.pictures[n]) for c in columns))]
    assert len(shown) == 9
    assert all(np.array_equal(a, b) for a, b in zip(shown, expected, strict=True))
    boxes = [axes.get_position() for axes in figure.axes]
    for n in range(3):
        row = boxes[3 * n : 3 * n + 3]
        assert len({round(box.y0, 6) for box in row}) == 1
        assert [box.x0 for box in row] == sorted(box.x0 for box in row)
    assert boxes[0].y0 > boxes[3].y1, "the next image stands below"
    assert texts(figure) == ["Input", "AttnLRP", "LIME", "a\n0.9", "b", "c"]


def test_models_stand_below_their_headings(random, images):
    columns = [Column("AttnLRP", maps(random), "Teacher"), Column("W(x)x", maps(random), "Aligned student")]
    columns.insert(1, Column("Integrated Gradients", maps(random), "Teacher"))
    figure = comparison_gallery(images, columns)
    assert texts(figure) == ["Input", "AttnLRP", "Integrated Gradients", "W(x)x", "Teacher", "Aligned student"]
    (teacher, student), boxes = figure.artists, [axes.get_position() for axes in figure.axes[:4]]
    assert teacher.get_xdata() == pytest.approx([boxes[1].x0, boxes[2].x1])
    assert student.get_xdata() == pytest.approx([boxes[3].x0, boxes[3].x1])


def test_nothing_overlaps_in_a_large_gallery_and_everything_lies_on_the_page(random):
    images = random.integers(0, 256, (4, 4, 4, 3), dtype=np.uint8)
    titles = ["W(x)x", "AttnLRP", "Integrated Gradients", "LeGrad", "CheferCAM", "LIME", "Attention rollout", "Random"]
    columns = [
        Column(title, maps(random, 4, 4), group) for group in ("Teacher", "An aligned student") for title in titles
    ]
    figure = comparison_gallery(images, columns, ["red-breasted merganser with a long name\n0.98"] * 4)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.texts] + [axes.get_window_extent() for axes in figure.axes]
    page = figure.bbox
    for n, box in enumerate(boxes):
        assert page.x0 <= box.x0 + 1 and box.x1 <= page.x1 + 1 and page.y0 <= box.y0 + 1 and box.y1 <= page.y1 + 1  # noqa: PT018
        for other in boxes[n + 1 :]:
            apart = box.x1 <= other.x0 + 1 or other.x1 <= box.x0 + 1 or box.y1 <= other.y0 + 1 or other.y1 <= box.y0 + 1
            assert apart, (box, other)


def test_a_heading_that_does_not_fit_is_cut(random, images):
    figure = comparison_gallery(images, [Column("a", maps(random), "facebook/dinov3-vits16-" * 3)])
    figure.draw_without_rendering()
    heading, box = figure.texts[-1], figure.axes[1].get_window_extent()
    assert heading.get_text().startswith("facebook/")
    assert heading.get_text().endswith("…")
    assert heading.get_window_extent().width < 1.1 * box.width


def test_images_keep_their_shape(random):
    wide = [random.integers(0, 256, (4, 8, 3), dtype=np.uint8), random.integers(0, 256, (8, 8, 3), dtype=np.uint8)]
    figure = comparison_gallery(wide, [])
    ratios = [axes.get_window_extent().height / axes.get_window_extent().width for axes in figure.axes]
    assert ratios == pytest.approx([0.5, 1])


def test_a_missing_picture_is_a_dash(random, images):
    figure = comparison_gallery(images[:1], [Column("LIME", [None])])
    assert [text.get_text() for text in figure.axes[1].texts] == ["\u2013"]
    assert not figure.axes[1].images


def test_words_are_words(images):
    figure = comparison_gallery(images[:1], [Column("$x^2$", [None], "_group")], ["_a $b"])
    assert b"\\$x^2" not in drawn(figure, "svg"), "no mathematics, no backslash"
    assert figure.texts[-1].get_text() == " _a \\$b"


@pytest.mark.parametrize(("columns", "titles"), [([Column("a", [None])], ()), ([], ["a"])])
def test_numbers_must_match(images, columns, titles):
    with pytest.raises(ValueError, match="for 3 images"):
        comparison_gallery(images, columns, titles)


def test_no_image_is_no_gallery():
    with pytest.raises(ValueError, match="at least one image"):
        comparison_gallery([], [])


@pytest.mark.parametrize("name", ["a.png", "a.JPG", "a.jpeg", "a.pdf", "a.svg"])
def test_a_file_is_what_its_ending_says(tmp_path, random, images, name):
    figure = comparison_gallery(images, [Column("AttnLRP", maps(random))])
    path = tmp_path / "new" / name
    save_gallery(figure, path)
    data = path.read_bytes()
    save_gallery(figure, path)
    assert path.read_bytes() == data, "the same bytes every time"
    assert [p.name for p in path.parent.iterdir()] == [name]
    if name.endswith("pdf"):
        assert data.startswith(b"%PDF")
        assert data.count(b"/Width 8") == 6, "six rasters at their own resolution"
    elif name.endswith("svg"):
        assert data.count(b"<image") == 6
        assert data.count(b"image-rendering") >= 6
    else:
        with Image.open(io.BytesIO(data)) as picture:
            assert picture.format == {"a.png": "PNG"}.get(name, "JPEG")
            assert picture.width > 600


def test_pixels_stay_squares_of_one_colour(tmp_path, images):
    save_gallery(comparison_gallery(images, []), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        colours = {tuple(c) for c in np.asarray(picture.convert("RGB")).reshape(-1, 3)}
    assert colours >= {tuple(c) for c in images.reshape(-1, 3)}
    mixed = {c for c in colours - {tuple(c) for c in images.reshape(-1, 3)} if len(set(c)) > 1}
    assert len(mixed) < 4 * 8 * 3 * 4, "none but pixels below the thin border of a picture"


def test_a_large_picture_is_averaged_and_a_file_stays_small(tmp_path, random):
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[:, ::2] = 255
    noise = random.integers(0, 256, (400, 400, 3), dtype=np.uint8)
    figure = comparison_gallery([stripes, noise], [])
    save_gallery(figure, tmp_path / "a.png", largest=60_000)
    assert (tmp_path / "a.png").stat().st_size <= 60_000
    with Image.open(tmp_path / "a.png") as picture:
        first = np.asarray(picture.convert("L")).astype(float)
    row = first[first.shape[0] // 3, first.shape[1] // 4 : first.shape[1] // 2]
    assert 100 < row.mean() < 155
    assert row.std() < 40, "no aliasing of stripes narrower than a pixel"


def test_another_ending_and_a_folder_that_is_a_file(tmp_path, images):
    figure = comparison_gallery(images, [])
    with pytest.raises(UserError, match=re.escape("a.gif is no picture's name; it may end in .png")):
        save_gallery(figure, tmp_path / "a.gif")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        save_gallery(figure, tmp_path / "file" / "a.png")


def test_one_image_as_a_row_of_pixels(random, images):
    columns = [Column("AttnLRP", maps(random)), Column("W(x)x", [None] * 3, "student")]
    sheet = comparison_row(images[1], columns, 1, side=16)
    pixels = np.asarray(sheet)[:16]
    assert np.array_equal(pixels[::2, :16:2], images[1])
    assert np.array_equal(pixels[::2, 24:40:2], to_pixels(columns[0].pictures[1]))
    assert (pixels[:, 48:] == 255).all()
