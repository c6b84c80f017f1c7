"""Checkpoints in the authors' published layout with random tensors, and their forward pass written out literally.

No published weights can be had here; layout and arithmetic are those of the project's notes on the published checkpoints.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

WIDTH, LAYERS, HEADS, HIDDEN, GRID = 24, 2, 2, 40, 3
MEANS = {
    "siglip2": ((0.5,) * 3, (0.5,) * 3),
    "vit": ((0.5,) * 3, (0.5,) * 3),
    "dinov3": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
DEFAULTS = {  # of the keys that `variants` may leave out
    "siglip2": {"cls": False, "registers": 0, "position": "absolute", "pooler": "multihead_attention", "impl": "v2"},
    "dinov3": {"cls": True, "registers": 4, "position": "rope_2d", "pooler": "cls_token", "impl": "v2"},
    "vit": {"cls": True, "registers": 0, "position": "absolute_1d", "pooler": "cls_token", "impl": "v1"},
}


def settings_of(values: dict) -> dict:
    """The config with the defaults of its kind written out."""
    kind = values["model_type"].split("_")[1]
    defaults = DEFAULTS[kind]
    read = {
        "kind": kind,
        "patch": values.get("aloe_patch_size", 16),
        "cls": values.get("aloe_cls_token", defaults["cls"]),
        "registers": values.get("aloe_num_registers", defaults["registers"]),
        "position": values.get("aloe_position_embedding_type", defaults["position"]),
        "pooler": values.get("aloe_pooler_type", defaults["pooler"]),
        "impl": values.get("aloe_bcos_impl", defaults["impl"]),
        "stem": values.get("aloe_add_conv_stem") or [],
        "b_linear": values.get("aloe_b_linear", 2.0),
        "b_conv": values.get("aloe_b_conv", 2.0),
        "scale": values.get("aloe_use_layer_scale", kind == "dinov3"),
        "eps": values.get("layer_norm_eps", 1e-6),
    }
    stride, before = 1, 6
    for width in read["stem"]:
        stride, before = stride * (2 if width > before else 1), width
    read["stride"], read["channels"] = stride, before
    read["p"] = math.ceil(read["patch"] / stride)
    return read


def make(kind: str, folder: Path, *, labels: int = 0, seed: int = 0, **keys) -> tuple[dict, dict[str, Tensor]]:
    """Writes config.json and model.safetensors; returns both. `keys` are config keys beside the sizes."""
    suffix = "image_classification" if labels else "vision"
    values = {
        "model_type": f"aloe_{kind}_{suffix}",
        **{"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS},
        **{"intermediate_size": HIDDEN, "layer_norm_eps": 1e-5, "hidden_act": "gelu_pytorch_tanh"},
        **{"aloe_patch_size": 8, "image_size": 8 * GRID, "aloe_base_model_name": "some/teacher"},
        **keys,
    }
    if labels:
        values |= {"id2label": {str(k): f"class {k}" for k in range(labels)}}
    s = settings_of(values)
    shapes: dict[str, tuple[int, ...]] = {}
    before = 6
    for j, width in enumerate(s["stem"]):
        shapes[f"embeddings.conv_stem.stem.{j}.conv.linear.weight"] = (width, before, 3, 3)
        shapes[f"embeddings.conv_stem.stem.{j}.norm.weight"] = (width,)
        before = width
    shapes["embeddings.patch_embedding.linear.weight"] = (WIDTH, before * s["p"] ** 2)
    if s["position"] != "rope_2d":
        shapes["embeddings.pos_embedding.embedding.weight"] = (GRID**2 + s["cls"], WIDTH)
    if s["cls"]:
        shapes["embeddings.cls_token"] = (1, 1, WIDTH)
    if s["registers"]:
        shapes["embeddings.register_tokens.tokens"] = (1, s["registers"], WIDTH)
    for n in range(LAYERS):
        block = f"encoder.layers.{n}."
        shapes |= {block + "layer_norm1.weight": (WIDTH,), block + "layer_norm2.weight": (WIDTH,)}
        shapes[block + "self_attn.qkv_proj.weight"] = (3 * WIDTH, WIDTH)
        shapes[block + "self_attn.out_proj.linear.weight"] = (WIDTH, WIDTH)
        shapes[block + "mlp.fc1.linear.weight"] = (HIDDEN, WIDTH)
        shapes[block + "mlp.fc2.linear.weight"] = (WIDTH, HIDDEN)
        if s["scale"]:
            shapes |= {block + "layer_scale1.lambda1": (WIDTH,), block + "layer_scale2.lambda1": (WIDTH,)}
    shapes["post_layernorm.weight"] = (WIDTH,)
    if s["pooler"] == "multihead_attention":
        shapes["head.probe"] = (1, 1, WIDTH)
        shapes["head.attention.q_proj.weight"] = (WIDTH, WIDTH)
        shapes["head.attention.kv_proj.weight"] = (2 * WIDTH, WIDTH)
        shapes["head.attention.out_proj.linear.weight"] = (WIDTH, WIDTH)
        shapes["head.layernorm.weight"] = (WIDTH,)
        shapes["head.mlp.fc1.linear.weight"] = (HIDDEN, WIDTH)
        shapes["head.mlp.fc2.linear.weight"] = (WIDTH, HIDDEN)
    prefix = "vision_model."
    shapes = {prefix + name: shape for name, shape in shapes.items()}
    if labels:
        shapes["classifier.linear.weight"] = (labels, WIDTH)
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(shape, generator=generator) * 0.5 for name, shape in shapes.items()}
    for name, tensor in tensors.items():
        if "norm" in name or "lambda" in name:
            tensor.abs_().add_(0.5)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return values, tensors


def unit(x: Tensor, w: Tensor, b: float, impl: str) -> Tensor:
    """A B-cos linear unit. v2: the scale is |cos(x, w)|; v1: |w.x| over the norm of x."""
    out = x @ w.T
    if impl == "v2":
        scale = (F.normalize(x, dim=-1, eps=1e-12) @ F.normalize(w, dim=-1, eps=1e-12).T).abs()
    else:
        scale = out.abs() / (x.norm(dim=-1, keepdim=True) + 1e-12)
    return out * scale ** (b - 1)


def conv_unit(x: Tensor, w: Tensor, b: float, impl: str, stride: int) -> Tensor:
    """A B-cos 3x3 convolution, padding 1, patch by patch; the patch norm is sqrt(sum of squares + 1e-6)."""
    padded = F.pad(x, (1, 1, 1, 1))
    rows, columns = ((n - 1) // stride + 1 for n in x.shape[2:])
    out = x.new_empty(len(x), len(w), rows, columns)
    for i in range(rows):
        for j in range(columns):
            patch = padded[:, :, i * stride : i * stride + 3, j * stride : j * stride + 3].flatten(1)
            product = patch @ w.flatten(1).T
            scale = product.abs() / (patch.square().sum(1, keepdim=True) + 1e-6).sqrt()
            if impl == "v2":
                scale = scale / w.flatten(1).norm(dim=1)
            out[:, :, i, j] = product * scale ** (b - 1)
    return out


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + eps).sqrt() * weight


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def rotation(x: Tensor, rows: int, columns: int, prefix: int, theta: float) -> Tensor:
    """RoPE of (B, heads, N, d), token by token: prefix rows are left as they are."""
    d = x.shape[-1]
    out = x.clone()
    for i in range(rows):
        for j in range(columns):
            y, z = 2 * (i + 0.5) / rows - 1, 2 * (j + 0.5) / columns - 1
            half = [2 * math.pi * c * theta ** (-4 * k / d) for c in (y, z) for k in range(d // 4)]
            angle = torch.tensor(half * 2, dtype=x.dtype)
            token = x[:, :, prefix + i * columns + j]
            turned = torch.cat((-token[..., d // 2 :], token[..., : d // 2]), -1)
            out[:, :, prefix + i * columns + j] = token * angle.cos() + turned * angle.sin()
    return out


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def forward(values: dict, tensors: dict[str, Tensor], images: Tensor, mean: tuple, std: tuple) -> dict[str, Tensor]:
    """images (B, 3, H, W) in [0, 1] -> states (list), tokens, pooled, and logits where there is a classifier."""
    s = settings_of(values)
    t = {name.removeprefix("vision_model."): tensor.to(images) for name, tensor in tensors.items()}
    impl, b = s["impl"], s["b_linear"]
    x = torch.stack([(images[:, c] - mean[c]) / std[c] for c in range(3)], 1)
    x = torch.cat((x, 1 - x), 1)
    before = 6
    for j, width in enumerate(s["stem"]):
        w = t[f"embeddings.conv_stem.stem.{j}.conv.linear.weight"]
        x = conv_unit(x, w, s["b_conv"], impl, 2 if width > before else 1)
        variance = x.flatten(1).var(1, unbiased=False)[:, None, None, None]
        x = x / (variance + 1e-5).sqrt() * t[f"embeddings.conv_stem.stem.{j}.norm.weight"][:, None, None]
        x, before = x.clamp_min(0), width
    p, batch = s["p"], len(x)
    rows, columns = x.shape[2] // p, x.shape[3] // p
    patches = [x[:, :, i * p : i * p + p, j * p : j * p + p].flatten(1) for i in range(rows) for j in range(columns)]
    h = unit(torch.stack(patches, 1), t["embeddings.patch_embedding.linear.weight"], b, impl)
    prefix = []
    if s["cls"]:
        prefix.append(t["embeddings.cls_token"].expand(batch, -1, -1))
    if s["position"] != "rope_2d":
        table = t["embeddings.pos_embedding.embedding.weight"]
        h = h + table[int(s["cls"]) :]
        prefix = [prefix[0] + table[0]] if s["cls"] else []
    if s["registers"]:
        prefix.append(t["embeddings.register_tokens.tokens"].expand(batch, -1, -1))
    h = torch.cat((*prefix, h), 1)
    first = int(s["cls"]) + s["registers"]
    split = lambda z: z.unflatten(-1, (HEADS, -1)).transpose(1, 2)  # noqa: E731
    states = [h]
    for n in range(LAYERS):
        block = {
            k.removeprefix(f"encoder.layers.{n}."): v for k, v in t.items() if k.startswith(f"encoder.layers.{n}.")
        }
        q, k, v = (norm(h, block["layer_norm1.weight"], s["eps"]) @ block["self_attn.qkv_proj.weight"].T).chunk(3, -1)
        q, k, v = split(q), split(k), split(v)
        if s["position"] == "rope_2d":
            theta = values.get("aloe_rope_theta", 100)
            theta = 100 if theta == 10000 and values.get("rope_theta") == 100 else theta
            q, k = (rotation(z, rows, columns, first, theta) for z in (q, k))
        mixed = unit(attend(q, k, v), block["self_attn.out_proj.linear.weight"], b, impl)
        h = h + mixed * (block["layer_scale1.lambda1"] if s["scale"] else 1)
        inner = norm(h, block["layer_norm2.weight"], s["eps"])
        inner = unit(
            gelu(unit(inner, block["mlp.fc1.linear.weight"], b, impl)), block["mlp.fc2.linear.weight"], b, impl
        )
        h = h + inner * (block["layer_scale2.lambda1"] if s["scale"] else 1)
        states.append(h)
    tokens = norm(h, t["post_layernorm.weight"], s["eps"])
    if s["pooler"] == "multihead_attention":
        kv = (tokens[:, first:] @ t["head.attention.kv_proj.weight"].T).chunk(2, -1)
        q = (t["head.probe"] @ t["head.attention.q_proj.weight"].T).expand(batch, -1, -1)
        mixed = attend(split(q), *map(split, kv))
        pooled = unit(mixed, t["head.attention.out_proj.linear.weight"], b, impl)
        inner = norm(pooled, t["head.layernorm.weight"], s["eps"])
        inner = gelu(unit(inner, t["head.mlp.fc1.linear.weight"], b, impl))
        pooled = (pooled + unit(inner, t["head.mlp.fc2.linear.weight"], b, impl))[:, 0]
    else:
        pooled = tokens[:, 0] if s["pooler"] == "cls_token" else tokens.mean(1)
    found = {"states": states, "tokens": tokens, "pooled": pooled}
    if "classifier.linear.weight" in t:
        labels = len(t["classifier.linear.weight"])
        logits = unit(pooled, t["classifier.linear.weight"], b, impl)
        if values.get("aloe_logit_temperature") is not None:
            logits = logits * values["aloe_logit_temperature"]
        if values.get("aloe_use_logit_layer", labels > 1):
            stated = values.get("aloe_logit_bias")
            logits = logits + (-math.log(labels - 1) if stated is None else stated)
        found["logits"] = logits
    return found
