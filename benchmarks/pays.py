"""What of several changes pays in an alignment: one at a time on the CIFAR-10 pair of the zoo, at equal crops.

python benchmarks/pays.py cifar10.tar -o RUNS [--rows base,cosine,all,muon,blocks,late,average,ramp,logits,divergence]

Every row is `--recipe small` with one change: five that are settings of `aloe align`, and five that were tried and are none,
which is why the steps are taken here, with the package's own parts. `RUNS` keeps a student for each row, and `pays.jsonl`
what it is worth on the test images, k-NN from every fifth training image.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aloe.bcos.layers import BcosLinear
from aloe.data.draws import AlignmentDraws, collate_draws
from aloe.data.sources import open_images
from aloe.data.subset import SubsetImages
from aloe.data.transforms import Compose, RandomHorizontalFlip, RandomResizedCrop
from aloe.evaluation.case import score
from aloe.evaluation.features import classify, extract
from aloe.evaluation.knn import knn_predict
from aloe.models.modeling import BcosPatchEmbedding
from aloe.models.saving import load, save_student
from aloe.models.teachers import load_teacher
from aloe.train.align.blocks import RATE, BlocksModel
from aloe.train.align.calibrate import calibrate
from aloe.train.align.points import POOLED, match_tokens, point_name, student_features
from aloe.train.align.run import Parts
from aloe.train.align.settings import AlignSettings
from aloe.train.align.statistics import COUNT
from aloe.train.align.teaching import Teaching
from aloe.train.align.trainer import AlignmentModel
from aloe.train.muon import muon_of
from aloe.train.runs import sample_images

TEACHER = "zoo:cifar10-vit"
BATCH = 64
SETTINGS: dict[str, dict[str, Any]] = {
    "base": {},
    "cosine": {"objective": "cosine"},
    "all": {"after_block": "all"},
    "muon": {"optimizer": "muon"},
    "blocks": {},
    "late": {},
    "average": {},
    "ramp": {"calibrate": False},
    "logits": {},
    "divergence": {},
}


class Trial:
    """One row: a student, and the steps that align it."""

    def __init__(self, row: str, images: str, crops: int, seed: int) -> None:
        self.row, self.steps, self.seed, self.crops = row, crops // BATCH, seed, crops
        given = {"steps": self.steps, "batch_size": BATCH, "seed": seed, "crop_scale": (0.35, 1.0), "workers": 0}
        self.settings = AlignSettings.resolve("small", None, {**given, **SETTINGS[row]})
        self.parts = Parts.of(TEACHER, images, self.settings, None, False)
        self.student, self.teacher = self.parts.student, self.parts.teacher
        self.sample = sample_images(self.parts.train, self.parts.resolution, seed, COUNT)
        torch.manual_seed(seed)
        if self.settings.calibrate:
            calibrate(self.student, self.sample[:64])
        self.average: Any = None

    def run(self) -> nn.Module:
        """The aligned student."""
        first = self.steps // 5 if self.row == "blocks" else 0
        if first:
            blocks = BlocksModel(self.student.base_model, self.teacher, "float32")
            self.train(blocks, lambda x, step: blocks(x), 0, first, RATE)
        if self.row == "average":
            self.average = torch.optim.swa_utils.AveragedModel(self.student, avg_fn=lambda a, p, n: a.lerp(p, 0.02))
        model = AlignmentModel(self.student.base_model, self.teacher, self.settings, self.parts.blocks)
        teach = Teaching(self.teacher, self.student.config, model.blocks)
        if model.statistics is not None:
            model.statistics.measure(teach, self.sample, self.student.config, self.teacher, BATCH)
        of_logits = self.row in ("logits", "divergence")
        losses = self.with_logits(model, teach) if of_logits else lambda x, step: model(x, teach(x))
        self.train(self.student if of_logits else model, losses, first, self.steps, self.settings.learning_rate)
        return self.student if self.average is None else self.average.module

    def train(self, module: nn.Module, losses: Callable[..., Any], first: int, last: int, rate: float) -> None:
        """Steps `first` to `last`, one cycle of the rate."""
        if self.row == "muon":
            optimizer: torch.optim.Optimizer = muon_of(module, self.settings, [])
        else:
            optimizer = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=0.0)
        cycle: dict[str, Any] = {"total_steps": last - first + 1, "cycle_momentum": False}
        warmup = max(0.1, 2 / cycle["total_steps"])
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, pct_start=warmup, **cycle)
        units = [m for m in self.student.base_model.modules() if isinstance(m, BcosLinear | BcosPatchEmbedding)]
        for step, images in enumerate(self.batches(first, last), first):
            if self.row == "ramp":
                for unit in units:
                    unit.b = min(2.0, 1.0 + step / (0.5 * self.steps))
            loss = torch.stack(list(losses(images, step).values())).sum()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if self.average is not None and step >= self.steps // 4:
                self.average.update_parameters(self.student)

    def batches(self, first: int, last: int) -> Iterator[Tensor]:
        """The crops of every step; of `late` those of the last quarter are larger."""
        for step in range(first, last):
            low = 0.8 if self.row == "late" and step >= 0.75 * self.steps else 0.35
            crop = Compose(RandomResizedCrop(self.parts.resolution, (low, 1.0)), RandomHorizontalFlip())
            draws = AlignmentDraws(self.parts.train, crop, self.seed, self.crops)
            yield collate_draws([draws[i] for i in range(step * BATCH, (step + 1) * BATCH)])["pixel_values"]

    def with_logits(self, model: AlignmentModel, teach: Teaching) -> Callable[..., dict[str, Tensor]]:
        """The losses with the teacher's logits as one more target: standardised, or the divergence of the probabilities."""
        with torch.no_grad():
            sample = torch.cat([self.teacher.classify(teach(part).pooled) for part in self.sample.split(BATCH)])
        mean, deviation = sample.mean(0), sample.std(0)

        def losses(images: Tensor, step: int) -> dict[str, Tensor]:
            theirs, ours = teach(images), student_features(self.student, images, model.blocks)
            found = {}
            for k in model.blocks:
                pair = match_tokens(ours.states[k], theirs.states[k], self.student.config, self.teacher)
                found[point_name(k)] = F.smooth_l1_loss(*model._standardised(point_name(k), *pair))
            found[POOLED] = F.smooth_l1_loss(*model._standardised(POOLED, ours.pooled, theirs.pooled))
            with torch.no_grad():
                wanted = self.teacher.classify(theirs.pooled)
            if self.row == "logits":
                found["logits"] = F.smooth_l1_loss((ours.logits - mean) / deviation, (wanted - mean) / deviation)
            else:
                both = ours.logits.log_softmax(-1), wanted.log_softmax(-1)
                found["logits"] = F.kl_div(*both, log_target=True, reduction="batchmean")
            return found

        return losses


