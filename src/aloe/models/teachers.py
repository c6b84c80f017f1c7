"""Teachers: a frozen foundation ViT behind one interface, whatever its family.

`load_teacher` reads a local folder, a hub id, a file of timm's, a model of the zoo or a live module; `Teacher` takes images
in [0, 1], applies the teacher's own normalisation and returns raw hidden states after named blocks plus the pooled output.
Only safetensors are read.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aloe.core.errors import UserError
from aloe.core.torch_state import in_plain_torch
from aloe.models.backbone import Backbone, Features
from aloe.models.families import Family, family_of
from aloe.models.geometry import native_side, settle, settle_modules
from aloe.models.hub import explain_hub_errors
from aloe.models.labels import label_table, set_labels
from aloe.models.pretrained import is_weight_file, read_transformers
from aloe.models.processor import three
from aloe.models.published import is_published
from aloe.models.stated import stated
from aloe.models.timm import is_timm_config, read_timm
from aloe.models.unwrap import extends, unwrapped
from aloe.models.zoo_models import locate


class Teacher(Backbone):
    """A frozen teacher in eval mode.

    Args:
        model: a transformers module of one of the supported families, with or without its classifier.
        name: shown in reports and stored with the student.
        mean, std: normalisation of images in [0, 1]; default: the family's.
        resolution: side in pixels at which it is used; default: the configuration's `image_size`.
        keep_half: leave a module in half precision as it is.

    `unread` names the checkpoint's tensors that were not loaded (poolers, text towers, heads on something else); `note` is a
    sentence on a classifier that is left out.

    A module in half precision is copied in float32: precision is autocast's. Wrappers of torch.compile, DataParallel and DDP
    are taken off.

    Raises:
        UserError: for a module of another architecture or geometry, or with a table of labels that does not fit.
    """

    interpretable = False
    unread: tuple[str, ...] = ()
    note: str = ""

    def __init__(
        self,
        model: nn.Module,
        name: str = "",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        resolution: int | None = None,
        *,
        keep_half: bool = False,
    ) -> None:
        super().__init__()
        model = unwrapped(model)
        config: Any = getattr(model, "config", None)
        if config is None:
            raise UserError(_no_config(model))
        self.family = family_of(getattr(config, "model_type", None))
        self.model = (model if keep_half else in_float32(model)).eval().requires_grad_(False)
        self.tower = _find_tower(self.model, self.family)
        self.config: Any = getattr(self.model.config, "vision_config", self.model.config)
        self.name = name or type(model).__name__
        settle(self.config, self.name)
        settle_modules(self.model)
        self.mean = three(self.family.mean if mean is None else mean, f"{self.name}: mean")
        self.std = three(self.family.std if std is None else std, f"{self.name}: std")
        if min(self.std) <= 0:
            raise UserError(f"{self.name}: std must be positive, got {list(self.std)}.")
        self.patch_size = int(self.config.patch_size)
        self.image_size = native_side(self.config, self.name)
        self.resolution = resolution or self.image_size
        self.classifier, self.note = _classifier(self.model, self.family, self.name)
        if self.classifier is not None:
            stated = {"id2label": config.id2label} if getattr(config, "id2label", None) else {}
            names = label_table(stated, self.classifier.out_features, self.name)
            set_labels(self.config, names or {i: f"LABEL_{i}" for i in range(self.classifier.out_features)})

    @property
    def title(self) -> str:  # type: ignore[override]
        return self.name

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks, in order."""
        for path in self.family.blocks:
            try:
                blocks = unwrapped(self.tower.get_submodule(path))
            except AttributeError:
                continue
            if isinstance(blocks, nn.ModuleList):
                return blocks
        raise UserError(f"{self.name}: no list of blocks found in this {self.family.name} layout.")

    @property
    def grid_size(self) -> int:
        """Patch tokens on a side at the native image size."""
        return self.image_size // self.patch_size

    @property
    def use_cls_token(self) -> bool:  # type: ignore[override]
        return bool(self.family.student.get("use_cls_token", True))

    @property
    def pooling(self) -> str:
        """`cls`, `mean` (of the patch tokens) or `attention`: what makes the pooled output, and what a classifier reads."""
        pooling = str(self.family.student["pooling"])
        headless = self.classifier is not None or not getattr(self.tower, "use_head", True)
        return "mean" if pooling == "attention" and headless else pooling

    @property
    def num_register_tokens(self) -> int:  # type: ignore[override]
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
        hooks = [blocks[k - 1].register_forward_hook(capture(captured, k)) for k in sorted(set(after_block))]
        try:
            features = self.features(self.normalize(images))
        finally:
            for hook in hooks:
                hook.remove()
        features.states = captured
        return features

    def read(self, images: Tensor, after_block: Iterable[int] = ()) -> Features:
        rows, columns = self.grid(*images.shape[-2:])
        return self(resize(images, self.input_size(rows)) if rows == columns else images, after_block)

    def classify(self, pooled: Tensor) -> Tensor | None:
        return None if self.classifier is None else self.classifier(pooled)

    def features(self, pixels: Tensor) -> Features:
        """Normalised pixels (B, 3, H, W) to `Features` without states; differentiable in the pixels."""
        tokens, pooled = self._run(pixels)
        if pooled is None:
            pooled = tokens[:, 0] if self.use_cls_token else tokens.mean(dim=1)
        return Features(pooled, logits=self.classify(pooled), tokens=tokens)

    def pool_raw(self, tokens: Tensor, pool: str) -> Tensor:
        """Raw tokens (B, N, D) of any block to a pooled output (B, D): through an attention-pooling head as they are, else
        their mean or CLS token (`pool`) through the final norm. What LeGrad scores (docs/attribution.md)."""
        if self.pooling == "attention":
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
            return out.last_hidden_state, out.pooler_output if self.pooling == "attention" else None
        other = pixels.shape[-2:] != (self.image_size, self.image_size)
        flag = {"interpolate_pos_encoding": True} if other and self.family.asks_to_interpolate else {}
        out = self.tower(pixels, **flag)
        head = out.pooler_output if self.pooling == "attention" else None
        tokens = out.last_hidden_state
        return (self._final_norm(tokens) if self.family.norms_pooled_only else tokens), head

    def _final_norm(self, tokens: Tensor) -> Tensor:
        return self.tower.get_submodule(self.family.final_norm)(tokens)


