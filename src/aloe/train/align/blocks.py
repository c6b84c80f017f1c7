"""The stage in which every block learns alone, from the teacher's state before it to the teacher's state after it.

Through a deep network that is converted but not aligned nothing reaches the last blocks: each adds its error to the one
before. Given the teacher's own states, all blocks learn at once, and each its own part: a step costs what a step of the
alignment costs (docs/alignment.md).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aloe.models.teachers import Teacher
from aloe.train.align.points import POOLED, match_tokens, point_name
from aloe.train.align.stage import Stage
from aloe.train.align.teaching import Teaching
from aloe.train.progress import EVAL_PREFIX, ProgressBar
from aloe.train.trainer import DrawTrainer

FOLDER = "blocks"
RATE = 1.5e-3  # of AdamW, one cycle
LEAST = 0.01  # of the mean square over an image's tokens: a token that a block hardly changes counts no more than this


class BlocksModel(nn.Module):
    """A student whose blocks are run on the teacher's states, and the teacher beside it."""

    _no_split_modules: tuple[str, ...] = ()

    def __init__(self, student: nn.Module, teacher: Teacher, precision: str) -> None:
        super().__init__()
        self.student: Any = student
        config: Any = student.config
        self._teacher = (teacher, Teaching(teacher, config, range(1, config.num_hidden_layers + 1), precision))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images (B, 3, H, W) in [0, 1] to the relative error of what every block adds, and 1 - cosine of the pooled output.

        The first block runs on the student's own embeddings, so they learn with it; its error is that of the whole state.
        """
        core, (source, teach) = self.student, self._teacher
        source.to(images.device)
        theirs = teach(images)
        x = core.encode(images)
        attend, before = core._attention(False), core.embeddings(x)
        rope = core._rope(*core.embeddings.grid(x.shape[-2], x.shape[-1]), before)
        if core.pre_norm is not None:
            before = core.pre_norm(before)
        errors = {}
        for k, layer in enumerate(core.layers, 1):
            after, _ = layer(before, attend, rope)
            after, target = match_tokens(after, theirs.states[k], core.config, source)
            start = before.detach() if k > 1 else torch.zeros_like(target)
            errors[point_name(k)] = relative_error(after - start, target - start)
            before = target
        pooled = core.pool(core.norm(before))
        errors[POOLED] = (1 - F.cosine_similarity(pooled.float(), theirs.pooled.float(), dim=-1)).mean()
        return errors


class BlocksTrainer(DrawTrainer):
    """Trainer whose loss is the sum of the blocks' errors."""

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        errors = model(self.faults.take(inputs)["pixel_values"])
        self.tally({f"loss_{name}": error for name, error in errors.items()})
        loss = torch.stack(list(errors.values())).sum()
        return (loss, {}) if return_outputs else loss

    def measure(self, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        """The error of every block."""
        return {f"error_{name}": error for name, error in model(batch["pixel_values"]).items()}


def relative_error(ours: Tensor, theirs: Tensor) -> Tensor:
    """|ours - theirs|^2 / |theirs|^2 of every token, mean over tokens and images; (B, N, D) each -> scalar."""
    power = theirs.float().square().sum(-1)
    power = power.maximum(LEAST * power.mean(1, keepdim=True))
    return ((ours - theirs).float().square().sum(-1) / power).mean()


def taught_blocks(student: Any, teacher: Teacher, stage: Stage, **data: Any) -> Any:
    """The student whose blocks have learnt, from the stage's folder if that is done, else from its last checkpoint.

    Args:
        student: converted. stage: where and how; `block_steps` of its settings are taken, at `RATE`.
        data: `train`, `held_out` and `resolution`, as `DrawTrainer` takes them.

    Raises:
        UserError: as for every training.
    """
    core, settings = student.base_model, stage.settings
    model = lambda: BlocksModel(core, teacher, settings.precision)  # noqa: E731
    return stage.run(student, (core,), BlocksTrainer, model, blocks_bar, settings.block_steps, RATE, **data)


def blocks_bar() -> ProgressBar:
    """The mean error of the blocks and, once there is one, that of held-out images."""

    def words(logs: dict[str, Any]) -> str:
        parts = (("error", "loss_"), ("held out", f"{EVAL_PREFIX}error_"))
        return "  ".join(f"{word} {mean:.3f}" for word, prefix in parts if (mean := _mean_of_blocks(logs, prefix)))

    return ProgressBar("teaching the blocks", words)


def _mean_of_blocks(logs: dict[str, Any], prefix: str) -> float:
    values = [v for k, v in logs.items() if k.startswith(f"{prefix}after_block_")]
    return sum(values) / len(values) if values else 0.0
