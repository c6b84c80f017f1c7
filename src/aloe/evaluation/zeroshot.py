"""Zero-shot classification and text targets: a student's (or teacher's) image features against the teacher's text tower.

Protocol of the paper's Table B3: the text tower, its tokenizer, scale and bias stay the teacher's, only the image tower is
exchanged; the embedding of a class is the normalised mean of the normalised embeddings of its prompts (OpenCLIP).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from aloe.attribution.targets import TextTarget
from aloe.core.errors import UserError
from aloe.evaluation.features import FeatureSet
from aloe.evaluation.templates import fill, read_strings, read_templates
from aloe.models.text import TextTower


def class_embeddings(
    tower: TextTower,
    classes: Sequence[str],
    templates: str | Path | Sequence[str] = "single",
    *,
    batch_size: int = 256,
) -> Tensor:
    """Unit embeddings (C, D) of C class names, on the tower's device.

    Args:
        templates: what `read_templates` takes; T prompts make C * T texts.

    Raises:
        UserError: as `read_templates` and `TextTower.encode`.
    """
    prompts = read_templates(templates)
    texts = [fill(prompt, name) for name in classes for prompt in prompts]
    each = F.normalize(tower.encode(texts, batch_size=batch_size), dim=-1)
    return F.normalize(each.unflatten(0, (len(classes), len(prompts))).mean(dim=1), dim=-1)


def zeroshot_logits(pooled: Tensor, embeddings: Tensor, scale: float = 1.0, bias: float = 0.0) -> Tensor:
    """scale * cos + bias for pooled image features (B, D) and text embeddings (C, D) of any norm -> (B, C).

    With one prompt per class this is `logits_per_image` of transformers' SiglipModel.

    Raises:
        UserError: widths that differ, or features that are not finite.
    """
    if pooled.shape[-1] != embeddings.shape[-1]:
        raise UserError(
            f"The image features have width {pooled.shape[-1]} and the text embeddings {embeddings.shape[-1]}; "
            "use the pooled output and the text tower of the model's own teacher."
        )
    if not pooled.isfinite().all():
        raise UserError("Some features are not finite; the model's weights are broken.")
    return scale * F.normalize(pooled, dim=-1) @ F.normalize(embeddings, dim=-1).T + bias


def zeroshot_ranking(features: FeatureSet, embeddings: Tensor, count: int = 5) -> Tensor:
    """The `count` classes (or all) of highest logit for every image, best first, (N, count) int64 on the CPU.

    Scale and bias do not change the order and are left out; features are read a part at a time.

    Raises:
        UserError: as `zeroshot_logits`.
    """
    texts = embeddings.float().cpu()
    count = min(count, len(texts))
    return torch.cat([zeroshot_logits(part, texts).topk(count, dim=1).indices for part in features.chunks()])


def read_class_names(source: str | Path | Sequence[str], count: int | None = None) -> list[str]:
    """Class names in the order of the labels: of a file (see `read_strings`), or folder names with `_` as a space.

    Args:
        count: how many classes the data have, checked where given.

    Raises:
        UserError: an unreadable file or another number of names.
    """
    names = read_strings(source) if isinstance(source, str | Path) else [name.replace("_", " ") for name in source]
    if count is not None and len(names) != count:
        where = f"{source} has" if isinstance(source, str | Path) else "There are"
        raise UserError(f"{where} {len(names)} class names but the data have {count} classes.")
    return names


def text_targets(
    tower: TextTower, texts: Sequence[str], templates: str | Path | Sequence[str] | None = None
) -> dict[str, TextTarget]:
    """What `aloe.explain` explains for each text: its logit with an image; by default the text is used as it is.

    Raises:
        UserError: as `class_embeddings`.
    """
    embeddings = class_embeddings(tower, texts, ["{}"] if templates is None else templates)
    return {
        text: TextTarget(embedding, tower.scale, tower.bias) for text, embedding in zip(texts, embeddings, strict=True)
    }
