"""The warm-up of a convolutional stem: it learns the teacher's patch embedding before anything else is trained.

A new stem starts from noise, and blocks that adapt to noise have to be learnt again. So stem and patch unit first learn alone
to give the tokens that the teacher's patch embedding gives, by relative squared error. Neither teacher nor student runs a
block in such a step.

A student that was aligned with another stem can be given a new one (`align(student=..., stem=...)`): that stem learns the
student's own patch tokens, which the blocks behind it know.

The stage is a run in the folder `stem` of the alignment's, with its own checkpoints and `log.jsonl`.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aloe.models.convert import Student, bcosify
from aloe.models.teachers import Teacher, resize
from aloe.train.align.stage import Stage
from aloe.train.progress import EVAL_PREFIX, ProgressBar
from aloe.train.trainer import DrawTrainer

FOLDER = "stem"
RATE = 3e-3  # of AdamW, one cycle; the stem's widths are the same for every teacher


class StemModel(nn.Module):
    """A student of which stem and patch unit alone are trained, and the patch embedding that they learn.

    `taught_by` is the teacher, or a student with another stem and the same token grid.
    """

    _no_split_modules: tuple[str, ...] = ()

    def __init__(self, student: nn.Module, taught_by: Teacher | Student) -> None:
        super().__init__()
        self.student: Any = student
        if isinstance(taught_by, Teacher):
            exact: Any = bcosify(taught_by, "patch", b=1.0).base_model  # at B = 1 its tokens are the teacher's
            self._side, embeddings = taught_by.input_size, exact.embeddings
        else:
            core: Any = taught_by.base_model
            self._side, embeddings = core.config.patch_size.__mul__, deepcopy(core.embeddings)
        self._embeddings = (embeddings.requires_grad_(False),)  # in a tuple: neither trained, wrapped nor saved

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) in [0, 1] -> patch tokens (B, N, D) of the stem, and those to learn."""
        core, embeddings = self.student, self._embeddings[0].to(images.device)
        ours = core.embeddings.patches(core.encode(images))
        side = self._side(images.shape[-1] // core.config.patch_size)
        with torch.no_grad():
            theirs = embeddings.patches(core.encode(resize(images, side)))
        return ours.float(), theirs.float()


class StemTrainer(DrawTrainer):
    """Trainer whose loss is the squared error of the patch tokens, relative to their square."""

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        ours, theirs = model(self.faults.take(inputs)["pixel_values"])
        loss = relative_error(ours, theirs)
        return (loss, {}) if return_outputs else loss

    def measure(self, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Mean cosine of the patch tokens."""
        ours, theirs = model(batch["pixel_values"])
        return {"cosine_patches": F.cosine_similarity(ours, theirs, dim=-1).mean()}


def relative_error(ours: Tensor, theirs: Tensor) -> Tensor:
    """|ours - theirs|^2 / |theirs|^2 of every image, mean over the images; (B, N, D) each -> scalar."""
    return ((ours - theirs).square().sum((1, 2)) / theirs.square().sum((1, 2))).mean()


def warmed_up(student: Any, taught_by: Teacher | Student, stage: Stage, **data: Any) -> Any:
    """The student with a stem that has learnt, from the stage's folder if that is done, else from its last checkpoint.

    Args:
        student: with a new conv stem. taught_by: as `StemModel` takes it.
        stage: where and how; `stem_steps` of its settings are taken, at `RATE`.
        data: `train`, `held_out` and `resolution`, as `DrawTrainer` takes them.

    Raises:
        UserError: as for every training.
    """
    core = student.base_model
    parts = (core.embeddings.stem, core.embeddings.patch_embedding)
    steps = stage.settings.stem_steps
    return stage.run(student, parts, StemTrainer, lambda: StemModel(core, taught_by), stem_bar, steps, RATE, **data)


def stem_bar() -> ProgressBar:
    """The error and, once there is one, the held-out cosine."""

    def words(logs: dict[str, Any]) -> str:
        cosine = logs.get(f"{EVAL_PREFIX}cosine_patches")
        return f"error {logs.get('loss', 0):.3f}" + ("" if cosine is None else f"  cosine {cosine:.3f}")

    return ProgressBar("warming up the stem", words)
