"""AttnLRP through decoders: conservation of cp, equality with an explicit LRP of one block and with lxt, masks, precision."""

from __future__ import annotations

import copy
import importlib
import sys
import types

import pytest
import torch
import torch.nn.functional as F
import transformers as hf
from vlms import SIZE, TEXT, randomize

from aloe.apps.grounding.language import TEXT_TOWERS, Term, explained, propagate
from aloe.attribution.attnlrp import VARIANTS, LrpRules
from aloe.core.errors import UserError
from attribution.test_attnlrp import through_linear, through_matmul, through_softmax, through_sum

GOALS = [[Term(11, 3)], [Term(5, 4), Term(7, 2, -1.0)], [Term(8, 1, 2.0)]]


def build(kind, bias=False, dtype=torch.float32):
    classes = {"gemma2": hf.Gemma2ForCausalLM, "llama": hf.LlamaForCausalLM, "qwen2": hf.Qwen2ForCausalLM}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = classes[kind](TEXT[kind]())
        randomize(model, bias)
    return model.eval().to(dtype)


def embeddings(model, rows=2, length=12):
    ids = torch.randint(5, SIZE["vocab_size"], (rows, length), generator=torch.Generator().manual_seed(2))
    return ids, model.get_input_embeddings()(ids).detach().float()


def run(model, x, goals=None, **options):
    softcap = getattr(model.config, "final_logit_softcapping", None)
    return propagate(model.model, model.lm_head, x, goals or [GOALS] * len(x), softcap=softcap, **options)


@pytest.mark.parametrize("kind", TEXT_TOWERS)
def test_the_cp_variant_conserves_relevance(kind):
    model = build(kind)
    ids, x = embeddings(model)
    found = run(model, x, variant="cp")
    logits = model(ids).logits
    expected = torch.stack([logits[:, 11, 3], logits[:, 5, 4] - logits[:, 7, 2], 2 * logits[:, 8, 1]], 1)
    torch.testing.assert_close(found.values, expected, rtol=1e-4, atol=1e-5)
    total = (found.gradients * x).sum((2, 3)).T
    assert ((total - found.values).abs() <= 1e-4 * found.values.abs().max()).all()
    assert found.values.abs().min() > 1e-2, "vacuous: nothing to conserve"
    lost = run(model, x, variant="full")
    assert ((lost.gradients * x).sum((2, 3)).T - lost.values).abs().max() > 1e-2, "the test would pass for any rules"


