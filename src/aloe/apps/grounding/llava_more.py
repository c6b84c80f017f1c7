"""LLaVA-MORE's published checkpoints with Gemma-2 (layout `llava_gemma`), as transformers' `LlavaForConditionalGeneration`.

What differs there is made up for here (docs/grounding.md): its Gemma multiplies image features by sqrt(D) as well, which
goes into the projector's last layer, so that transformers' class computes the same; the image's placeholder is no word of the
vocabulary, so an unused one stands for it; pictures are padded to a square. What cannot be mapped is refused by name.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aloe.apps.grounding.model import TOWERS, VisionLanguage
from aloe.apps.grounding.view import view_of
from aloe.core.errors import UserError
from aloe.models.headers import shapes_of
from aloe.models.hub import explain_hub_errors
from aloe.models.importer import read_tensors
from aloe.models.stated import hold_against, stated
from aloe.models.text import load_tokenizer

LAYOUT = "llava_gemma"
UNUSED = 7  # <unused0> of Gemma's vocabulary
REQUIRED: dict[str, tuple[Any, ...]] = {
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_vision_select_feature": ("patch", "cls_patch"),
    "mm_patch_merge_type": ("flat",),
    "image_aspect_ratio": ("pad", "square"),
    "mm_use_im_start_end": (False,),
    "mm_use_im_patch_token": (False,),
}
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m['role'] | replace('assistant', 'model') }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
"""One BOS, and the answer's header as it stood in training."""
_TOWER = ("model.vision_tower.vision_tower.vision_model.", "model.vision_tower.vision_tower.")


def load_llava_more(name: str, *, tower: str | Path | None = None, dtype: Any = None) -> VisionLanguage:
    """A folder or hub id in LLaVA-MORE's layout.

    Args:
        tower: folder or hub id of its vision tower, for its configuration, image processor and, where the checkpoint leaves
            them out, its weights; default: the one that the checkpoint names.

    Raises:
        UserError: a setting, tensor or tower that has no counterpart, or tensors that are missing.
    """
    from transformers import LlavaForConditionalGeneration

    values = stated(name)
    check_layout(name, values)
    home = str(tower or values["mm_vision_tower"])
    config = translate_config(values, _tower_config(home))
    tokenizer, view = load_tokenizer(name), view_of(home, pad=values["image_aspect_ratio"] == "pad")
    tensors = translate_tensors(read_tensors(_folder(name), name), config, name)
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    if not any(key.startswith("model.vision_tower.") for key in tensors):
        tensors |= {f"model.vision_tower.{key}": value for key, value in _tower_weights(home, model).items()}
    tensors.setdefault("lm_head.weight", tensors["model.language_model.embed_tokens.weight"])
    state = model.state_dict()
    _fit(name, tensors, {key: tuple(value.shape) for key, value in state.items()})
    kind = dtype if isinstance(dtype, torch.dtype) else tensors["lm_head.weight"].dtype
    llava: Any = LlavaForConditionalGeneration
    # Without a second copy of 9B weights.
    model = llava.from_pretrained(None, config=config, state_dict=tensors, dtype=kind)
    model.generation_config.eos_token_id = [1, 107]  # </s> and <end_of_turn>, its declared stops
    return VisionLanguage(model.eval(), tokenizer, view, template=TEMPLATE)


def check_layout(name: str, values: dict[str, Any]) -> None:
    """Refuses a configuration with a part that has no counterpart in transformers' LLaVA.

    Raises:
        UserError: naming the setting.
    """
    for key, allowed in REQUIRED.items():
        setting = values.get(key, allowed[0])
        if setting not in allowed:
            raise UserError(
                f"{name}: {key} is {setting!r}, which cannot be mapped; it may be {' or '.join(map(str, allowed))}."
            )
        values.setdefault(key, allowed[0])
    if values.get("s2") or values.get("mm_vision_s2"):
        raise UserError(f"{name}: several scales of the image (S2) cannot be mapped.")
    missing = [k for k in ("mm_vision_tower", "mm_hidden_size", "hidden_size", "num_hidden_layers") if k not in values]
    if missing:
        raise UserError(f"{name}: its config.json lacks {', '.join(missing)}, so it is no LLaVA-MORE checkpoint.")


