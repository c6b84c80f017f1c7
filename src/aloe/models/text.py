"""The text tower of a SigLIP or SigLIP2 teacher: texts to the embeddings that image features are compared with.

Zhai et al. 2023, eq. 1: the logit of an image and a text is scale * cos(image, text) + bias. Tower, tokenizer, padding (to
the whole context), scale and bias are the checkpoint's own: only the image tower changes when a student takes its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aloe.core.errors import UserError
from aloe.core.progress import tracked
from aloe.models.headers import shapes_of
from aloe.models.hub import explain_hub_errors
from aloe.models.labels import STATED as LABELS
from aloe.models.pretrained import read_pretrained
from aloe.models.stated import hold_against, stated
from aloe.models.teachers import Teacher

BOTH_TOWERS = {"siglip": "SiglipModel", "siglip2": "Siglip2Model"}
TOKENIZER_FILES = ("tokenizer.json", "spiece.model", "tokenizer.model")


class TextTower(nn.Module):
    """A frozen text tower in eval mode.

    Args:
        model: transformers' `SiglipTextModel` or `Siglip2TextModel`.
        tokenizer: the one it was trained with.
        scale, bias: of the logits; the scale is already exponentiated.
        name: shown in messages and results.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, scale: float = 1.0, bias: float = 0.0, name: str = "") -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.config: Any = model.config
        self.tokenizer = tokenizer
        self.scale, self.bias, self.name = scale, bias, name
        # SigLIP2 learned from lower-cased text. Its fixed-resolution checkpoints say so in their tokenizer's settings, but
        # name Gemma's tokenizer, which reads over them; Siglip2Tokenizer lower-cases by itself.
        stated = getattr(tokenizer, "init_kwargs", {}).get("do_lower_case")
        self.lower_case = bool(stated) or type(tokenizer).__name__.startswith("GemmaTokenizer")

    @property
    def context_length(self) -> int:
        """The most tokens that a text may have, end token included."""
        return int(self.config.max_position_embeddings)

    @property
    def width(self) -> int:
        """D of the embeddings."""
        return int(self.config.projection_size)

    def train(self, mode: bool = True) -> TextTower:
        """Never trained: always stays in eval mode."""
        return super().train(False)

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """`input_ids` (n, context length) int64, and `attention_mask` where the tokenizer makes one.

        Raises:
            UserError: no texts, an empty one, one longer than the context, or a tokenizer of another model.
        """
        empty = next((text for text in texts if not text.strip()), None)
        if not texts or empty is not None:
            raise UserError("There is no text to encode." if not texts else f"A text is empty: {empty!r}.")
        lines = [text.lower() for text in texts] if self.lower_case else list(texts)
        limit = self.context_length
        try:
            tokens = self.tokenizer(lines, padding="max_length", max_length=limit, truncation=False)
        except ValueError as error:
            raise UserError(f"The tokenizer of {self.name} has no padding token, which SigLIP needs.") from error
        for text, ids in zip(texts, tokens["input_ids"], strict=True):
            if len(ids) > limit:
                short = text if len(text) <= 60 else text[:57] + "..."
                raise UserError(
                    f"The text {short!r} has {len(ids)} tokens but the text tower reads {limit}; shorten it."
                )
            if max(ids) >= self.config.vocab_size:
                raise UserError(
                    f"The tokenizer of {self.name} gives token {max(ids)} but its text tower knows "
                    f"{self.config.vocab_size}; they are not of the same checkpoint."
                )
        return {key: torch.tensor(tokens[key]) for key in ("input_ids", "attention_mask") if key in tokens}

    @torch.no_grad()
    def encode(self, texts: Sequence[str], *, batch_size: int = 256, progress: str | None = None) -> Tensor:
        """Pooled outputs (n, D) float32 of n texts, not normalised, on the tower's device.

        Args:
            progress: a title shows a progress bar on standard error.

        Raises:
            UserError: as `tokenize`, for any of the texts before the first is encoded.
        """
        tokens = self.tokenize(texts)
        device = next(self.model.parameters()).device
        parts = []
        for start in tracked(range(0, len(texts), batch_size), progress):
            batch = {key: ids[start : start + batch_size].to(device) for key, ids in tokens.items()}
            parts.append(self.model(**batch).pooler_output.float())
        return torch.cat(parts)


def load_text_tower(source: str | Path, *, dtype: torch.dtype = torch.float32) -> TextTower:
    """The text tower of a folder or hub id that holds both towers; the image tower is read and let go.

    Raises:
        UserError: nothing there, gated or unreachable, not safetensors, no text tower, or no tokenizer.
    """
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    name = str(source)
    with explain_hub_errors(name):
        values = stated(name)
        model_type = values.get("model_type")
        if model_type not in BOTH_TOWERS:
            raise UserError(
                f"{name} is a {model_type} model without a text tower; give a SigLIP or SigLIP2 checkpoint with both towers."
            )
        config = CONFIG_MAPPING[model_type].from_dict({k: v for k, v in values.items() if k not in LABELS})
        shapes = shapes_of(name)
        hold_against(values, shapes, name)
        model, report = read_pretrained(
            getattr(transformers, BOTH_TOWERS[model_type]), name, config, shapes, dtype=dtype
        )
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("vision_model."))
    if missing:
        raise UserError(f"{name} holds no whole text tower: {len(missing)} weights are missing, first {missing[0]!r}.")
    scale, bias = model.logit_scale.float().exp().item(), model.logit_bias.float().item()
    return TextTower(model.text_model, load_tokenizer(name), scale, bias, name)


def text_tower_for(model: Teacher | nn.Module, source: str | Path | None = None) -> TextTower:
    """The text tower at `source`, or by default that of the teacher (the model itself, or the one a student was made from).

    Raises:
        UserError: as `load_text_tower`, or its embeddings have another width than the model's pooled output.
    """
    config: Any = model.config
    if source is None:
        source = _own_name(model)
        here = source and Path(source).is_dir()
        if "/" not in source and not here:  # of a teacher that was a folder, a student knows the last name only
            raise UserError(
                f"The text tower of {source or 'an unnamed teacher'} is not here; name the teacher's folder or hub id with"
                " --text-tower (SigLIP and SigLIP2 have one)."
            )
    tower = load_text_tower(source)
    if tower.width != config.hidden_size:
        raise UserError(
            f"The text tower of {tower.name} has width {tower.width} but the model's pooled output {config.hidden_size}; "
            "give the one of the model's own teacher."
        )
    return tower


def _own_name(model: Teacher | nn.Module) -> str:
    """The checkpoint a teacher was loaded from, or the name of the teacher that a student was made from."""
    config: Any = model.config
    if isinstance(model, Teacher):
        return str(getattr(model.model.config, "_name_or_path", "") or model.name)
    return str((getattr(config, "teacher", None) or {}).get("name", ""))


def load_tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    folder, missing = Path(name), f"{name} has no tokenizer; its folder needs a tokenizer.json."
    if folder.is_dir() and not any((folder / file).is_file() for file in TOKENIZER_FILES):
        raise UserError(missing)
    try:
        with explain_hub_errors(name):
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"The tokenizer of {name} needs a package that is not installed: {reason[:200]}") from error
    except UserError as error:
        reason = str(error.__cause__ or error).strip().partition("\n")[0][:120]
        raise UserError(
            f"The tokenizer of {name} cannot be loaded ({reason}); it needs a sound tokenizer.json."
        ) from error
    if len(tokenizer) <= len(tokenizer.all_special_ids):  # what transformers makes of nothing
        raise UserError(missing)
    return tokenizer
