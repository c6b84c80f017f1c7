"""Oddities of image files against pixel values known beforehand."""

from __future__ import annotations

import copy
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from aloe.core.errors import UserError
from aloe.data import decode
from aloe.data.decode import DataError, UnreadableImage, decode_image, is_image_name


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(data: bytes | Path | Image.Image) -> np.ndarray:
    image = decode_image(data)
    assert image.mode == "RGB"
    return np.asarray(image)


def noise(width: int = 40, height: int = 24) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_are_exact(kind: str, tmp_path: Path) -> None:
    data = encoded(noise(), kind)
    (tmp_path / "image").write_bytes(data)
    np.testing.assert_array_equal(pixels(data), np.asarray(noise()))
    np.testing.assert_array_equal(pixels(tmp_path / "image"), np.asarray(noise()))


def test_opened_image_is_left_unchanged() -> None:
    grey = Image.new("L", (4, 3), 7)
    assert (pixels(grey) == 7).all()
    assert grey.mode == "L"


def test_cmyk_jpeg() -> None:
    cmyk = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    got = pixels(encoded(cmyk, "JPEG", quality=95))
    np.testing.assert_allclose(got, np.broadcast_to([0, 255, 255], got.shape), atol=4)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(kind: str) -> None:
    ramp = np.array([[0, 128, 129, 257, 32768, 65406, 65535]], dtype=np.uint16)
    got = pixels(encoded(Image.fromarray(ramp), kind))
    expected = np.round(ramp / 65535 * 255)
    np.testing.assert_array_equal(got, np.repeat(expected[..., None], 3, axis=2))


def test_big_endian_sixteen_bit_tiff() -> None:
    ramp = np.array([[0, 1000, 65535]], dtype=">u2")
    got = pixels(encoded(Image.frombytes("I;16B", (3, 1), ramp.tobytes()), "TIFF"))
    np.testing.assert_array_equal(got[0, :, 0], [0, 4, 255])


