"""AttnLRP: conservation of its cp variant, equality with an explicit LRP of one block, with lxt's rules and with W(x)x."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from aloe.attribution.attnlrp import VARIANTS, LrpRules
from aloe.attribution.methods import attribute
from aloe.attribution.subject import opened
from aloe.attribution.targets import TextTarget
from aloe.bcos.dynamic import explanation_mode
from aloe.models.convert import bcosify
from conftest import build_teacher


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def models_of(family, **options):
    teacher = build_teacher(family, **options)
    return {"teacher": teacher, "student": bcosify(teacher).eval()}


@pytest.mark.parametrize("target", ["own", "direction", "text"])
def test_the_cp_variant_conserves_relevance(family, target, images):
    """The sum of token x gradient at the embedding output is the explained value, image by image."""
    teacher = build_teacher(family, zero_bias=True)
    wanted = {"own": None, "direction": randn(3, 48, dtype=torch.float32)}
    wanted["text"] = TextTarget(randn(48, dtype=torch.float32), scale=10.0)
    kept = []
    with opened(teacher) as subject:
        hook = teacher.tower.embeddings.register_forward_hook(lambda _m, _i, out: kept.append(out))
        try:
            with LrpRules("cp"), explanation_mode():
                outputs = subject.forward(subject.prepare(images).requires_grad_())
                value = subject.value(outputs, subject.resolve(outputs, wanted[target]))
                (gradient,) = subject.gradient(value, kept[0])
        finally:
            hook.remove()
    found = (gradient * kept[0]).sum((1, 2)).detach()
    assert ((found - value).abs() <= 1e-4 * value.abs()).all(), (found, value)
    assert value.abs().min() > 1e-2, "vacuous: nothing to conserve"


def test_the_full_variant_and_biases_do_not_conserve(images):
    """So that the test above is one of the rules, and not of any network."""
    for zero_bias, variant in ((True, "full"), (False, "cp")):
        teacher = build_teacher("vit-classifier", zero_bias=zero_bias)
        kept = []
        hook = teacher.tower.embeddings.register_forward_hook(lambda _m, _i, out, kept=kept: kept.append(out))
        with opened(teacher) as subject, LrpRules(variant), explanation_mode():
            outputs = subject.forward(subject.prepare(images).requires_grad_())
            value = subject.value(outputs, 1)
            (gradient,) = subject.gradient(value, kept[0])
        hook.remove()
        assert ((gradient * kept[0]).sum((1, 2)) - value).abs().min() > 1e-2 * value.abs().min()


@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_rules_leave_the_outputs_alone(family, kind, images):
    model = models_of(family)[kind]
    with opened(model) as subject:
        inputs = subject.prepare(images)
        expected = subject.run(inputs)
        for rules in (LrpRules("full"), LrpRules("cp"), LrpRules("full", 0.1, 0.25)):
            with rules, explanation_mode(products=False):
                found = subject.run(inputs)
            torch.testing.assert_close(found.pooler_output, expected.pooler_output, rtol=1e-5, atol=1e-5)
            if expected.logits is not None:
                torch.testing.assert_close(found.logits, expected.logits, rtol=1e-5, atol=1e-5)


def test_on_a_student_the_cp_variant_is_its_own_explanation(family, images):
    stem = "conv" if family in ("dinov3", "siglip") else "patch"
    student = bcosify(build_teacher(family), stem=stem).eval()
    text = TextTarget(randn(3, 48, dtype=torch.float32), 10.0, -2.0)
    for target in (None, text, randn(48, dtype=torch.float32)):
        cp = attribute(student, images, target, "attnlrp", variant="cp")
        own = attribute(student, images, target, "inherent")
        assert (cp.maps - own.maps).norm() <= 1e-4 * own.maps.norm()
        torch.testing.assert_close(cp.value, own.value)
    full = attribute(student, images, None, "attnlrp").maps
    own = attribute(student, images, None, "inherent").maps
    assert (full - own).norm() > 1e-3 * own.norm(), "vacuous: the variants are one"


# --- one block, explicitly: relevance tensors from layer to layer, no gradient anywhere -----------------------------------


def through_linear(x, w, b, relevance, gates=1.0):
    """Epsilon rule, epsilon -> 0: R_i = sum_j x_i w_ji / y_j R_j, the bias in y_j. A B-cos unit's gate cancels."""
    y = F.linear(x, w, b) * gates
    parts = x[..., None, :] * w * (gates[..., None] if torch.is_tensor(gates) else 1)
    return (parts / y[..., None] * relevance[..., None]).sum(-2)


