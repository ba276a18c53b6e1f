"""The papers' networks, by name."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from .config import Config
from .fields import near
from .models import DeepLab

_VGG: dict[str, Any] = {
    "backbone": "vgg16",
    "head": "sum",
    "output_stride": 8,
    "rates_at": 8,
    "inputs": "caffe",
}
_V1: dict[str, Any] = {**_VGG, "average_pool": True}
_V2_RESNET: dict[str, Any] = {
    "backbone": "resnet101",
    "head": "sum",
    "output_stride": 8,
    "rates_at": 8,
    "inputs": "caffe",
    "scales": (1.0, 0.75, 0.5),
    "stride_in_1x1": True,
    "ceil_pool": True,
}
_MULTI_GRID: dict[str, Any] = {"multi_grid": (1, 2, 4)}
_XCEPTION: dict[str, Any] = {
    "backbone": "xception65",
    "separable": "paper",
    "backbone_bn_eps": 1e-3,
    "inputs": "symmetric",
}
_MOBILENET: dict[str, Any] = {
    "backbone": "mobilenetv2",
    "separable": "paper",
    "inputs": "symmetric",
}
# torchvision's head: a 3×3 convolution behind ASPP, whose rates are those of output stride 8.
_MOBILENETV3: dict[str, Any] = {
    "backbone": "mobilenetv3_large",
    "head": "aspp",
    "neck": True,
    "rates": (12, 24, 36),
    "rates_at": 0,
    "dropout": 0.5,
    "backbone_bn_eps": 1e-3,
}
_ASPP_S, _ASPP_L = (2, 4, 8, 12), (6, 12, 18, 24)

_MODELS: dict[str, dict[str, Any]] = {
    # v1, table 2: the field of view of fc6. The plain name is LargeFOV.
    "deeplabv1_vgg16": {**_V1, "rates": (12,), "fov_hidden": 1024},
    "deeplabv1_vgg16_7x7": {**_V1, "rates": (4,), "fov_kernel": 7, "fov_hidden": 4096},
    "deeplabv1_vgg16_4x4": {**_V1, "rates": (4,), "fov_kernel": 4, "fov_hidden": 4096},
    "deeplabv1_vgg16_4x4_fov224": {**_V1, "rates": (8,), "fov_kernel": 4, "fov_hidden": 4096},
    # v2, tables 3 and 4. Its LargeFOV is v1's, trained longer.
    "deeplabv2_vgg16_largefov": {**_V1, "rates": (12,), "fov_hidden": 1024},
    "deeplabv2_vgg16_aspp_s": {**_VGG, "fov_hidden": 1024, "rates": _ASPP_S},
    "deeplabv2_vgg16_aspp_l": {**_VGG, "fov_hidden": 1024, "rates": _ASPP_L},
    "deeplabv2_resnet101": {**_V2_RESNET, "rates": _ASPP_L},
    "deeplabv2_resnet101_largefov": {**_V2_RESNET, "rates": (12,)},
}
for _depth in ("resnet50", "resnet101"):
    _resnet = {"backbone": _depth, **_MULTI_GRID}
    # v3, table 3: the cascade up to block7.
    _MODELS[f"deeplabv3_cascade_{_depth}"] = {**_resnet, "head": "linear", "cascade": 3}
    _MODELS[f"deeplabv3_{_depth}"] = {**_resnet, "head": "aspp"}
    _MODELS[f"deeplabv3plus_{_depth}"] = {**_resnet, "head": "decoder"}
for _name, _head in (("deeplabv3", "aspp"), ("deeplabv3plus", "decoder")):
    _MODELS[f"{_name}_mobilenetv2"] = {**_MOBILENET, "head": _head}
    _MODELS[f"{_name}_xception"] = {"backbone": "xception", "head": _head}
    _MODELS[f"{_name}_xception65"] = {**_XCEPTION, "head": _head}

# MobileNetV2 (2018), table 7: without atrous branches, as TensorFlow and transformers release it.
_MODELS["deeplabv3_mobilenetv2_no_aspp"] = {**_MOBILENET, "head": "aspp", "rates": ()}
_MODELS["deeplabv3_mobilenetv3_large"] = _MOBILENETV3

MODELS = tuple(sorted(_MODELS))


def model_config(name: str, **options: Any) -> Config:
    """The configuration of a network of the papers, with fields of ``Config`` replaced.

    Raises:
        ValueError: the name is unknown, or an option's value is.
        TypeError: an option is no field of ``Config``.
    """
    if name not in _MODELS:
        raise ValueError(
            f"expected the name of a model, one of {', '.join(MODELS)}; found {name!r}"
        )
    known = [field.name for field in fields(Config)]
    for option in options:
        if option not in known:
            raise TypeError(f"{option!r} is no option of a network: {near(option, known)}")
    return Config(**{**_MODELS[name], **options})


def build(name: str, *, num_classes: int = 21, **options: Any) -> DeepLab:
    """Builds a network of the papers with fresh weights.

    Interpolation aligns corners, as in the papers' releases; batch normalisation has their
    momentum of 3e-4. Weights are drawn from torch's generator.

    Args:
        name: one of ``MODELS``, as ``"deeplabv3plus_resnet101"``.
        num_classes: channels of the scores.
        options: fields of ``Config`` to replace, as ``output_stride=8``.

    Raises:
        ValueError: the name or an option's value is unknown.
        TypeError: an option is no field of ``Config``.
    """
    return DeepLab(model_config(name, num_classes=num_classes, **options))