def test_sixteen_bit_colour_png() -> None:
    """Written by hand, since Pillow writes none: one pixel (65535, 32768, 256)."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    row = b"\0" + struct.pack(">HHH", 65535, 32768, 256)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    data += chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    np.testing.assert_array_equal(pixels(data), [[[255, 128, 1]]])


def test_integer_and_float_images() -> None:
    integers = Image.fromarray(np.array([[0, 65535, 257]], dtype=np.int32))
    np.testing.assert_array_equal(pixels(integers)[0, :, 0], [0, 255, 1])
    floats = Image.fromarray(np.array([[0.0, 1.0, 0.5]], dtype=np.float32))
    np.testing.assert_array_equal(pixels(encoded(floats, "TIFF"))[0, :, 0], [0, 255, 128])


@pytest.mark.parametrize(
    "values",
    [
        np.array([[-1]], np.int32),
        np.array([[70000]], np.int32),
        np.array([[1.5]], np.float32),
        np.array([[np.nan]], np.float32),
    ],
)
def test_values_outside_their_range_are_refused(values: np.ndarray) -> None:
    with pytest.raises(UnreadableImage, match="outside"):
        decode_image(Image.fromarray(values))


def test_palette_with_and_without_transparency_is_composited_on_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    np.testing.assert_array_equal(pixels(encoded(image)), [[[10, 20, 30], [200, 100, 50]]])
    got = pixels(encoded(image, transparency=0))
    np.testing.assert_array_equal(got, [[[255, 255, 255], [200, 100, 50]]])


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGBA", (200, 0, 100, 0), (255, 255, 255)),
        ("RGBA", (200, 0, 100, 255), (200, 0, 100)),
        ("RGBA", (0, 0, 0, 51), (204, 204, 204)),
        ("LA", (100, 0), (255, 255, 255)),
        ("LA", (100, 255), (100, 100, 100)),
    ],
)
def test_alpha_is_composited_on_white(mode: str, colour: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert tuple(pixels(encoded(Image.new(mode, (3, 3), colour)))[1, 1]) == expected


@pytest.mark.parametrize("mode", ["La", "RGBa"])
def test_premultiplied_alpha(mode: str) -> None:
    straight = Image.new("LA" if mode == "La" else "RGBA", (2, 2), "red")
    assert decode_image(straight.convert(mode)).tobytes() == decode_image(straight).tobytes()


def test_transparent_colour_of_an_rgb_png() -> None:
    image = Image.new("RGB", (2, 1), (1, 2, 3))
    image.putpixel((1, 0), (9, 9, 9))
    got = pixels(encoded(image, transparency=(1, 2, 3)))
    np.testing.assert_array_equal(got, [[[255, 255, 255], [9, 9, 9]]])


def test_one_bit() -> None:
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    np.testing.assert_array_equal(pixels(encoded(image))[0, :, 0], [0, 255])


@pytest.mark.parametrize(("kind", "options"), [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})])
def test_first_frame_of_an_animation(kind: str, options: dict[str, bool]) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    with Image.open(BytesIO(data)) as image:
        assert getattr(image, "n_frames", 1) == 3
    assert (pixels(data) == [255, 0, 0]).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_exif_orientation(kind: str, orientation: int) -> None:
    """A viewer shows the stored rows and columns where the EXIF standard says they go."""
    upright = np.asarray(noise(48, 32)) if kind != "JPEG" else np.zeros((32, 48, 3), np.uint8)
    if kind == "JPEG":  # flat blocks survive the compression
        upright[:16, :16, 0], upright[16:, 32:, 1] = 255, 255
    stored = {  # the inverse of what the viewer does
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95, "subsampling": 0}}.get(kind, {})
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **options)
    atol = 12 if kind == "JPEG" else 0
    np.testing.assert_allclose(pixels(data).astype(int), upright.astype(int), atol=atol)


@pytest.mark.filterwarnings("ignore:::PIL")  # it remarks on the damage
def test_damaged_exif_does_not_make_an_image_unreadable() -> None:
    data = encoded(noise(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert decode_image(data).size == (40, 24)


@pytest.mark.parametrize(("draft", "side"), [(None, 800), (500, 800), (400, 400), (101, 200), (1, 100)])
def test_draft_decodes_no_smaller_than_asked(draft: int | None, side: int) -> None:
    data = encoded(Image.new("RGB", (1200, 800), "teal"), "JPEG")
    assert min(decode_image(data, draft_size=draft).size) == side


def test_draft_rule_sees_the_upright_size() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.new("RGB", (64, 32)), "JPEG", exif=exif)
    seen = []
    decode_image(data, draft_size=lambda size: seen.append(size) or 32)
    assert seen == [(32, 64)]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 4000))
def test_truncated_jpeg_is_unreadable(keep: int) -> None:
    whole = encoded(noise(64, 64), "JPEG")
    with pytest.raises(UnreadableImage, match=r"cut.jpg: "):
        decode_image(whole[: min(keep, len(whole) // 2)], name="cut.jpg")


@pytest.mark.filterwarnings("ignore:::PIL")  # it remarks on the damage
@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"]), st.data())
def test_damage_gives_an_image_or_unreadable_image(kind: str, data: st.DataObject) -> None:
    """Whatever bytes are flipped, no other exception leaves the decoder."""
    content = bytearray(encoded(noise(16, 16), kind))
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        mode = decode_image(bytes(content)).mode
    except UnreadableImage:
        mode = "RGB"
    assert mode == "RGB"


def test_not_an_image_and_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match=r"a.txt: not an image"):
        decode_image(b"hello", name="a.txt")
    with pytest.raises(UnreadableImage, match="No such file"):
        decode_image(tmp_path / "none.png")


def test_formats_that_start_other_programs_are_not_tried() -> None:
    with pytest.raises(UnreadableImage, match="not an image"):
        decode_image(encoded(noise(), "EPS"))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9_500, 20_000])  # above our limit; above Pillow's own
def test_bombs_are_refused_unread(side: int) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    data = bytearray(encoded(Image.new("1", (8, 8))))
    data[16:24] = struct.pack(">II", side, side)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    with pytest.raises(UnreadableImage, match=r"pixels"):
        decode_image(bytes(data))
    assert limit == Image.MAX_IMAGE_PIXELS


def test_files_past_the_size_limit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(encoded(noise()))
    monkeypatch.setattr(decode, "MAX_BYTES", 100)
    with pytest.raises(UnreadableImage, match="MiB"):
        decode_image(tmp_path / "a.png")


def test_errors_read_as_one_sentence() -> None:
    error = UnreadableImage("x.png", "broken")
    assert isinstance(error, UserError)
    assert str(copy.copy(error)) == "x.png: broken"
    traceback = "Caught DataError in worker.\n  raise DataError(...)\naloe.DataError: Two: parts.\n"
    assert str(DataError(traceback)) == "Two: parts."


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.JPG", True),
        ("a/b.webp", True),
        ("a/b.txt", False),
        (".a.png", False),
        ("__MACOSX/._a.png", False),
        (".git/a.png", False),
        ("a.b/c.d.png", True),
    ],
)
def test_is_image_name(name: str, expected: bool) -> None:
    assert is_image_name(name) is expected
