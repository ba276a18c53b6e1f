"""VGG-16 as DeepLab v1 and v2 run it (v1, section 3.1)."""

from __future__ import annotations

from torch import Tensor, nn

from deeplab.layers import CeilMaxPool2d, init_weights, set_atrous

from .base import Backbone, Levels, atrous_plan

# Channels of the convolutions between the five pools, conv1_1 ... conv5_3.
BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG16(Backbone):
    """Thirteen convolutions with bias and five max pools of 3×3.

    The kernel of the pools is 3 instead of VGG's 2, padded by 1 and rounding up, so that maps of
    (size - 1) / stride + 1 pixels lie on every stride-th pixel. A pool beyond the output stride
    keeps its window and loses its stride; the convolutions behind it become atrous.

    Args:
        average_pool: whether an average pool of 3×3 follows pool5, as in LargeFOV (pool5a); the
            released ASPP networks have none.
    """

    def __init__(self, average_pool: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []  # numbered as in torchvision's `features`
        inputs = 3
        for block in BLOCKS:
            for outputs in block:
                layers += [nn.Conv2d(inputs, outputs, 3), nn.ReLU(inplace=True)]
                inputs = outputs
            layers.append(CeilMaxPool2d())
        self.features = nn.ModuleList(layers)
        self.pool5a = nn.AvgPool2d(3, stride=1, padding=1) if average_pool else nn.Identity()
        self.channels = Levels(128, 512, 512)
        init_weights(self)
        self.set_output_stride(8)

    def set_output_stride(self, output_stride: int) -> None:
        """Sets the strides of the pools and the rates of the convolutions behind them."""
        plan = iter(atrous_plan([2] * len(BLOCKS), output_stride))
        rate = 1
        for layer in self.features:
            if isinstance(layer, nn.Conv2d):
                set_atrous(layer, rate)
            elif isinstance(layer, CeilMaxPool2d):
                stage = next(plan)
                layer.stride, rate = stage.stride, stage.rate

    def forward(self, images: Tensor) -> Levels[Tensor]:
        """``[B, 3, H, W]`` to maps of 128 (pool2), 512 (pool4) and 512 (the last pool) channels."""
        pools: list[Tensor] = []
        x = images
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, CeilMaxPool2d):
                pools.append(x)
        return Levels(pools[1], pools[3], self.pool5a(x))