def through_sum(a, b, relevance):
    return a / (a + b) * relevance, b / (a + b) * relevance


def through_norm(x, w, b, eps, relevance):
    """Identity rule for the division by the standard deviation, epsilon rule for x - mean(x) and for the affine part."""
    width = x.shape[-1]
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * w
    of_centred = scaled / (scaled + b) * relevance
    matrix = torch.eye(width, dtype=x.dtype) - 1 / width
    return through_linear(x, matrix, None, of_centred)


def through_matmul(a, b, relevance):
    """Uniform rule: half to each operand; R_a[i,k] = sum_j a_ik b_kj / (2 y_ij) R_ij."""
    half = a[:, :, None] * b[None] / (2 * (a @ b))[:, None] * relevance[:, None]  # (i, k, j)
    return half.sum(2), half.sum(0)


def through_softmax(scores, relevance):
    """Taylor rule at x: R_i = x_i (R_i - s_i sum_j R_j), Proposition 3.1."""
    return scores * (relevance - scores.softmax(-1) * relevance.sum(-1, keepdim=True))


def through_heads(q, k, v, scale, relevance, variant):
    """Heads one by one; q, k, v (N, heads, d), relevance of their mixture (N, heads, d)."""
    found = [torch.zeros_like(t) for t in (q, k, v)]
    for h in range(q.shape[1]):
        scores = q[:, h] @ k[:, h].T * scale
        of_weights, of_v = through_matmul(scores.softmax(-1), v[:, h], relevance[:, h])
        if variant == "cp":
            found[2][:, h] = 2 * of_v
            continue
        found[2][:, h] = of_v
        of_q, of_k = through_matmul(q[:, h] * scale, k[:, h].T, through_softmax(scores, of_weights))
        found[0][:, h], found[1][:, h] = of_q, of_k.T
    return found


