"""A small language for renaming tensors, and each family's names in it.

A rule ``("layer<n>.<i>.[conv1|bn1]", "layers.<n-1>.<i>.reduce.[conv|bn]")`` renames the modules
whose name it matches. ``<n>`` is a number, which the new name repeats, less one in ``<n-1>``, one
more in ``<n+1>``. The k-th bracket of both sides runs through its alternatives in step. What
follows the module's name, ``.weight`` or ``.running_mean``, stays. The first rule that matches
counts. Read backwards, rules name what a file lacks as its family does.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

Rule = tuple[str, str]

_NUMBER = r"<(\w)([-+]\d)?>"
_LEAF = r"\.(weight|bias|running_mean|running_var|num_batches_tracked)"


class Renaming:
    """Rules, ready to be applied: ``renaming(key)`` is the new name, or None if no rule matches."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._plain = [pair for rule in rules for pair in _alternatives(*rule)]
        self._rules = [(re.compile(_pattern(old) + _LEAF), new) for old, new in self._plain]

    def __call__(self, key: str) -> str | None:
        """The name that the first matching rule gives."""
        for pattern, new in self._rules:
            if match := pattern.fullmatch(key):
                return f"{_substitute(new, match)}.{match.groups()[-1]}"
        return None

    def origins(self, key: str) -> list[str]:
        """All names that become ``key``."""
        found = []
        for old, new in self._plain:
            if match := re.fullmatch(_pattern(new) + _LEAF, key):
                offsets = {n: int(k or 0) for n, k in re.findall(_NUMBER, new)}
                name = re.sub(_NUMBER, lambda m: str(int(match[m[1]]) - offsets[m[1]]), old)  # noqa: B023
                found.append(f"{name}.{match.groups()[-1]}")
        return [name for name in dict.fromkeys(found) if self(name) == key]


def _alternatives(old: str, new: str) -> list[Rule]:
    choices = re.findall(r"\[([^]]*)\]", old), re.findall(r"\[([^]]*)\]", new)
    pairs = [
        list(zip(a.split("|"), b.split("|"), strict=True)) for a, b in zip(*choices, strict=True)
    ]
    rules = []
    for combination in itertools.product(*pairs):
        one = old, new
        for a, b in combination:
            one = (
                re.sub(r"\[[^]]*\]", a, one[0], count=1),
                re.sub(r"\[[^]]*\]", b, one[1], count=1),
            )
        rules.append(one)
    return rules


def _pattern(old: str) -> str:
    return re.sub(_NUMBER, r"(?P<\1>\\d+)", old.replace(".", r"\."))


def _substitute(new: str, match: re.Match[str]) -> str:
    return re.sub(_NUMBER, lambda m: str(int(match[m[1]]) + int(m[2] or 0)), new)


def under(old: str, rules: Iterable[Rule], new: str = "") -> tuple[Rule, ...]:
    """The rules with prefixes on both sides."""
    return tuple((old + a, new + b) for a, b in rules)


# ---- backbones ----------------------------------------------------------------------------------

