"""Students on disk: saved so that a folder is whole or untouched, loaded without ever running remote code."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from aloe.errors import UserError
from aloe.models.configuration import BcosViTConfig
from aloe.models.hub import explain_hub_errors
from aloe.models.modeling import BcosViTForImageClassification, BcosViTModel


def load(source: str | Path, **options: Any) -> BcosViTModel | BcosViTForImageClassification:
    """A saved student, in eval mode, from a folder or a hub id; `AutoModel.from_pretrained` works as well.

    Raises:
        UserError: nothing there, not a student of ALOE, or weights that are missing or do not fit.
    """
    name = str(source)
    with explain_hub_errors(name):
        config = _config(name)
        classifier = "BcosViTForImageClassification" in (config.architectures or [])
        model_class: Any = BcosViTForImageClassification if classifier else BcosViTModel
        model, report = model_class.from_pretrained(
            name, config=config, use_safetensors=True, output_loading_info=True, **options
        )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[kind]:
            raise UserError(f"{name}: {kind.replace('_', ' ')} in the weights, first {sorted(report[kind])[0]!r}.")
    for parameter in model.parameters():  # out of the file's mapping, whose alignment changes the last bit of products
        parameter.data = parameter.data.clone()
    return model.eval()


def save_student(model: BcosViTModel | BcosViTForImageClassification, folder: str | Path) -> None:
    """Write a student with its image processor; each file appears whole, the weights last.

    Raises:
        UserError: the folder cannot be written; what was there before stays.
    """
    from safetensors import SafetensorError

    home = Path(folder)
    staging = home / ".student"
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        model.save_pretrained(staging)
        processor = json.dumps(image_processor(model.config), indent=2) + "\n"
        (staging / "preprocessor_config.json").write_text(processor)
        for path in sorted(staging.iterdir(), key=lambda p: p.suffix == ".safetensors"):
            os.replace(path, home / path.name)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise UserError(f"The student could not be written to {home}: {error}.") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def image_processor(config: Any) -> dict[str, Any]:
    """What `AutoImageProcessor` needs: resize to the resolution of use, values in [0, 1], no normalisation."""
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": config.resolution, "width": config.resolution},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": False,
    }


def _config(name: str) -> BcosViTConfig:
    from transformers import PreTrainedConfig

    values, _ = PreTrainedConfig.get_config_dict(name)
    if values.get("model_type") != BcosViTConfig.model_type:
        raise UserError(
            f"{name} is a {values.get('model_type')} model, not a B-cos student; align it first: aloe align {name} IMAGES."
        )
    return BcosViTConfig.from_dict(values)
