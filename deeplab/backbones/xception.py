"""Modified aligned Xception-65 (v3+, section 3.2 and figure 4)."""

from __future__ import annotations

import itertools

import torch.nn.functional as F
from torch import Tensor, nn

from deeplab.layers import AtrousSeparableConv, ConvBN, init_weights

from .base import Backbone, Levels, atrous_plan

ENTRY = ((64, 128, 128, 128), (128, 256, 256, 256), (256, 728, 728, 728))  # each with stride 2
MIDDLE = (728, 728, 728, 728)  # sixteen times
EXIT = (728, 728, 1024, 1024)  # stride 2
TAIL = (1024, 1536, 1536, 2048)


class XceptionBlock(nn.Module):
    """Three separable convolutions, each behind a ReLU, and a shortcut.

    Args:
        channels: of the input and of each convolution's output.
        project: whether the shortcut is a strided 1×1 convolution or the identity.
        relu_shortcut: the shortcut starts behind the first ReLU.
    """

    def __init__(self, channels: tuple[int, ...], *, project: bool, relu_shortcut: bool) -> None:
        super().__init__()
        self.relu_shortcut = relu_shortcut
        self.convs = nn.ModuleList(
            AtrousSeparableConv(a, b, activation_between=False, activation=False)
            for a, b in itertools.pairwise(channels)
        )
        self.shortcut = ConvBN(channels[0], channels[-1], activation="none") if project else None

    def set_atrous(self, rate: int, stride: int = 1, last_rate: int | None = None) -> None:
        """Sets the rate of all three convolutions, and the stride, which is the third one's."""
        rates = (rate, rate, rate if last_rate is None else last_rate)
        for conv, r, s in zip(self.convs, rates, (1, 1, stride), strict=True):
            assert isinstance(conv, AtrousSeparableConv)
            conv.set_atrous(r, s)
        if self.shortcut is not None:
            self.shortcut.set_atrous(1, stride)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, C, h, w]`` to the block's output and its second convolution's, not yet strided."""
        if self.relu_shortcut:
            x = F.relu(x)
        shortcut = x if self.shortcut is None else self.shortcut(x)
        second = self.convs[1](F.relu(self.convs[0](F.relu(x))))
        return self.convs[2](F.relu(second)) + shortcut, second


class Xception65(Backbone):
    """Xception-65: strides in separable convolutions instead of pools.

    Args:
        multi_grid: factors on the rates of the three convolutions of the tail.
        variant: ``"paper"``; or ``"jfzhang"``, that family's own behaviour: shortcuts start
            behind the ReLU, the low-level features are those of the first block, behind a ReLU,
            as is the input of the tail, whose separable convolutions have no ReLU inside, and the
            last convolution of the exit block is never atrous.
    """

    def __init__(self, multi_grid: tuple[int, ...] = (1, 1, 1), variant: str = "paper") -> None:
        super().__init__()
        if len(multi_grid) != 3:
            raise ValueError(f"expected 3 factors in multi_grid, found {multi_grid}")
        self.multi_grid = multi_grid
        self.jfzhang = variant == "jfzhang"
        self.stem = nn.Sequential(ConvBN(3, 32, 3, stride=2), ConvBN(32, 64, 3))
        self.blocks = nn.ModuleList(
            XceptionBlock(channels, project=channels != MIDDLE, relu_shortcut=self.jfzhang)
            for channels in (*ENTRY, *[MIDDLE] * 16, EXIT)
        )
        self.tail = nn.Sequential(
            *(
                AtrousSeparableConv(a, b, activation_between=not self.jfzhang)
                for a, b in itertools.pairwise(TAIL)
            )
        )
        self.channels = Levels(128 if self.jfzhang else 256, 728, TAIL[-1])
        init_weights(self)
        self.set_output_stride(16)

    def set_output_stride(self, output_stride: int) -> None:
        """Sets strides and rates; a block that loses its stride keeps the rate before it."""
        strides = [2, 2, 2, 2, *[1] * 16, 2, 1]  # the stem, the blocks, the tail
        plan = atrous_plan(strides, output_stride)
        for block, stage in zip(self.blocks, plan[1:-1], strict=True):
            assert isinstance(block, XceptionBlock)
            last = 1 if self.jfzhang and block is self.blocks[-1] else None
            block.set_atrous(stage.entry_rate, stage.stride, last)
        for conv, grid in zip(self.tail, self.multi_grid, strict=True):
            assert isinstance(conv, AtrousSeparableConv)
            conv.set_atrous(plan[-1].rate * grid)

    def forward(self, images: Tensor) -> Levels[Tensor]:
        """``[B, 3, H, W]`` to maps of 256 (``"jfzhang"``: 128), 728 and 2048 channels."""
        x = self.stem(images)
        x, _ = self.blocks[0](x)
        first = x
        x, low = self.blocks[1](x)
        if self.jfzhang:
            low = F.relu(first)
        for block in list(self.blocks)[2:-1]:
            x, _ = block(x)
        mid = x
        x, _ = self.blocks[-1](x)
        return Levels(low, mid, self.tail(F.relu(x) if self.jfzhang else x))