TORCHVISION_RESNET: tuple[Rule, ...] = (
    ("[conv1|bn1]", "stem.0.[conv|bn]"),
    ("layer<n>.<i>.[conv1|bn1]", "layers.<n-1>.<i>.reduce.[conv|bn]"),
    ("layer<n>.<i>.[conv2|bn2]", "layers.<n-1>.<i>.atrous.[conv|bn]"),
    ("layer<n>.<i>.[conv3|bn3]", "layers.<n-1>.<i>.expand.[conv|bn]"),
    ("layer<n>.<i>.downsample.[0|1]", "layers.<n-1>.<i>.shortcut.[conv|bn]"),
)
# Three convolutions and their normalisations in one nn.Sequential, with ReLUs between.
MMSEG_STEM: tuple[Rule, ...] = (
    ("stem.[0|1]", "stem.0.[conv|bn]"),
    ("stem.[3|4]", "stem.1.[conv|bn]"),
    ("stem.[6|7]", "stem.2.[conv|bn]"),
)
KAZUTO_RESNET: tuple[Rule, ...] = (
    ("layer1.conv1.[conv|bn]", "stem.0.[conv|bn]"),
    (
        "layer<n>.block<i>.[reduce|conv3x3|increase|shortcut].[conv|bn]",
        "layers.<n-2>.<i-1>.[reduce|atrous|expand|shortcut].[conv|bn]",
    ),
)
TORCHVISION_MOBILENET: tuple[Rule, ...] = (
    ("0.[0|1]", "stem.[conv|bn]"),
    ("1.conv.0.[0|1]", "units.0.depthwise.[conv|bn]"),
    ("1.conv.[1|2]", "units.0.project.[conv|bn]"),
    ("<n>.conv.0.[0|1]", "units.<n-1>.expand.[conv|bn]"),
    ("<n>.conv.1.[0|1]", "units.<n-1>.depthwise.[conv|bn]"),
    ("<n>.conv.[2|3]", "units.<n-1>.project.[conv|bn]"),
)
JFZHANG_MOBILENET: tuple[Rule, ...] = (
    ("0.[0|1]", "stem.[conv|bn]"),
    ("1.conv.[0|1]", "units.0.depthwise.[conv|bn]"),
    ("1.conv.[3|4]", "units.0.project.[conv|bn]"),
    ("<n>.conv.[0|1]", "units.<n-1>.expand.[conv|bn]"),
    ("<n>.conv.[3|4]", "units.<n-1>.depthwise.[conv|bn]"),
    ("<n>.conv.[6|7]", "units.<n-1>.project.[conv|bn]"),
)
# Units 3 ... 5 and from 10 on squeeze; in the others the projection is in that place.
TORCHVISION_MOBILENETV3: tuple[Rule, ...] = (
    ("0.[0|1]", "stem.[conv|bn]"),
    ("1.block.[0|1].[0|1]", "units.0.[depthwise|project].[conv|bn]"),
    ("<n>.block.[0|1].[0|1]", "units.<n-1>.[expand|depthwise].[conv|bn]"),
    ("<n>.block.2.[fc1|fc2]", "units.<n-1>.squeeze.[reduce|expand]"),
    ("[2|3|7|8|9|10].block.2.[0|1]", "units.[1|2|6|7|8|9].project.[conv|bn]"),
    ("<n>.block.3.[0|1]", "units.<n-1>.project.[conv|bn]"),
    ("16.[0|1]", "tail.[conv|bn]"),
)
HUGGING_FACE_MOBILENET: tuple[Rule, ...] = (
    ("conv_stem.first_conv.[convolution|normalization]", "stem.[conv|bn]"),
    (
        "conv_stem.[conv_3x3|reduce_1x1].[convolution|normalization]",
        "units.0.[depthwise|project].[conv|bn]",
    ),
    (
        "layer.<n>.[expand_1x1|conv_3x3|reduce_1x1].[convolution|normalization]",
        "units.<n+1>.[expand|depthwise|project].[conv|bn]",
    ),
)
# Chollet's Xception as Cadene ported it; VainF's is the same.
CADENE_XCEPTION: tuple[Rule, ...] = (
    ("[conv1|bn1]", "stem.0.[conv|bn]"),
    ("[conv2|bn2]", "stem.1.[conv|bn]"),
    ("block1.rep.[0|3].[conv1|pointwise]", "blocks.0.convs.[0|1].[depthwise|pointwise].conv"),
    ("block1.rep.[1|4]", "blocks.0.convs.[0|1].pointwise.bn"),
    (
        "block<n>.rep.[1|4|7].[conv1|pointwise]",
        "blocks.<n-1>.convs.[0|1|2].[depthwise|pointwise].conv",
    ),
    ("block<n>.rep.[2|5|8]", "blocks.<n-1>.convs.[0|1|2].pointwise.bn"),
    ("block<n>.[skip|skipbn]", "blocks.<n-1>.shortcut.[conv|bn]"),
    ("conv[3|4].[conv1|pointwise]", "tail.[0|1].[depthwise|pointwise].conv"),
    ("bn[3|4]", "tail.[0|1].pointwise.bn"),
)
# The first two blocks begin with a convolution, the others with a ReLU.
JFZHANG_XCEPTION: tuple[Rule, ...] = (
    ("[conv1|bn1]", "stem.0.[conv|bn]"),
    ("[conv2|bn2]", "stem.1.[conv|bn]"),
    (
        "block[1|2].rep.[0|3|6].[conv1|bn]",
        "blocks.[0|1].convs.[0|1|2].depthwise.[conv|bn]",
    ),
    ("block[1|2].rep.[0|3|6].pointwise", "blocks.[0|1].convs.[0|1|2].pointwise.conv"),
    ("block[1|2].rep.[1|4|7]", "blocks.[0|1].convs.[0|1|2].pointwise.bn"),
    ("block<n>.rep.[1|4|7].[conv1|bn]", "blocks.<n-1>.convs.[0|1|2].depthwise.[conv|bn]"),
    ("block<n>.rep.[1|4|7].pointwise", "blocks.<n-1>.convs.[0|1|2].pointwise.conv"),
    ("block<n>.rep.[2|5|8]", "blocks.<n-1>.convs.[0|1|2].pointwise.bn"),
    ("block<n>.[skip|skipbn]", "blocks.<n-1>.shortcut.[conv|bn]"),
    ("conv[3|4|5].[conv1|bn]", "tail.[0|1|2].depthwise.[conv|bn]"),
    ("conv[3|4|5].pointwise", "tail.[0|1|2].pointwise.conv"),
    ("bn[3|4|5]", "tail.[0|1|2].pointwise.bn"),
)