@pytest.mark.parametrize("kind", TEXT_TOWERS)
def test_later_tokens_and_padding_get_nothing_and_change_nothing(kind):
    model = build(kind, bias=True)
    _, x = embeddings(model)
    found = run(model, x)
    assert found.gradients[1][:, 8:].abs().max() == 0  # goal 1 is read at positions 5 and 7
    assert found.gradients[1][:, :8].abs().amax(-1).min() > 0
    alone = run(model, x[1:])
    torch.testing.assert_close(found.gradients[:, 1:], alone.gradients, rtol=1e-4, atol=1e-6)
    noise = torch.full((2, 3, x.shape[-1]), 7.0)
    left = run(
        model,
        torch.cat((noise, x), 1),
        [[[Term(t.position + 3, t.token, t.weight) for t in goal] for goal in GOALS]] * 2,
        mask=torch.tensor([[0] * 3 + [1] * 12] * 2),
    )
    right = run(model, torch.cat((x, noise), 1), mask=torch.tensor([[1] * 12 + [0] * 3] * 2))
    for padded, own, pad in ((left, slice(3, None), slice(3)), (right, slice(12), slice(12, None))):
        torch.testing.assert_close(padded.values, found.values, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(padded.gradients[:, :, own], found.gradients, rtol=1e-4, atol=1e-5)
        assert padded.gradients[:, :, pad].abs().max() == 0


@pytest.mark.parametrize("kind", ["gemma2", "qwen2"])
def test_a_sliding_window_hides_what_is_out_of_it(kind):
    """One layer with a window of 6 tokens: no relevance beyond it, whichever head it came through."""
    model = build(kind)
    windowed = "sliding_attention"
    at = model.config.layer_types.index(windowed)
    model.model.layers = model.model.layers[at : at + 1]
    model.config.num_hidden_layers, model.config.layer_types = 1, [windowed]
    _, x = embeddings(model)
    gradients = run(model, x, [[[Term(11, 3)]]] * 2).gradients[0]
    assert gradients[:, :6].abs().max() == 0
    assert gradients[:, 6:].abs().amax(-1).min() > 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_groups_of_layers_and_of_goals_change_nothing(variant):
    model = build("gemma2", bias=True)
    _, x = embeddings(model)
    expected = run(model, x, variant=variant, group=3, together=1)
    for options in ({"group": 1}, {"group": 2, "together": 2}, {}):
        found = run(model, x, variant=variant, **options)
        torch.testing.assert_close(found.gradients, expected.gradients, rtol=1e-5, atol=1e-7)
        assert torch.equal(found.values, expected.values)


def test_memory_grows_as_the_root_of_the_depth():
    """Counted in what autograd keeps at a time: with groups of 4 of 16 layers, less than half of all."""
    from aloe.attribution.memory import peak_memory

    config = hf.LlamaConfig(**{**SIZE, "num_hidden_layers": 16})
    model = hf.LlamaForCausalLM(config).eval()
    _, x = embeddings(model, 1, 48)
    peaks = {}
    for group in (None, 16):
        with peak_memory(torch.device("cpu")) as peak:
            run(model, x, [[[Term(11, 3)]]], group=group)
        peaks[group] = peak.bytes
    assert peaks[None] < 0.5 * peaks[16]


@pytest.mark.parametrize("kind", TEXT_TOWERS)
def test_narrow_weights_give_wide_relevance(kind):
    """bfloat16 weights: the relevance of the same weights in float32, and nothing rounded on the way."""
    narrow = build(kind, bias=True, dtype=torch.bfloat16)
    _, x = embeddings(narrow)
    wide = copy.deepcopy(narrow).float()
    found, expected = run(narrow, x), run(wide, x)
    assert found.gradients.dtype == torch.float32
    torch.testing.assert_close(found.gradients, expected.gradients, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", TEXT_TOWERS)
def test_the_model_is_left_as_it_was(kind):
    model = build(kind, bias=True)
    ids, x = embeddings(model)
    model.model.layers[0].train()
    model.requires_grad_(True)
    model.lm_head.weight.requires_grad_(False)

    def state():
        hooks = [n for n in vars(model) if "hooks" in n]
        return (
            {n: (m.training, [dict(getattr(m, h)) for h in hooks]) for n, m in model.named_modules()},
            {n: (id(p), p.requires_grad, p.grad, p.detach().numpy().tobytes()) for n, p in model.named_parameters()},
            model.config._attn_implementation,
            list(torch.overrides._get_current_function_mode_stack()),
            torch.is_grad_enabled(),
        )

    before, outputs = state(), model(ids).logits.detach()
    run(model, x)
    assert state() == before
    with pytest.raises(IndexError):
        run(model, x, [[[Term(99, 3)]]] * 2)
    with pytest.raises(UserError, match="variant"):
        run(model, x, variant="half")
    assert state() == before
    assert torch.equal(model(ids).logits.detach(), outputs)


@pytest.mark.parametrize("kind", TEXT_TOWERS)
def test_rules_leave_the_outputs_alone(kind):
    model = build(kind, bias=True)
    ids, _ = embeddings(model)
    expected = model(ids).logits
    for variant in VARIANTS:
        with explained(model), LrpRules(variant):
            torch.testing.assert_close(model(ids).logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", TEXT_TOWERS)
def test_one_block_equals_an_explicit_lrp(kind, variant):
    """Relevance tensors from step to step, no gradient anywhere: four norms, soft cap, rotation, shared heads, window."""
    model = build(kind, bias=kind == "qwen2", dtype=torch.float64)
    layer, config = model.model.layers[0], model.config
    layer_type = getattr(config, "layer_types", ["full_attention"])[0]
    n, window = 9, SIZE["vocab_size"] if layer_type == "full_attention" else config.sliding_window
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(1, n, 32, generator=generator, dtype=torch.float64).requires_grad_()
    seed = torch.randn(1, n, 32, generator=generator, dtype=torch.float64)
    positions = torch.arange(n)
    hidden = (positions[None] > positions[:, None]) | (positions[None] <= positions[:, None] - window)
    mask = torch.zeros(n, n, dtype=torch.float64).masked_fill(hidden, -1e30)
    cos, sin = model.model.rotary_emb(x.detach(), positions[None])

    def forward(t):
        return layer(t, attention_mask=mask[None, None], position_embeddings=(cos, sin))

    with explained(model), LrpRules(variant):
        y = forward(x)
        (gradient,) = torch.autograd.grad(y, x, seed)
    found = (x * gradient)[0].detach()
    with torch.no_grad():
        expected = explicit_block(layer, config, x[0], cos[0], sin[0], mask, (y * seed)[0], variant)
    error = (found - expected).norm() / expected.norm()
    assert error <= 1e-4, error
    with explained(model):
        ordinary = torch.autograd.grad(forward(x), x, seed)[0][0] * x[0]
    assert (ordinary - expected).norm() > 1e-2 * expected.norm(), "vacuous: rules change nothing"


def explicit_block(layer, config, x, cos, sin, mask, relevance, variant):
    """Norms, soft caps and activations pass relevance on as it is (identity rule)."""
    gemma = config.model_type == "gemma2"
    attention, mlp = layer.self_attn, layer.mlp
    d, groups = attention.head_dim, attention.num_key_value_groups
    scale = attention.scaling

    def linear(module, t):
        return F.linear(t, module.weight, module.bias)

    def back(module, t, r):
        return through_linear(t, module.weight, module.bias, r)

    def rotate(t):
        """Of (heads, N, d): each pair of halves turned, as a matrix per position."""
        half = torch.cat((-t[..., d // 2 :], t[..., : d // 2]), -1)
        return t * cos + half * sin

    def unrotate(t, r):
        """Epsilon rule through the rotation."""
        matrix = torch.stack([rotate(torch.eye(d, dtype=t.dtype)[i].expand(t.shape)) for i in range(d)], -1)
        out = rotate(t)
        parts = matrix * t[..., None, :]
        return (parts / out[..., None] * r[..., None]).sum(-2)

    n1 = layer.input_layernorm(x)
    q, k, v = (
        linear(m, n1).unflatten(-1, (-1, d)).transpose(0, 1)
        for m in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    turned_q, turned_k = rotate(q), rotate(k)
    heads, mixed = [], []
    for h in range(len(q)):
        raw = turned_q[h] @ turned_k[h // groups].T * scale
        capped = raw if not gemma else 5.0 * torch.tanh(raw / 5.0)
        scores = capped + mask
        heads.append((capped, scores))
        mixed.append(scores.softmax(-1) @ v[h // groups])
    mixed = torch.stack(mixed, 1).flatten(1)
    attended = linear(attention.o_proj, mixed)
    branch = layer.post_attention_layernorm(attended) if gemma else attended
    middle = x + branch
    n2 = (layer.pre_feedforward_layernorm if gemma else layer.post_attention_layernorm)(middle)
    gate, up = linear(mlp.gate_proj, n2), linear(mlp.up_proj, n2)
    act = mlp.act_fn(gate)
    down = linear(mlp.down_proj, act * up)
    last = layer.post_feedforward_layernorm(down) if gemma else down

    of_middle, of_last = through_sum(middle, last, relevance)
    of_product = back(mlp.down_proj, act * up, of_last)
    of_n2 = back(mlp.up_proj, n2, of_product if variant == "cp" else of_product / 2)
    if variant == "full":
        of_n2 = of_n2 + back(mlp.gate_proj, n2, of_product / 2)
    of_middle = of_middle + of_n2
    of_x, of_branch = through_sum(x, branch, of_middle)
    of_mixed = back(attention.o_proj, mixed, of_branch).unflatten(-1, (-1, d)).transpose(0, 1)
    of_q, of_k, of_v = (torch.zeros_like(t) for t in (q, k, v))
    for h, (capped, scores) in enumerate(heads):
        of_weights, of_value = through_matmul(scores.softmax(-1), v[h // groups], of_mixed[h])
        of_v[h // groups] += of_value * (2 if variant == "cp" else 1)
        if variant == "full":
            seen = torch.where(mask == 0, capped, 0.0)
            of_scores = seen * (of_weights - scores.softmax(-1) * of_weights.sum(-1, keepdim=True))
            a, b = through_matmul(turned_q[h] * scale, turned_k[h // groups].T, of_scores)
            of_q[h] += unrotate(q[h], a)
            of_k[h // groups] += unrotate(k[h // groups], b.T)
    of_n1 = back(attention.v_proj, n1, of_v.transpose(0, 1).flatten(1))
    if variant == "full":
        of_n1 = of_n1 + back(attention.q_proj, n1, of_q.transpose(0, 1).flatten(1))
        of_n1 = of_n1 + back(attention.k_proj, n1, of_k.transpose(0, 1).flatten(1))
    return of_x + of_n1


# --- lxt ------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def lxt_maps(monkeypatch):
    """lxt's patch maps by model; what its package imports beside them is not needed."""
    pytest.importorskip("lxt")
    root = importlib.import_module("lxt").__path__[0]
    for name, path in (("lxt.efficient", "efficient"), ("lxt.efficient.models", "efficient/models")):
        package = types.ModuleType(name)
        package.__path__ = [f"{root}/{path}"]
        monkeypatch.setitem(sys.modules, name, package)
    try:
        return {k: importlib.import_module(f"lxt.efficient.models.{k}") for k in ("llama", "qwen2", "gemma3")}
    except (ImportError, AttributeError) as error:
        pytest.skip(f"lxt does not support this transformers: {error}")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma3"])
def test_one_block_equals_lxt(kind, variant, lxt_maps, monkeypatch):
    classes = {"llama": hf.LlamaModel, "qwen2": hf.Qwen2Model, "gemma3": hf.Gemma3TextModel}
    configs = {
        **TEXT,
        "gemma3": lambda: hf.Gemma3TextConfig(**SIZE, head_dim=8, query_pre_attn_scalar=8, sliding_window=6),
    }
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = classes[kind](configs[kind]())
        randomize(model)
    model = model.eval()
    x = torch.randn(1, 9, 32, generator=torch.Generator().manual_seed(5))
    seed = torch.randn(1, 9, 32, generator=torch.Generator().manual_seed(6))

    def gradient():
        given = x.clone().requires_grad_()
        y = model(inputs_embeds=given, use_cache=False).last_hidden_state
        return y.detach(), torch.autograd.grad(y, given, seed)[0]

    with explained(model):
        _, ordinary = gradient()
        with LrpRules(variant):
            y, mine = gradient()
        patches = getattr(lxt_maps[kind], "attnLRP" if variant == "full" else "cp_LRP")
        for target in patches:
            for name in ("forward", "_norm", "eager_attention_forward", "ALL_ATTENTION_FUNCTIONS"):
                if hasattr(target, name):
                    monkeypatch.setattr(target, name, copy.copy(getattr(target, name)))  # put back after the test
        module = next(t for t in patches if isinstance(t, types.ModuleType))
        module.ALL_ATTENTION_FUNCTIONS = Registry()  # the cp patch writes into the registry of all models
        for target, patch in patches.items():
            assert patch(target)
        module.ALL_ATTENTION_FUNCTIONS = (
            Registry()
        )  # the full patch leaves a plain dict, which transformers 5 cannot ask
        z, theirs = gradient()
    torch.testing.assert_close(z, y, rtol=1e-5, atol=1e-5)
    assert (mine - theirs).norm() <= 1e-4 * theirs.norm()
    assert (ordinary - theirs).norm() > 1e-2 * theirs.norm(), "vacuous: rules change nothing"


class Registry(dict):
    """An attention registry that knows eager alone."""

    def get_interface(self, _name, default):
        return default


def test_other_decoders_are_refused():
    model = hf.GPT2LMHeadModel(hf.GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=30))
    with pytest.raises(UserError, match="gpt2 model; token grounding has rules for gemma2, llama, qwen2"):
        propagate(model.transformer, model.lm_head, torch.zeros(1, 2, 32), [[[Term(0, 0)]]])
    model = hf.LlamaForCausalLM(hf.LlamaConfig(**{**SIZE, "hidden_act": "tanh"}))
    with pytest.raises(UserError, match="activation 'tanh' has no rule"):
        run(model, torch.zeros(1, 2, 32), [[[Term(0, 0)]]])


def test_softmax_rule_of_the_explicit_block_is_the_proposition():
    """The explicit block writes masked scores out of Proposition 3.1; without a mask both are one."""
    scores, relevance = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    by_hand = scores * (relevance - scores.softmax(-1) * relevance.sum(-1, keepdim=True))
    torch.testing.assert_close(through_softmax(scores, relevance), by_hand)
