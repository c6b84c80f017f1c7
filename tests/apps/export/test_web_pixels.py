"""The page's arithmetic in a real browser against Python's, pixel by pixel: resampling, files, the colour explanation."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from aloe.data.decode import decode_image
from aloe.data.transforms import ResizeCenterCrop
from aloe.draw.explanations import colour_explanation, gaussian_smooth, signed_map
from apps.export.students import rand
from apps.export.web_pages import ASSETS, static
from browser import open_browser, open_page

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("modules")
    for path in ASSETS.glob("*.js"):
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "index.html").write_text("<!DOCTYPE html><title>empty</title>")
    with static(folder) as url, open_browser() as browser, open_page(browser) as page:
        page.goto(url)
        page.evaluate(
            """() => {
              globalThis.bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
              globalThis.floats = text => new Float32Array(bytes(text).buffer);
              globalThis.text = array => {
                const all = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
                let found = '';
                for (let i = 0; i < all.length; i += 32768) found += String.fromCharCode(...all.subarray(i, i + 32768));
                return btoa(found);
              };
            }"""
        )
        yield page


def encoded(array: Any) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """Bytes with hard edges, where rounding and overshoot show."""
    rng = np.random.default_rng(seed)
    array = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    array[: height // 2, : width // 2] = np.where(array[: height // 2, : width // 2] > 127, 255, 0)
    return Image.fromarray(array)


def squared(page: Any, image: Image.Image, side: int, resample: str, shorter: int | None = None) -> np.ndarray:
    rgba = np.asarray(image.convert("RGBA"))
    script = """async ([data, width, height, to]) => {
      const { square } = await import('./resize.js'), all = bytes(data);
      const rows = (first, count) => all.subarray(4 * width * first, 4 * width * (first + count));
      return text(square(rows, width, height, to));
    }"""
    to = {"side": side, "shorter": shorter or side, "resample": resample}
    found = page.evaluate(script, [encoded(rgba), *image.size, to])
    return np.frombuffer(base64.b64decode(found), np.uint8).reshape(side, side, 3)


@pytest.mark.parametrize("resample", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    ("size", "side"),
    [
        ((32, 32), 32),  # as it is
        ((45, 32), 32),  # cut alone
        ((33, 32), 32),  # half a pixel too wide, which Python rounds to the even one
        ((640, 427), 224),
        ((427, 640), 224),
        ((97, 301), 64),
        ((21, 19), 64),  # enlarged
        ((1601, 1203), 32),  # fifty to one
        ((64, 6000), 32),
    ],
)
def test_the_square_is_that_of_pillow_byte_for_byte(page, size, side, resample):
    image = noise(*size)
    expected = ResizeCenterCrop(side, resample=Image.Resampling[resample.upper()])(image)
    assert np.array_equal(squared(page, image, side, resample), np.asarray(expected))


def test_a_square_cut_from_a_larger_one(page):
    image = noise(301, 200)
    expected = np.asarray(ResizeCenterCrop(64, crop_fraction=0.875)(image))
    assert np.array_equal(squared(page, image, 64, "bicubic", shorter=73), expected)


def opened(page: Any, data: bytes, name: str) -> dict[str, Any]:
    """What `image.js` makes of a file: the pixels over white, or the sentence that refuses it."""
    script = """async ([data, name]) => {
      const { open, Refused } = await import('./image.js');
      try {
        const found = await open(new File([bytes(data)], name));
        const { width, height, note } = found, part = Math.min(height, 600);
        return { width, height, note, rows: text(found.rows(0, part)), part };
      } catch (error) { return { sentence: error.message, refused: error instanceof Refused }; }
    }"""
    return page.evaluate(script, [base64.b64encode(data).decode(), name])


def pixels(found: dict[str, Any]) -> np.ndarray:
    shape = (found["part"], found["width"], 4)
    return np.frombuffer(base64.b64decode(found["rows"]), np.uint8).reshape(shape)[..., :3]


def file(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP"])
def test_files_without_loss_give_pythons_pixels(page, kind):
    data = file(noise(41, 30), kind, **({"lossless": True} if kind == "WEBP" else {}))
    assert np.array_equal(pixels(opened(page, data, "x")), np.asarray(decode_image(data)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_camera_is_turned_back(page, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    smooth = noise(6, 4).resize((96, 64), Image.Resampling.BICUBIC)
    data = file(smooth, "JPEG", quality=95, subsampling=0, exif=exif)
    found, expected = pixels(opened(page, data, "x.jpg")).astype(int), np.asarray(decode_image(data)).astype(int)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 2


def test_an_embedded_profile_changes_nothing(page):
    """Python reads the numbers of a file, whatever colours they stand for; the page does too."""
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    plain = noise(20, 20)
    data = file(plain, "PNG", icc_profile=profile)
    assert np.array_equal(pixels(opened(page, data, "x.png")), np.asarray(plain))


def test_transparent_pixels_lie_over_white(page):
    rgba = np.dstack([np.asarray(noise(30, 30)), np.random.default_rng(1).integers(0, 256, (30, 30), dtype=np.uint8)])
    data = file(Image.fromarray(rgba), "PNG")
    found, expected = pixels(opened(page, data, "x.png")).astype(int), np.asarray(decode_image(data)).astype(int)
    assert np.abs(found - expected).max() <= 2


def test_of_a_gif_the_first_frame_with_a_sentence(page):
    frames = [Image.new("RGB", (20, 16), colour) for colour in ("red", "blue")]
    data = file(frames[0], "GIF", save_all=True, append_images=frames[1:])
    found = opened(page, data, "wave.gif")
    assert found["note"] == "wave.gif is a GIF: its first frame is explained."
    assert (pixels(found) == (255, 0, 0)).all()


SVG = b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><circle r="4"/></svg>'


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("notes.jpg", b"These are my notes.\n" * 9, "notes.jpg is no image but a text, whatever its name says."),
        ("drawing.svg", SVG, "drawing.svg is an SVG, a drawing without pixels: save it as PNG."),
        ("plain.svg", b"<svg width='9'/>", "plain.svg is an SVG, a drawing without pixels: save it as PNG."),
        ("empty.png", b"", "empty.png is empty."),
        (
            "x.heic",
            b"\0\0\0\x18ftypheic\0\0\0\0",
            "x.heic is a HEIC photograph, which browsers do not read: save it as JPEG.",
        ),
        ("x.tif", b"II*\0" + bytes(40), "x.tif is a TIFF, which browsers do not read: save it as PNG or JPEG."),
        ("x.pdf", b"%PDF-1.7\n", "x.pdf is a PDF: save the picture in it as PNG or JPEG."),
        ("x.bin", bytes(range(256)), "x.bin is no image of a kind that is read (JPEG, PNG, WebP, AVIF, BMP, GIF)."),
    ],
)
def test_one_sentence_for_what_is_no_photograph(page, name, data, sentence):
    assert opened(page, data, name) == {"sentence": sentence, "refused": True}


def test_a_damaged_photograph(page):
    data = bytearray(file(noise(40, 40), "PNG"))
    data[60:] = bytes(len(data) - 60)
    found = opened(page, bytes(data), "torn.png")
    assert found == {"sentence": "torn.png is damaged, or of a kind that this browser does not read.", "refused": True}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP"])
def test_fifty_million_pixels_are_refused_before_they_are_decoded(page, kind):
    """The header is enough: of a file that is cut after it, nothing could be decoded."""
    size = (8688, 5792) if kind != "WEBP" else (8000, 6300)
    data = file(Image.new("L" if kind != "WEBP" else "RGB", size, 7), kind)[: 1 << 16]
    found = opened(page, data, f"large.{kind.lower()}")
    millions = f"{size[0] * size[1] / 1e6:.1f}"
    expected = (
        f"large.{kind.lower()} has {size[0]} x {size[1]} pixels, {millions} million; an image may have 50 million"
    )
    assert found["sentence"] == f"{expected}: make it smaller."
    assert found["refused"]


def test_a_camera_of_just_under_fifty_million_pixels_is_read(page):
    image = Image.new("RGB", (8640, 5760), (90, 120, 30))
    found = opened(page, file(image, "JPEG"), "large.jpg")
    assert (found["width"], found["height"]) == (8640, 5760)
    assert np.abs(pixels(found).astype(int) - (90, 120, 30)).max() <= 2


def test_a_strip_of_pixels_is_refused(page):
    found = opened(page, file(Image.new("RGB", (2000, 10)), "PNG"), "strip.png")
    assert found["sentence"] == "strip.png has 2000 x 10 pixels, a shape that no square can be cut from."


def maps(seed: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """W(x) and contributions that are smooth here, noise there, and 0 somewhere."""
    weights = rand(1, 6, side, side, seed=seed) - 0.5
    weights[..., : side // 2] = gaussian_smooth(weights[0, ..., : side // 2].contiguous(), 9)[None]
    weights[..., :2, :] = 0
    return weights, (weights * rand(1, 6, side, side, seed=seed + 1)).sum(1)


@pytest.mark.parametrize(("side", "smooth"), [(32, 0), (64, 5), (224, 0)])
def test_colours_are_those_of_python(page, side, smooth):
    """At most one level of 255 apart, and that for few: sums are taken in another order."""
    weights, contributions = maps(side, side)
    script = """async ([weights, contributions, side, smooth]) => {
      const { colourExplanation, signedMap } = await import('./colour.js'), values = floats(contributions);
      return [text(colourExplanation(floats(weights), values, side, side, smooth)), text(signedMap(values))];
    }"""
    found = page.evaluate(script, [encoded(weights.numpy()), encoded(contributions.numpy()), side, smooth])
    colour, signed = (np.frombuffer(base64.b64decode(f), np.uint8).reshape(side, side, 4).astype(int) for f in found)
    for ours, theirs in (
        (colour, colour_explanation(weights, contributions, smooth or None)[0].numpy()),
        (signed[..., :3], signed_map(contributions)[0].numpy()),
    ):
        apart = np.abs(ours - theirs.astype(int))
        assert apart.max() <= 1
        assert (apart > 0).mean() < 1e-3
        assert theirs.std() > 20, "vacuous: nothing is shown"
    assert (signed[..., 3] == 255).all()


def test_a_map_of_zeros_is_blank(page):
    script = """async () => {
      const { colourExplanation, signedMap } = await import('./colour.js');
      return [...colourExplanation(new Float32Array(6 * 16), new Float32Array(16), 4, 4), ...signedMap(new Float32Array(16))];
    }"""
    found = np.array(page.evaluate(script)).reshape(2, 16, 4)
    zero = colour_explanation(torch.zeros(1, 6, 4, 4), torch.zeros(1, 4, 4))[0].numpy().reshape(16, 4)
    assert np.array_equal(found[0], zero)
    assert (found[1] == 255).all()


def test_nothing_leaves_the_machine(page):
    assert page.asked == {"127.0.0.1"}
    assert page.errors == []
