"""From pixels to the tokens of the first block: the stem, and everything that is added whatever the image shows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from aloe.bcos.dynamic import is_explaining
from aloe.bcos.functional import bcos_linear
from aloe.bcos.layers import BcosConv2d, GatedActivation, ScaleNorm2d
from aloe.models.configuration import BcosViTConfig
from aloe.models.geometry import patches_of


class BcosPatchEmbedding(nn.Module):
    """One B-cos unit per patch: (B, C, H, W) -> (B, N, D); the weight keeps the layout of a convolution, (D, C, P, P)."""

    def __init__(self, channels: int, width: int, patch: int, b: float, weight_norm: bool = True) -> None:
        super().__init__()
        self.b, self.patch, self.weight_norm = b, patch, weight_norm
        self.weight = nn.Parameter(torch.empty(width, channels, patch, patch))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        p = self.patch
        patches = x.view(batch, channels, height // p, p, width // p, p).permute(0, 2, 4, 1, 3, 5)
        flat = patches.reshape(batch, -1, channels * p * p)
        weight = self.weight.flatten(1)
        return bcos_linear(flat, weight, self.b, detach=is_explaining(), weight_norm=self.weight_norm)


class BcosConvStem(nn.Sequential):
    """B-cos convolutions, each with an uncentred norm and ReLU; stride 2 where the width grows (docs/method.md section 4).

    A 3x3 kernel of stride 2 reads every other row and column twice as often as the rest, which explanations show as a
    checkerboard. A 4x4 kernel of stride 2 (`stem_kernel`) reads every pixel four times.
    """

    def __init__(self, config: BcosViTConfig) -> None:
        layers: list[nn.Module] = []
        before = 6
        b = config.b if config.b_conv is None else config.b_conv
        unit: dict[str, Any] = {
            "padding": 1,
            "b": b,
            "weight_norm": config.weight_norm,
            "norm_eps": config.conv_norm_eps,
        }
        for width in config.stem_widths or []:
            kernel, stride = (config.stem_kernel, 2) if width > before else (3, 1)
            layers.append(
                nn.Sequential(
                    BcosConv2d(before, width, kernel, stride, **unit),
                    ScaleNorm2d(width, config.stem_norm_eps, centred=config.stem_norm == "variance"),
                    GatedActivation("relu"),
                )
            )
            before = width
        super().__init__(*layers)


class BcosViTEmbeddings(nn.Module):
    """Six-channel pixels to tokens: patch tokens from the stem, plus everything constant."""

    def __init__(self, config: BcosViTConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        channels, stride = 6, 1
        self.stem: BcosConvStem | None = None
        if config.stem_widths:
            self.stem = BcosConvStem(config)
            channels, stride = config.stem_widths[-1], config.stem_stride
        patch = config.patch_size // stride
        self.patch_embedding = BcosPatchEmbedding(channels, width, patch, config.b, config.weight_norm)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width)) if config.use_cls_token else None
        registers = config.num_register_tokens
        self.register_tokens = nn.Parameter(torch.zeros(1, registers, width)) if registers else None
        self.position_embeddings: nn.Parameter | None = None
        if config.position_embedding == "learned":
            rows = config.grid_size**2 + int(config.use_cls_token)
            self.position_embeddings = nn.Parameter(torch.zeros(1, rows, width))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, 6, H, W) -> (B, prefix + patches, D)."""
        grid = self.grid(x.shape[-2], x.shape[-1])
        tokens = self.patches(x)
        prefix = tokens.new_zeros(tokens.shape[0], self.config.num_prefix_tokens, tokens.shape[2])
        return torch.cat((prefix, tokens), dim=1) + self.constants(*grid).to(tokens.dtype)

    def patches(self, x: Tensor) -> Tensor:
        """Patch tokens without anything constant: x (B, 6, H, W) -> (B, patches, D)."""
        return self.patch_embedding(x if self.stem is None else self.stem(x))

    def constants(self, rows: int, columns: int) -> Tensor:
        """What is added whatever the image: CLS, registers and position embeddings, (1, prefix + rows*columns, D)."""
        parts: list[Tensor] = []
        patches = self.patch_embedding.weight.new_zeros(1, rows * columns, self.config.hidden_size)
        if self.position_embeddings is not None:
            cls = int(self.config.use_cls_token)
            patches = self._interpolate(self.position_embeddings[:, cls:], rows, columns)
        if self.cls_token is not None:
            learned = self.position_embeddings
            parts.append(self.cls_token if learned is None else self.cls_token + learned[:, :1])
        if self.register_tokens is not None:
            parts.append(self.register_tokens)
        return torch.cat([*parts, patches], dim=1)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Token rows and columns of an image of that many pixels.

        Raises:
            UserError: if the image is not a whole number of patches.
        """
        return patches_of(height, width, self.config.patch_size)

    def _interpolate(self, table: Tensor, rows: int, columns: int) -> Tensor:
        side = self.config.grid_size
        if (rows, columns) == (side, side):
            return table
        image = table.reshape(1, side, side, -1).permute(0, 3, 1, 2)
        image = image.to(torch.promote_types(table.dtype, torch.float32))
        mode, _, antialias = self.config.position_interpolation.partition("-")
        image = nn.functional.interpolate(
            image, size=(rows, columns), mode=mode, align_corners=False, antialias=bool(antialias)
        )
        return image.flatten(2).transpose(1, 2).to(table.dtype)
