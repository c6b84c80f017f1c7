"""Students on disk: saved so that a folder is whole or untouched, loaded without ever running remote code."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from aloe.core.errors import UserError
from aloe.core.torch_state import in_plain_torch
from aloe.models.configuration import BcosViTConfig
from aloe.models.headers import check_finite, shapes_of
from aloe.models.hub import explain_hub_errors
from aloe.models.labels import STATED as LABELS
from aloe.models.labels import set_labels
from aloe.models.modeling import BcosViTForImageClassification, BcosViTModel
from aloe.models.pretrained import is_weight_file, missing_weights, read_pretrained, stated_classes
from aloe.models.published import is_published, load_published
from aloe.models.stated import hold_against, stated
from aloe.models.unwrap import common_prefix
from aloe.models.zoo_models import locate


@in_plain_torch
def load(source: str | Path, **options: Any) -> BcosViTModel | BcosViTForImageClassification:
    """A saved student, in eval mode, from a folder, a hub id or the zoo; of the first two, `AutoModel.from_pretrained` too.

    The authors' published checkpoints (`rmaser/aloe-...`) are translated on the way, see `published.load_published`.

    Raises:
        UserError: nothing there, not a student of ALOE, or weights that are missing or do not fit.
    """
    if isinstance(source, BcosViTModel | BcosViTForImageClassification):
        return source.eval()
    if not isinstance(source, str | Path):
        raise UserError(
            f"aloe.load takes a student's folder, hub id or name of the zoo, got {type(source).__name__}; a teacher is made "
            "a student by aloe.bcosify or aloe.align."
        )
    name = locate(source)
    with explain_hub_errors(name):
        values = stated(name, options.get("revision"))
        if is_published(values.get("model_type")):
            return load_published(name, **options)
        _check_kind(source, values)
        classifier = "BcosViTForImageClassification" in (values.get("architectures") or [])
        shapes = shapes_of(name, options.get("revision"))
        names = stated_classes(values, shapes, str(source)) if classifier else None
        hold_against(values, shapes, str(source))
        config = BcosViTConfig.from_dict({k: v for k, v in values.items() if k not in LABELS or names is None})
        if names is not None:
            set_labels(config, names)
        model_class: Any = BcosViTForImageClassification if classifier else BcosViTModel
        model, report = read_pretrained(model_class, name, config, shapes, **options)
    if report["missing_keys"] and common_prefix(list(shapes)):
        raise UserError(missing_weights(name, sorted(report["missing_keys"]), list(shapes)))
    for kind in ("missing_keys", "unexpected_keys"):
        if report[kind]:
            raise UserError(f"{name}: {kind.replace('_', ' ')} in the weights, first {sorted(report[kind])[0]!r}.")
    for parameter in model.parameters():  # out of the file's mapping, whose alignment changes the last bit of products
        parameter.data = parameter.data.clone()
    check_finite(model, name)
    return model.eval()


def is_student(source: str | Path) -> bool:
    """Whether a folder, hub id or name of the zoo holds a student of ALOE rather than a teacher; a weight file never does.

    Raises:
        UserError: nothing there, gated or unreachable.
    """
    from transformers import PreTrainedConfig

    name = locate(source)
    if is_weight_file(name):
        return False
    with explain_hub_errors(name):
        model_type = PreTrainedConfig.get_config_dict(name)[0].get("model_type")
    return model_type == BcosViTConfig.model_type or is_published(model_type)


def save_student(model: BcosViTModel | BcosViTForImageClassification, folder: str | Path) -> None:
    """Write a student with its image processor; each file appears whole, the weights last.

    Raises:
        UserError: the folder cannot be written; what was there before stays, and no empty folder is left.
    """
    from safetensors import SafetensorError

    home = Path(folder)
    staging = home / ".student"
    new_folders = [p for p in (home, *home.parents) if not os.path.lexists(p)]
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        model.save_pretrained(staging)
        processor = json.dumps(image_processor(model.config), indent=2) + "\n"
        (staging / "preprocessor_config.json").write_text(processor)
        for path in sorted(staging.iterdir(), key=lambda p: p.suffix == ".safetensors"):
            os.replace(path, home / path.name)
    except (OSError, RuntimeError, SafetensorError) as error:
        shutil.rmtree(staging, ignore_errors=True)
        for path in new_folders:
            with suppress(OSError):
                path.rmdir()
        raise UserError(f"The student could not be written to {home}: {error}.") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def image_processor(config: Any) -> dict[str, Any]:
    """What `AutoImageProcessor` needs to do as `ResizeCenterCrop`: values in [0, 1], no normalisation.

    Where the margin of the crop is odd, transformers may place it one pixel to the left or above.
    """
    side = config.resolution
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": False,
    }


def _check_kind(source: str | Path, values: dict[str, Any]) -> None:
    if values.get("model_type") != BcosViTConfig.model_type:
        raise UserError(
            f"{source} is a {values.get('model_type')} model, not a B-cos student; align it first, "
            f"`aloe align {source} IMAGES -o STUDENT` (other explanations of it as it is: `aloe attribute`)."
        )
