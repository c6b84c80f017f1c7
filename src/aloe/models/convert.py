"""Teacher -> student ("B-cosification", docs/method.md section 4), by the tables of `families.py`.

Every weight matrix is copied, biases of attention, MLP and norms are dropped, Q, K and V are fused, and the patch
embedding absorbs the teacher's normalisation and its own bias. `bcosify` accounts for every tensor in a report.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from aloe.bcos.functional import ACTIVATIONS
from aloe.core.errors import UserError
from aloe.core.torch_state import in_plain_torch
from aloe.models.configuration import EVEN_KERNEL, STEM_NAMES, BcosViTConfig
from aloe.models.importer import import_tensors, written_out
from aloe.models.modeling import BcosViTForImageClassification, BcosViTModel
from aloe.models.rules import Copy, Fold, Rule
from aloe.models.rules import fold_normalization as fold_normalization  # its former home
from aloe.models.teachers import Teacher, load_teacher
from aloe.models.unwrap import plain_name

Student = BcosViTModel | BcosViTForImageClassification


@dataclass
class ConversionReport:
    """What became of every tensor: student names under `copied`, `fused`, `folded`, `new`; teacher names `dropped`.

    Each maps a tensor's name to its number of parameters. `unread` names what of the checkpoint was never loaded.
    """

    copied: dict[str, int] = field(default_factory=dict)
    fused: dict[str, int] = field(default_factory=dict)
    folded: dict[str, int] = field(default_factory=dict)
    new: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)

    def rows(self) -> list[tuple[str, int, int]]:
        """(what, tensors, parameters) for each kind; what was not read has no known parameters and no row."""
        groups = {kind: group for kind, group in vars(self).items() if isinstance(group, dict)}
        return [(kind, len(group), sum(group.values())) for kind, group in groups.items()]

    def __str__(self) -> str:
        parts = [f"{kind} {total:,} parameters in {count} tensors" for kind, count, total in self.rows()]
        return ", ".join(parts + [f"{len(self.unread)} tensors not read"] * bool(self.unread))


@in_plain_torch
def bcosify(
    teacher: Teacher | nn.Module | str,
    stem: str = "patch",
    b: float = 2.0,
    *,
    seed: int = 0,
    with_report: bool = False,
) -> Any:
    """Convert a teacher to a B-cos ViT, not aligned.

    Args:
        teacher: a `Teacher`, or what `load_teacher` takes.
        stem: `patch`, the teacher's patch embedding folded into six channels (exact at b = 1); `conv`, a new
            convolutional B-cos stem as in the paper; or `conv-even`, the same with kernels that read all pixels alike.
        b: exponent of every B-cos unit.
        seed: of the tensors that are new (the conv stem).
        with_report: also return the `ConversionReport`.

    Returns:
        `BcosViTModel`, or `BcosViTForImageClassification` when the teacher has a classifier on its pooled output.

    Raises:
        UserError: unknown stem, or a teacher with a layout that the family's table does not know.
    """
    teacher = teacher if isinstance(teacher, Teacher) else load_teacher(teacher)
    if stem not in STEM_NAMES:
        raise UserError(f"stem must be one of {', '.join(STEM_NAMES)}, got {stem!r}.")
    config = student_config(teacher, stem, b)
    model_class = BcosViTModel if teacher.classifier is None else BcosViTForImageClassification
    reference = next(teacher.tower.parameters())
    with torch.random.fork_rng(devices=[]), torch.device(reference.device):
        torch.manual_seed(seed)
        student: Any = model_class(config)
        student.to(_whole(reference).dtype)
    report = ConversionReport(unread=list(teacher.unread))
    student.load_state_dict(_import(teacher, student, report), strict=False, assign=True)
    student.requires_grad_(True).eval()
    return (student, report) if with_report else student


@in_plain_torch
def with_conv_stem(student: Student, stem: str, *, seed: int = 0) -> Any:
    """A copy of a student with a new convolutional stem and patch unit, not trained; everything else is the student's.

    Args:
        student: of any stem. stem: `conv` or `conv-even`, as `bcosify` takes them; patches of 14 pixels become 16, on the
            same token grid. seed: of the new tensors.

    Raises:
        UserError: another stem, or a patch size that a convolutional stem does not have.
    """
    before: Any = student.config
    if not stem.startswith("conv") or stem not in STEM_NAMES:
        raise UserError(f"The new stem of a student must be conv or conv-even, got {stem!r}.")
    patch = _patch_size(stem, before.patch_size)
    record = {**before.teacher, "stage": "converted"}
    if resolution := record.get("resolution"):
        record["resolution"] = resolution // before.patch_size * patch
    changes = {
        "stem": "conv",
        "stem_kernel": _kernel(stem),
        "stem_widths": None,
        "patch_size": patch,
        "teacher": record,
    }
    values = {**before.to_dict(), **changes, "image_size": before.grid_size * patch}
    reference = next(student.parameters())
    with torch.random.fork_rng(devices=[]), torch.device(reference.device):
        torch.manual_seed(seed)
        changed: Any = type(student)(BcosViTConfig(**values))
        changed.to(reference.dtype)
    new = ("embeddings.stem.", "embeddings.patch_embedding.")
    kept = {k: v for k, v in student.state_dict().items() if not any(part in k for part in new)}
    changed.load_state_dict({**changed.state_dict(), **kept})
    return changed.requires_grad_(True).eval()


def student_config(teacher: Teacher, stem: str, b: float) -> BcosViTConfig:
    """The configuration of the student of a teacher; with a conv stem its patch size is 16 where the teacher's is 14."""
    source: Any = teacher.config
    family = teacher.family
    patch = _patch_size(stem, teacher.patch_size)
    gated = bool(getattr(source, "use_swiglu_ffn", False) or getattr(source, "use_gated_mlp", False))
    labels: dict[str, Any] = {}
    if teacher.classifier is not None:
        labels = {"id2label": dict(source.id2label), "label2id": dict(source.label2id)}  # checked when it was opened
    overrides = {**family.student, "pooling": teacher.pooling}
    return BcosViTConfig(
        hidden_size=source.hidden_size,
        num_hidden_layers=source.num_hidden_layers,
        num_attention_heads=source.num_attention_heads,
        intermediate_size=_intermediate_size(teacher, gated),
        hidden_act="silu" if getattr(source, "use_swiglu_ffn", False) else _activation(source.hidden_act),
        layer_norm_eps=source.layer_norm_eps,
        image_size=teacher.grid_size * patch,
        patch_size=patch,
        b=b,
        stem=stem.removesuffix("-even"),
        stem_kernel=_kernel(stem),
        num_register_tokens=teacher.num_register_tokens,
        rope_theta=float(getattr(source, "rope_theta", None) or 100.0),
        mlp="swiglu" if gated else "mlp",
        teacher={
            "name": teacher.name,
            "stage": "converted",
            "family": family.name,
            "image_size": teacher.image_size,
            "patch_size": teacher.patch_size,
            "mean": list(teacher.mean),
            "std": list(teacher.std),
            "resolution": teacher.resolution // teacher.patch_size * patch,
        },
        **overrides,
        **labels,
    )


