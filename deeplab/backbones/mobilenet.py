"""MobileNetV2 (Sandler et al., CVPR 2018), without its last 1×1 convolution as in DeepLab."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from deeplab.layers import ConvBN, init_weights

from .base import Backbone, Levels, atrous_plan

# Expansion, channels, units, stride of each stage.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


_PADDINGS = {"paper": "depthwise", "tensorflow": "same", "vainf": "input", "jfzhang": "input"}


def pad_same(x: Tensor) -> Tensor:
    """Zeros around ``[B, C, h, w]`` as TensorFlow's "SAME" pads a 3×3 convolution of stride 2.

    Odd sizes get one on either side, even ones only behind the last pixel: there a second one,
    which no kernel reaches, keeps the size of the result h + 2, plain enough for exports that
    take any size.
    """
    odd_height, odd_width = x.shape[2] % 2, x.shape[3] % 2
    return F.pad(x, (odd_width, 2 - odd_width, odd_height, 2 - odd_height))


class InvertedResidual(nn.Module):
    """``x + project(depthwise(expand(x)))`` where the shapes allow the sum: 1×1, 3×3, 1×1.

    Args:
        inputs: channels.
        outputs: channels.
        expansion: channels of the depthwise convolution over ``inputs``; 1 leaves out ``expand``.
        identity: whether ``x`` is added.
        padding: ``"depthwise"``, zeros around the input of the depthwise convolution; ``"input"``,
            around x, where the expansion turns them into something else; ``"same"``, as
            ``pad_same`` where the unit has a stride.
    """

    def __init__(
        self, inputs: int, outputs: int, *, expansion: int, identity: bool, padding: str
    ) -> None:
        super().__init__()
        hidden = expansion * inputs
        self.identity = identity
        self.padding = padding
        self.expand = ConvBN(inputs, hidden, activation="relu6") if expansion > 1 else None
        self.depthwise = ConvBN(hidden, hidden, 3, groups=hidden, activation="relu6")
        self.project = ConvBN(hidden, outputs, activation="none")

    def set_atrous(self, rate: int, stride: int = 1) -> None:
        """Sets rate and stride of the depthwise convolution."""
        self.depthwise.set_atrous(rate, stride)
        if self.padding == "input" or self._is_same:
            self.depthwise.conv.padding = (0, 0)

    @property
    def _is_same(self) -> bool:
        return self.padding == "same" and self.depthwise.conv.stride[0] > 1

    def forward(self, x: Tensor) -> Tensor:
        """``[B, inputs, h, w]`` to ``[B, outputs, ceil(h / stride), ceil(w / stride)]``."""
        out: Tensor = x
        if self.padding == "input":
            rate = self.depthwise.conv.dilation[0]
            out = F.pad(out, (rate, rate, rate, rate))
        if self.expand is not None:
            out = self.expand(out)
        if self._is_same:
            out = pad_same(out)
        out = self.project(self.depthwise(out))
        return x + out if self.identity else out


class MobileNetV2(Backbone):
    """MobileNetV2 with atrous depthwise convolutions.

    The first unit of a stage that loses its stride keeps the rate before it, as in TensorFlow.

    Args:
        variant: ``"paper"``; or a family's own behaviour, which its weights were trained with:
            ``"tensorflow"`` pads as ``pad_same`` does, which differs at even sizes; ``"vainf"`` and
            ``"jfzhang"`` pad the input of each unit, ``"vainf"`` does not pad the image, and in
            ``"jfzhang"`` all units of a stage keep the rate before it.
    """

    def __init__(self, variant: str = "paper") -> None:
        super().__init__()
        self.variant = variant
        self.smallest = 3 if variant == "vainf" else 1
        self.stem = ConvBN(3, 32, 3, stride=2, activation="relu6")
        if variant in ("vainf", "tensorflow"):
            self.stem.conv.padding = (0, 0)
        self.units = nn.ModuleList()
        inputs = 32
        for expansion, outputs, count, stride in STAGES:
            for i in range(count):
                self.units.append(
                    InvertedResidual(
                        inputs,
                        outputs,
                        expansion=expansion,
                        # No identity where the stage strides, even if its stride became a rate:
                        # its channels differ.
                        identity=inputs == outputs and (i > 0 or stride == 1),
                        padding=_PADDINGS[variant],
                    )
                )
                inputs = outputs
        self.channels = Levels(24, 96, 320)
        init_weights(self)
        self.set_output_stride(16)

    def set_output_stride(self, output_stride: int) -> None:
        """Sets strides and rates of the depthwise convolutions."""
        plan = atrous_plan([2] + [stride for *_, stride in STAGES], output_stride)[1:]
        units = iter(self.units)
        for (_, _, count, _), stage in zip(STAGES, plan, strict=True):
            for i in range(count):
                unit = next(units)
                assert isinstance(unit, InvertedResidual)
                keeps = i == 0 or self.variant == "jfzhang"
                unit.set_atrous(
                    stage.entry_rate if keeps else stage.rate, stage.stride if i == 0 else 1
                )

    def forward(self, images: Tensor) -> Levels[Tensor]:
        """``[B, 3, H, W]`` to maps of 24 (stride 4), 96 and 320 channels."""
        x = self.stem(pad_same(images) if self.variant == "tensorflow" else images)
        maps: list[Tensor] = []
        for unit in self.units:
            x = unit(x)
            maps.append(x)
        return Levels(maps[2], maps[12], x)
