"""Teacher -> student ("B-cosification", docs/method.md section 4): one engine over the tables of `families.py`.

Every weight matrix is copied, biases of attention, MLP and norms are dropped, Q, K and V are fused, and the patch
embedding absorbs the teacher's normalisation and its own bias. `bcosify` accounts for every tensor in a report.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from aloe.bcos.functional import ACTIVATIONS
from aloe.core.errors import UserError
from aloe.core.torch_state import in_plain_torch
from aloe.models.configuration import EVEN_KERNEL, STEM_NAMES, BcosViTConfig
from aloe.models.families import GATED
from aloe.models.modeling import BcosViTForImageClassification, BcosViTModel
from aloe.models.rules import Copy, Fold, Rule, assemble, renamed, same_but_for_unit_axes, sources_of
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
    tensors = _convert(teacher, student, report)
    student.load_state_dict(tensors, strict=False, assign=True)
    student.requires_grad_(True).eval()
    return (student, report) if with_report else student


def student_config(teacher: Teacher, stem: str, b: float) -> BcosViTConfig:
    """The configuration of the student of a teacher; with a conv stem its patch size is 16 where the teacher's is 14."""
    source: Any = teacher.config
    family = teacher.family
    patch = _student_patch(teacher.patch_size, stem)
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
        stem_kernel=EVEN_KERNEL if stem == "conv-even" else 3,
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


def fold_normalization(weight: Tensor, bias: Tensor | None, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Patch embedding of normalised RGB -> bias-free patch embedding of (r, g, b, 1-r, 1-g, 1-b) in [0, 1].

    With u = w / std the result is [u/2 + c, -u/2 + c] and 3 P^2 c = b - sum(w mean / std) + sum(u) / 2, computed in
    float64. Shapes: weight (D, 3, P, P), bias (D,) -> (D, 6, P, P). Source: docs/method.md section 3.
    """
    wide = weight.double()
    device = weight.device
    scaled = wide / torch.tensor(std, dtype=torch.float64, device=device)[:, None, None]
    offset = (scaled * torch.tensor(mean, dtype=torch.float64, device=device)[:, None, None]).sum((1, 2, 3))
    constant = (0 if bias is None else bias.double()) - offset + scaled.sum((1, 2, 3)) / 2
    shift = (constant / weight[0].numel())[:, None, None, None]
    return torch.cat((scaled / 2 + shift, -scaled / 2 + shift), dim=1).to(weight.dtype)


def _convert(teacher: Teacher, student: Student, report: ConversionReport) -> dict[str, Tensor]:
    found = teacher.tower.state_dict()
    source = {teacher.family.table_name(plain_name(name)): _whole(tensor) for name, tensor in found.items()}
    used: set[str] = set()
    prefix = "vit." if isinstance(student, BcosViTForImageClassification) else ""
    config: Any = student.config
    rules = _rules(teacher, config, source)
    made: dict[str, Tensor] = {}
    for name, tensor in student.state_dict().items():
        rule = rules.get(name.removeprefix(prefix))
        if name == "classifier.weight" and teacher.classifier is not None:
            made[name] = _whole(teacher.classifier.weight.detach()).clone()
            report.copied[name] = tensor.numel()
        elif rule is None:
            report.new[name] = tensor.numel()
        else:
            value = _apply(rule, source, used, teacher)
            made[name] = _fit(value, tensor, name, teacher.name)
            _group(report, rule)[name] = tensor.numel()
    for name, tensor in source.items():
        if name not in used:
            report.dropped[name] = tensor.numel()
    if teacher.classifier is not None and teacher.classifier.bias is not None:
        report.dropped["classifier.bias"] = teacher.classifier.bias.numel()
    return made


def _rules(teacher: Teacher, config: BcosViTConfig, source: dict[str, Tensor]) -> dict[str, Rule]:
    """The family's table with its blocks written out; the stem that the student does not copy is left out."""
    rules: dict[str, Rule] = {}
    for name, rule in teacher.family.tensors.items():
        if isinstance(rule, Fold) and config.stem == "conv":
            continue
        if "{i}" not in name:
            rules[name] = rule
            continue
        for i in range(config.num_hidden_layers):
            rules[name.format(i=i)] = renamed(rule, "{i}", str(i))
    if config.mlp == "swiglu":
        for i in range(config.num_hidden_layers):
            block = rules[f"layers.{i}.norm1.weight"]
            assert isinstance(block, Copy)
            stem = block.source.rsplit(".", 2)[0]
            for part, choices in GATED.items():
                formatted = [renamed(choice, "{block}", stem) for choice in choices]
                present = [r for r in formatted if sources_of(r)[0] in source] or formatted
                rules[f"layers.{i}.mlp.{part}.weight"] = present[0]
    return rules


def _apply(rule: Rule, source: dict[str, Tensor], used: set[str], teacher: Teacher) -> Tensor:
    names = sources_of(rule)
    absent = [n for n in names if n not in source]
    if absent:
        raise UserError(
            f"{teacher.name}: tensor {absent[0]!r} not found; this {teacher.family.name} layout is not known "
            "(transformers 5.17 to 5.23 layouts and their checkpoints are)."
        )
    used.update(names)
    if isinstance(rule, Fold):
        weight = source[rule.weight]
        if weight.ndim == 2:  # NaFlex: a linear layer over patches in (row, column, channel) order
            side = teacher.patch_size
            weight = weight.view(weight.shape[0], side, side, -1).permute(0, 3, 1, 2)
        bias = None if rule.bias is None else source[rule.bias]
        return fold_normalization(weight, bias, teacher.mean, teacher.std)
    return assemble(rule, source)


def _fit(value: Tensor, like: Tensor, name: str, teacher: str) -> Tensor:
    if not same_but_for_unit_axes(value, like):
        raise UserError(f"{teacher}: {name} has shape {tuple(value.shape)}, the student needs {tuple(like.shape)}.")
    return value.reshape(like.shape).contiguous()


def _whole(tensor: Tensor) -> Tensor:
    """In float32 where it is in half precision: students are never made in less."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _group(report: ConversionReport, rule: Rule) -> dict[str, int]:
    if isinstance(rule, Fold):
        return report.folded
    return report.copied if isinstance(rule, Copy) else report.fused


def _activation(name: str) -> str:
    """The gated activation of a teacher's name for it."""
    same = {"gelu_new": "gelu_pytorch_tanh", "gelu_fast": "gelu_pytorch_tanh", "swish": "silu"}
    found = same.get(name, name)
    if found not in ACTIVATIONS:
        raise UserError(f"The teacher's activation {name!r} has no B-cos form here; known: {', '.join(ACTIVATIONS)}.")
    return found


def _student_patch(patch: int, stem: str) -> int:
    """A conv stem has total stride 16, 8, 4 or 2; patch 14 pairs with 16 on the same token grid (docs/method.md 4)."""
    return 16 if stem != "patch" and patch == 14 else patch


def _intermediate_size(teacher: Teacher, gated: bool) -> int:
    source: Any = teacher.config
    size = getattr(source, "intermediate_size", None)
    if size is None:
        size = int(source.hidden_size * source.mlp_ratio)
        if gated:
            size = (int(size * 2 / 3) + 7) // 8 * 8
    return int(size)
