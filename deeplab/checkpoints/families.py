"""The families of checkpoints: how to know them, and what their tensors do not say."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from deeplab.backbones.resnet import DEPTHS
from deeplab.config import Config

from . import names
from .names import Renaming, Rule

Options = dict[str, Any]

RESNETS = tuple(DEPTHS)


def _no_options(structure: Options) -> Options:
    return {}


@dataclass(frozen=True)
class Family:
    """One source of checkpoints.

    Args:
        name: as messages say it.
        marks: keys that only its files have together.
        rules: its names in ours.
        options: fields of ``Config`` that none of its tensors show, and those that do and are the
            same in all its files: what then is missing is known to be.
        backbones: those of its networks that are supported.
        by_structure: more options, from the fields that tensors show.
        pool_first: ASPP's concatenation starts with the image pooling; ours ends with it.
        low_first: the decoder's concatenation starts with the low-level features; ours ends so.
        by_config: more options, from a ``config.json`` beside the file; ValueError if it asks for
            what is not supported.
        stride_in_name: the file's name tells the output stride, as in ``..._os16.pth``.
        unused: beginnings of the keys that the family's own scores do not depend on either.
    """

    name: str
    marks: tuple[str, ...]
    rules: tuple[Rule, ...]
    options: Options
    backbones: tuple[str, ...] = RESNETS
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

    def reorder(self, state: dict[str, Tensor], config: Config) -> None:
        """Brings the input channels behind concatenations into our order, in place."""
        if self.pool_first:
            key, first = "aspp.project.conv.weight", config.aspp_channels
            state[key] = state[key].roll(-first, dims=1)
        if self.low_first:
            key, first = "decoder.refine.0.conv.weight", config.low_channels
            state[key] = state[key].roll(-first, dims=1)


def infer(state: Mapping[str, Tensor], backbones: Sequence[str]) -> Options:
    """The fields of ``Config`` that tensors under our names show by presence and shape.

    What tensors do not show because they are missing is left out, or taken to be there.

    Raises:
        ValueError: the backbone is none of ``backbones``.
    """

    def present(part: str) -> bool:
        return any(key.startswith(part) for key in state)

    found: Options = {"backbone": _backbone(state, backbones)}
    if found["backbone"] in RESNETS:
        found["deep_stem"] = present("backbone.stem.1.") or present("backbone.stem.2.")
    found["auxiliary"] = present("auxiliary.")
    for key in ("classifier.weight", "classifier.branches.0.weight"):
        if key in state and state[key].dim() == 4:
            found["num_classes"] = state[key].shape[0]
    if present("classifier.branches."):
        return {**found, "head": "sum"}
    if not present("aspp."):
        return {**found, "head": "linear"}
    found["head"] = "decoder" if present("decoder.") else "aspp"
    project = state.get("aspp.project.conv.weight")
    if project is not None and project.dim() == 4:
        found.update(aspp_channels=project.shape[0], project_kernel=project.shape[2])
    if any(".depthwise." in key for key in state if not key.startswith("backbone.")):
        normed = any(".depthwise.bn." in key for key in state if not key.startswith("backbone."))
        found["separable"] = "paper" if normed else "plain"
    reduce = state.get("decoder.reduce.conv.weight")
    if reduce is not None and reduce.dim() == 4:
        found["low_channels"] = reduce.shape[0]
    return found


def _backbone(state: Mapping[str, Tensor], backbones: Sequence[str]) -> str:
    for part, names_of_kind in _KINDS:
        known = [name for name in names_of_kind if name in backbones]
        if known and any(key.startswith(part) for key in state):
            found = _resnet(state) if part == _UNITS_OF_RESNETS else known[0]
            if found not in known:
                raise ValueError(f"its backbone is {found}, expected {' or '.join(backbones)}")
            return found
    raise ValueError(f"it holds no {' or '.join(backbones)}")


_UNITS_OF_RESNETS = "backbone.layers."
_KINDS = (
    (_UNITS_OF_RESNETS, RESNETS),
    ("backbone.units.", ("mobilenetv3_large", "mobilenetv2")),
    ("backbone.blocks.", ("xception65", "xception")),
)
_BASIC: dict[tuple[int, ...], str] = {(2, 2, 2, 2): "ResNet-18", (3, 4, 6, 3): "ResNet-34"}
_BOTTLENECK: dict[tuple[int, ...], str] = {
    **{depths: name for name, depths in DEPTHS.items()},
    (3, 8, 36, 3): "ResNet-152",
}


def _resnet(state: Mapping[str, Tensor]) -> str:
    """A ResNet's name as in ``Config``, or what else it is.

    Of one without a whole layer, the one that it is a part of: the layer will be missed.
    """
    units = {tuple(key.split(".")[2:4]) for key in state if key.startswith(_UNITS_OF_RESNETS)}
    depths = tuple(sum(layer == str(n) for layer, _ in units) for n in range(4))
    shown = " + ".join(map(str, depths))
    if not any(".expand." in key for key in state):
        return _BASIC.get(depths, f"a ResNet of {shown} units without bottleneck")
    if 0 in depths:
        return "resnet101" if depths[2] > DEPTHS["resnet50"][2] else "resnet50"
    conv = state.get("backbone.layers.0.0.atrous.conv.weight")
    if conv is not None and conv.dim() == 4 and conv.shape[0] != 64:
        return "a ResNeXt" if conv.shape[1] < conv.shape[0] else "a wide ResNet"
    return _BOTTLENECK.get(depths, f"a ResNet of {shown} units")


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
    "neck": True,
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
_THREE_SCALES: Options = {"scales": (1.0, 0.75, 0.5)}


def _msra(structure: Options) -> Options:
    summed = {"rates": (6, 12, 18, 24), "rates_at": 8} if structure["head"] == "sum" else {}
    return {"output_stride": 8, **summed}


# Of several scales of v3+, whose weights nobody has published, its code takes the maximum at the
# size of the images, this package at stride 4: an rms of 1 % of the scores' deviation apart.
def _kazuto(prefix: str, name: str, more: Options) -> tuple[Family, ...]:
    stem, multi_grid = prefix + "layer1.conv1.conv.weight", {"multi_grid": (1, 2, 4)}
    aspp = prefix + "aspp.stages.c0.conv.weight"
    return (
        Family(
            f"kazuto1011 v3+{name}",
            (stem, aspp, prefix + "reduce.conv.weight"),
            names.under(prefix, names.KAZUTO_V3PLUS),
            {**_MSRA, **multi_grid, **more},
        ),
        Family(
            f"kazuto1011 v3{name}",
            (stem, aspp),
            names.under(prefix, names.KAZUTO_V3),
            {**_MSRA, **multi_grid, **more},
        ),
        Family(
            f"kazuto1011{name}", (stem,), names.under(prefix, names.KAZUTO), {**_MSRA, **more},
            by_structure=_msra,
        ),
    )  # fmt: skip


def _vainf(structure: Options) -> Options:
    resnet = structure["backbone"] in RESNETS
    return {"contract_dilation": True} if resnet else {"variant": "vainf"}


def _jfzhang(structure: Options) -> Options:
    resnet = structure["backbone"] in RESNETS
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


def _smp(separable: bool) -> Callable[[Options], Options]:
    """How ``config.json`` of segmentation_models.pytorch is read: it holds every argument.

    Not read are ``upsampling``, of its last layer, since scores here have the size of the image,
    and ``activation``, since they are logits.
    """
    supported: Options = {
        "encoder_name": list(RESNETS),
        "encoder_depth": [5],
        "in_channels": [3],
        "decoder_aspp_separable": [separable],
    }
    fields = {
        "encoder_name": "backbone",
        "encoder_output_stride": "output_stride",
        "classes": "num_classes",
        "decoder_atrous_rates": "rates",
        "decoder_aspp_dropout": "dropout",
    }

    def options(written: Options) -> Options:
        for key, values in supported.items():
            if written.get(key, values[0]) not in values:
                wanted = " or ".join(map(repr, values))
                raise ValueError(f"expected {key} {wanted}, found {written[key]!r}")
        return {ours: written[key] for key, ours in fields.items() if key in written}

    return options


_VAINF: Options = {"align_corners": False, "bn_momentum": 0.01}
_VAINF_BACKBONES = (*RESNETS, "mobilenetv2", "xception")
_SMP: Options = {
    "rates": (12, 24, 36),
    "rates_at": 0,
    "neck": True,
    "dropout": 0.5,
    "bn_momentum": 0.1,
}

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
            "neck": True,
            "dropout": 0.5,
            "backbone_bn_eps": 1e-3,
            "bn_momentum": 0.01,  # the backbone's; the head's is 0.1
        },
        backbones=("mobilenetv3_large",),
    ),
    *_kazuto("base.", " with multi-scale inputs", _THREE_SCALES),
    *_kazuto("", "", {}),
    Family(
        "isht7",
        ("Scale.layer5.conv2d_list.0.weight",),
        names.ISHT7,
        {**_MSRA, "align_corners": True, **_THREE_SCALES},
        by_structure=_msra,
    ),
    Family(
        "VainF v3",
        ("classifier.classifier.0.convs.0.0.weight",),
        names.VAINF_V3,
        {**_VAINF, "head": "aspp", "neck": True},
        _VAINF_BACKBONES,
        _vainf,
        stride_in_name=True,
    ),
    Family(
        "VainF v3+",
        ("classifier.aspp.convs.0.0.weight",),
        names.VAINF_V3PLUS,
        {**_VAINF, "head": "decoder", "refinements": 1},
        _VAINF_BACKBONES,
        _vainf,
        low_first=True,
        stride_in_name=True,
    ),
    Family(
        "jfzhang95",
        ("aspp.aspp1.atrous_conv.weight",),
        names.JFZHANG,
        {"head": "decoder", "dropout": 0.5, "bn_momentum": 0.1},
        (*RESNETS, "xception65", "mobilenetv2"),
        _jfzhang,
    ),
    Family(
        "segmentation_models.pytorch v3",
        ("decoder.aspp.convs.0.0.weight",),
        names.SMP_V3,
        {**_SMP, "head": "aspp", "output_stride": 8},
        by_config=_smp(separable=False),
        unused=("classification_head.",),
    ),
    Family(
        "segmentation_models.pytorch v3+",
        ("decoder.aspp.0.convs.0.0.weight",),
        names.SMP_V3PLUS,
        {**_SMP, "head": "decoder", "refinements": 1, "separable": "plain"},
        by_config=_smp(separable=True),
        unused=("classification_head.",),
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
            "rates": (),
            "variant": "tensorflow",
            "inputs": "symmetric",
            "dropout": 0.8,
            "backbone_bn_eps": 1e-3,
            "bn_momentum": 0.003,
        },
        backbones=("mobilenetv2",),
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
