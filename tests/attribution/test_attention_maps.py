"""LeGrad, CheferCAM and rollout against slow references on transformers' eager attention, one head and row at a time."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from aloe.attribution.methods import attribute
from aloe.attribution.targets import TextTarget
from aloe.models.convert import bcosify
from conftest import build_teacher

FEW = ("vit-classifier", "vit", "dinov3", "dinov2-registers", "siglip", "siglip2")
KINDS = ("teacher", "student")


def direction(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


class Slow:
    """A model with eager attention and everything of one image kept: attentions, raw block outputs, pooled output, logits."""

    def __init__(self, family, kind):
        teacher = build_teacher(family)
        self.kind, self.teacher = kind, teacher
        self.model = teacher if kind == "teacher" else bcosify(teacher).eval()
        self.twin = copy.deepcopy(self.model)
        for module in self.twin.modules():
            if hasattr(module, "config"):
                module.config._attn_implementation = "eager"
        self.prefix = {"vit": 1, "vit-classifier": 1, "dinov3": 5, "dinov2-registers": 4}.get(family, 0)
        self.attention_pooled = family.startswith("siglip")
        self.has_classifier = family == "vit-classifier"

    def run(self, image):
        states, twin = [], self.twin
        blocks = twin.blocks if self.kind == "teacher" else twin.base_model.layers

        def keep(_module, _inputs, output):
            states.append(output[0] if isinstance(output, tuple) else output)

        hooks = [b.register_forward_hook(keep) for b in blocks]
        if self.kind == "student":
            out = twin(torch.cat((image, 1 - image)).requires_grad_()[None], output_attentions=True)
            attentions, last = out.attentions, out.last_hidden_state
        else:
            x = twin.normalize(image[None]).requires_grad_()
            options = {"output_attentions": True}
            if hasattr(twin.config, "num_patches"):
                x, extra = flattened(x)
                options |= extra
            out = twin.tower(x, **options)
            attentions, last = out.attentions, out.last_hidden_state
        for hook in hooks:
            hook.remove()
        pooling = None
        if self.attention_pooled:
            pooled, pooling = self.pooled_by_hand(last)
        else:
            pooled = last[:, 0]
        return states, list(attentions), pooling, pooled, self.logits(pooled)

    def logits(self, pooled):
        if not self.has_classifier:
            return None
        if self.kind == "teacher":
            return self.twin.classifier(pooled)
        w = self.twin.classifier.weight
        product = pooled @ w.T
        return (
            product * product.abs() / pooled.norm(dim=-1, keepdim=True) / w.norm(dim=-1) + self.twin.config.logit_bias
        )

    def pooled_by_hand(self, tokens):
        """SigLIP's head, head by head: the pooled output and its weights, one (1, N) each."""
        if self.kind == "teacher":
            head = self.twin.tower.head
            weights, biases = head.attention.in_proj_weight.chunk(3), head.attention.in_proj_bias.chunk(3)
            out, rest = head.attention.out_proj, lambda t: t + head.mlp(head.layernorm(t))
        else:
            head = self.twin.base_model.pooler
            weights, biases = (head.q.weight, *head.kv.weight.chunk(2)), (None,) * 3
            out, rest = head.out, lambda t: t + head.mlp(head.norm(t))
        q = F.linear(head.probe[0], weights[0], biases[0])
        k, v = (F.linear(tokens[0], w, b) for w, b in zip(weights[1:], biases[1:], strict=True))
        maps, mixed = [], []
        for rows in torch.arange(48).chunk(4):
            maps.append((q[:, rows] @ k[:, rows].T / 12**0.5).softmax(-1))
            mixed.append(maps[-1] @ v[:, rows])
        return rest(out(torch.cat(mixed, 1))), maps

    def final_norm(self, token):
        if self.kind == "student":
            return self.twin.base_model.norm(token)
        return self.twin.tower.get_submodule(self.twin.family.final_norm)(token)


def flattened(x):
    rows = [x[0, :, i : i + 8, j : j + 8].permute(1, 2, 0).flatten() for i in range(0, 32, 8) for j in range(0, 32, 8)]
    return torch.stack(rows)[None], {
        "pixel_attention_mask": torch.ones(1, 16, dtype=torch.long),
        "spatial_shapes": torch.tensor([[4, 4]]),
    }


def score(pooled, logits, target):
    if isinstance(target, int):
        return logits[0, target]
    if isinstance(target, TextTarget):
        return target.scale * F.cosine_similarity(pooled[0], target.embedding, dim=0) + target.bias
    return pooled[0] @ target


def own_direction(pooled):
    return pooled[0].detach() / pooled[0].detach().norm()


def slow_legrad(slow, image, target, layers, pool):
    states, attentions, _, pooled, logits = slow.run(image)
    target = own_direction(pooled) if target is None and logits is None else target
    target = int(logits.argmax()) if target is None else target
    total = torch.zeros(states[0].shape[1])
    for layer in range(3 - layers, 3):
        if slow.attention_pooled:
            read, heads = slow.pooled_by_hand(states[layer].detach().requires_grad_())
        else:
            tokens = states[layer][0]
            read = slow.final_norm(tokens[0] if pool == "cls" else sum(tokens) / len(tokens))[None]
            heads = attentions[layer]
        gradients = torch.autograd.grad(score(read, slow.logits(read), target), heads, retain_graph=True)
        matrices = gradients if slow.attention_pooled else gradients[0][0]
        for matrix in matrices:
            for row in matrix:
                total += row.clamp_min(0) / len(matrices) / len(matrix)
    return total[slow.prefix :].view(4, 4)


