"""ResNet-50 and ResNet-101 of every family: MSRA's, torchvision's, and those with a deep stem."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deeplab.layers import CeilMaxPool2d, ConvBN, init_weights

from .base import Backbone, Levels, atrous_plan

DEPTHS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}


class Bottleneck(nn.Module):
    """``x + expand(atrous(reduce(x)))``: 1×1, 3×3, 1×1.

    Args:
        inputs: channels.
        width: of the 3×3 convolution; the unit has four times as many output channels.
        stride_in_1x1: whether a stride sits in ``reduce`` (MSRA) or in ``atrous`` (torchvision).
        project: whether the shortcut is a 1×1 convolution, as in the first unit of a layer.
    """

    def __init__(self, inputs: int, width: int, *, stride_in_1x1: bool, project: bool) -> None:
        super().__init__()
        self.stride_in_1x1 = stride_in_1x1
        self.reduce = ConvBN(inputs, width)
        self.atrous = ConvBN(width, width, 3)
        self.expand = ConvBN(width, 4 * width, activation="none")
        self.shortcut = ConvBN(inputs, 4 * width, activation="none") if project else None

    def set_atrous(self, rate: int, stride: int = 1) -> None:
        """Sets the unit's rate and stride."""
        self.reduce.set_atrous(1, stride if self.stride_in_1x1 else 1)
        self.atrous.set_atrous(rate, 1 if self.stride_in_1x1 else stride)
        if self.shortcut is not None:
            self.shortcut.set_atrous(1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, inputs, h, w]`` to ``[B, 4 width, ceil(h / stride), ceil(w / stride)]``."""
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return F.relu(self.expand(self.atrous(self.reduce(x))) + shortcut, inplace=True)


class ResNet(Backbone):
    """ResNet with atrous layers.

    Args:
        depths: units in layer1 ... layer4 (res2 ... res5 of the papers).
        multi_grid: factors on the rates of the three units of layer4 and of the cascade (v3).
        stride_in_1x1: a layer's stride sits in its first 1×1 convolution: MSRA's models.
        ceil_pool: the pool of the stem rounds its size up, as Caffe's does.
        contract_dilation: a layer's first unit keeps the rate of the layer before: torchvision's
            ``replace_stride_with_dilation``.
        deep_stem: three 3×3 convolutions in place of the first 7×7.
        cascade: copies of layer4 appended to it, block5 ... of v3, each with stride 2 before it is
            traded for a rate.
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        *,
        multi_grid: tuple[int, ...] = (1, 1, 1),
        stride_in_1x1: bool = False,
        ceil_pool: bool = False,
        contract_dilation: bool = False,
        deep_stem: bool = False,
        cascade: int = 0,
    ) -> None:
        super().__init__()
        if len(multi_grid) != depths[3]:
            raise ValueError(f"expected {depths[3]} factors in multi_grid, found {multi_grid}")
        self.multi_grid = multi_grid
        self.contract_dilation = contract_dilation
        self.stem = nn.Sequential(
            *(
                (ConvBN(3, 32, 3, stride=2), ConvBN(32, 32, 3), ConvBN(32, 64, 3))
                if deep_stem
                else (ConvBN(3, 64, 7, stride=2),)
            )
        )
        self.pool = CeilMaxPool2d() if ceil_pool else nn.MaxPool2d(3, stride=2, padding=1)

        widths = (64, 128, 256, 512) + (512,) * cascade
        self.layers = nn.ModuleList()
        inputs = 64
        for width, depth in zip(widths, depths + (depths[3],) * cascade, strict=True):
            units = nn.Sequential()
            for unit in range(depth):
                first = unit == 0
                units.append(Bottleneck(inputs, width, stride_in_1x1=stride_in_1x1, project=first))
                inputs = 4 * width
            self.layers.append(units)
        self.channels = Levels(256, 1024, inputs)
        init_weights(self)
        self.set_output_stride(16)

    def set_output_stride(self, output_stride: int) -> None:
        """Sets strides and rates of the units."""
        strides = [4, 1] + [2] * (len(self.layers) - 1)  # the stem, layer1, layer2, ...
        plan = atrous_plan(strides, output_stride)[1:]
        for number, (layer, stage) in enumerate(zip(self.layers, plan, strict=True), start=1):
            assert isinstance(layer, nn.Sequential)
            for i, unit in enumerate(layer):
                assert isinstance(unit, Bottleneck)
                contracted = self.contract_dilation and i == 0
                rate = stage.entry_rate if contracted else stage.rate
                grid = self.multi_grid[i] if number >= 4 else 1
                unit.set_atrous(rate * grid, stage.stride if i == 0 else 1)

    def completed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of layer1 ... layer4, and copies of layer4's for the cascade (v3, 3.2).

        The first unit of a copy has twice the input channels of layer4's, whose second unit it
        starts as: its shortcut, which that has not, starts as the identity.
        """
        filled = dict(state)
        if any(key.startswith("layers.4.") for key in state):
            return filled
        for number, layer in list(enumerate(self.layers))[4:]:
            for key, own in layer.state_dict().items():
                unit, leaf = key.split(".", 1)
                source = f"layers.3.{max(int(unit), 1)}.{leaf}"
                if leaf == "shortcut.conv.weight":
                    filled[f"layers.{number}.{key}"] = nn.init.dirac_(torch.empty_like(own))
                elif leaf.startswith("shortcut.bn."):
                    filled[f"layers.{number}.{key}"] = own
                elif source in state:
                    filled[f"layers.{number}.{key}"] = state[source]
        return filled

    def forward(self, images: Tensor) -> Levels[Tensor]:
        """``[B, 3, H, W]`` to layer1 ``[B, 256, ...]``, layer3 ``[B, 1024, ...]`` and the last."""
        maps: list[Tensor] = []
        x = self.pool(self.stem(images))
        for layer in self.layers:
            x = layer(x)
            maps.append(x)
        return Levels(maps[0], maps[2], x)
