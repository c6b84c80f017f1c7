"""A student as a graph: its forward pass, or its explanation with the backward pass written out (docs/method.md section 1).

The explanation is traced through `explain`'s own pass: autograd runs on fake tensors and leaves plain operations, so the
graph that comes out computes value, contributions, W(x) and residual by the formulas that PyTorch used, hand-written B-cos
backward included. Only the number of images stays free.
"""

from __future__ import annotations

import copy
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from aloe.attribution.inherent import Explanation, explain_batch
from aloe.attribution.targets import ClassIndices, Target

FORWARD = {
    "logits": "(B, C), where the model has a classifier",
    "pooler_output": "(B, D), the image's feature",
    "last_hidden_state": "(B, N, D), tokens after the final norm: prefix tokens, then patches row by row",
}
EXPLANATION = {
    "logit": "(B,), the explained value: sum of contributions + residual",
    "contributions": "(B, H, W), what each pixel adds to it",
    "weights": "(B, 6, H, W), W(x) over the model's six channels: (r, g, b), or those normalised, and 1 minus them",
    "residual": "(B,), what the constants (CLS, registers, positions, biases) add to it",
    "logits": "(B, C), where the model has a classifier",
    "prediction": "(B,), int64, the class of the largest logit",
}
IMAGE = "(B, 3, H, W), float32 RGB in [0, 1], not normalised"
TARGETS = {
    "own": "the predicted class, or without a classifier the direction of the pooled output itself",
    "class": "input target (B,), int64: the class of each image; negative: the predicted one",
    "direction": "input direction (B, D), float32: a direction in the pooled output of each image",
}
EXAMPLES = 2  # images in the traced batch; one image would be taken for a constant


def frozen_copy(model: nn.Module, attention: str) -> Any:
    """The student on the CPU in float32 and eval mode, without gradients; the caller's model is left as it was."""
    student: Any = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    student.set_attn_implementation(attention)
    return student


def forward_program(model: nn.Module, size: int) -> ExportedProgram:
    """image (B, 3, size, size) -> the outputs of `FORWARD` that the model has, by name."""
    return program_of(_Forward(frozen_copy(model, "sdpa")), example_inputs(model, size))


def explanation_program(model: nn.Module, size: int, target: str = "own") -> ExportedProgram:
    """image (B, 3, size, size) and, for `class` and `direction`, the target -> the outputs of `EXPLANATION` by name."""
    explaining = _Explaining(frozen_copy(model, "eager"), target)  # fused attention has no backward in ONNX
    inputs = example_inputs(model, size, target)
    return program_of(traced(explaining, inputs), inputs)


def example_inputs(model: nn.Module, size: int, target: str = "own", count: int = EXAMPLES) -> dict[str, Tensor]:
    """The inputs of a graph by name, as they are traced."""
    config: Any = model.config
    image = {"image": torch.full((count, 3, size, size), 0.5)}
    if target == "class":
        return {**image, "target": torch.zeros(count, dtype=torch.int64)}
    return {**image, "direction": torch.ones(count, config.hidden_size)} if target == "direction" else image


class _Forward(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        outputs = self.model(image, return_dict=True)
        return {name: outputs[name] for name in FORWARD if name in outputs}


class _Explaining(nn.Module):
    """`explain` for tensors whose values nobody may look at."""

    def __init__(self, model: nn.Module, target: str) -> None:
        super().__init__()
        self.model, self.target = model, target

    def forward(self, image: Tensor, given: Tensor | None = None) -> dict[str, Tensor]:
        target: Target = ClassIndices(given) if self.target == "class" and given is not None else given
        explanation = explain_batch(self.model, image, target)
        outputs = {f.name: getattr(explanation, f.name) for f in fields(Explanation)}
        return {name: outputs[name] for name in EXPLANATION if outputs[name] is not None}


class _Traced(nn.Module):
    """A module whose forward, autograd included, has become a graph of its tensors and inputs."""

    def __init__(self, module: nn.Module, inputs: dict[str, Tensor], plain_norms: bool) -> None:
        super().__init__()
        self.model = module.model
        self.traced = _trace(module, inputs, plain_norms)  # not `graph`, a name that torch.export keeps for itself

    def forward(self, image: Tensor, given: Tensor | None = None, more: Tensor | None = None) -> dict[str, Tensor]:
        return self.traced(_tensors(self), *(value for value in (image, given, more) if value is not None))


def traced(module: nn.Module, inputs: dict[str, Tensor], plain_norms: bool = False) -> nn.Module:
    """A module with `model` inside, of inputs by name, whose forward and the autograd in it are plain operations.

    `plain_norms` writes the norms out too: onnxruntime's WebGPU gives no mean and deviation of its own operator, which the
    backward pass reads.
    """
    return _Traced(module, inputs, plain_norms)


def _trace(module: nn.Module, inputs: dict[str, Tensor], plain_norms: bool) -> nn.Module:
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

    def run(tensors: dict[str, Tensor], *images: Tensor) -> dict[str, Tensor]:
        return torch.func.functional_call(module, tensors, images)

    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    tensors = {name: mode.from_tensor(t, static_shapes=True) for name, t in _tensors(module).items()}
    images = []
    for value in inputs.values():
        sizes = [DimDynamic.DYNAMIC] + [DimDynamic.STATIC] * (value.ndim - 1)
        images.append(mode.from_tensor(value, symbolic_context=StatelessSymbolicContext(dynamic_sizes=sizes)))
    plain: dict[Any, Any] = {torch.ops.aten.convolution_backward.default: _convolution_backward}
    if plain_norms:
        plain[torch.ops.aten.native_layer_norm.default] = _layer_norm
    with mode:
        return make_fx(run, plain)(tensors, *images)


def _convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    *rest: Any,
) -> tuple[Tensor, None, None]:
    """The gradient of a convolution's input as a transposed convolution, which ONNX has; weights are constants here."""
    left_over = [
        x.shape[i + 2] - (grad.shape[i + 2] - 1) * stride[i] + 2 * padding[i] - weight.shape[i + 2] for i in (0, 1)
    ]
    dx = torch.ops.aten.convolution(grad, weight, None, stride, padding, dilation, True, left_over, 1)
    return dx, None, None


def _layer_norm(
    x: Tensor, shape: list[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The norm, its mean and the reciprocal of its deviation, as the operator gives them."""
    axes = list(range(x.ndim - len(shape), x.ndim))
    mean = x.mean(axes, keepdim=True)
    scale = torch.rsqrt((x - mean).square().mean(axes, keepdim=True) + eps)
    out = (x - mean) * scale
    out = out if weight is None else out * weight
    return out if bias is None else out + bias, mean, scale


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {n: t for n, t in (*module.named_parameters(), *module.named_buffers()) if n.startswith("model.")}


def program_of(module: nn.Module, inputs: dict[str, Tensor]) -> ExportedProgram:
    """The program of a module of tensors by name, the number of images free, without paths of this machine."""
    shapes = tuple({0: Dim("batch", min=1)} for _ in inputs)
    with torch.no_grad():
        program = torch.export.export(module, tuple(inputs.values()), dynamic_shapes=shapes)
    for node in program.graph.nodes:  # would carry paths into the file
        node.meta.pop("stack_trace", None)
    return program
