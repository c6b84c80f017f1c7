"""What a checkpoint's preprocessor_config.json says, read by one rule for every kind of model, and refused where it is none.

An image processor multiplies bytes by `rescale_factor` (1/255), subtracts `image_mean` and divides by `image_std`. ALOE's
images are in [0, 1], so mean and deviation are brought to that scale: both are divided by 255 * rescale_factor.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from aloe.core.errors import UserError
from aloe.core.files import read_object
from aloe.models.geometry import side

NAME, TOGETHER = "preprocessor_config.json", "processor_config.json"
Triple = tuple[float, float, float]


def read_processor(name: str, revision: str | None = None) -> dict[str, Any]:
    """The fields of a folder's or hub id's image processor; nothing if it has none.

    They stand in preprocessor_config.json, or under `image_processor` in processor_config.json, which goes first.

    Raises:
        UserError: a file that is no JSON object.
    """
    from transformers.utils import cached_file

    for file in (TOGETHER, NAME):
        try:
            path = cached_file(name, file, revision=revision, _raise_exceptions_for_missing_entries=False)
        except OSError:  # out of reach
            path = None
        if path is None or not Path(path).is_file():
            continue
        fields = read_object(Path(path), "fetch it again")
        fields = fields.get("image_processor", {} if file == TOGETHER else fields)
        if not isinstance(fields, dict):
            raise UserError(f"{path}: image_processor is no JSON object; fetch it again.")
        if fields:
            return fields
    return {}


def normalisation(
    fields: Mapping[str, Any], mean: Any, std: Any, where: str, prefix: str = "image_"
) -> tuple[Triple, Triple]:
    """Mean and deviation of images in [0, 1]; those given are used where the fields state none.

    Args:
        prefix: of the names of the two fields; timm's have none.

    Raises:
        UserError: a field that is not understood, by its name.
    """
    scale = 1.0
    if _switch(fields, "do_rescale", where):
        factor = fields.get("rescale_factor")
        if factor is not None:
            if not _number(factor) or factor <= 0:
                raise UserError(f"{where}: rescale_factor must be a positive number, got {factor!r}.")
            scale = 1.0 if abs(255 * factor - 1) < 1e-6 else 255 * float(factor)
    else:
        scale = 255.0
    if not _switch(fields, "do_normalize", where):
        return (0.0, 0.0, 0.0), (1 / scale, 1 / scale, 1 / scale)
    stated_mean, stated_std = fields.get(f"{prefix}mean"), fields.get(f"{prefix}std")
    found_mean = three(mean if stated_mean is None else stated_mean, f"{where}: {prefix}mean")
    found_std = three(std if stated_std is None else stated_std, f"{where}: {prefix}std")
    if min(found_std) <= 0:
        raise UserError(f"{where}: {prefix}std must be positive, got {list(found_std)}.")
    if scale == 1:
        return found_mean, found_std
    shifted, widened = ([v / scale for v in values] for values in (found_mean, found_std))
    return (shifted[0], shifted[1], shifted[2]), (widened[0], widened[1], widened[2])


def pixels_of_use(fields: Mapping[str, Any], where: str) -> int | None:
    """The side that images are cut or brought to; None where the fields state none.

    `crop_size` counts unless `do_center_crop` is false, then `size` unless `do_resize` is.

    Raises:
        UserError: a size that is no square of whole pixels.
    """
    for field, switch in (("crop_size", "do_center_crop"), ("size", "do_resize")):
        size = fields.get(field)
        if size is None or not _switch(fields, switch, where):
            continue
        if isinstance(size, dict):
            size = [size[key] for key in ("height", "width") if size.get(key) is not None]
        if size != []:
            return side(size, f"{where}: {field}")
    return None


def three(values: Any, what: str) -> Triple:
    """Three finite numbers, one for each colour.

    Raises:
        UserError: anything else.
    """
    if not isinstance(values, list | tuple) or len(values) != 3 or not all(map(_number, values)):
        raise UserError(f"{what} must be three numbers, got {values!r}.")
    return float(values[0]), float(values[1]), float(values[2])


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _switch(fields: Mapping[str, Any], name: str, where: str) -> bool:
    value = fields.get(name)
    if value is None:
        return True
    if not isinstance(value, bool):
        raise UserError(f"{where}: {name} must be true or false, got {value!r}.")
    return value
