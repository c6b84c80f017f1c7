"""Teachers: a frozen foundation ViT behind one interface, whatever its family.

`load_teacher` reads a local folder, a hub id, a file of timm's, a model of the zoo or a live module; `Teacher` takes images
in [0, 1], applies the teacher's own normalisation and returns raw hidden states after named blocks plus the pooled output.
Only safetensors are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aloe.core.errors import UserError
from aloe.models.families import FAMILIES, Family
from aloe.models.zoo_models import locate

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".tar")


@dataclass
class Features:
    """What is compared between teacher and student.

    `states[k]` is the raw residual stream after block k, (B, N, D), k from 1 to L; `pooled` is (B, D); `logits` (B, C)
    where the model has a classifier; `tokens` (B, N, D) after the final norm where they were kept.
    """

    pooled: Tensor
    states: dict[int, Tensor] = field(default_factory=dict)
    logits: Tensor | None = None
    tokens: Tensor | None = None


class Teacher(nn.Module):
    """A frozen teacher in eval mode.

    Args:
        model: a transformers module of one of the supported families, with or without its classifier.
        name: shown in reports and stored with the student.
        mean, std: normalisation of images in [0, 1]; default: the family's.
        resolution: side in pixels at which it is used; default: the configuration's `image_size`.

    `unread` names the checkpoint's tensors that were not loaded (poolers, text towers, heads on something else).

    Raises:
        UserError: for a module of another architecture.
    """

    unread: tuple[str, ...] = ()

    def __init__(
        self,
        model: nn.Module,
        name: str = "",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        resolution: int | None = None,
    ) -> None:
        super().__init__()
        config: Any = getattr(model, "config", None)
        self.family = family_of(getattr(config, "model_type", None))
        self.model = model.eval().requires_grad_(False)
        self.tower = _find_tower(model, self.family)
        self.config: Any = getattr(config, "vision_config", config)
        self.name = name or type(model).__name__
        self.mean = tuple(self.family.mean if mean is None else mean)
        self.std = tuple(self.family.std if std is None else std)
        self.patch_size = int(_square(self.config.patch_size))
        self.image_size = _image_size(self.config, self.patch_size)
        self.resolution = resolution or self.image_size
        classifier = getattr(model, "classifier", None)
        reads_pooled = self.family.classifier_class == type(model).__name__
        self.classifier = classifier if reads_pooled and isinstance(classifier, nn.Linear) else None
        self._warm = False

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks, in order."""
        for path in self.family.blocks:
            try:
                found = self.tower.get_submodule(path)
            except AttributeError:
                continue
            if isinstance(found, nn.ModuleList):
                return found
        raise UserError(f"{self.name}: no list of blocks found in this {self.family.name} layout.")

    @property
    def num_layers(self) -> int:
        return int(self.config.num_hidden_layers)

    @property
    def width(self) -> int:
        return int(self.config.hidden_size)

    @property
    def grid_size(self) -> int:
        """Patch tokens on a side at the native image size."""
        return self.image_size // self.patch_size

    @property
    def use_cls_token(self) -> bool:
        return bool(self.family.student.get("use_cls_token", True))

    @property
    def num_register_tokens(self) -> int:
        return int(getattr(self.config, "num_register_tokens", 0) or 0)

    def train(self, mode: bool = True) -> Teacher:
        """A teacher is never trained: always stays in eval mode."""
        return super().train(False)

    def input_size(self, grid: int) -> int:
        """Pixels on a side that give `grid` patch tokens: the native size for the native grid, else grid * patch."""
        return self.image_size if grid == self.grid_size else grid * self.patch_size

    @torch.no_grad()
    def forward(self, images: Tensor, after_block: Iterable[int] = ()) -> Features:
        """images (B, 3, H, W) in [0, 1], H and W a whole number of patches (or the native size) -> `Features`."""
        captured: dict[int, Tensor] = {}
        blocks = self.blocks
        hooks = [blocks[k - 1].register_forward_hook(_capture(captured, k)) for k in sorted(set(after_block))]
        try:
            found = self.features(self.normalize(images))
        finally:
            for hook in hooks:
                hook.remove()
        found.states = captured
        return found

    def features(self, pixels: Tensor) -> Features:
        """Normalised pixels (B, 3, H, W) to `Features` without states; differentiable in the pixels."""
        tokens, pooled = self._run(pixels)
        if pooled is None:
            pooled = tokens[:, 0] if self.use_cls_token else tokens.mean(dim=1)
        return Features(pooled, logits=None if self.classifier is None else self.classifier(pooled), tokens=tokens)

    def pool_raw(self, tokens: Tensor, pool: str) -> Tensor:
        """Raw tokens (B, N, D) of any block to a pooled output (B, D): through an attention-pooling head as they are, else
        their mean or CLS token (`pool`) through the final norm. What LeGrad scores (docs/attribution.md)."""
        if self.family.student["pooling"] == "attention":
            head: Any = self.tower.head
            return head(tokens)
        return self._final_norm(tokens[:, 0] if pool == "cls" else tokens.mean(dim=1))

    def normalize(self, images: Tensor) -> Tensor:
        """(images - mean) / std with the teacher's own constants."""
        mean = images.new_tensor(self.mean)[:, None, None]
        return (images - mean) / images.new_tensor(self.std)[:, None, None]

    def _run(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """(normed tokens, output of an attention-pooling head if there is one)."""
        if self.family.model_class == "Siglip2VisionModel":
            out = self.tower(**_naflex(pixels, self.patch_size))
            return out.last_hidden_state, out.pooler_output
        other = pixels.shape[-2:] != (self.image_size, self.image_size)
        flag = {"interpolate_pos_encoding": True} if other and self.family.asks_to_interpolate else {}
        out = self.tower(pixels, **flag)
        head = out.pooler_output if self.family.student["pooling"] == "attention" else None
        tokens = out.last_hidden_state
        return (self._final_norm(tokens) if self.family.norms_pooled_only else tokens), head

    def _final_norm(self, tokens: Tensor) -> Tensor:
        return self.tower.get_submodule(self.family.final_norm)(tokens)


def load_teacher(
    source: str | Path | nn.Module,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    resolution: int | None = None,
    dtype: torch.dtype = torch.float32,
    architecture: str | None = None,
) -> Teacher:
    """A teacher from a local folder or hub id of transformers or timm, a file of timm, the zoo, or a live module.

    Args:
        source: see `docs/teachers.md`.
        mean, std, resolution: override what the checkpoint states.
        dtype: of the weights.
        architecture: timm's name of it, for a checkpoint of timm that does not state it.

    Raises:
        UserError: nothing there, gated or unreachable, not safetensors, or an architecture ALOE cannot convert.
    """
    if isinstance(source, nn.Module):
        return source if isinstance(source, Teacher) else Teacher(source, "", mean, std, resolution)
    import transformers
    from transformers import AutoConfig

    from aloe.models.hub import explain_hub_errors
    from aloe.models.published import is_published
    from aloe.models.timm import is_timm_config, load_timm

    name = locate(source)
    from_timm = is_weight_file(name)
    with nullcontext() if from_timm else explain_hub_errors(name):
        values = {} if from_timm else transformers.PreTrainedConfig.get_config_dict(name)[0]
        if is_published(values.get("model_type")) or values.get("model_type") == "bcos_vit":
            raise UserError(f"{source} is a B-cos student, not a teacher; aloe.load reads it.")
        if from_timm or is_timm_config(values):
            return load_timm(name, mean=mean, std=std, resolution=resolution, dtype=dtype, architecture=architecture)
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        family = family_of(config.model_type)
        wanted = getattr(config, "architectures", None) or []
        with_head = family.classifier_class in wanted
        name_of_class = family.classifier_class if with_head and family.classifier_class else family.model_class
        model_class: Any = getattr(transformers, name_of_class)
        options: dict[str, Any] = {"add_pooling_layer": False} if family.model_class == "ViTModel" else {}
        model, report = model_class.from_pretrained(
            name,
            use_safetensors=True,
            dtype=dtype,
            output_loading_info=True,
            **({} if with_head else options),
        )
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise UserError(f"{name}: {len(missing)} weights are missing from the checkpoint, first {missing[0]!r}.")
    stated = _preprocessing(name)
    if stated.get("do_normalize") is False:
        stated |= {"image_mean": (0.0, 0.0, 0.0), "image_std": (1.0, 1.0, 1.0)}
    label = Path(source).name if Path(source).exists() else str(source)
    teacher = Teacher(
        model,
        label,
        mean or stated.get("image_mean"),
        std or stated.get("image_std"),
        resolution or _resolution(stated, model.config),
    )
    teacher.unread = tuple(sorted(report["unexpected_keys"]))
    return teacher


def is_weight_file(source: str | Path) -> bool:
    """Whether a teacher is named by its weights alone.

    Raises:
        UserError: for weights that are not safetensors.
    """
    path = Path(source)
    if path.suffix in PICKLES and path.is_file():
        raise UserError(f"{source} is not a safetensors file; only safetensors are loaded, never pickled weights.")
    return path.suffix == ".safetensors"


def family_of(model_type: str | None) -> Family:
    """The family of a transformers `model_type`.

    Raises:
        UserError: for any other architecture, listing the supported ones.
    """
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    known = ", ".join(t for f in FAMILIES for t in f.model_types)
    raise UserError(f"Model type {model_type!r} cannot be converted; ALOE takes {known}.")


def resize(images: Tensor, side: int) -> Tensor:
    """Bilinear, antialiased resize of (B, 3, H, W) to a square; returned as it is when it already fits."""
    if images.shape[-2:] == (side, side):
        return images
    resized = F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
    return resized.clamp_(0, 1)


def _find_tower(model: nn.Module, family: Family) -> nn.Module:
    """The vision tower: both with and without a level such as `vision_model` or `vit` around it."""
    for name in family.towers:
        inner = getattr(model, name, None)
        if isinstance(inner, nn.Module):
            return _find_tower(inner, family)
    return model


def _capture(into: dict[int, Tensor], k: int) -> Any:
    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        into[k] = output[0] if isinstance(output, tuple) else output

    return hook


def _square(value: Any) -> int:
    sides = set(value) if isinstance(value, list | tuple) else {value}
    if len(sides) != 1:
        raise UserError(f"Only square images and patches are supported, got {value}.")
    return int(sides.pop())


def _image_size(config: Any, patch: int) -> int:
    """Native pixels on a side; NaFlex configurations state the number of patches instead."""
    if getattr(config, "num_patches", None) and not getattr(config, "image_size", None):
        return patch * round(config.num_patches**0.5)
    return _square(config.image_size)


def _naflex(pixels: Tensor, patch: int) -> dict[str, Tensor]:
    """What SigLIP2's NaFlex tower takes: flattened patches in (row, column, channel) order, a mask, the grid."""
    batch, channels, height, width = pixels.shape
    rows, columns = height // patch, width // patch
    grid = pixels[..., : rows * patch, : columns * patch].reshape(batch, channels, rows, patch, columns, patch)
    flat = grid.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, -1)
    shapes = torch.tensor([[rows, columns]], device=pixels.device).expand(batch, -1)
    mask = torch.ones(batch, rows * columns, dtype=torch.long, device=pixels.device)
    return {"pixel_values": flat, "pixel_attention_mask": mask, "spatial_shapes": shapes}


def _preprocessing(name: str) -> dict[str, Any]:
    """The checkpoint's preprocessor_config.json, or nothing if it has none."""
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        return dict(ImageProcessingMixin.get_image_processor_dict(name)[0])
    except OSError:
        return {}


def _resolution(stated: dict[str, Any], config: Any) -> int | None:
    """The side the checkpoint's preprocessing crops or resizes to, if it is a whole number of patches."""
    config = getattr(config, "vision_config", config)
    size = stated.get("crop_size") or stated.get("size") or {}
    side = size.get("height") if isinstance(size, dict) else size
    patch = _square(config.patch_size)
    if not side or side < patch:
        return None
    native = _image_size(config, patch)
    return int(side) if side == native or side % patch == 0 else None