def translate_config(values: dict[str, Any], vision: Any) -> Any:
    """The `LlavaConfig` of LLaVA-MORE's values and its tower's configuration.

    Raises:
        UserError: a tower of another width than the projector reads.
    """
    from transformers import Gemma2Config, LlavaConfig

    if vision.hidden_size != values["mm_hidden_size"]:
        raise UserError(
            f"The projector reads features of width {values['mm_hidden_size']} but the vision tower's have "
            f"{vision.hidden_size}; name the checkpoint's own tower with --tower."
        )
    ours = {"model_type", "architectures", "transformers_version", "torch_dtype", "dtype", "auto_map", "_name_or_path"}
    text = {k: v for k, v in values.items() if k not in ours and not k.startswith(("mm_", "tune_", "freeze_"))}
    patches = (vision.image_size // vision.patch_size) ** 2
    has_cls = vision.model_type.startswith("clip")
    drops = has_cls and values["mm_vision_select_feature"] == "patch"
    config = LlavaConfig(
        vision_config=vision,
        text_config=Gemma2Config(**text),
        image_token_index=UNUSED,
        image_seq_length=patches + int(has_cls and not drops),
        projector_hidden_act="gelu",
        vision_feature_layer=values.get("mm_vision_select_layer", -2),
        vision_feature_select_strategy="default" if drops else "full",
        tie_word_embeddings=bool(values.get("tie_word_embeddings", True)),
    )
    text_tower: Any = config.text_config
    text_tower._attn_implementation = "eager"
    return config


def translate_tensors(tensors: dict[str, Tensor], config: Any, name: str = "the checkpoint") -> dict[str, Tensor]:
    """Tensors under transformers' names, the projector's last layer times sqrt(D).

    Raises:
        UserError: a tensor that has no counterpart.
    """
    weights: dict[str, Tensor] = {}
    for key, value in tensors.items():
        new = _renamed(key)
        if new is None:
            raise UserError(f"{name} holds a tensor {key!r} that cannot be mapped to transformers' LLaVA.")
        if new.startswith("model.multi_modal_projector.linear_2."):
            scale = torch.tensor(
                math.sqrt(config.text_config.hidden_size), dtype=value.dtype
            )  # rounded as in the model
            value = (value.float() * scale.float()).to(value.dtype)
        weights[new] = value
    return weights


def _renamed(key: str) -> str | None:
    for start in _TOWER:
        if key.startswith(start):
            return f"model.vision_tower.{key.removeprefix(start)}"
    for index, layer in (("0", "linear_1"), ("2", "linear_2")):
        if key.startswith(f"model.mm_projector.{index}."):
            return key.replace(f"model.mm_projector.{index}", f"model.multi_modal_projector.{layer}")
    if key.startswith(("model.embed_tokens.", "model.layers.", "model.norm.")):
        return key.replace("model.", "model.language_model.", 1)
    return key if key == "lm_head.weight" else None


def _fit(name: str, tensors: dict[str, Tensor], shapes: dict[str, tuple[int, ...]]) -> None:
    for what, keys in (
        ("is missing", shapes.keys() - tensors.keys()),
        ("has no place", tensors.keys() - shapes.keys()),
    ):
        if keys:
            raise UserError(f"{name}: {len(keys)} tensors do not map; {sorted(keys)[0]!r} {what}.")
    for key, shape in shapes.items():
        if tuple(tensors[key].shape) != shape:
            raise UserError(f"{name}: {key!r} is {tuple(tensors[key].shape)} but the configuration says {shape}.")


def _folder(name: str) -> str:
    if Path(name).is_dir():
        return name
    from huggingface_hub import snapshot_download

    with explain_hub_errors(name):
        return snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.model"])


def _tower_config(home: str) -> Any:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    with explain_hub_errors(home):
        values = stated(home)
        values = values.get("vision_config") or values
        kind = values.get("model_type")
        if kind not in TOWERS:
            raise UserError(f"The vision tower {home} is a {kind}; it may be {' or '.join(TOWERS)}.")
        hold_against(values, shapes_of(home), home)
        return CONFIG_MAPPING[str(kind)].from_dict(values)


def _tower_weights(home: str, model: Any) -> dict[str, Tensor]:
    kind = type(model.model.vision_tower)
    with explain_hub_errors(home):
        return kind.from_pretrained(home, config=model.config.vision_config, use_safetensors=True).state_dict()