def worth(model: Any, teacher: Any, train: Any, test: Any) -> dict[str, float]:
    """Cosine to the teacher and the same less the teacher's mean, k-NN and the class head in percent."""
    (ours, others), (theirs, known) = ([extract(m, s) for s in (test, train)] for m in (model, teacher))
    pooled, wanted, mean = ours.tensor(), theirs.tensor(), known.tensor().mean(0)
    votes = knn_predict(others, others.labels, pooled, [20])[20]
    logits = classify(model, pooled)
    assert logits is not None
    return {
        "cosine": float(F.cosine_similarity(pooled, wanted).mean()),
        "centred": float(F.cosine_similarity(pooled - mean, wanted - mean).mean()),
        "knn": score(votes, ours.labels, "top-1"),
        "head": score(logits.argmax(1), ours.labels, "top-1"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", help="CIFAR-10 as class folders under cifar10/train and cifar10/test")
    parser.add_argument("--output-dir", "-o", type=Path, required=True)
    parser.add_argument("--rows", default=",".join(SETTINGS))
    parser.add_argument("--crops", type=int, default=12800)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    train, test = (open_images(f"{args.archive}::cifar10/{part}") for part in ("train", "test"))
    train, teacher = SubsetImages(train, torch.arange(0, len(train), 5).numpy()), load_teacher(TEACHER)
    for row in args.rows.split(","):
        folder = args.output_dir / f"{row}-{args.crops}-{args.seed}"
        if not (folder / "model.safetensors").is_file():
            save_student(Trial(row, f"{args.archive}::cifar10/train", args.crops, args.seed).run().eval(), folder)
        found = {"row": row, "crops": args.crops, "seed": args.seed, **worth(load(folder), teacher, train, test)}
        print(json.dumps(found), flush=True)
        with (args.output_dir / "pays.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