def _up_to_unit_3(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """MobileNetV2's low level: the first four children of its ``features``."""
    return tuple((old.replace("<n>", "[2|3]"), new.replace("<n-1>", "[1|2]")) for old, new in rules)


# ---- heads --------------------------------------------------------------------------------------

TORCHVISION_ASPP: tuple[Rule, ...] = (
    ("convs.0.[0|1]", "aspp.pointwise.[conv|bn]"),
    ("convs.[1|2|3].[0|1]", "aspp.atrous.[0|1|2].[conv|bn]"),
    ("convs.4.[1|2]", "aspp.image_pool.[conv|bn]"),
    ("project.[0|1]", "aspp.project.[conv|bn]"),
)
TORCHVISION_HEADS: tuple[Rule, ...] = (
    *under("classifier.0.", TORCHVISION_ASPP),
    ("classifier.[1|2]", "neck.[conv|bn]"),
    ("classifier.4", "classifier"),
    ("aux_classifier.[0|1]", "auxiliary.conv.[conv|bn]"),
    ("aux_classifier.4", "auxiliary.classifier"),
)
TORCHVISION: tuple[Rule, ...] = (
    *under("backbone.", TORCHVISION_RESNET, "backbone."),
    *TORCHVISION_HEADS,
)
TORCHVISION_MOBILE: tuple[Rule, ...] = (
    *under("backbone.", TORCHVISION_MOBILENETV3, "backbone."),
    *TORCHVISION_HEADS,
)
HUGGING_FACE: tuple[Rule, ...] = (
    *under("mobilenet_v2.", HUGGING_FACE_MOBILENET, "backbone."),
    ("segmentation_head.conv_aspp.[convolution|normalization]", "aspp.pointwise.[conv|bn]"),
    ("segmentation_head.conv_pool.[convolution|normalization]", "aspp.image_pool.[conv|bn]"),
    ("segmentation_head.conv_projection.[convolution|normalization]", "aspp.project.[conv|bn]"),
    ("segmentation_head.classifier.convolution", "classifier"),
)
KAZUTO: tuple[Rule, ...] = (
    *under("", KAZUTO_RESNET, "backbone."),
    ("fc", "classifier"),
    ("aspp.c<i>", "classifier.branches.<i>"),
)
_KAZUTO_ASPP: tuple[Rule, ...] = (
    *under("", KAZUTO_RESNET, "backbone."),
    ("aspp.stages.c0.[conv|bn]", "aspp.pointwise.[conv|bn]"),
    ("aspp.stages.c<i>.[conv|bn]", "aspp.atrous.<i-1>.[conv|bn]"),
    ("aspp.stages.imagepool.conv.[conv|bn]", "aspp.image_pool.[conv|bn]"),
    ("fc1.[conv|bn]", "aspp.project.[conv|bn]"),
)
KAZUTO_V3: tuple[Rule, ...] = (*_KAZUTO_ASPP, ("fc2", "classifier"))
KAZUTO_V3PLUS: tuple[Rule, ...] = (
    *_KAZUTO_ASPP,
    ("reduce.[conv|bn]", "decoder.reduce.[conv|bn]"),
    ("fc2.conv[1|2].[conv|bn]", "decoder.refine.[0|1].[conv|bn]"),
    ("fc2.conv3", "classifier"),
)
ISHT7: tuple[Rule, ...] = (
    *under("Scale.", TORCHVISION_RESNET, "backbone."),
    ("Scale.layer5.conv2d_list.<i>", "classifier.branches.<i>"),
)
VAINF_BACKBONES: tuple[Rule, ...] = (
    *under("backbone.", TORCHVISION_RESNET, "backbone."),
    *under("backbone.", CADENE_XCEPTION, "backbone."),
    *under("backbone.low_level_features.", _up_to_unit_3(TORCHVISION_MOBILENET), "backbone."),
    *under("backbone.high_level_features.", TORCHVISION_MOBILENET, "backbone."),
)
VAINF_V3: tuple[Rule, ...] = (
    *VAINF_BACKBONES,
    *under("classifier.classifier.0.", TORCHVISION_ASPP),
    ("classifier.classifier.[1|2]", "neck.[conv|bn]"),
    ("classifier.classifier.4", "classifier"),
)
VAINF_V3PLUS: tuple[Rule, ...] = (
    *VAINF_BACKBONES,
    *under("classifier.aspp.", TORCHVISION_ASPP),
    ("classifier.project.[0|1]", "decoder.reduce.[conv|bn]"),
    ("classifier.classifier.[0|1]", "decoder.refine.0.[conv|bn]"),
    ("classifier.classifier.3", "classifier"),
)
JFZHANG: tuple[Rule, ...] = (
    *under("backbone.", TORCHVISION_RESNET, "backbone."),
    *under("backbone.", JFZHANG_XCEPTION, "backbone."),
    *under("backbone.features.", JFZHANG_MOBILENET, "backbone."),
    *under("backbone.low_level_features.", _up_to_unit_3(JFZHANG_MOBILENET), "backbone."),
    *under("backbone.high_level_features.", JFZHANG_MOBILENET, "backbone."),
    ("aspp.aspp1.[atrous_conv|bn]", "aspp.pointwise.[conv|bn]"),
    ("aspp.aspp[2|3|4].[atrous_conv|bn]", "aspp.atrous.[0|1|2].[conv|bn]"),
    ("aspp.global_avg_pool.[1|2]", "aspp.image_pool.[conv|bn]"),
    ("aspp.[conv1|bn1]", "aspp.project.[conv|bn]"),
    ("decoder.[conv1|bn1]", "decoder.reduce.[conv|bn]"),
    ("decoder.last_conv.[0|1]", "decoder.refine.0.[conv|bn]"),
    ("decoder.last_conv.[4|5]", "decoder.refine.1.[conv|bn]"),
    ("decoder.last_conv.8", "classifier"),
)
SMP_V3: tuple[Rule, ...] = (
    *under("encoder.", TORCHVISION_RESNET, "backbone."),
    *under("decoder.aspp.", TORCHVISION_ASPP),
    ("decoder.[conv|bn]", "neck.[conv|bn]"),
    ("segmentation_head.0", "classifier"),
)
SMP_V3PLUS: tuple[Rule, ...] = (
    *under("encoder.", TORCHVISION_RESNET, "backbone."),
    (
        "decoder.aspp.0.convs.[1|2|3].0.[0|1]",
        "aspp.atrous.[0|1|2].[depthwise|pointwise].conv",
    ),
    ("decoder.aspp.0.convs.[1|2|3].1", "aspp.atrous.[0|1|2].pointwise.bn"),
    *under("decoder.aspp.0.", TORCHVISION_ASPP),
    ("decoder.aspp.1.[0|1]", "neck.[depthwise|pointwise].conv"),
    ("decoder.aspp.2", "neck.pointwise.bn"),
    ("decoder.block1.[0|1]", "decoder.reduce.[conv|bn]"),
    ("decoder.block2.0.[0|1]", "decoder.refine.0.[depthwise|pointwise].conv"),
    ("decoder.block2.1", "decoder.refine.0.pointwise.bn"),
    ("segmentation_head.0", "classifier"),
)
MMSEG: tuple[Rule, ...] = (
    *under("backbone.", MMSEG_STEM, "backbone."),
    *under("backbone.", TORCHVISION_RESNET, "backbone."),
    ("decode_head.image_pool.1.[conv|bn]", "aspp.image_pool.[conv|bn]"),
    ("decode_head.aspp_modules.0.[conv|bn]", "aspp.pointwise.[conv|bn]"),
    ("decode_head.aspp_modules.<i>.[conv|bn]", "aspp.atrous.<i-1>.[conv|bn]"),
    (
        "decode_head.aspp_modules.<i>.[depthwise_conv|pointwise_conv].[conv|bn]",
        "aspp.atrous.<i-1>.[depthwise|pointwise].[conv|bn]",
    ),
    ("decode_head.bottleneck.[conv|bn]", "aspp.project.[conv|bn]"),
    ("decode_head.c1_bottleneck.[conv|bn]", "decoder.reduce.[conv|bn]"),
    (
        "decode_head.sep_bottleneck.<i>.[depthwise_conv|pointwise_conv].[conv|bn]",
        "decoder.refine.<i>.[depthwise|pointwise].[conv|bn]",
    ),
    ("decode_head.conv_seg", "classifier"),
    ("auxiliary_head.convs.0.[conv|bn]", "auxiliary.conv.[conv|bn]"),
    ("auxiliary_head.conv_seg", "auxiliary.classifier"),
)
# Classifiers of ImageNet, of which the backbone is wanted.
CLASSIFIERS: tuple[Rule, ...] = (
    *under("", TORCHVISION_RESNET, "backbone."),
    *under("", CADENE_XCEPTION, "backbone."),
    *under("features.", TORCHVISION_MOBILENET, "backbone."),
    *under("features.", TORCHVISION_MOBILENETV3, "backbone."),
    ("features.<i>", "backbone.features.<i>"),
)
