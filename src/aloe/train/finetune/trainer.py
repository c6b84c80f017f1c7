"""Fine-tuning on `DrawTrainer`: labels travel with the images, loss and accuracy are logged."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from aloe.bcos.losses import LOSSES
from aloe.models.modeling import BcosViTForImageClassification
from aloe.train.progress import EVAL_PREFIX, ProgressBar
from aloe.train.trainer import DrawTrainer


class LabelledModel(nn.Module):
    """The student and the loss: images (B, 3, H, W) and labels (B,) in; loss and top-1 accuracy out, as scalars."""

    _no_split_modules = BcosViTForImageClassification._no_split_modules  # what FSDP wraps

    def __init__(self, student: BcosViTForImageClassification, loss: str) -> None:
        super().__init__()
        self.student = student
        self._loss = LOSSES[loss]

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.student(images).logits.float()
        right = logits.argmax(dim=1) == labels
        return {"loss": self._loss(logits, labels), "accuracy": right.float().mean()}


class FinetuneTrainer(DrawTrainer):
    """Trainer of a `LabelledModel`."""

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        measures = self.measure(model, self.faults.take(inputs))
        self.tally({"accuracy": measures["accuracy"]})
        return (measures["loss"], measures) if return_outputs else measures["loss"]

    def measure(self, model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Loss and top-1 accuracy."""
        return model(batch["pixel_values"], batch["label"])


def finetuning_bar() -> ProgressBar:
    """Loss and accuracy, of the training crops and, once there is one, of the held-out images."""

    def words(logs: dict[str, Any]) -> str:
        seen = [("", ""), ("  held out: ", EVAL_PREFIX)]
        return "".join(
            f"{title}loss {logs[f'{key}loss']:.4f} accuracy {logs[f'{key}accuracy']:.1%}"
            for title, key in seen
            if f"{key}accuracy" in logs
        )

    return ProgressBar("fine-tuning", words)
