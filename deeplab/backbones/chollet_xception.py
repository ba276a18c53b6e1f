"""Xception as Chollet published it (CVPR 2017, figure 5), max pools and all."""

from __future__ import annotations

import itertools

import torch.nn.functional as F
from torch import Tensor, nn

from deeplab.layers import AtrousSeparableConv, ConvBN, init_weights, set_atrous

from .base import Backbone, Levels, atrous_plan

ENTRY = ((64, 128, 128), (128, 256, 256), (256, 728, 728))  # each with stride 2
MIDDLE = (728, 728, 728, 728)  # eight times
EXIT = (728, 728, 1024)  # stride 2
TAIL = (1024, 1536, 2048)


def _separable(inputs: int, outputs: int, *, activation: bool = False) -> AtrousSeparableConv:
    return AtrousSeparableConv(inputs, outputs, norm_between=False, activation=activation)


class PooledBlock(nn.Module):
    """Separable convolutions, each behind a ReLU, a max pool, and a shortcut.

    Args:
        channels: of the input and of each convolution's output.
        relu_first: the first convolution, too, is behind a ReLU.
    """

    def __init__(self, channels: tuple[int, ...], *, relu_first: bool = True) -> None:
        super().__init__()
        self.relu_first = relu_first
        self.stride = 1
        self.convs = nn.ModuleList(_separable(a, b) for a, b in itertools.pairwise(channels))
        project = channels != MIDDLE
        self.shortcut = ConvBN(channels[0], channels[-1], activation="none") if project else None

    def set_atrous(self, rate: int, stride: int = 1) -> None:
        """Sets the rate of the convolutions and the stride, without which there is no pool."""
        self.stride = stride
        for conv in self.convs:
            assert isinstance(conv, AtrousSeparableConv)
            conv.set_atrous(rate)
        if self.shortcut is not None:
            self.shortcut.set_atrous(1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, h, w]`` to ``[B, D, ceil(h / stride), ceil(w / stride)]``."""
        out = x
        for i, conv in enumerate(self.convs):
            out = conv(F.relu(out) if i or self.relu_first else out)
        if self.stride > 1:
            out = F.max_pool2d(out, 3, self.stride, padding=1)
        return out + (x if self.shortcut is None else self.shortcut(x))


class Xception(Backbone):
    """Xception with atrous convolutions in place of the last pools.

    A block that loses its pool already has the rate behind it.

    Args:
        variant: ``"paper"``, all convolutions padded to the size of their input; or ``"vainf"``,
            which that family's weights were trained with: the stem is not padded, the two
            convolutions of the tail are padded by one pixel at every rate, so that the map
            shrinks, and behind the last of them is neither normalisation nor ReLU.
    """

    def __init__(self, variant: str = "paper") -> None:
        super().__init__()
        self.vainf = variant == "vainf"
        self.stem = nn.Sequential(ConvBN(3, 32, 3, stride=2), ConvBN(32, 64, 3))
        blocks = (*ENTRY, *[MIDDLE] * 8, EXIT)
        self.blocks = nn.ModuleList(
            PooledBlock(channels, relu_first=i > 0) for i, channels in enumerate(blocks)
        )
        self.tail = nn.Sequential(
            *(_separable(a, b, activation=True) for a, b in itertools.pairwise(TAIL))
        )
        if self.vainf:
            for conv in self.stem:
                assert isinstance(conv, ConvBN)
                conv.conv.padding = (0, 0)
            self.tail[-1].pointwise = ConvBN(*TAIL[-2:], norm=False)
        self.channels = Levels(ENTRY[0][-1], MIDDLE[-1], TAIL[-1])
        init_weights(self)
        self.set_output_stride(16)

    def set_output_stride(self, output_stride: int) -> None:
        """Sets strides and rates, and with them the smallest image."""
        strides = [2, 2, 2, 2, *[1] * 8, 2, 1]  # the stem, the blocks, the tail
        plan = atrous_plan(strides, output_stride)
        for block, stage in zip(self.blocks, plan[1:-1], strict=True):
            assert isinstance(block, PooledBlock)
            block.set_atrous(stage.rate, stage.stride)
        rate = plan[-1].rate
        for conv in self.tail:
            assert isinstance(conv, AtrousSeparableConv)
            set_atrous(conv.depthwise.conv, rate)
            if self.vainf:
                conv.depthwise.conv.padding = (1, 1)
        if self.vainf:
            # Each convolution of the tail takes 2 (rate - 1) pixels from a side, of which one must
            # remain; the blocks divide by output_stride / 2, rounding up; the stem halves h - 1
            # rounding down, and takes 2.
            last = 4 * (rate - 1) + 1
            self.smallest = 2 * ((last - 1) * (output_stride // 2) + 1 + 2) + 1

    def forward(self, images: Tensor) -> Levels[Tensor]:
        """``[B, 3, H, W]`` to maps of 128 (stride 4), 728 and 2048 channels."""
        x = self.stem(images)
        maps: list[Tensor] = []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        return Levels(maps[0], maps[-2], self.tail(x))