def explicit_block(x, p, heads, eps, relevance, variant, bcos=False):
    """Relevance of the tokens x (N, D) from that of a block's output: LayerNorm, attention, sum, LayerNorm, MLP, sum."""

    def unit(t, name):
        y = F.linear(t, p[f"{name}.w"], p[f"{name}.b"])
        if not bcos:
            return y, 1.0
        gates = y.abs() / t.norm(dim=-1, keepdim=True) / p[f"{name}.w"].norm(dim=-1)
        return y * gates, gates

    def norm(t, name):
        return F.layer_norm(t, t.shape[-1:], p[f"{name}.w"], p[f"{name}.b"], eps)

    n1 = norm(x, "norm1")
    q, k, v = (F.linear(n1, p[f"{c}.w"], p[f"{c}.b"]).unflatten(-1, (heads, -1)) for c in "qkv")
    scale = q.shape[-1] ** -0.5
    mixed = torch.stack([(q[:, h] @ k[:, h].T * scale).softmax(-1) @ v[:, h] for h in range(heads)], 1)
    attended, out_gates = unit(mixed.flatten(1), "o")
    middle = x + attended
    n2 = norm(middle, "norm2")
    up, up_gates = unit(n2, "up")
    act = F.gelu(up)
    down, down_gates = unit(act, "down")

    def back(t, name, gates, of_output):
        return through_linear(t, p[f"{name}.w"], p[f"{name}.b"], of_output, gates)

    of_middle, of_down = through_sum(middle, down, relevance)
    of_up = back(act, "down", down_gates, of_down)  # GELU: the identity rule passes it on as it is
    of_n2 = back(n2, "up", up_gates, of_up)
    of_middle = of_middle + through_norm(middle, p["norm2.w"], p["norm2.b"], eps, of_n2)
    of_x, of_attended = through_sum(x, attended, of_middle)
    of_mixed = back(mixed.flatten(1), "o", out_gates, of_attended).unflatten(-1, (heads, -1))
    of_qkv = through_heads(q, k, v, scale, of_mixed, variant)
    of_n1 = sum(back(n1, c, 1.0, r.flatten(1)) for c, r in zip("qkv", of_qkv, strict=True))
    return of_x + through_norm(x, p["norm1.w"], p["norm1.b"], eps, of_n1)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_one_block_equals_an_explicit_lrp(kind, variant):
    """A teacher's pre-norm block, biases everywhere; and a student's, with B-cos units and without biases."""
    model = models_of("vit")[kind].double()
    if kind == "teacher":
        block = model.blocks[1]
        named = {"norm1": block.layernorm_before, "norm2": block.layernorm_after, "o": block.attention.o_proj}
        named |= {"up": block.mlp.fc1, "down": block.mlp.fc2}
        named |= {c: getattr(block.attention, f"{c}_proj") for c in "qkv"}
        p = {f"{n}.{t[0]}": getattr(m, t).detach() for n, m in named.items() for t in ("weight", "bias")}
        run = block
    else:
        block = model.layers[1].requires_grad_(False)
        named = {"norm1": block.norm1, "norm2": block.norm2, "o": block.attention.out}
        named |= {"up": block.mlp.up, "down": block.mlp.down}
        p = {f"{n}.w": m.weight for n, m in named.items()} | {f"{n}.b": None for n in named}
        p |= {"norm1.b": 0.0 * p["norm1.w"], "norm2.b": 0.0 * p["norm2.w"]}
        for c, w in zip("qkv", block.attention.qkv.weight.chunk(3), strict=True):
            p |= {f"{c}.w": w, f"{c}.b": None}

        def run(x):
            return block(x, model._attention(False), None)[0]

    x = randn(1, 7, 48).requires_grad_()
    with LrpRules(variant), explanation_mode(products=variant == "cp"):
        y = run(x)
        seed = randn(1, 7, 48, seed=1)
        (gradient,) = torch.autograd.grad(y, x, seed)
    found = (x * gradient)[0].detach()
    eps = model.config.layer_norm_eps
    with torch.no_grad():
        expected = explicit_block(x[0], p, 4, eps, (y * seed)[0], variant, bcos=kind == "student")
    assert (found - expected).norm() <= 1e-8 * expected.norm()
    plain = torch.autograd.grad(run(x), x, seed)[0][0] * x[0]
    assert (plain - expected).norm() > 1e-2 * expected.norm(), "vacuous: rules change nothing"


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_gated_product(variant):
    """SwiGLU: half to each path; with cp all of it to the path that is gated, and none through the gate."""
    x, gate, up = randn(5, 6).requires_grad_(), randn(4, 6, seed=1), randn(4, 6, seed=2)
    with LrpRules(variant):
        y = F.silu(F.linear(x, gate)) * F.linear(x, up)
        (gradient,) = torch.autograd.grad(y, x, randn(5, 4, seed=3))
    relevance = (y * randn(5, 4, seed=3)).detach()
    of_up = through_linear(x.detach(), up, None, relevance)
    of_gate = through_linear(x.detach(), gate, None, relevance)
    expected = of_up if variant == "cp" else (of_up + of_gate) / 2
    torch.testing.assert_close((x * gradient).detach(), expected)


@pytest.mark.parametrize("variant", VARIANTS)
def test_quick_gelu_passes_relevance_on_as_it_is(variant):
    """CLIP's MLP as transformers writes it, x times the sigmoid of 1.702 x: the identity rule, term by term."""
    mlp = build_teacher("clip").double().blocks[1].mlp
    x, seed = randn(5, 48).requires_grad_(), randn(5, 48, seed=1)
    with LrpRules(variant):
        y = mlp(x)
        (gradient,) = torch.autograd.grad(y, x, seed)
    with torch.no_grad():
        up = F.linear(x, mlp.fc1.weight, mlp.fc1.bias)
        of_act = through_linear(up * torch.sigmoid(1.702 * up), mlp.fc2.weight, mlp.fc2.bias, y * seed)
        expected = through_linear(x, mlp.fc1.weight, mlp.fc1.bias, of_act)
    torch.testing.assert_close((x * gradient).detach(), expected)
    plain = torch.autograd.grad(mlp(x), x, seed)[0] * x
    assert (plain - expected).norm() > 1e-2 * expected.norm(), "vacuous: the rule changes nothing"


