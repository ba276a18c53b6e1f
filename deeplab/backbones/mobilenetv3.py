"""MobileNetV3-Large (Howard et al., ICCV 2019), up to the 1×1 convolution before its pooling."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from deeplab.layers import ConvBN, init_weights

from .base import Backbone, Levels, atrous_plan


class UnitPlan(NamedTuple):
    """A row of the paper's table 1."""

    kernel: int
    hidden: int
    outputs: int
    squeeze: bool
    activation: str
    stride: int


UNITS = (
    UnitPlan(3, 16, 16, False, "relu", 1),
    UnitPlan(3, 64, 24, False, "relu", 2),
    UnitPlan(3, 72, 24, False, "relu", 1),
    UnitPlan(5, 72, 40, True, "relu", 2),
    UnitPlan(5, 120, 40, True, "relu", 1),
    UnitPlan(5, 120, 40, True, "relu", 1),
    UnitPlan(3, 240, 80, False, "hardswish", 2),
    UnitPlan(3, 200, 80, False, "hardswish", 1),
    UnitPlan(3, 184, 80, False, "hardswish", 1),
    UnitPlan(3, 184, 80, False, "hardswish", 1),
    UnitPlan(3, 480, 112, True, "hardswish", 1),
    UnitPlan(3, 672, 112, True, "hardswish", 1),
    UnitPlan(5, 672, 160, True, "hardswish", 2),
    UnitPlan(5, 960, 160, True, "hardswish", 1),
    UnitPlan(5, 960, 160, True, "hardswish", 1),
)
_LOW, _MID = 2, 3  # the last unit at stride 4, the first at stride 8


class SqueezeExcitation(nn.Module):
    """Scales each channel by a gate that the means of all channels open (section 5.3).

    ``x · hardsigmoid(expand(relu(reduce(mean(x)))))``, with a quarter of the channels in between,
    rounded to a multiple of 8.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        quarter = _multiple_of_8(channels // 4)
        self.reduce = nn.Conv2d(channels, quarter, 1)
        self.expand = nn.Conv2d(quarter, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, channels, h, w]`` to the same shape."""
        means = x.mean((2, 3), keepdim=True)
        return x * F.hardsigmoid(self.expand(F.relu(self.reduce(means))))


def _multiple_of_8(channels: int) -> int:
    """The nearest multiple of 8, or the next one if that is more than a tenth too small."""
    nearest = (channels + 4) // 8 * 8
    return nearest if 10 * nearest >= 9 * channels else nearest + 8


class SqueezedResidual(nn.Module):
    """An inverted residual with squeeze-and-excitation before its projection (figure 4)."""

    def __init__(self, inputs: int, plan: UnitPlan) -> None:
        super().__init__()
        hidden, activation = plan.hidden, plan.activation
        self.identity = plan.stride == 1 and inputs == plan.outputs
        self.expand = ConvBN(inputs, hidden, activation=activation) if hidden != inputs else None
        self.depthwise = ConvBN(hidden, hidden, plan.kernel, groups=hidden, activation=activation)
        self.squeeze = SqueezeExcitation(hidden) if plan.squeeze else None
        self.project = ConvBN(hidden, plan.outputs, activation="none")

    def set_atrous(self, rate: int, stride: int = 1) -> None:
        """Sets rate and stride of the depthwise convolution."""
        self.depthwise.set_atrous(rate, stride)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, inputs, h, w]`` to ``[B, outputs, ceil(h / stride), ceil(w / stride)]``."""
        out: Tensor = x if self.expand is None else self.expand(x)
        out = self.depthwise(out)
        if self.squeeze is not None:
            out = self.squeeze(out)
        out = self.project(out)
        return x + out if self.identity else out


class MobileNetV3Large(Backbone):
    """MobileNetV3-Large with atrous depthwise convolutions.

    A unit that loses its stride already has the rate behind it, as in torchvision's
    ``dilated=True``. The middle level is where torchvision's auxiliary classifier looks: the first
    unit at stride 8.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvBN(3, 16, 3, stride=2, activation="hardswish")
        self.units = nn.ModuleList()
        inputs = 16
        for plan in UNITS:
            self.units.append(SqueezedResidual(inputs, plan))
            inputs = plan.outputs
        self.tail = ConvBN(inputs, 6 * inputs, activation="hardswish")
        self.channels = Levels(UNITS[_LOW].outputs, UNITS[_MID].outputs, 6 * inputs)
        init_weights(self)
        self.set_output_stride(16)

    def set_output_stride(self, output_stride: int) -> None:
        """Sets strides and rates of the depthwise convolutions."""
        plan = atrous_plan([2] + [unit.stride for unit in UNITS], output_stride)[1:]
        for unit, stage in zip(self.units, plan, strict=True):
            assert isinstance(unit, SqueezedResidual)
            unit.set_atrous(stage.rate, stage.stride)

    def forward(self, images: Tensor) -> Levels[Tensor]:
        """``[B, 3, H, W]`` to maps of 24 (stride 4), 40 (stride 8) and 960 channels."""
        x = self.stem(images)
        maps: list[Tensor] = []
        for unit in self.units:
            x = unit(x)
            maps.append(x)
        return Levels(maps[_LOW], maps[_MID], self.tail(x))
