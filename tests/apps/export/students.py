"""Small random students that between them have every part a graph must carry."""

from __future__ import annotations

import torch
from torch import Tensor

from aloe.models.configuration import BcosViTConfig
from aloe.models.modeling import BcosViTForImageClassification, BcosViTModel

SIZE, CLASSES, WIDTH = 32, 5, 16
SMALL = {"hidden_size": WIDTH, "num_attention_heads": 2, "intermediate_size": 32, "image_size": SIZE, "patch_size": 8}
NAMES = {0: "cat", 1: "dog", 2: "owl", 3: "newt", 4: "7 spot ladybird"}
ROPE = {"position_embedding": "rope", "num_register_tokens": 2, "layer_scale": True, "mlp": "swiglu"}
POOLED = {
    "use_cls_token": False,
    "pooling": "attention",
    "hidden_act": "gelu_pytorch_tanh",
    "stem": "conv",
    "stem_kernel": 4,
}
PUBLISHED = {  # the switches that the authors' checkpoints need
    **{"encoding": "normalized", "image_mean": [0.5] * 3, "image_std": [0.25] * 3, "bcos_variant": "unnormalized"},
    **{"stem": "conv", "b_conv": 1.5, "conv_norm_eps": 1e-5, "stem_norm": "variance", "pre_norm": True},
    **{"hidden_act": "quick_gelu", "logit_scale": 0.7},
}


def build(*, classifier: bool, layers: int = 1, **switches) -> BcosViTForImageClassification | BcosViTModel:
    """A student whose constants are all at work and whose stem is scaled up, so that pixels decide the outcome."""
    config = BcosViTConfig(**{**SMALL, "num_hidden_layers": layers, **switches}, id2label=NAMES, logit_bias=-0.4)
    model = (BcosViTForImageClassification if classifier else BcosViTModel)(config)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        parameter.data.normal_(0, 0.4, generator=generator)
        if name.endswith("patch_embedding.weight"):
            parameter.data.mul_(10)
    return model.eval()


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))
