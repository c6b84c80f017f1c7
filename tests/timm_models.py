"""Small random checkpoints in timm's layouts, and timm's forward pass written out: slow and literal, no tables of ALOE's."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

D, DEPTH, HEADS_, PATCH, SIDE = 48, 2, 4, 8, 32
GRID = SIDE // PATCH

# What sets an architecture apart from a plain ViT with a CLS token, GELU and LayerNorms of epsilon 1e-6.
ARCHITECTURES = {
    "vit_base_patch16_224": {"classes": 5},
    "flexivit_small": {"cls_position": False, "classes": 5},
    "vit_small_patch14_dinov2": {"scales": "ls{}.gamma"},
    "deit3_small_patch16_224": {"scales": "ls{}.gamma", "cls_position": False, "classes": 5},
    "vit_small_patch14_reg4_dinov2": {"scales": "ls{}.gamma", "cls_position": False, "registers": 4},
    "vit_giant_patch14_reg4_dinov2": {"scales": "ls{}.gamma", "cls_position": False, "registers": 4, "mlp": "packed"},
    "vit_base_patch16_dinov3": {"scales": "gamma_{}", "registers": 4, "positions": "rope", "eps": 1e-5},
    "vit_base_patch16_dinov3_qkvb": {
        "scales": "gamma_{}",
        "registers": 4,
        "positions": "rope",
        "eps": 1e-5,
        "qv": True,
    },
    "vit_small_plus_patch16_dinov3": {
        **{"scales": "gamma_{}", "registers": 4, "positions": "rope", "eps": 1e-5},
        "mlp": "swiglu",
    },
    "vit_base_patch16_siglip_224": {"cls": False, "pool": True},
    "vit_so400m_patch16_siglip_256": {"cls": False, "pool": True, "act": "tanh"},
    "vit_base_patch16_siglip_gap_224": {"cls": False},
    "vit_base_patch16_clip_224": {"pre": True, "eps": 1e-5, "classes": 5},
    "vit_base_patch16_clip_quickgelu_224": {"pre": True, "eps": 1e-5, "act": "quick", "classes": 5},
}


def build(architecture):
    """A random state dict with timm's names and shapes."""
    facts, width = ARCHITECTURES[architecture], 128 if "giant" in architecture else 96
    generator = torch.Generator().manual_seed(sum(map(ord, architecture)))
    tensors = {}

    def add(name, *shape):
        wide = torch.randn(shape, generator=generator)
        if ("norm" in name and name.endswith("weight")) or "gamma" in name:
            wide = wide.abs() / 2 + 0.5
        elif len(shape) > 1 and name.endswith("weight"):
            wide = wide / math.sqrt(math.prod(shape[1:]))
        else:
            wide = wide * (0.1 if name.endswith("bias") else 0.5)
        tensors[name] = wide

    def linear(name, rows, columns, bias=True):
        add(f"{name}.weight", rows, columns)
        if bias:
            add(f"{name}.bias", rows)

    def norm(name):
        add(f"{name}.weight", D)
        add(f"{name}.bias", D)

    add("patch_embed.proj.weight", D, 3, PATCH, PATCH)
    if facts.get("pre"):
        norm("norm_pre")
    else:
        add("patch_embed.proj.bias", D)
    cls = facts.get("cls", True)
    if cls:
        add("cls_token", 1, 1, D)
    if facts.get("registers"):
        add("reg_token", 1, facts["registers"], D)
    if facts.get("positions") != "rope":
        add("pos_embed", 1, GRID**2 + int(cls and facts.get("cls_position", True)), D)
    for i in range(DEPTH):
        block = f"blocks.{i}"
        norm(f"{block}.norm1")
        norm(f"{block}.norm2")
        linear(f"{block}.attn.qkv", 3 * D, D, bias="dinov3" not in architecture)
        if facts.get("qv"):
            add(f"{block}.attn.q_bias", D)
            add(f"{block}.attn.v_bias", D)
        linear(f"{block}.attn.proj", D, D)
        hidden = width if facts.get("mlp", "mlp") != "packed" else 128
        for part in {"swiglu": ("fc1_g", "fc1_x")}.get(facts.get("mlp"), ("fc1",)):
            linear(f"{block}.mlp.{part}", hidden * (2 if facts.get("mlp") == "packed" else 1), D)
        linear(f"{block}.mlp.fc2", D, hidden)
        for n in (1, 2) if "scales" in facts else ():
            add(f"{block}.{facts['scales'].format(n)}", D)
    norm("norm")
    if facts.get("pool"):
        add("attn_pool.latent", 1, 1, D)
        linear("attn_pool.q", D, D)
        linear("attn_pool.kv", 2 * D, D)
        linear("attn_pool.proj", D, D)
        norm("attn_pool.norm")
        linear("attn_pool.mlp.fc1", 4 * D if width != 96 else 96, D)
        linear("attn_pool.mlp.fc2", D, 4 * D if width != 96 else 96)
    if facts.get("classes"):
        linear("head", facts["classes"], D)
    return tensors


