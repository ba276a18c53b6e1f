"""The families of checkpoints: how to know them, and what their tensors do not say."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from . import names
from .names import Renaming, Rule

Options = dict[str, Any]


def _no_options(structure: Options) -> Options:
    return {}


@dataclass(frozen=True)
class Family:
    """One source of checkpoints.

    Args:
        name: as messages say it.
        marks: keys that only its files have together.
        rules: its names in ours.
        options: fields of ``Config`` that none of its tensors show.
        by_structure: more of these, from the fields that do show.
        pool_first: ASPP's concatenation starts with the image pooling; ours ends with it.
        low_first: the decoder's concatenation starts with the low-level features; ours ends so.
        by_config: more of these, from a ``config.json`` beside the file.
        stride_in_name: the file's name tells the output stride, as in ``..._os16.pth``.
        unused: beginnings of the keys that the family's own network does not look at either.
    """

    name: str
    marks: tuple[str, ...]
    rules: tuple[Rule, ...]
    options: Options = field(default_factory=dict)
    by_structure: Callable[[Options], Options] = _no_options
    by_config: Callable[[Options], Options] | None = None
    pool_first: bool = False
    low_first: bool = False
    stride_in_name: bool = False
    unused: tuple[str, ...] = ()

    @cached_property
    def renaming(self) -> Renaming:
        """The rules, compiled."""
        return Renaming(self.rules)

    def reorder(self, state: dict[str, Tensor], structure: Options) -> None:
        """Brings the input channels behind concatenations into our order, in place."""
        if self.pool_first:
            key, first = "aspp.project.conv.weight", structure["aspp_channels"]
            state[key] = state[key].roll(-first, dims=1)
        if self.low_first:
            key, first = "decoder.refine.0.conv.weight", structure["low_channels"]
            state[key] = state[key].roll(-first, dims=1)


def infer(state: Mapping[str, Tensor]) -> Options:
    """The fields of ``Config`` that tensors under our names show by presence and shape."""
    found: Options = {"backbone": _backbone(state)}
    if found["backbone"].startswith("resnet"):
        found["deep_stem"] = "backbone.stem.2.conv.weight" in state
    found["auxiliary"] = "auxiliary.classifier.weight" in state
    if "classifier.branches.0.weight" in state:
        found.update(head="sum", num_classes=state["classifier.branches.0.weight"].shape[0])
        return found
    found["num_classes"] = state["classifier.weight"].shape[0]
    if "aspp.project.conv.weight" not in state:
        return {**found, "head": "linear"}
    channels, _, kernel, _ = state["aspp.project.conv.weight"].shape
    found.update(head="aspp", aspp_channels=channels, project_kernel=kernel)
    found["neck"] = any(key.startswith("neck.") for key in state)
    found["separable"] = "none"
    if "aspp.atrous.0.depthwise.conv.weight" in state:
        normed = "aspp.atrous.0.depthwise.bn.weight" in state
        found["separable"] = "paper" if normed else "plain"
    elif "aspp.atrous.0.conv.weight" not in state:
        found["rates"] = ()
    if "decoder.reduce.conv.weight" in state:
        found.update(
            head="decoder",
            low_channels=state["decoder.reduce.conv.weight"].shape[0],
            refinements=len({key.split(".")[2] for key in state if "decoder.refine" in key}),
        )
    return found


def _backbone(state: Mapping[str, Tensor]) -> str:
    for mark, name in (
        ("backbone.layers.2.22.reduce.conv.weight", "resnet101"),
        ("backbone.layers.2.5.reduce.conv.weight", "resnet50"),
        ("backbone.units.3.squeeze.reduce.weight", "mobilenetv3_large"),
        ("backbone.units.0.project.conv.weight", "mobilenetv2"),
        ("backbone.blocks.0.convs.2.pointwise.conv.weight", "xception65"),
        ("backbone.blocks.0.shortcut.conv.weight", "xception"),
    ):
        if mark in state:
            return name
    raise KeyError("the weights of a backbone")


def stride_in(file_name: str) -> int | None:
    """The output stride that a name like ``..._os16.pth`` tells."""
    match = re.search(r"_os(8|16|32)(?!\d)", file_name)
    return int(match[1]) if match else None


# ---- what each family's code does ----------------------------------------------------------------

_TORCHVISION: Options = {
    "output_stride": 8,
    "align_corners": False,
    "rates": (12, 24, 36),
    "rates_at": 0,
    "contract_dilation": True,
    "dropout": 0.5,
    "bn_momentum": 0.1,
}
_MSRA: Options = {
    "align_corners": False,
    "stride_in_1x1": True,
    "ceil_pool": True,
    "inputs": "caffe",
    "bn_momentum": 0.001,
}


def _msra(structure: Options) -> Options:
    if structure["head"] == "sum":
        return {"output_stride": 8, "rates": (6, 12, 18, 24), "rates_at": 8}
    if structure["head"] == "linear":
        return {"output_stride": 8}
    return {"multi_grid": (1, 2, 4)}


def _vainf(structure: Options) -> Options:
    resnet = structure["backbone"].startswith("resnet")
    return {"contract_dilation": True} if resnet else {"variant": "vainf"}


def _jfzhang(structure: Options) -> Options:
    resnet = structure["backbone"].startswith("resnet")
    return {"multi_grid": (1, 2, 4)} if resnet else {"variant": "jfzhang"}


def _hugging_face(written: Options) -> Options:
    """What ``config.json`` of transformers says, which holds what differs from the defaults."""
    if written.get("hidden_act", "relu6") != "relu6":
        raise ValueError(f"expected hidden_act 'relu6', found {written['hidden_act']!r}")
    return {
        "output_stride": written.get("output_stride", 32),
        "variant": "tensorflow" if written.get("tf_padding", True) else "paper",
        "dropout": written.get("classifier_dropout_prob", 0.8),
        "backbone_bn_eps": written.get("layer_norm_eps", 1e-3),
    }


_VAINF: Options = {"align_corners": False, "bn_momentum": 0.01}
_SMP: Options = {"rates": (12, 24, 36), "rates_at": 0, "dropout": 0.5, "bn_momentum": 0.1}

FAMILIES = (
    Family(
        "torchvision",
        ("backbone.conv1.weight", "classifier.0.convs.0.0.weight"),
        names.TORCHVISION,
        _TORCHVISION,
    ),
    Family(
        "torchvision MobileNetV3",
        ("backbone.0.0.weight", "classifier.0.convs.0.0.weight"),
        names.TORCHVISION_MOBILE,
        {
            "output_stride": 16,
            "align_corners": False,
            "rates": (12, 24, 36),
            "rates_at": 0,
            "dropout": 0.5,
            "backbone_bn_eps": 1e-3,
            "bn_momentum": 0.01,  # the backbone's; the head's is 0.1
        },
    ),
    Family(
        "kazuto1011 with multi-scale inputs",
        ("base.layer1.conv1.conv.weight",),
        names.under("base.", names.KAZUTO),
        {**_MSRA, "scales": (1.0, 0.75, 0.5)},
        _msra,
    ),
    Family("kazuto1011", ("layer1.conv1.conv.weight",), names.KAZUTO, _MSRA, _msra),
    Family(
        "isht7",
        ("Scale.layer5.conv2d_list.0.weight",),
        names.ISHT7,
        {**_MSRA, "align_corners": True, "scales": (1.0, 0.75, 0.5)},
        _msra,
    ),
    Family(
        "VainF v3",
        ("classifier.classifier.0.convs.0.0.weight",),
        names.VAINF_V3,
        _VAINF,
        _vainf,
        stride_in_name=True,
    ),
    Family(
        "VainF v3+",
        ("classifier.aspp.convs.0.0.weight",),
        names.VAINF_V3PLUS,
        _VAINF,
        _vainf,
        low_first=True,
        stride_in_name=True,
    ),
    Family(
        "jfzhang95",
        ("aspp.aspp1.atrous_conv.weight",),
        names.JFZHANG,
        {"dropout": 0.5, "bn_momentum": 0.1},
        _jfzhang,
    ),
    Family(
        "segmentation_models.pytorch v3",
        ("encoder.conv1.weight", "decoder.aspp.convs.0.0.weight"),
        names.SMP_V3,
        {**_SMP, "output_stride": 8},
    ),
    Family(
        "segmentation_models.pytorch v3+",
        ("encoder.conv1.weight", "decoder.aspp.0.convs.0.0.weight"),
        names.SMP_V3PLUS,
        _SMP,
    ),
    Family(
        "mmsegmentation",
        ("decode_head.aspp_modules.0.conv.weight",),
        names.MMSEG,
        {
            "output_stride": 8,
            "align_corners": False,
            "rates": (12, 24, 36),
            "rates_at": 8,
            "contract_dilation": True,
            "bn_momentum": 0.1,
        },
        pool_first=True,
    ),
    Family(
        "Hugging Face MobileNetV2",
        (
            "mobilenet_v2.conv_stem.first_conv.convolution.weight",
            "segmentation_head.conv_projection.convolution.weight",
        ),
        names.HUGGING_FACE,
        {
            "output_stride": 8,
            "align_corners": False,
            "variant": "tensorflow",
            "inputs": "symmetric",
            "dropout": 0.8,
            "backbone_bn_eps": 1e-3,
            "bn_momentum": 0.003,
        },
        by_config=_hugging_face,
        pool_first=True,
        unused=("mobilenet_v2.conv_1x1.",),
    ),
)


def recognise(state: Mapping[str, Tensor]) -> Family | None:
    """The family that all marks of are there."""
    return next((f for f in FAMILIES if all(mark in state for mark in f.marks)), None)


def rename(state: Mapping[str, Tensor], family: Family) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors under our names, and the keys that are none of the family's.

    Raises:
        ValueError: two keys have one new name and different tensors.
    """
    renamed: dict[str, Tensor] = {}
    unknown: list[str] = []
    for key, tensor in state.items():
        new = family.renaming(key)
        if key.startswith(family.unused):
            continue
        if new is None:
            unknown.append(key)
        elif new in renamed and not torch.equal(renamed[new], tensor):
            raise ValueError(f"{key} repeats an earlier tensor with other values")
        else:
            renamed[new] = tensor
    return renamed, unknown
