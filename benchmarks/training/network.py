"""A small fully convolutional network that trains on one core within minutes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SmallNetwork(nn.Module):
    """Three strided stages, dilated residual blocks at stride 8, and the image's mean as context.

    Args:
        classes: C.
        width: channels at stride 8.
    """

    def __init__(self, classes: int, width: int = 80) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            _block(3, width // 4, stride=2),
            _block(width // 4, width // 2, stride=2),
            _block(width // 2, width, stride=2),
        )
        self.body = nn.ModuleList(_block(width, width, dilation=d) for d in (1, 2, 4, 8, 1))
        self.context = nn.Linear(width, width)
        self.head = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(width, classes, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Returns logits of the image's size: [B, 3, H, W] to [B, C, H, W]."""
        x: Tensor = self.stem(image)
        for block in self.body:
            x = x + block(x)
        x = torch.relu(x + self.context(x.mean(dim=(2, 3)))[..., None, None])
        size = (image.shape[2], image.shape[3])
        return F.interpolate(self.head(x), size=size, mode="bilinear", align_corners=False)


def _block(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=dilation, dilation=dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )
