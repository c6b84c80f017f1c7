"""Bytes to an upright 8-bit RGB image: the one place where the oddities of image files are dealt
with.

Whatever a file holds (CMYK, 16 bits, a palette, transparency, several frames, a rotated camera) the
rest of the package sees one RGB image as a viewer would show it, or an `UnreadableImage` that names
the file and says why.
"""

from __future__ import annotations

import re
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib import import_module
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from aloe.core.errors import UserError
from aloe.core.files import read_bytes

MAX_PIXELS = 89_478_485  # a quarter of a gibibyte as RGB; larger images are refused unread
MAX_ASPECT = 100  # longer over shorter side
MAX_BYTES = 1 << 28  # the same quarter gibibyte for the file itself
# What Pillow may try: photographs and web graphics, nothing that starts another program (EPS).
# The last two may be missing from a build of Pillow, which then must have tried the others.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "PPM", "WEBP", "AVIF")
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".avif"),
    *(".jpe", ".mpo", ".dib", ".apng"),
)
# Images too, of formats that are read where a plugin of Pillow for them is installed, or not at all: they count as
# images, so that they are named where they cannot be read.
OTHER_EXTENSIONS = (
    *(".heic", ".heif", ".hif", ".heics", ".heifs", ".avifs", ".jxl", ".jp2", ".j2k", ".jpf", ".jpx", ".jxr", ".wdp"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw"),
    *(".psd", ".tga", ".exr", ".svg", ".eps", ".pcx", ".ico", ".dds", ".xcf"),
)

DraftSize = int | Callable[[tuple[int, int]], int]


class UnreadableImage(UserError):
    """An image that cannot be decoded; `name` says which and `reason` why."""

    def __init__(self, name: str, reason: str = "unreadable") -> None:
        super().__init__(name, reason)
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class DataError(UserError):
    """A `UserError` met inside a loader's worker: stays one sentence when torch raises it again in
    the parent.

    torch builds the parent's exception from the worker's whole traceback as text; only what follows
    the last mention of this class is the sentence.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rsplit(f"{type(self).__name__}: ", 1)[-1].strip())


def is_image_name(name: str) -> bool:
    """Whether a name ends like an image and no part of it is hidden (`.git/x.png`, `a/._x.png`)."""
    return name.lower().endswith((*EXTENSIONS, *OTHER_EXTENSIONS)) and not name.startswith(".") and "/." not in name


def is_read_name(name: str) -> bool:
    """Whether the name is of a format that is read without a plugin."""
    return name.lower().endswith(EXTENSIONS)


def decode_image(
    data: bytes | Path | Image.Image,
    *,
    name: str | None = None,
    draft_size: DraftSize | None = None,
) -> Image.Image:
    """The image as upright 8-bit RGB.

    Transparent pixels are composited on white; of an animation the first frame is taken; 16-bit
    grey is scaled to 8 bits by rounding v / 257; EXIF orientation is applied. Integer ("I") images
    are read as 16 bits and float ("F") images as [0, 1]. CMYK is converted without a colour
    profile.

    Args:
        data: The file's bytes, its path, or an already opened image (its current frame; left
            unchanged).
        name: What to call the image in errors; default: the path.
        draft_size: JPEG only: the shorter side, in pixels, that is enough; decoding may stop at a
            half, quarter or eighth of the full resolution that is no smaller. Or a function of the
            upright (W, H) that returns it.

    Raises:
        UnreadableImage: Not an image, truncated, more than `MAX_PIXELS` pixels, or values outside
            their range.
    """
    label = name or (str(data) if isinstance(data, Path) else "image")
    try:
        if isinstance(data, Image.Image):
            check_size(data)
            return _upright(data, _rgb(data))
        with quiet(), _opened(_file_bytes(data)) as image:
            check_size(image)
            width, height = image.size
            if draft_size is not None and image.format in ("JPEG", "MPO"):
                if callable(draft_size):
                    sideways = _orientation(image) >= 5
                    draft_size = draft_size((height, width) if sideways else (width, height))
                image.draft("RGB", (draft_size, draft_size))
            return _upright(image, _rgb(image))
    except BROKEN as error:
        raise UnreadableImage(label, reason_of(error)) from error


# What Pillow's readers raise on damaged input.
BROKEN: tuple[type[BaseException], ...] = (
    *(OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, AttributeError),
    *(ArithmeticError, NotImplementedError, struct.error, zlib.error),
    *(Image.DecompressionBombError, Image.DecompressionBombWarning),
)

_TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


# Formats that plugins of Pillow add, by the name they register; how a file begins that needs one, and what to say of it.
_PLUGIN_FORMATS = ("HEIF", "AVIF", "JXL")
_PLUGINS = {"pillow_heif": "register_heif_opener", "pillow_jxl": None, "pillow_avif": None}
_NEEDS = (
    (
        re.compile(rb"....ftyp(heic|heix|heim|heis|hevc|hevx|mif1|msf1)", re.DOTALL),
        "HEIC, which needs the package pillow-heif",
    ),
    (
        re.compile(rb"....ftypavi[fs]", re.DOTALL),
        "AVIF, which needs a Pillow built with it, or the package pillow-avif-plugin",
    ),
    (re.compile(rb"\xff\x0a|\0\0\0\x0cJXL ", re.DOTALL), "JPEG XL, which needs the package pillow-jxl-plugin"),
)


def _opened(data: bytes) -> Image.Image:
    """Pillow's image, by the formats we read; by those of installed plugins where none of ours fits."""
    try:
        return Image.open(BytesIO(data), formats=FORMATS)
    except (UnidentifiedImageError, LookupError):
        needs = next((words for begins, words in _NEEDS if begins.match(data)), None)
        if needs is None:
            raise
        _load_plugins()
        if formats := [name for name in _PLUGIN_FORMATS if name in Image.OPEN]:
            with suppress(UnidentifiedImageError):
                return Image.open(BytesIO(data), formats=formats)
    raise ValueError(f"{needs} to be read")


