"""The teacher as an alignment asks it: once per batch, in inference mode, in the run's precision, compiled on request.

Accelerate's autocast is around the trained module only; the teacher stands beside it and has its own here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from aloe.models.backbone import Features
from aloe.models.configuration import BcosViTConfig
from aloe.models.teachers import Teacher
from aloe.train.align.points import teacher_features

DTYPES = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Teaching:
    """Images (B, 3, H, W) in [0, 1] to the frozen teacher's `Features` after `blocks`.

    Args:
        source: the teacher. config: the student's, whose token grid the images are resized for.
        precision: float32, bf16 or fp16 (autocast: products only). compiled: every block through torch.compile, once for all
            of them; the teacher stays so.
    """

    def __init__(
        self,
        source: Teacher,
        config: BcosViTConfig,
        blocks: Sequence[int],
        precision: str = "float32",
        *,
        compiled: bool = False,
    ) -> None:
        self.source, self.config, self.blocks = source, config, tuple(blocks)
        self._dtype = DTYPES[precision]
        if compiled:
            _compile_blocks(source)

    def __call__(self, images: Tensor) -> Features:
        low = torch.autocast(images.device.type, self._dtype, enabled=self._dtype is not None)
        with torch.inference_mode(), low:
            features = teacher_features(self.source, images, self.config, self.blocks)
        # What was made in inference mode cannot be kept for a backward pass, and the loss's needs it: copies can.
        return Features(features.pooled.clone(), {k: state.clone() for k, state in features.states.items()})


def _compile_blocks(source: Teacher) -> None:
    """The forward of each block, below its hooks: hooks that come and go inside what is compiled would not be seen."""
    for block in source.blocks:
        forward: Any = block.forward
        if not hasattr(forward, "_torchdynamo_orig_callable"):
            block.forward = torch.compile(forward)
