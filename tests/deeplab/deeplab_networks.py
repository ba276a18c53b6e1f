"""Small networks and pictures for the tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import deeplab


def tiny_network(classes: int = 3, **options: Any) -> deeplab.DeepLab:
    """DeepLab v3+ with few channels, its weights random."""
    return deeplab.build(
        "deeplabv3plus_mobilenetv2",
        num_classes=classes,
        aspp_channels=16,
        low_channels=8,
        **options,
    )


def picture(height: int, width: int, batch: int = 1, seed: int = 0) -> Tensor:
    """Noise, uint8 [B, 3, H, W]."""
    g = torch.Generator().manual_seed(seed)
    return torch.randint(256, (batch, 3, height, width), generator=g, dtype=torch.uint8)


class Brightness(nn.Module):
    """Two classes, dark and bright, by the pixel alone."""

    def forward(self, images: Tensor) -> Tensor:
        bright = images.mean(1) / 128 - 1
        return torch.stack([-bright, bright], 1)
