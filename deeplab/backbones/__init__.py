"""The backbones, by name."""

from __future__ import annotations

from deeplab.config import Config

from .base import Backbone, Levels, Stage, atrous_plan
from .chollet_xception import Xception
from .mobilenet import MobileNetV2
from .mobilenetv3 import MobileNetV3Large
from .resnet import DEPTHS, ResNet
from .vgg import VGG16
from .xception import Xception65

__all__ = [
    "VGG16",
    "Backbone",
    "Levels",
    "MobileNetV2",
    "MobileNetV3Large",
    "ResNet",
    "Stage",
    "Xception",
    "Xception65",
    "atrous_plan",
    "build_backbone",
]


def build_backbone(config: Config) -> Backbone:
    """The backbone that a configuration names, at its output stride."""
    backbone: Backbone
    if config.backbone in DEPTHS:
        backbone = ResNet(
            DEPTHS[config.backbone],
            multi_grid=config.multi_grid,
            stride_in_1x1=config.stride_in_1x1,
            ceil_pool=config.ceil_pool,
            contract_dilation=config.contract_dilation,
            deep_stem=config.deep_stem,
            cascade=config.cascade,
        )
    elif config.backbone == "mobilenetv2":
        backbone = MobileNetV2(config.variant)
    elif config.backbone == "mobilenetv3_large":
        backbone = MobileNetV3Large()
    elif config.backbone == "xception":
        backbone = Xception(config.variant)
    elif config.backbone == "xception65":
        backbone = Xception65(config.multi_grid, config.variant)
    else:
        backbone = VGG16(config.average_pool)
    backbone.set_output_stride(config.output_stride)
    return backbone