def _patch_size(stem: str, patch: int) -> int:
    """A conv stem has total stride 16, 8, 4 or 2; patch 14 pairs with 16 on the same token grid (docs/method.md 4)."""
    return 16 if stem != "patch" and patch == 14 else patch


def _kernel(stem: str) -> int:
    return EVEN_KERNEL if stem == "conv-even" else 3


def _import(teacher: Teacher, student: Student, report: ConversionReport) -> dict[str, Tensor]:
    """The student's tensors from the teacher's, each accounted for in the report."""
    family, config = teacher.family, student.config
    source = {family.table_name(plain_name(n)): _whole(t) for n, t in teacher.tower.state_dict().items()}
    if (head := teacher.classifier) is not None:
        values = {f"classifier.{part}": getattr(head, part) for part in ("weight", "bias")}
        source |= {name: _whole(tensor.detach()) for name, tensor in values.items() if tensor is not None}
    prefix = "vit." if isinstance(student, BcosViTForImageClassification) else ""
    rules: dict[str, Rule] = {"classifier.weight": Copy("classifier.weight")}
    for name, rule in written_out(family.tensors, i=config.num_hidden_layers).items():
        if not isinstance(rule, Fold):
            rules[prefix + name] = rule
        elif config.stem != "conv":  # which is new
            rules[prefix + name] = replace(rule, mean=teacher.mean, std=teacher.std)
    own = student.state_dict()
    layout = f"the {family.name} layout of transformers 5.17 to 5.23"
    result = import_tensors(own, rules, source, teacher.name, layout, unread=None)
    for name, tensor in own.items():
        _group(report, result.rules.get(name))[name] = tensor.numel()
    report.dropped.update({name: source[name].numel() for name in result.left})
    return result.tensors


def _whole(tensor: Tensor) -> Tensor:
    """In float32 where it is in half precision: students are never made in less."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _group(report: ConversionReport, rule: Rule | None) -> dict[str, int]:
    if rule is None:
        return report.new
    if isinstance(rule, Fold):
        return report.folded
    return report.copied if isinstance(rule, Copy) else report.fused


def _activation(name: str) -> str:
    """The gated activation of a teacher's name for it."""
    same = {"gelu_new": "gelu_pytorch_tanh", "gelu_fast": "gelu_pytorch_tanh", "swish": "silu"}
    activation = same.get(name, name)
    if activation not in ACTIVATIONS:
        raise UserError(f"The teacher's activation {name!r} has no B-cos form here; known: {', '.join(ACTIVATIONS)}.")
    return activation


def _intermediate_size(teacher: Teacher, gated: bool) -> int:
    source: Any = teacher.config
    size = getattr(source, "intermediate_size", None)
    if size is None:
        size = int(source.hidden_size * source.mlp_ratio)
        if gated:
            size = (int(size * 2 / 3) + 7) // 8 * 8
    return int(size)
