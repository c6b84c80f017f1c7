"""How a picture becomes what a vision encoder reads: the square that the checkpoint's image processor makes of it, at any
number of pixels, so that a student of another patch size sees the same."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from aloe.core.errors import UserError
from aloe.models.geometry import side
from aloe.models.processor import normalisation, pixels_of_use, read_processor


@dataclass(frozen=True)
class View:
    """How a picture becomes a square: `pad`ded with the mean colour, its longer side cut (`crop`), or `squash`ed."""

    how: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shorter: float = 1.0
    """Of `crop`: the shorter side over the side of what is cut out."""
    resample: int = 3

    def picture(self, image: Image.Image, side: int) -> Image.Image:
        """RGB at side x side pixels."""
        image = image.convert("RGB")
        method = Image.Resampling(self.resample)
        if self.how == "pad" and image.width != image.height:
            longer = max(image.size)
            page = Image.new("RGB", (longer, longer), tuple(int(255 * m) for m in self.mean))  # type: ignore[arg-type]
            page.paste(image, ((longer - image.width) // 2, (longer - image.height) // 2))
            image = page
        if self.how != "crop":
            return image.resize((side, side), method)
        scale = side * self.shorter / min(image.size)
        width, height = (max(side, int(s * scale + 1e-9)) for s in image.size)
        left, top = (width - side) // 2, (height - side) // 2
        return image.resize((width, height), method).crop((left, top, left + side, top + side))

    def normalize(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] to what a tower reads."""
        mean = pixels.new_tensor(self.mean)[:, None, None]
        return (pixels - mean) / pixels.new_tensor(self.std)[:, None, None]


def view_of(name: str, *, pad: bool = False) -> View:
    """The view that a checkpoint's image processor describes.

    Args:
        pad: LLaVA's `image_aspect_ratio: pad`, before the processor's own steps.

    Raises:
        UserError: there is no image processor.
    """
    stated = read_processor(name)
    if not stated:
        raise UserError(f"{name} has no image processor; its folder needs a preprocessor_config.json.")
    where = f"{name}: its image processor"
    mean, std = normalisation(stated, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), where)
    resample = stated.get("resample", 3)
    if resample not in range(6):
        raise UserError(f"{where}: resample must be a whole number from 0 to 5, got {resample!r}.")
    shorter, how = 1.0, "pad" if pad or stated.get("do_pad") else "squash"
    if how == "squash" and stated.get("do_center_crop"):
        cut, size = pixels_of_use({"crop_size": stated.get("crop_size")}, where), stated.get("size")
        edge = size.get("shortest_edge") if isinstance(size, dict) else size
        edge = None if edge is None else side(edge, f"{where}: size")
        how, shorter = "crop", max(1.0, edge / cut) if cut and edge else 1.0
    return View(how, mean, std, shorter, int(resample))
