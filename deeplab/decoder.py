"""The decoder of v3+ and the auxiliary classifier of torchvision and mmsegmentation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import ConvBN, conv3x3, init_classifier, init_weights, resize


class Decoder(nn.Module):
    """Decoder of v3+ (figure 2): enlarge, join the reduced low-level features, refine.

    Args:
        low_inputs: channels of the low-level features.
        channels: of the encoder's features and of the result.
        low_channels: what the low-level features are reduced to.
        refinements: number of 3×3 convolutions.
        separable: form of these, see ``conv3x3``.
        align_corners: how the encoder's features are enlarged, see ``resize``.
    """

    def __init__(
        self,
        low_inputs: int,
        channels: int = 256,
        *,
        low_channels: int = 48,
        refinements: int = 2,
        separable: str = "none",
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.reduce = ConvBN(low_inputs, low_channels)
        self.refine = nn.Sequential(
            *(
                conv3x3(channels + (low_channels if i == 0 else 0), channels, separable=separable)
                for i in range(refinements)
            )
        )
        init_weights(self)

    def forward(self, encoded: Tensor, low: Tensor) -> Tensor:
        """``[B, channels, h, w]`` and ``[B, low_inputs, H, W]`` to ``[B, channels, H, W]``."""
        enlarged = resize(encoded, low.shape[2:], self.align_corners)
        out: Tensor = self.refine(torch.cat([enlarged, self.reduce(low)], 1))
        return out


class AuxiliaryHead(nn.Module):
    """A classifier on a middle level that only training looks at: 3×3 to a quarter, 1×1."""

    def __init__(self, inputs: int, num_classes: int) -> None:
        super().__init__()
        self.conv = ConvBN(inputs, inputs // 4, 3)
        self.classifier = nn.Conv2d(inputs // 4, num_classes, 1)
        init_weights(self)
        init_classifier(self.classifier)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, inputs, h, w]`` to scores ``[B, num_classes, h, w]``."""
        scores: Tensor = self.classifier(F.dropout(self.conv(x), 0.1, self.training))
        return scores
