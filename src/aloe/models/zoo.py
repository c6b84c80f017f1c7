"""The paper's eight teachers (Table A1) with the configuration of their architecture, at full size.

`build_config` gives the transformers configuration, so that a teacher can be built (on the meta device, say) without
its weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ZooTeacher:
    """One row of Table A1. Pixels are square; `student_image_size` is what a conv-stem student takes."""

    id: str
    family: str
    arch: str
    image_size: int
    patch_size: int
    layers: int
    width: int
    heads: int
    hidden: int
    registers: int = 0

    @property
    def grid_size(self) -> int:
        """Patch tokens on a side."""
        return self.image_size // self.patch_size

    @property
    def student_image_size(self) -> int:
        """Pixels of a patch-16 student with the same token grid: 432 for the 384-pixel, patch-14 teacher."""
        return self.grid_size * 16


# The paper's table prints google/siglip2-so400m-patch16-384 for the teacher it calls so400m@384/14; patch 14 is what the
# architecture and its pairing with 432/16 mean.
TEACHERS = (
    ZooTeacher("google/vit-base-patch16-224", "ViT", "ViT-B/16", 224, 16, 12, 768, 12, 3072),
    ZooTeacher("google/siglip2-base-patch16-224", "SigLIP2", "ViT-B/16", 224, 16, 12, 768, 12, 3072),
    ZooTeacher("google/siglip2-large-patch16-256", "SigLIP2", "ViT-L/16", 256, 16, 24, 1024, 16, 4096),
    ZooTeacher("google/siglip2-so400m-patch16-256", "SigLIP2", "ViT-so400m/16", 256, 16, 27, 1152, 16, 4304),
    ZooTeacher("google/siglip2-so400m-patch14-384", "SigLIP2", "ViT-so400m/14", 384, 14, 27, 1152, 16, 4304),
    ZooTeacher("facebook/dinov3-vits16-pretrain-lvd1689m", "DINOv3", "ViT-S/16", 224, 16, 12, 384, 6, 1536, 4),
    ZooTeacher("facebook/dinov3-vitb16-pretrain-lvd1689m", "DINOv3", "ViT-B/16", 224, 16, 12, 768, 12, 3072, 4),
    ZooTeacher("facebook/dinov3-vitl16-pretrain-lvd1689m", "DINOv3", "ViT-L/16", 224, 16, 24, 1024, 16, 4096, 4),
)


def build_config(teacher: ZooTeacher) -> Any:
    """The transformers configuration of a Table A1 teacher."""
    import transformers

    size: dict[str, Any] = {
        "hidden_size": teacher.width,
        "num_hidden_layers": teacher.layers,
        "num_attention_heads": teacher.heads,
        "intermediate_size": teacher.hidden,
        "image_size": teacher.image_size,
        "patch_size": teacher.patch_size,
    }
    if teacher.family == "ViT":
        return transformers.ViTConfig(**(size | {"num_labels": 1000}))
    if teacher.family == "DINOv3":
        return transformers.DINOv3ViTConfig(**size, num_register_tokens=teacher.registers)
    return transformers.SiglipVisionConfig(**size)


def build_random(teacher: ZooTeacher) -> Any:
    """A Table A1 teacher with random weights, as a transformers module (with its classifier where it has one)."""
    import transformers

    names = {"ViT": "ViTForImageClassification", "DINOv3": "DINOv3ViTModel", "SigLIP2": "SiglipVisionModel"}
    return getattr(transformers, names[teacher.family])(build_config(teacher))