def literal(architecture, t, images):
    """timm's forward, one head, one patch at a time: raw states after every block, normed tokens, pooled output."""
    facts = ARCHITECTURES[architecture]
    eps, batch = facts.get("eps", 1e-6), len(images)

    def norm(x, name):
        return F.layer_norm(x, (D,), t[f"{name}.weight"], t[f"{name}.bias"], eps)

    def linear(x, name):
        return x @ t[f"{name}.weight"].T + t.get(f"{name}.bias", 0)

    def activation(x):
        if facts.get("act") == "quick":
            return x / (1 + torch.exp(-1.702 * x))
        if facts.get("act") == "tanh":
            return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))

    def mix(q, k, v):
        scores = torch.stack([(q[b] @ k[b].T / math.sqrt(q.shape[-1])).softmax(-1) for b in range(batch)])
        return scores @ v

    flat, kernel = [], t["patch_embed.proj.weight"].flatten(1)
    for i in range(GRID):
        for j in range(GRID):
            piece = images[:, :, i * PATCH : (i + 1) * PATCH, j * PATCH : (j + 1) * PATCH].reshape(batch, -1)
            flat.append(piece @ kernel.T + t.get("patch_embed.proj.bias", 0))
    x = torch.stack(flat, 1)
    prefix = [t[n].expand(batch, -1, -1) for n in ("cls_token", "reg_token") if n in t]
    count = sum(p.shape[1] for p in prefix)
    position = t.get("pos_embed")
    if position is None:
        x = torch.cat([*prefix, x], 1)
    elif position.shape[1] == GRID**2:
        x = torch.cat([*prefix, x + position], 1)
    else:
        x = torch.cat([*prefix, x], 1) + position
    if facts.get("pre"):
        x = norm(x, "norm_pre")

    def rotate(z):  # z (B, N, d): prefix tokens stay, patches turn by their centre's coordinates in [-1, 1]
        d, out = z.shape[-1], z.clone()
        for n in range(GRID**2):
            row, column = (2 * (c + 0.5) / GRID - 1 for c in divmod(n, GRID))
            angles = [2 * math.pi * c / 100 ** (4 * k / d) for c in (row, column) for k in range(d // 4)]
            for m, angle in enumerate(angles):
                a, b = z[:, count + n, m], z[:, count + n, m + d // 2]
                out[:, count + n, m] = a * math.cos(angle) - b * math.sin(angle)
                out[:, count + n, m + d // 2] = b * math.cos(angle) + a * math.sin(angle)
        return out

    states = []
    for i in range(DEPTH):
        block = f"blocks.{i}"
        q, k, v = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv").chunk(3, -1)
        q, v = q + t.get(f"{block}.attn.q_bias", 0), v + t.get(f"{block}.attn.v_bias", 0)
        heads = []
        for h in range(HEADS_):
            part = slice(h * D // HEADS_, (h + 1) * D // HEADS_)
            qh, kh = q[..., part], k[..., part]
            if facts.get("positions") == "rope":
                qh, kh = rotate(qh), rotate(kh)
            heads.append(mix(qh, kh, v[..., part]))
        scale1, scale2 = (t.get(f"{block}.{facts.get('scales', '').format(n)}", 1) for n in (1, 2))
        x = x + scale1 * linear(torch.cat(heads, -1), f"{block}.attn.proj")
        y = norm(x, f"{block}.norm2")
        if facts.get("mlp") == "packed":
            gate, up = linear(y, f"{block}.mlp.fc1").chunk(2, -1)
            y = gate / (1 + torch.exp(-gate)) * up
        elif facts.get("mlp") == "swiglu":
            gate, up = linear(y, f"{block}.mlp.fc1_g"), linear(y, f"{block}.mlp.fc1_x")
            y = gate / (1 + torch.exp(-gate)) * up
        else:
            y = activation(linear(y, f"{block}.mlp.fc1"))
        x = x + scale2 * linear(y, f"{block}.mlp.fc2")
        states.append(x)
    tokens = norm(x, "norm")
    if facts.get("pool"):
        q = linear(t["attn_pool.latent"], "attn_pool.q").expand(batch, -1, -1)
        k, v = linear(tokens, "attn_pool.kv").chunk(2, -1)
        parts = [slice(h * D // HEADS_, (h + 1) * D // HEADS_) for h in range(HEADS_)]
        pooled = linear(torch.cat([mix(q[..., p], k[..., p], v[..., p]) for p in parts], -1), "attn_pool.proj")
        hidden = activation(linear(norm(pooled, "attn_pool.norm"), "attn_pool.mlp.fc1"))
        pooled = (pooled + linear(hidden, "attn_pool.mlp.fc2"))[:, 0]
    else:
        pooled = tokens[:, 0] if facts.get("cls", True) else tokens.mean(1)
    return states, tokens, pooled
