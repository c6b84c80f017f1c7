"""What attribution methods need of a model, the same for teachers and students: its input, its differentiable outputs,
its blocks and how it pools. Nothing of the model is changed for longer than the `opened` block lasts, also when it raises.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aloe.attribution.targets import Target, target_value
from aloe.core.errors import UserError
from aloe.core.torch_state import evaluating, uncompiled
from aloe.models.teachers import Teacher


@dataclass
class Outputs:
    """What a model gives for B images: `pooler_output` (B, D) and, where it has a classifier, `logits` (B, C)."""

    pooler_output: Tensor
    logits: Tensor | None


class Subject:
    """A model under explanation. `forwards` and `backwards` count the images that passed."""

    prefix: int
    pooling: str
    patch_size: int
    blocks: nn.ModuleList
    config: Any

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.forwards = self.backwards = 0
        reference = next(model.parameters())
        self.device, self.dtype = reference.device, reference.dtype

    def prepare(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] to what the network reads, (B, C, H, W)."""
        raise NotImplementedError

    def run(self, inputs: Tensor) -> Outputs:
        raise NotImplementedError

    def read(self, tokens: Tensor, pool: str) -> Outputs:
        """The head on the raw tokens (B, N, D) of any block: attention-pooled as they are (no final norm), else the mean of
        all tokens or the CLS token, then the final norm; then the classifier (LeGrad, docs/attribution.md)."""
        raise NotImplementedError

    def forward(self, inputs: Tensor) -> Outputs:
        """Differentiable with respect to the inputs; no parameter receives a gradient."""
        self.forwards += len(inputs)
        return self.run(inputs)

    def gradient(self, value: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
        """d sum(value) / d of, for every tensor."""
        self.backwards += len(value)
        return torch.autograd.grad(value.sum(), of, retain_graph=False)

    def resolve(self, outputs: Outputs, target: Target) -> Target:
        """The target as it stays when the input changes: the predicted class, or the direction of the features."""
        if target is not None:
            return target
        if outputs.logits is None:
            return F.normalize(outputs.pooler_output.detach().float(), dim=-1)
        return outputs.logits.detach().argmax(-1)

    def value(self, outputs: Outputs, target: Target) -> Tensor:
        """The explained scalar of every image, (B,)."""
        return target_value(outputs, self.config, target)[0]

    def grid(self, images: Tensor) -> tuple[int, int]:
        """Rows and columns of patch tokens."""
        return images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size


class _TeacherSubject(Subject):
    def __init__(self, model: Teacher) -> None:
        super().__init__(model)
        self.teacher, self.config, self.blocks = model, model.config, model.blocks
        self.pooling = model.pooling
        self.prefix = model.num_prefix_tokens
        self.patch_size = model.patch_size

    def prepare(self, images: Tensor) -> Tensor:
        return self.teacher.normalize(images)

    def run(self, inputs: Tensor) -> Outputs:
        features = self.teacher.features(inputs)
        return Outputs(features.pooled, features.logits)

    def read(self, tokens: Tensor, pool: str) -> Outputs:
        pooled = self.teacher.pool_raw(tokens, pool)
        return Outputs(pooled, self.teacher.classify(pooled))


class _StudentSubject(Subject):
    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.config, self.base = model.config, model.base_model
        self.blocks, self.pooling = self.base.layers, self.config.pooling
        self.prefix, self.patch_size = self.config.num_prefix_tokens, self.config.patch_size
        self.frozen = {name: p.detach() for name, p in model.named_parameters()}

    def prepare(self, images: Tensor) -> Tensor:
        return self.base.encode(images)

    def run(self, inputs: Tensor) -> Outputs:
        out: Any = torch.func.functional_call(self.model, self.frozen, (inputs,), {"return_dict": True})
        return Outputs(out.pooler_output, getattr(out, "logits", None))

    def read(self, tokens: Tensor, pool: str) -> Outputs:
        if self.base.pooler is not None:
            pooled = self.base.pool(tokens)
        else:
            pooled = self.base.norm(tokens[:, 0] if pool == "cls" else tokens.mean(dim=1))
        model: Any = self.model
        return Outputs(pooled, model.classify(pooled))


@contextmanager
def opened(model: nn.Module) -> Iterator[Subject]:
    """The model in eval mode, computing attention where it can be watched; both are put back on leaving.

    Raises:
        UserError: neither a teacher nor a B-cos student.
    """
    check_model(model)
    with evaluating(model, attention="sdpa"), uncompiled(model), torch.inference_mode(False), torch.enable_grad():
        yield _TeacherSubject(model) if isinstance(model, Teacher) else _StudentSubject(model)


def check_model(model: nn.Module) -> None:
    """Refuses what is neither a teacher nor a B-cos student."""
    if not (isinstance(model, Teacher) or getattr(getattr(model, "config", None), "model_type", None) == "bcos_vit"):
        raise UserError(f"{type(model).__name__} is neither a teacher (aloe.load_teacher) nor a student (aloe.load).")
