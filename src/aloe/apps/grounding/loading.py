"""Vision-language models from folders and the hub, in transformers' layout or LLaVA-MORE's, with a student before them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aloe.apps.grounding.language import TEXT_TOWERS
from aloe.apps.grounding.llava_more import LAYOUT, load_llava_more
from aloe.apps.grounding.model import VisionLanguage
from aloe.apps.grounding.view import view_of
from aloe.core.errors import UserError
from aloe.core.files import read_object, read_words
from aloe.models.headers import shapes_of
from aloe.models.hub import explain_hub_errors
from aloe.models.pretrained import read_pretrained
from aloe.models.saving import load
from aloe.models.stated import hold_against, stated
from aloe.models.text import load_tokenizer


def load_vision_language(
    source: str | Path, *, vision: str | Path | None = None, tower: str | Path | None = None, dtype: Any = None
) -> VisionLanguage:
    """A LLaVA model from a folder or hub id, in transformers' layout or in LLaVA-MORE's, looking through a student if given.

    Args:
        vision: folder or hub id of the student aligned to the model's vision tower.
        tower: of a LLaVA-MORE checkpoint, its vision tower's folder or hub id; default: the one that it names.
        dtype: of the language model's weights; default: the checkpoint's own.

    Raises:
        UserError: nothing there, another kind of model, no tokenizer or image processor, or a student that does not fit.
    """
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    name = str(source)
    with explain_hub_errors(name):
        values = stated(name)
        if values.get("model_type") == LAYOUT:
            vision_language = load_llava_more(name, tower=tower, dtype=dtype)
        else:
            check_config(name, values)
            tokenizer, view = load_tokenizer(name), view_of(name)
            shapes, config = shapes_of(name), LlavaConfig.from_dict(values)
            hold_against(values, shapes, name)
            llava = LlavaForConditionalGeneration
            model, report = read_pretrained(llava, name, config, shapes, dtype=dtype or "auto")
            if missing := sorted(report["missing_keys"]):
                raise UserError(f"{name}: weights are missing from the checkpoint, first {missing[0]!r}.")
            vision_language = VisionLanguage(model.eval(), tokenizer, view, template=_template(name))
    return vision_language if vision is None else vision_language.with_student(load(vision), aligned_blocks(vision))


def check_config(name: str, values: dict[str, Any]) -> None:
    """Refuses a configuration before its weights are read.

    Raises:
        UserError: another kind of model, or a text tower without rules.
    """
    kind = values.get("model_type")
    if kind != "llava":
        raise UserError(f"{name} is a {kind} model; token grounding takes LLaVA models (model_type llava or {LAYOUT}).")
    text = (values.get("text_config") or {}).get("model_type", "llama")
    if text not in TEXT_TOWERS:
        raise UserError(f"The text tower is a {text} model; token grounding has rules for {', '.join(TEXT_TOWERS)}.")


def aligned_blocks(folder: str | Path) -> list[int] | None:
    """The blocks after which a student's run compared it with its teacher, where the folder tells."""
    path = Path(folder) / "run.json"
    blocks = read_object(path, "fetch it again").get("blocks") if path.is_file() else None
    return blocks if isinstance(blocks, list) else None


def _template(name: str) -> str | None:
    """The processor's chat template, which may differ from its tokenizer's."""
    path = Path(name) / "chat_template.jinja"
    if path.is_file():
        return read_words(path)
    old = Path(name) / "chat_template.json"
    return read_object(old, "fetch it again").get("chat_template") if old.is_file() else None