@lru_cache
def _load_plugins() -> None:
    for module, register in _PLUGINS.items():
        with suppress(ImportError, AttributeError):
            plugin = import_module(module)
            if register:
                getattr(plugin, register)()


def _file_bytes(data: bytes | Path) -> bytes:
    if isinstance(data, bytes):
        return data
    try:
        return read_bytes(data, MAX_BYTES)
    except UserError as error:
        raise ValueError(f"not a regular file, or of more than {MAX_BYTES >> 20} MiB") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without Pillow's warnings, which are on the metadata of images that it reads well."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def check_size(image: Image.Image) -> None:
    """Raises ValueError for an image that is too large, or of a shape that no view can be cut from."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels, more than the limit of {MAX_PIXELS}")
    if min(width, height) < 1 or max(width, height) > MAX_ASPECT * min(width, height):
        raise ValueError(f"{width} x {height} pixels, a shape that no view can be cut from")


def _rgb(image: Image.Image) -> Image.Image:
    """Any mode to RGB; the pixels are loaded here."""
    image.load()
    if image.mode.startswith("I;16"):
        return _grey((np.asarray(image).astype(np.uint32) + 128) // 257)
    if image.mode == "I":
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("integer pixels outside 0..65535; save it with 8 or 16 bits")
        return _grey((values + 128) // 257)
    if image.mode == "F":
        values = np.asarray(image)
        if not (values.min() >= 0 and values.max() <= 1):  # also refuses NaN
            raise ValueError("float pixels outside [0, 1]; save it with 8 or 16 bits")
        return _grey(np.rint(values * 255))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        if image.mode == "La":  # Pillow converts it to LA only
            image = image.convert("LA")
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values.astype(np.uint8)).convert("RGB")


def _upright(opened: Image.Image, image: Image.Image) -> Image.Image:
    turn = _TURN.get(_orientation(opened))
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int:
    if not image.info.keys() & {"exif", "xmp"}:
        return 1
    try:
        return int(image.getexif().get(0x0112, 1))
    except BROKEN:  # a damaged EXIF block does not make the picture unreadable
        return 1


def reason_of(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image in a format that is read"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
