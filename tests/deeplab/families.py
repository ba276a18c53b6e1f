"""Networks of other code bases, written down function by function under their own names.

Each draws its weights as it runs, so that one run gives a state dict and the scores that belong to
it. Nothing here is shared with the package under test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


class Weights:
    """Random tensors, made where they are first used."""

    def __init__(self) -> None:
        self.state: dict[str, Tensor] = {}

    def conv(
        self, name: str, x: Tensor, out: int, k: int = 1, *, s: int = 1, r: int = 1,
        p: int | None = None, groups: int = 1, bias: bool = False,
    ) -> Tensor:  # fmt: skip
        shape = (out, x.shape[1] // groups, k, k)
        if name + ".weight" not in self.state:
            fan = shape[1] * k * k
            weight = torch.randn(shape, dtype=x.dtype) * (2 / fan) ** 0.5
            self.state[name + ".weight"] = weight
            if bias:
                self.state[name + ".bias"] = torch.randn(out, dtype=x.dtype)
        padding = r * (k // 2) if p is None else p
        bias_of = self.state.get(name + ".bias")
        return F.conv2d(x, self.state[name + ".weight"], bias_of, s, padding, r, groups)

    def bn(self, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
        if name + ".weight" not in self.state:
            like = {"dtype": x.dtype}
            channels = x.shape[1]
            self.state |= {
                name + ".weight": torch.rand(channels, **like) * 0.5 + 0.5,
                name + ".bias": torch.randn(channels, **like) * 0.1,
                name + ".running_mean": torch.randn(channels, **like) * 0.1,
                name + ".running_var": torch.rand(channels, **like) + 0.5,
                name + ".num_batches_tracked": torch.tensor(3),
            }
        w, b, m, v = (
            self.state[f"{name}.{leaf}"]
            for leaf in ("weight", "bias", "running_mean", "running_var")
        )
        return F.batch_norm(x, m, v, w, b, False, 0.0, eps)


def bilinear(x: Tensor, size: Sequence[int], align: bool = False) -> Tensor:
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=align)


def torchvision_resnet50(
    w: Weights, p: str, x: Tensor, layers: Sequence[tuple[int, Sequence[int]]], deep: bool = False
) -> list[Tensor]:
    """``layers``: stride and rates of the units, of layer1 ... layer4."""
    if deep:
        for i, (out, stride) in enumerate(((32, 2), (32, 1), (64, 1))):
            x = w.conv(f"{p}stem.{3 * i}", x, out, 3, s=stride)
            x = w.bn(f"{p}stem.{3 * i + 1}", x).relu()
    else:
        x = w.bn(p + "bn1", w.conv(p + "conv1", x, 64, 7, s=2)).relu()
    x = F.max_pool2d(x, 3, 2, 1)
    maps = []
    for number, (stride, rates) in enumerate(layers, start=1):
        width = 32 * 2**number
        for i, rate in enumerate(rates):
            u, s = f"{p}layer{number}.{i}.", stride if i == 0 else 1
            h = w.bn(u + "bn1", w.conv(u + "conv1", x, width)).relu()
            h = w.bn(u + "bn2", w.conv(u + "conv2", h, width, 3, s=s, r=rate)).relu()
            h = w.bn(u + "bn3", w.conv(u + "conv3", h, 4 * width))
            if i == 0:
                x = w.bn(u + "downsample.1", w.conv(u + "downsample.0", x, 4 * width, s=s))
            x = (x + h).relu()
        maps.append(x)
    return maps


# What the families' code makes of an output stride: strides and rates of layer1 ... layer4.
CONTRACTED = {
    8: ((1, [1] * 3), (2, [1] * 4), (1, [1] + [2] * 5), (1, [2, 4, 4])),
    16: ((1, [1] * 3), (2, [1] * 4), (2, [1] * 6), (1, [1, 2, 2])),
}
UNIFORM = {
    8: ((1, [1] * 3), (2, [1] * 4), (1, [2] * 6), (1, [4] * 3)),
    16: ((1, [1] * 3), (2, [1] * 4), (2, [1] * 6), (1, [2] * 3)),
}
MULTI_GRID = {
    8: ((1, [1] * 3), (2, [1] * 4), (1, [2] * 6), (1, [4, 8, 16])),
    16: ((1, [1] * 3), (2, [1] * 4), (2, [1] * 6), (1, [2, 4, 8])),
}
# Rates of the papers' ASPP, which some families keep at every output stride.
ASPP = {8: (12, 24, 36), 16: (6, 12, 18)}


def torchvision_aspp(w: Weights, p: str, x: Tensor, rates: Sequence[int], k: int = 3) -> Tensor:
    branches = [w.bn(p + "convs.0.1", w.conv(p + "convs.0.0", x, 256)).relu()]
    for i, rate in enumerate(rates, start=1):
        if k:
            h = w.conv(f"{p}convs.{i}.0", x, 256, k, r=rate)
        else:  # separable, with nothing between
            h = w.conv(f"{p}convs.{i}.0.0", x, x.shape[1], 3, r=rate, groups=x.shape[1])
            h = w.conv(f"{p}convs.{i}.0.1", h, 256)
        branches.append(w.bn(f"{p}convs.{i}.1", h).relu())
    h = F.adaptive_avg_pool2d(x, 1)
    h = w.bn(p + "convs.4.2", w.conv(p + "convs.4.1", h, 256)).relu()
    branches.append(bilinear(h, x.shape[2:]))
    return w.bn(p + "project.1", w.conv(p + "project.0", torch.cat(branches, 1), 256)).relu()


def torchvision_v3(w: Weights, images: Tensor, output_stride: int = 8) -> Tensor:
    maps = torchvision_resnet50(w, "backbone.", images, CONTRACTED[output_stride])
    return _torchvision_head(w, maps[3], images)


def _torchvision_head(w: Weights, x: Tensor, images: Tensor) -> Tensor:
    x = torchvision_aspp(w, "classifier.0.", x, (12, 24, 36))
    x = w.bn("classifier.2", w.conv("classifier.1", x, 256, 3)).relu()
    return bilinear(w.conv("classifier.4", x, 5, bias=True), images.shape[2:])


# Kernel, hidden channels, outputs, whether squeezed, stride, rate of units 1 ... 15.
_MOBILE_V3 = [
    (3, 16, 16, 0, 1, 1), (3, 64, 24, 0, 2, 1), (3, 72, 24, 0, 1, 1), (5, 72, 40, 1, 2, 1),
    (5, 120, 40, 1, 1, 1), (5, 120, 40, 1, 1, 1), (3, 240, 80, 0, 2, 1), (3, 200, 80, 0, 1, 1),
    (3, 184, 80, 0, 1, 1), (3, 184, 80, 0, 1, 1), (3, 480, 112, 1, 1, 1), (3, 672, 112, 1, 1, 1),
    (5, 672, 160, 1, 1, 2), (5, 960, 160, 1, 1, 2), (5, 960, 160, 1, 1, 2),
]  # fmt: skip
_SQUEEZED = {72: 24, 120: 32, 480: 120, 672: 168, 960: 240}


def torchvision_mobilenetv3(w: Weights, images: Tensor) -> Tensor:
    def unit(n: str, x: Tensor, out: int, k: int = 1, **options: int) -> Tensor:
        return w.bn(n + ".1", w.conv(n + ".0", x, out, k, **options), eps=1e-3)

    x = F.hardswish(unit("backbone.0", images, 16, 3, s=2))
    for i, (k, hidden, out, squeezed, stride, rate) in enumerate(_MOBILE_V3, start=1):
        activation = torch.relu if i < 7 else F.hardswish
        n, step, h = f"backbone.{i}.block.", 0, x
        if i > 1:
            h, step = activation(unit(n + "0", x, hidden)), 1
        h = activation(unit(f"{n}{step}", h, hidden, k, s=stride, r=rate, groups=hidden))
        if squeezed:
            step += 1
            gate = w.conv(
                f"{n}{step}.fc1", F.adaptive_avg_pool2d(h, 1), _SQUEEZED[hidden], bias=True
            )
            h = h * F.hardsigmoid(w.conv(f"{n}{step}.fc2", gate.relu(), hidden, bias=True))
        h = unit(f"{n}{step + 1}", h, out)
        x = x + h if h.shape == x.shape else h
    return _torchvision_head(w, F.hardswish(unit("backbone.16", x, 960)), images)


def _vainf_head(
    w: Weights, low: Tensor, high: Tensor, size: Sequence[int], rates: Sequence[int] = ASPP[16]
) -> Tensor:
    low = w.bn("classifier.project.1", w.conv("classifier.project.0", low, 48)).relu()
    x = torchvision_aspp(w, "classifier.aspp.", high, rates)
    x = torch.cat([low, bilinear(x, low.shape[2:])], 1)
    x = w.bn("classifier.classifier.1", w.conv("classifier.classifier.0", x, 256, 3)).relu()
    return bilinear(w.conv("classifier.classifier.3", x, 5, bias=True), size)


def vainf_v3plus(w: Weights, images: Tensor, output_stride: int = 16) -> Tensor:
    maps = torchvision_resnet50(w, "backbone.", images, CONTRACTED[output_stride])
    return _vainf_head(w, maps[0], maps[3], images.shape[2:], ASPP[output_stride])


def vainf_v3(w: Weights, images: Tensor, output_stride: int = 16) -> Tensor:
    maps = torchvision_resnet50(w, "backbone.", images, CONTRACTED[output_stride])
    c = "classifier.classifier."
    x = torchvision_aspp(w, c + "0.", maps[3], ASPP[output_stride])
    x = w.bn(c + "2", w.conv(c + "1", x, 256, 3)).relu()
    return bilinear(w.conv(c + "4", x, 5, bias=True), images.shape[2:])


# Channels, stride and rate of units 1 ... 17, at output stride 16.
_MOBILE = [(16, 1), (24, 2), (24, 1), (32, 2), (32, 1), (32, 1), (64, 2), (64, 1), (64, 1), (64, 1),
           (96, 1), (96, 1), (96, 1)]  # fmt: skip
_MOBILE_VAINF = [
    *((c, s, 1) for c, s in _MOBILE),
    (160, 1, 1),
    (160, 1, 2),
    (160, 1, 2),
    (320, 1, 2),
]
_MOBILE_JFZHANG = [*((c, s, 1) for c, s in _MOBILE), *[(160, 1, 1)] * 3, (320, 1, 2)]


def _mobile_unit(w: Weights, names: Sequence[str], x: Tensor, out: int, s: int, r: int) -> Tensor:
    """``names``: of convolution and normalisation, in turn, of each step."""
    hidden = x.shape[1] * (6 if len(names) == 6 else 1)
    h = F.pad(x, (r, r, r, r))
    if len(names) == 6:
        h = F.relu6(w.bn(names[1], w.conv(names[0], h, hidden)))
    h = w.conv(names[-4], h, hidden, 3, s=s, r=r, p=0, groups=hidden)
    h = w.bn(names[-1], w.conv(names[-2], F.relu6(w.bn(names[-3], h)), out))
    return x + h if s == 1 and x.shape[1] == out else h


def vainf_mobilenet(w: Weights, images: Tensor) -> Tensor:
    p = "backbone.low_level_features."
    x = F.relu6(w.bn(p + "0.1", w.conv(p + "0.0", images, 32, 3, s=2, p=0)))
    low = x
    for i, (out, stride, rate) in enumerate(_MOBILE_VAINF, start=1):
        c = f"backbone.{'low' if i < 4 else 'high'}_level_features.{i}.conv."
        names = [c + n for n in ("0.0", "0.1", "1.0", "1.1", "2", "3")]
        if i == 1:
            names = [c + n for n in ("0.0", "0.1", "1", "2")]
        x = _mobile_unit(w, names, x, out, stride, rate)
        low = x if i == 3 else low
    return _vainf_head(w, low, x, images.shape[2:])


def vainf_xception(w: Weights, images: Tensor, output_stride: int = 16) -> Tensor:
    def separable(n: str, x: Tensor, out: int, r: int = 1, p: int | None = None) -> Tensor:
        h = w.conv(n + ".conv1", x, x.shape[1], 3, r=r, p=p, groups=x.shape[1])
        return w.conv(n + ".pointwise", h, out)

    b = "backbone."
    x = w.bn(b + "bn1", w.conv(b + "conv1", images, 32, 3, s=2, p=0)).relu()
    x = w.bn(b + "bn2", w.conv(b + "conv2", x, 64, 3, p=0)).relu()
    low, dense = x, 16 // output_stride
    for number in range(1, 13):
        outs, pooled, rate = [728] * 3, number <= (3 if dense == 1 else 2), 1
        if number >= 3:
            rate = dense
        if number <= 3:
            outs = [(128, 256, 728)[number - 1]] * 2
        if number == 12:
            outs, rate = [728, 1024], 2 * dense
        h, step = x, 0
        for i, out in enumerate(outs):
            if i > 0 or number > 1:
                h, step = h.relu(), step + 1
            h = separable(f"{b}block{number}.rep.{step}", h, out, rate)
            h, step = w.bn(f"{b}block{number}.rep.{step + 1}", h), step + 2
        h = F.max_pool2d(h, 3, 2, 1) if pooled else h
        if number in (1, 2, 3, 12):
            n = f"{b}block{number}."
            x = w.bn(n + "skipbn", w.conv(n + "skip", x, outs[-1], s=2 if pooled else 1))
        x = x + h
        low = x if number == 1 else low
    # Padded by one at every rate: the map shrinks.
    x = w.bn(b + "bn3", separable(b + "conv3", x, 1536, 2 * dense, 1)).relu()
    x = separable(b + "conv4", x, 2048, 2 * dense, 1)
    return _vainf_head(w, low, x, images.shape[2:], [rate * dense for rate in (6, 12, 18)])


def hugging_face_mobilenet(w: Weights, images: Tensor) -> Tensor:
    def unit(n: str, x: Tensor, out: int, k: int = 1, s: int = 1, r: int = 1, groups: int = 1,
             eps: float = 1e-3) -> Tensor:  # fmt: skip
        if s == 2:  # "SAME": one more behind than before where the total is odd
            totals = [max(k - (size % 2 or 2), 0) for size in (x.shape[3], x.shape[2])]
            x = F.pad(x, [half for t in totals for half in (t // 2, t - t // 2)])
        p = 0 if s == 2 else None
        return w.bn(n + ".normalization", w.conv(n + ".convolution", x, out, k, s=s, r=r, p=p,
                                                 groups=groups), eps)  # fmt: skip

    p = "mobilenet_v2."
    x = F.relu6(unit(p + "conv_stem.first_conv", images, 32, 3, 2))
    x = F.relu6(unit(p + "conv_stem.conv_3x3", x, 32, 3, groups=32))
    x = unit(p + "conv_stem.reduce_1x1", x, 16)
    # At output stride 8.
    plan = [*_MOBILE[1:6], (64, 1), *_MOBILE[7:], *[(160, 1)] * 3, (320, 1)]
    rates = [1] * 6 + [2] * 7 + [4] * 3
    for i, ((out, stride), rate) in enumerate(zip(plan, rates, strict=True)):
        n, hidden = f"{p}layer.{i}.", 6 * x.shape[1]
        h = F.relu6(unit(n + "expand_1x1", x, hidden))
        h = F.relu6(unit(n + "conv_3x3", h, hidden, 3, stride, rate, hidden))
        h = unit(n + "reduce_1x1", h, out)
        x = x + h if h.shape == x.shape else h
    unit(p + "conv_1x1", x, 1280)  # of the classifier: nothing looks at it
    p = "segmentation_head."
    pooled = unit(p + "conv_pool", F.adaptive_avg_pool2d(x, 1), 256, eps=1e-5).relu()
    branches = [pooled.expand(-1, -1, *x.shape[2:]), unit(p + "conv_aspp", x, 256, eps=1e-5).relu()]
    x = unit(p + "conv_projection", torch.cat(branches, 1), 256, eps=1e-5).relu()
    x = w.conv(p + "classifier.convolution", x, 5, bias=True)
    return bilinear(x, images.shape[2:])


def _jfzhang_head(
    w: Weights, low: Tensor, high: Tensor, size: Sequence[int], rates: Sequence[int] = ASPP[16]
) -> Tensor:
    branches = []
    for i, rate in enumerate((1, *rates), start=1):
        h = w.conv(f"aspp.aspp{i}.atrous_conv", high, 256, 1 if i == 1 else 3, r=rate)
        branches.append(w.bn(f"aspp.aspp{i}.bn", h).relu())
    h = w.conv("aspp.global_avg_pool.1", high.mean((2, 3), keepdim=True), 256)
    h = w.bn("aspp.global_avg_pool.2", h).relu()
    branches.append(bilinear(h, high.shape[2:], True))
    x = w.bn("aspp.bn1", w.conv("aspp.conv1", torch.cat(branches, 1), 256)).relu()
    low = w.bn("decoder.bn1", w.conv("decoder.conv1", low, 48)).relu()
    x = torch.cat([bilinear(x, low.shape[2:], True), low], 1)
    for i in (0, 4):
        x = w.conv(f"decoder.last_conv.{i}", x, 256, 3)
        x = w.bn(f"decoder.last_conv.{i + 1}", x).relu()
    return bilinear(w.conv("decoder.last_conv.8", x, 5, bias=True), size, True)


def jfzhang_resnet(w: Weights, images: Tensor, output_stride: int = 16) -> Tensor:
    maps = torchvision_resnet50(w, "backbone.", images, MULTI_GRID[output_stride])
    return _jfzhang_head(w, maps[0], maps[3], images.shape[2:], ASPP[output_stride])


def jfzhang_mobilenet(w: Weights, images: Tensor) -> Tensor:
    x = w.conv("backbone.features.0.0", images, 32, 3, s=2)
    x = low = F.relu6(w.bn("backbone.features.0.1", x))
    for i, (out, stride, rate) in enumerate(_MOBILE_JFZHANG, start=1):
        steps = (0, 1, 3, 4) if i == 1 else (0, 1, 3, 4, 6, 7)
        names = [f"backbone.features.{i}.conv.{n}" for n in steps]
        x = _mobile_unit(w, names, x, out, stride, rate)
        low = x if i == 3 else low
    scores = _jfzhang_head(w, low, x, images.shape[2:])
    for key, tensor in list(w.state.items()):  # the same tensors under a second name
        if key.startswith("backbone.features."):
            level = "low" if int(key.split(".")[2]) < 4 else "high"
            w.state[key.replace("features", f"{level}_level_features")] = tensor
    return scores


def _jfzhang_separable(w: Weights, n: str, x: Tensor, out: int, s: int = 1, r: int = 1) -> Tensor:
    h = w.conv(n + ".conv1", x, x.shape[1], 3, s=s, r=r, groups=x.shape[1])
    return w.conv(n + ".pointwise", w.bn(n + ".bn", h), out)


def jfzhang_xception(w: Weights, images: Tensor) -> Tensor:
    b = "backbone."
    x = w.bn(b + "bn1", w.conv(b + "conv1", images, 32, 3, s=2)).relu()
    x = w.bn(b + "bn2", w.conv(b + "conv2", x, 64, 3)).relu()
    low = x
    for number in range(1, 21):
        outs, stride = [728] * 3, 1
        if number <= 3:
            outs, stride = [(128, 256, 728)[number - 1]] * 3, 2
        if number == 20:
            outs = [728, 1024, 1024]
        first = 0 if number <= 2 else 1
        x = x if first == 0 else x.relu()  # in place: the shortcut sees it
        h = x
        for i, out in enumerate(outs):
            n = f"{b}block{number}.rep."
            h = h if i == 0 else h.relu()
            h = _jfzhang_separable(w, f"{n}{first + 3 * i}", h, out, stride if i == 2 else 1)
            h = w.bn(f"{n}{first + 3 * i + 1}", h)
        if x.shape[1] != outs[-1] or stride > 1:
            n = f"{b}block{number}."
            x = w.bn(n + "skipbn", w.conv(n + "skip", x, outs[-1], s=stride))
        x = x + h
        if number == 1:
            x = low = x.relu()
    x = x.relu()
    for i, out in ((3, 1536), (4, 1536), (5, 2048)):
        x = w.bn(f"{b}bn{i}", _jfzhang_separable(w, f"{b}conv{i}", x, out, r=2)).relu()
    return _jfzhang_head(w, low, x, images.shape[2:])


_KAZUTO_8 = ((1, [1] * 3), (2, [1] * 4), (1, [2] * 6), (1, [4] * 3))


def _kazuto_unit(
    w: Weights, n: str, x: Tensor, out: int, k: int = 1, s: int = 1, r: int = 1
) -> Tensor:
    return w.bn(n + ".bn", w.conv(n + ".conv", x, out, k, s=s, r=r))


def _kazuto_resnet(
    w: Weights, p: str, x: Tensor, layers: Sequence[tuple[int, Sequence[int]]]
) -> list[Tensor]:
    x = _kazuto_unit(w, p + "layer1.conv1", x, 64, 7, 2).relu()
    x = F.max_pool2d(x, 3, 2, 1, ceil_mode=True)
    maps = []
    for layer, (stride, rates) in enumerate(layers, start=2):
        width = 16 * 2**layer
        for i, rate in enumerate(rates, start=1):
            n, s = f"{p}layer{layer}.block{i}.", stride if i == 1 else 1
            h = _kazuto_unit(w, n + "reduce", x, width, s=s).relu()
            h = _kazuto_unit(w, n + "conv3x3", h, width, 3, r=rate).relu()
            h = _kazuto_unit(w, n + "increase", h, 4 * width)
            x = _kazuto_unit(w, n + "shortcut", x, 4 * width, s=s) if i == 1 else x
            x = (x + h).relu()
        maps.append(x)
    return maps


def _kazuto(w: Weights, images: Tensor) -> Tensor:
    x = _kazuto_resnet(w, "base.", images, _KAZUTO_8)[3]
    return sum(
        w.conv(f"base.aspp.c{i}", x, 5, 3, r=rate, bias=True)
        for i, rate in enumerate((6, 12, 18, 24))
    )


def _kazuto_msc(base: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    scores = base(images)
    maps = [scores]
    for scale in (0.5, 0.75):
        h = F.interpolate(images, scale_factor=scale, mode="bilinear", align_corners=False)
        maps.append(bilinear(base(h), scores.shape[2:]))
    return bilinear(torch.stack(maps).max(0)[0], images.shape[2:])


def kazuto_v1(w: Weights, images: Tensor) -> Tensor:
    x = _kazuto_resnet(w, "", images, _KAZUTO_8)[3]
    return bilinear(w.conv("fc", x, 5, bias=True), images.shape[2:])


def kazuto_v2(w: Weights, images: Tensor) -> Tensor:
    return _kazuto_msc(lambda x: _kazuto(w, x), images)


def _kazuto_aspp(w: Weights, p: str, x: Tensor, rates: Sequence[int]) -> Tensor:
    s = p + "aspp.stages."
    branches = [_kazuto_unit(w, s + "c0", x, 256).relu()]
    for i, rate in enumerate(rates, start=1):
        branches.append(_kazuto_unit(w, f"{s}c{i}", x, 256, 3, r=rate).relu())
    pool = _kazuto_unit(w, s + "imagepool.conv", F.adaptive_avg_pool2d(x, 1), 256).relu()
    branches.append(bilinear(pool, x.shape[2:]))
    return _kazuto_unit(w, p + "fc1", torch.cat(branches, 1), 256).relu()


def kazuto_v3(w: Weights, images: Tensor, output_stride: int = 16) -> Tensor:
    def base(x: Tensor) -> Tensor:
        x = _kazuto_resnet(w, "base.", x, MULTI_GRID[output_stride])[3]
        x = _kazuto_aspp(w, "base.", x, ASPP[output_stride])
        return w.conv("base.fc2", x, 5, bias=True)

    return _kazuto_msc(base, images)


def kazuto_v3plus(w: Weights, images: Tensor, output_stride: int = 16) -> Tensor:
    maps = _kazuto_resnet(w, "", images, MULTI_GRID[output_stride])
    low = _kazuto_unit(w, "reduce", maps[0], 48).relu()
    x = _kazuto_aspp(w, "", maps[3], ASPP[output_stride])
    x = torch.cat([bilinear(x, low.shape[2:]), low], 1)
    for i in (1, 2):
        x = _kazuto_unit(w, f"fc2.conv{i}", x, 256, 3).relu()
    return bilinear(w.conv("fc2.conv3", x, 5, bias=True), images.shape[2:])


def isht7_v2(w: Weights, images: Tensor) -> Tensor:
    scores = _kazuto(w, images)
    maps = [scores]
    for scale in (0.75, 0.5):
        h = bilinear(images, [int(size * scale) + 1 for size in images.shape[2:]], True)
        maps.append(bilinear(_kazuto(w, h), scores.shape[2:], True))
    units = {"reduce": "1", "conv3x3": "2", "increase": "3"}
    for key in list(w.state):  # the same network under torchvision's names
        parts = key.split(".")[1:]
        if parts[0] == "aspp":
            new = ["layer5.conv2d_list", parts[1][1:], parts[2]]
        elif parts[0] == "layer1":
            new = [f"{parts[2]}1", parts[3]]
        else:
            new = [f"layer{int(parts[0][5:]) - 1}", str(int(parts[1][5:]) - 1)]
            if parts[2] == "shortcut":
                new += ["downsample", "0" if parts[3] == "conv" else "1", parts[4]]
            else:
                new += [parts[3] + units[parts[2]], parts[4]]
        w.state[".".join(["Scale", *new])] = w.state.pop(key)
    return bilinear(torch.stack(maps).max(0)[0], images.shape[2:], True)


def _enlarged(x: Tensor, factor: int) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=True)


def smp_v3(w: Weights, images: Tensor, output_stride: int = 8) -> Tensor:
    maps = torchvision_resnet50(w, "encoder.", images, UNIFORM[output_stride])
    x = torchvision_aspp(w, "decoder.aspp.", maps[3], (12, 24, 36))
    x = w.bn("decoder.bn", w.conv("decoder.conv", x, 256, 3)).relu()
    return _enlarged(w.conv("segmentation_head.0", x, 5, bias=True), output_stride)


def smp_v3plus(
    w: Weights, images: Tensor, output_stride: int = 16, rates: Sequence[int] = (12, 24, 36)
) -> Tensor:
    maps = torchvision_resnet50(w, "encoder.", images, UNIFORM[output_stride])
    x = torchvision_aspp(w, "decoder.aspp.0.", maps[3], rates, k=0)
    x = w.conv("decoder.aspp.1.1", w.conv("decoder.aspp.1.0", x, 256, 3, groups=256), 256)
    x = w.bn("decoder.aspp.2", x).relu()
    low = w.bn("decoder.block1.1", w.conv("decoder.block1.0", maps[0], 48)).relu()
    x = torch.cat([_enlarged(x, output_stride // 4), low], 1)
    x = w.conv("decoder.block2.0.1", w.conv("decoder.block2.0.0", x, 304, 3, groups=304), 256)
    x = w.bn("decoder.block2.1", x).relu()
    return _enlarged(w.conv("segmentation_head.0", x, 5, bias=True), 4)


def _mmseg_module(w: Weights, n: str, x: Tensor, out: int, k: int = 1, r: int = 1,
                  groups: int = 1) -> Tensor:  # fmt: skip
    return w.bn(n + ".bn", w.conv(n + ".conv", x, out, k, r=r, groups=groups)).relu()


def _mmseg_separable(w: Weights, n: str, x: Tensor, out: int, r: int = 1) -> Tensor:
    h = _mmseg_module(w, n + ".depthwise_conv", x, x.shape[1], 3, r, x.shape[1])
    return _mmseg_module(w, n + ".pointwise_conv", h, out)


def _mmseg_aspp(w: Weights, x: Tensor, rates: Sequence[int], separable: bool) -> Tensor:
    d = "decode_head."
    pool = _mmseg_module(w, d + "image_pool.1", F.adaptive_avg_pool2d(x, 1), 512)
    branches = [bilinear(pool, x.shape[2:]), _mmseg_module(w, d + "aspp_modules.0", x, 512)]
    for i, rate in enumerate(rates, start=1):
        n = f"{d}aspp_modules.{i}"
        if separable:
            branches.append(_mmseg_separable(w, n, x, 512, rate))
        else:
            branches.append(_mmseg_module(w, n, x, 512, 3, rate))
    return _mmseg_module(w, d + "bottleneck", torch.cat(branches, 1), 512, 3)


def mmseg_v3(w: Weights, images: Tensor, output_stride: int = 8) -> Tensor:
    maps = torchvision_resnet50(w, "backbone.", images, CONTRACTED[output_stride], deep=True)
    x = _mmseg_aspp(w, maps[3], ASPP[output_stride], separable=False)
    return bilinear(w.conv("decode_head.conv_seg", x, 5, bias=True), images.shape[2:])


def mmseg_v3plus(w: Weights, images: Tensor, output_stride: int = 8) -> Tensor:
    d = "decode_head."
    maps = torchvision_resnet50(w, "backbone.", images, CONTRACTED[output_stride], deep=True)
    x = _mmseg_aspp(w, maps[3], ASPP[output_stride], separable=True)
    low = _mmseg_module(w, d + "c1_bottleneck", maps[0], 48)
    x = torch.cat([bilinear(x, low.shape[2:]), low], 1)
    for i in (0, 1):
        x = _mmseg_separable(w, f"{d}sep_bottleneck.{i}", x, 512)
    return bilinear(w.conv(d + "conv_seg", x, 5, bias=True), images.shape[2:])


FAMILIES = {
    "torchvision v3": torchvision_v3,
    "torchvision v3 MobileNetV3": torchvision_mobilenetv3,
    "VainF v3": vainf_v3,
    "VainF v3+": vainf_v3plus,
    "VainF v3+ MobileNetV2": vainf_mobilenet,
    "VainF v3+ Xception": vainf_xception,
    "jfzhang95 v3+": jfzhang_resnet,
    "jfzhang95 v3+ MobileNetV2": jfzhang_mobilenet,
    "jfzhang95 v3+ Xception": jfzhang_xception,
    "kazuto1011 v1": kazuto_v1,
    "kazuto1011 v2": kazuto_v2,
    "kazuto1011 v3": kazuto_v3,
    "kazuto1011 v3+": kazuto_v3plus,
    "isht7 v2": isht7_v2,
    "segmentation_models.pytorch v3": smp_v3,
    "segmentation_models.pytorch v3+": smp_v3plus,
    "mmsegmentation v3": mmseg_v3,
    "mmsegmentation v3+": mmseg_v3plus,
    "Hugging Face MobileNetV2": hugging_face_mobilenet,
}
# Those that a user may run at another output stride than the usual one, with that stride.
OTHER_STRIDES = {
    "torchvision v3": 16,
    "VainF v3": 8,
    "VainF v3+": 8,
    "VainF v3+ Xception": 8,
    "jfzhang95 v3+": 8,
    "kazuto1011 v3": 8,
    "kazuto1011 v3+": 8,
    "segmentation_models.pytorch v3": 16,
    "segmentation_models.pytorch v3+": 8,
    "mmsegmentation v3": 16,
    "mmsegmentation v3+": 16,
}