def test_an_attention_pooling_head_equals_an_explicit_lrp():
    """SigLIP: one learned query, which is a constant; keys take their half, the probe's is lost."""
    head = build_teacher("siglip").double().tower.head
    x = randn(1, 7, 48).requires_grad_()
    found = {}
    for variant in VARIANTS:
        with LrpRules(variant):
            y = head.attention(head.probe, x, x)[0]
            (gradient,) = torch.autograd.grad(y, x, randn(1, 1, 48, seed=1))
        found[variant] = (x * gradient)[0].detach()
        torch.testing.assert_close(y, head.attention(head.probe, x, x)[0])
        relevance = (y * randn(1, 1, 48, seed=1))[0].detach()
        with torch.no_grad():
            w, b = head.attention.in_proj_weight.chunk(3), head.attention.in_proj_bias.chunk(3)
            out = head.attention.out_proj
            q, k, v = (F.linear(t, *wb) for t, *wb in zip((head.probe[0], x[0], x[0]), w, b, strict=True))
            q, k, v = (t.unflatten(-1, (4, -1)) for t in (q, k, v))
            mixed = torch.stack([(q[:, h] @ k[:, h].T * 12**-0.5).softmax(-1) @ v[:, h] for h in range(4)], 1)
            of_mixed = through_linear(mixed.flatten(1), out.weight, out.bias, relevance).unflatten(-1, (4, -1))
            _, of_k, of_v = through_heads(q, k, v, 12**-0.5, of_mixed, variant)
            expected = through_linear(x[0], w[2], b[2], of_v.flatten(1))
            if variant == "full":
                expected = expected + through_linear(x[0], w[1], b[1], of_k.flatten(1))
        torch.testing.assert_close(found[variant], expected)
    assert (found["full"] - found["cp"]).norm() > 1e-2 * found["cp"].norm()


def test_rules_equal_those_of_lxt():
    """Its explicit functions, each of which passes relevance on itself, with vanishing epsilons."""
    lxt = pytest.importorskip("lxt.explicit.functional")
    x, w, b = randn(2, 7, 12), randn(36, 12, seed=1), randn(36, seed=2)
    scale, shift, seed = randn(12, seed=3), randn(12, seed=4), randn(2, 7, 12, seed=5)

    def block(t, linear, norm, attend):
        q, k, v = linear(norm(t, scale, shift, 1e-6), w, b).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
        return attend(q, k, v).transpose(1, 2).flatten(2)

    mine, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    with LrpRules("full"):
        y = block(mine, F.linear, lambda t, *a: F.layer_norm(t, (12,), *a), F.scaled_dot_product_attention)
    (gradient,) = torch.autograd.grad(y, mine, seed)

    def attend(q, k, v):
        scores = lxt.matmul(q, k.transpose(-1, -2), False, 1e-14)
        return lxt.matmul(lxt.softmax(scores, -1, None, 6**0.5), v, False, 1e-14)

    z = block(theirs, lambda *a: lxt.linear_epsilon(*a, 1e-14), lxt.layer_norm, attend)
    torch.testing.assert_close(z, y)
    (relevance,) = torch.autograd.grad(z, theirs, (z * seed).detach())
    expected = (mine * gradient).detach()
    assert (relevance - expected).norm() < 1e-4 * expected.norm()  # its norm adds an epsilon of its own


@pytest.mark.parametrize("family", ["dinov3-swiglu", "siglip2"])
def test_variants_and_contrast(family, images):
    """The variants differ, and both differ from the plain gradient: rules were applied."""
    teacher = build_teacher(family)
    maps = [attribute(teacher, images, None, "attnlrp", variant=v).maps for v in VARIANTS]
    maps.append(attribute(teacher, images, None, "inputxgrad").maps)
    for i in range(3):
        assert (maps[i] - maps[i - 1]).norm() > 1e-2 * maps[i].norm()


def test_relevance_is_linear_in_the_direction(images):
    for model in models_of("dinov3").values():
        a, b = randn(48, seed=1, dtype=torch.float32), randn(48, seed=2, dtype=torch.float32)
        parts = [attribute(model, images, d, "attnlrp").maps for d in (a, b, 2 * a - b)]
        torch.testing.assert_close(
            parts[2], 2 * parts[0] - parts[1], rtol=1e-3, atol=1e-4 * float(parts[2].abs().max())
        )