def positive(gradient, weights):
    """Mean over heads of ReLU(gradient * weights), (M, N)."""
    found = torch.zeros(weights[0].shape)
    for g, a in zip(gradient, weights, strict=True):
        found += (g * a.detach()).clamp_min(0) / len(weights)
    return found


def slow_chefercam(slow, image, target):
    _, attentions, pooling, pooled, logits = slow.run(image)
    target = own_direction(pooled) if target is None and logits is None else target
    target = int(logits.argmax()) if target is None else target
    value = score(pooled, logits, target)
    relevance = torch.eye(attentions[0].shape[-1])
    for a, g in zip(attentions, torch.autograd.grad(value, attentions, retain_graph=True), strict=True):
        relevance = relevance + positive(g[0], a[0]) @ relevance
    pooled_by = positive(torch.autograd.grad(value, pooling), pooling)[0] if pooling else None
    row = relevance[0] if pooled_by is None else pooled_by @ relevance
    return row[slow.prefix :].view(4, 4)


def slow_rollout(slow, image):
    _, attentions, pooling, _, _ = slow.run(image)
    joint = torch.eye(attentions[0].shape[-1])
    for a in attentions:
        step = torch.zeros_like(joint)
        for head in a[0].detach():
            step += head / len(a[0])
        step = step + torch.eye(len(step))
        joint = step / step.sum(-1, keepdim=True) @ joint
    row = joint[0] if pooling is None else (sum(pooling).detach() / len(pooling))[0] @ joint
    return row[slow.prefix :].view(4, 4)


def targets_of(family):
    text = TextTarget(direction(48), 10.0, -2.0)
    return [None, direction(48), text, *([3] if family == "vit-classifier" else [])]


def assert_equal_maps(found, expected):
    assert expected.norm() > 0, "vacuous: an empty map"
    assert (expected - expected.mean()).norm() > 1e-3 * expected.norm(), "vacuous: a flat map"
    assert (found - expected).norm() <= 1e-4 * expected.norm(), (found, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FEW)
def test_legrad(family, kind, images):
    slow = Slow(family, kind)
    choices = [(None, "mean"), (1, "mean"), (2, "mean")] + ([(None, "cls"), (2, "cls")] if slow.prefix else [])
    for target in targets_of(family):
        for layers, pool in choices if target is None else choices[-1:]:
            found = attribute(slow.model, images, target, "legrad", layers=layers, pool=pool).maps
            for image, one in zip(images, found, strict=True):
                assert_equal_maps(one, slow_legrad(slow, image, target, layers or 3, pool))
    default = attribute(slow.model, images, None, "legrad").maps
    assert torch.equal(default, attribute(slow.model, images, None, "legrad", layers=2, pool="mean").maps)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FEW)
def test_chefercam_and_rollout(family, kind, images):
    slow = Slow(family, kind)
    for target in targets_of(family):
        found = attribute(slow.model, images, target, "chefercam").maps
        for image, one in zip(images, found, strict=True):
            assert_equal_maps(one, slow_chefercam(slow, image, target))
    found = attribute(slow.model, images, None, "rollout").maps
    for image, one in zip(images, found, strict=True):
        assert_equal_maps(one, slow_rollout(slow, image))
    if slow.attention_pooled:
        torch.testing.assert_close(found.sum((1, 2)), torch.ones(3))
    else:
        assert (found.sum((1, 2)) < 1).all()  # the rest is the prefix tokens' share


def test_a_mean_pooled_output_averages_the_rows_of_its_patches(images):
    """No teacher family pools so, but a student's configuration may."""
    student = bcosify(build_teacher("dinov2")).eval()
    student.config.pooling = "mean"
    twin = copy.deepcopy(student)
    twin.config._attn_implementation = "eager"
    for image, found in zip(images, attribute(student, images, None, "chefercam").maps, strict=True):
        out = twin(image[None], output_attentions=True)
        value = out.pooler_output[0] @ own_direction(out.pooler_output)
        relevance = torch.eye(17)
        for a, g in zip(out.attentions, torch.autograd.grad(value, out.attentions), strict=True):
            relevance = relevance + positive(g[0], a[0]) @ relevance
        assert_equal_maps(found, (sum(relevance[1:]) / 16)[1:].view(4, 4))


def test_a_map_lies_where_its_image_does():
    """Rows and columns are not swapped: what is looked at moves with the token, on a grid that is not square."""
    teacher = build_teacher("dinov3")
    wide = torch.rand(1, 3, 16, 40, generator=torch.Generator().manual_seed(1))
    found = attribute(teacher, wide, None, "chefercam")
    assert found.maps.shape == (1, 2, 5)
    row, column = divmod(int(found.maps.argmax()), 5)
    pixels = found.pixels()[0]
    inside = pixels[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
    assert float(pixels.max()) == float(inside.max())