@in_plain_torch
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
        inner = unwrapped(source)
        return inner if isinstance(inner, Teacher) else Teacher(inner, "", mean, std, resolution)
    name = locate(source)
    if is_weight_file(name):
        tower = read_timm(name, mean=mean, std=std, dtype=dtype, architecture=architecture)
    else:
        with explain_hub_errors(name):
            values = stated(name)
            if is_published(values.get("model_type")) or values.get("model_type") == "bcos_vit":
                raise UserError(f"{source} is a B-cos student, not a teacher; aloe.load reads it.")
            if is_timm_config(values):
                tower = read_timm(name, mean=mean, std=std, dtype=dtype, architecture=architecture)
            else:
                tower = read_transformers(name, str(source), values, dtype)
    teacher = Teacher(
        tower.model, tower.name, mean or tower.mean, std or tower.std, resolution or tower.resolution, keep_half=True
    )
    teacher.unread = tower.unread
    if tower.other_head:
        teacher.note = head_note(tower.name, tower.other_head)
    return teacher


def resize(images: Tensor, side: int) -> Tensor:
    """Bilinear, antialiased resize of (B, 3, H, W) to a square; returned as it is when it already fits."""
    if images.shape[-2:] == (side, side):
        return images
    resized = F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False, antialias=True)
    return resized.clamp_(0, 1)


def _find_tower(model: nn.Module, family: Family) -> nn.Module:
    """The vision tower: both with and without a level such as `vision_model` or `vit` around it."""
    for name in family.towers:
        inner = unwrapped(getattr(model, name, None))
        if isinstance(inner, nn.Module):
            return _find_tower(inner, family)
    return model


def in_float32(model: Any, *, also: tuple[torch.dtype, ...] = ()) -> Any:
    """A module in half precision, or in one of the dtypes `also`, as a copy in float32; any other as it is."""
    others = any(p.dtype in (torch.float16, torch.bfloat16, *also) for p in model.parameters())
    return copy.deepcopy(model).float() if others else model


def head_note(name: str, what: str) -> str:
    return (
        f"The classifier of {name} ({what}) does not read the pooled output alone, so the student is made without it; "
        "aloe finetune gives it one."
    )


def _classifier(model: nn.Module, family: Family, name: str) -> tuple[nn.Linear | None, str]:
    """A classifier that is linear on the pooled output; or a sentence where there is another one."""
    classifier = unwrapped(getattr(model, "classifier", None))
    if not isinstance(classifier, nn.Module) or isinstance(classifier, nn.Identity):
        return None, ""
    if not isinstance(classifier, nn.Linear):
        return None, head_note(name, f"a {type(classifier).__name__}")
    if not extends(model, family.classifier_class):
        return None, head_note(name, type(model).__name__)
    return classifier, ""


def _no_config(model: nn.Module) -> str:
    inside = next((n for n, m in model.named_modules() if n and getattr(m, "config", None) is not None), None)
    hint = f"give its {inside}" if inside else "give a module of transformers, its folder or hub id"
    return f"{type(model).__name__} has no configuration of transformers: model type None cannot be converted; {hint}."


def capture(into: dict[int, Tensor], k: int) -> Any:
    """A forward hook that keeps a block's states (B, N, D) under `k`."""

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        into[k] = output[0] if isinstance(output, tuple) else output

    return hook


def _naflex(pixels: Tensor, patch: int) -> dict[str, Tensor]:
    """What SigLIP2's NaFlex tower takes: flattened patches in (row, column, channel) order, a mask, the grid."""
    batch, channels, height, width = pixels.shape
    rows, columns = height // patch, width // patch
    grid = pixels[..., : rows * patch, : columns * patch].reshape(batch, channels, rows, patch, columns, patch)
    flat = grid.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, -1)
    shapes = torch.tensor([[rows, columns]], device=pixels.device).expand(batch, -1)
    mask = torch.ones(batch, rows * columns, dtype=torch.long, device=pixels.device)
    return {"pixel_values": flat, "pixel_attention_mask": mask, "spatial_shapes": shapes}
