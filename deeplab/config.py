"""Everything about a DeepLab that its tensors do not say."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any, get_type_hints

from .fields import typed
from .inputs import SCHEMES

BACKBONES = (
    "vgg16",
    "resnet50",
    "resnet101",
    "mobilenetv2",
    "mobilenetv3_large",
    "xception",
    "xception65",
)
HEADS = ("linear", "sum", "aspp", "decoder")

_CHOICES = {
    "backbone": BACKBONES,
    "head": HEADS,
    "variant": ("paper", "tensorflow", "vainf", "jfzhang"),
    "separable": ("none", "paper", "plain"),
    "inputs": SCHEMES,
}

_RESNETS = ("resnet50", "resnet101")
_ATROUS_HEADS = ("sum", "aspp", "decoder")
_ASPP_HEADS = ("aspp", "decoder")
# The backbones, or heads, that read a field; the others must leave it at its default.
_READ_BY_BACKBONE = {
    "multi_grid": (*_RESNETS, "xception65"),
    "stride_in_1x1": _RESNETS,
    "ceil_pool": _RESNETS,
    "contract_dilation": _RESNETS,
    "deep_stem": _RESNETS,
    "cascade": _RESNETS,
    "average_pool": ("vgg16",),
    "variant": ("mobilenetv2", "xception", "xception65"),
}
_VARIANTS = {"xception": ("paper", "vainf"), "xception65": ("paper", "jfzhang")}
_READ_BY_HEAD = {
    "rates": _ATROUS_HEADS,
    "rates_at": _ATROUS_HEADS,
    "fov_kernel": ("sum",),
    "fov_hidden": ("sum",),
    "aspp_channels": _ASPP_HEADS,
    "project_kernel": _ASPP_HEADS,
    "separable": _ASPP_HEADS,
    "neck": _ASPP_HEADS,
    "dropout": _ASPP_HEADS,
    "low_channels": ("decoder",),
    "refinements": ("decoder",),
}

_AT_LEAST = {
    1: (
        *("num_classes", "output_stride", "multi_grid", "rates"),
        *("fov_kernel", "aspp_channels", "project_kernel", "low_channels"),
    ),
    0: ("cascade", "rates_at", "fov_hidden", "refinements"),
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """A network, complete but for its weights; saved with them as JSON.

    Args:
        backbone: one of ``BACKBONES``; ``"xception"`` is Chollet's, ``"xception65"`` the modified
            aligned one of v3+.
        head: ``"linear"``, a 1×1 classifier (cascade of v3); ``"sum"``, the summed classifiers of
            v1 and v2; ``"aspp"`` of v3; ``"decoder"``, ASPP and decoder of v3+.
        num_classes: channels of the scores.
        output_stride: input size over that of the last map: 4, 8, 16 or 32, or more in the
            cascade.
        align_corners: of every bilinear interpolation: True in Caffe and TensorFlow, False in
            torchvision and most of PyTorch.
        scales: of the input, the first of them 1; the scores of several are fused by their maximum
            (v2, MSC).
        inputs: normalisation of the images, see ``normalize``.
        auxiliary: a second classifier on the middle level, for training: of v3 and v3+ at one
            scale.
        bn_eps: of batch normalisation in the head.
        backbone_bn_eps: of batch normalisation in the backbone: 1e-3 in TensorFlow's Xception and
            in MobileNetV3.
        bn_momentum: 1 - decay, of all batch normalisation.
        multi_grid: factors on the rates of the last stage's three units or convolutions.
        stride_in_1x1: see ``ResNet``.
        ceil_pool: see ``ResNet``.
        contract_dilation: see ``ResNet``.
        deep_stem: see ``ResNet``.
        cascade: see ``ResNet``.
        average_pool: see ``VGG16``.
        variant: see ``MobileNetV2``, ``Xception`` and ``Xception65``.
        rates: of the head's atrous convolutions at the output stride ``rates_at``; ``()`` leaves
            v3's head the 1×1 convolution and the image pooling alone.
        rates_at: rates are scaled by ``rates_at / output_stride``; 0 keeps them at every stride.
        fov_kernel: size of the summed classifiers' first kernel.
        fov_hidden: channels of fc6 and fc7; 0 for classifiers of a single convolution.
        aspp_channels: of ASPP's branches and everything behind.
        project_kernel: size of the kernel behind ASPP's concatenation.
        separable: form of the 3×3 convolutions in the head, see ``conv3x3``.
        neck: a 3×3 convolution behind ASPP.
        dropout: behind ASPP.
        low_channels: of the reduced low-level features.
        refinements: number of 3×3 convolutions in the decoder.

    Raises:
        TypeError: a value is of another type.
        ValueError: a value is not among the choices or out of range, or a field is set that the
            backbone or head does not read.
    """

    backbone: str
    head: str
    num_classes: int = 21
    output_stride: int = 16
    align_corners: bool = True
    scales: tuple[float, ...] = (1.0,)
    inputs: str = "imagenet"
    auxiliary: bool = False
    bn_eps: float = 1e-5
    backbone_bn_eps: float = 1e-5
    bn_momentum: float = 3e-4

    multi_grid: tuple[int, ...] = (1, 1, 1)
    stride_in_1x1: bool = False
    ceil_pool: bool = False
    contract_dilation: bool = False
    deep_stem: bool = False
    cascade: int = 0
    average_pool: bool = False
    variant: str = "paper"

    rates: tuple[int, ...] = (6, 12, 18)
    rates_at: int = 16
    fov_kernel: int = 3
    fov_hidden: int = 0
    aspp_channels: int = 256
    project_kernel: int = 1
    separable: str = "none"
    neck: bool = False
    dropout: float = 0.1
    low_channels: int = 48
    refinements: int = 2

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in fields(self):
            value = typed(getattr(self, field.name), hints[field.name], field.name)
            object.__setattr__(self, field.name, value)
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"expected {name} to be one of {choices}, found {getattr(self, name)!r}"
                )
        self._check_ranges()
        if self.scales[:1] != (1.0,) or not all(0 < scale < math.inf for scale in self.scales):
            raise ValueError(
                f"expected scales to be positive and finite and to start at 1, found {self.scales}"
            )
        if self.head == "sum" and not self.rates:
            raise ValueError(f"the head {self.head!r} needs rates, found none")
        if self.head == "decoder" and self.backbone == "vgg16":
            raise ValueError("the decoder is not defined on vgg16: expected head 'aspp' or 'sum'")
        if self.auxiliary and (self.head == "sum" or len(self.scales) > 1):
            raise ValueError(
                "the losses of v1 and v2, and those of several scales, have no auxiliary "
                "classifier: expected auxiliary=False"
            )
        variants = _VARIANTS.get(self.backbone, (self.variant,))
        if self.variant not in variants:
            raise ValueError(
                f"expected variant of {self.backbone} to be one of {variants}, "
                f"found {self.variant!r}"
            )
        self._check_unread(self.backbone, _READ_BY_BACKBONE)
        self._check_unread(self.head, _READ_BY_HEAD)
        self.rates_for(self.output_stride)

    def _check_ranges(self) -> None:
        for least, names in _AT_LEAST.items():
            for name in names:
                found = getattr(self, name)
                smallest = min(found, default=least) if isinstance(found, tuple) else found
                if smallest < least:
                    raise ValueError(f"expected {name} >= {least}, found {found}")
        for name in ("bn_eps", "backbone_bn_eps", "bn_momentum"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"expected {name} > 0 and finite, found {getattr(self, name)}")
        for name in ("dropout", "bn_momentum"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"expected {name} in [0, 1], found {getattr(self, name)}")
        if len(self.multi_grid) != 3:
            raise ValueError(f"expected 3 factors in multi_grid, found {self.multi_grid}")
        if self.project_kernel % 2 == 0:
            raise ValueError(f"expected project_kernel to be odd, found {self.project_kernel}")

    def _check_unread(self, reader: str, table: dict[str, tuple[str, ...]]) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if reader not in table.get(field.name, (reader,)) and value != field.default:
                raise ValueError(f"{reader!r} does not read {field.name}, found {value!r}")

    def rates_for(self, output_stride: int) -> tuple[int, ...]:
        """The head's rates at an output stride.

        Raises:
            ValueError: the backbone does not have that stride, or the rates there are no whole
                numbers, or odd ones of an even kernel, which no padding could centre.
        """
        possible = [4 << i for i in range(4 + self.cascade)]
        if output_stride not in possible:
            raise ValueError(
                f"expected output_stride to be one of {possible}, found {output_stride}"
            )
        if self.head not in _ATROUS_HEADS:
            return self.rates
        rates = self.rates
        if self.rates_at:
            products = [rate * self.rates_at for rate in rates]
            if any(product % output_stride for product in products):
                raise ValueError(
                    f"rates {rates} at output stride {self.rates_at} are no whole numbers at "
                    f"{output_stride}"
                )
            rates = tuple(product // output_stride for product in products)
        kernel = self.fov_kernel
        if kernel % 2 == 0 and any(rate % 2 for rate in rates):
            raise ValueError(
                f"a {kernel}×{kernel} kernel needs even rates, found {rates} at output stride "
                f"{output_stride}"
            )
        return rates

    def to_json(self) -> str:
        """All fields, as one JSON object."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Config:
        """The inverse of ``to_json``; ValueError if a field is unknown."""
        values: dict[str, Any] = json.loads(text)
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(f"the configuration has unknown fields: {', '.join(unknown)}")
        return cls(**values)
