"""The pieces every DeepLab is made of: atrous and atrous separable convolution, resizing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that also trains on a single value per channel.

    A single value has no variance: image pooling of a batch of one, or a picture smaller than the
    output stride. Such an input is normalised with the running statistics, which it leaves alone.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, h, w]`` to the same shape."""
        if self.training and x.shape[0] * x.shape[2] * x.shape[3] == 1:
            mean, var = self.running_mean, self.running_var
            return F.batch_norm(x, mean, var, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(x)


def set_batch_norm(module: nn.Module, *, eps: float, momentum: float) -> None:
    """Gives every batch normalisation inside ``module`` the same eps and momentum."""
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            child.eps, child.momentum = eps, momentum


def set_atrous(conv: nn.Conv2d, rate: int, stride: int | None = None) -> None:
    """Sets a convolution's rate, and stride if given, padding it so that only strides shrink.

    Rate and stride are no weights: the same tensors serve every output stride.

    Raises:
        ValueError: the kernel has even size and ``rate`` is odd, so that no padding is symmetric.
    """
    (kernel, _), reach = conv.kernel_size, rate * (conv.kernel_size[0] - 1)
    if reach % 2:
        raise ValueError(f"a {kernel}×{kernel} kernel needs an even rate, found rate {rate}")
    conv.dilation = (rate, rate)
    conv.padding = (reach // 2, reach // 2)
    if stride is not None:
        conv.stride = (stride, stride)


def atrous_conv(
    inputs: int, outputs: int, kernel: int = 3, rate: int = 1, *, stride: int = 1, groups: int = 1
) -> nn.Conv2d:
    """A convolution without bias whose kernel samples its input every ``rate`` pixels."""
    conv = nn.Conv2d(inputs, outputs, kernel, groups=groups, bias=False)
    set_atrous(conv, rate, stride)
    return conv


_ACTIVATIONS = {"relu": F.relu, "relu6": F.relu6, "hardswish": F.hardswish}


class ConvBN(nn.Module):
    """Convolution, batch normalisation, activation: ``[B, inputs, h, w]`` to ``[B, outputs, ...]``.

    Args:
        inputs: channels.
        outputs: channels.
        kernel: size of the kernel.
        rate: atrous rate.
        stride: of the convolution.
        groups: of the convolution.
        norm: without it, the convolution alone: neither normalisation nor activation.
        activation: ``"relu"``, ``"relu6"``, ``"hardswish"`` or ``"none"``.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        rate: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        norm: bool = True,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        self.conv = atrous_conv(inputs, outputs, kernel, rate, stride=stride, groups=groups)
        self.bn = BatchNorm2d(outputs) if norm else nn.Identity()
        self.activation = activation if norm else "none"

    def set_atrous(self, rate: int, stride: int | None = None) -> None:
        """See ``set_atrous``."""
        set_atrous(self.conv, rate, stride)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, inputs, h, w]`` to ``[B, outputs, ceil(h / stride), ceil(w / stride)]``."""
        x = self.bn(self.conv(x))
        return x if self.activation == "none" else _ACTIVATIONS[self.activation](x, inplace=True)


class AtrousSeparableConv(nn.Module):
    """Atrous separable convolution (v3+, figure 3): depthwise 3×3 with a rate, then pointwise 1×1.

    Args:
        inputs: channels.
        outputs: channels.
        rate: of the depthwise convolution.
        norm_between: batch normalisation after the depthwise convolution, as in the paper.
        activation_between: ReLU after that normalisation.
        activation: ReLU after the pointwise convolution and its normalisation.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        rate: int = 1,
        *,
        norm_between: bool = True,
        activation_between: bool = True,
        activation: bool = True,
    ) -> None:
        super().__init__()
        between = "relu" if activation_between else "none"
        self.depthwise = ConvBN(
            inputs, inputs, 3, rate, groups=inputs, norm=norm_between, activation=between
        )
        self.pointwise = ConvBN(inputs, outputs, activation="relu" if activation else "none")

    def set_atrous(self, rate: int, stride: int | None = None) -> None:
        """Sets rate and stride of the depthwise convolution, see ``set_atrous``."""
        self.depthwise.set_atrous(rate, stride)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, inputs, h, w]`` to ``[B, outputs, ceil(h / stride), ceil(w / stride)]``."""
        out: Tensor = self.pointwise(self.depthwise(x))
        return out


class CeilMaxPool2d(nn.Module):
    """Max pool of 3×3, padded by 1, whose size rounds up, behind a ReLU.

    ``nn.MaxPool2d(3, stride, 1, ceil_mode=True)``, to the bit, as a pool that rounds down on an
    input padded by one more row and column: exported with dynamic sizes, ``ceil_mode`` admits only
    sizes of the example's remainder. No zero of the padding exceeds what a ReLU gives.
    """

    def __init__(self, stride: int = 2) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, h, w]`` to ``[B, C, h // 2 + 1, w // 2 + 1]``, or, unstrided, the same shape."""
        if self.stride > 1:
            x = F.pad(x, (0, 1, 0, 1))
        return F.max_pool2d(x, 3, self.stride, padding=1)


def conv3x3(
    inputs: int, outputs: int, rate: int = 1, *, separable: str = "none"
) -> ConvBN | AtrousSeparableConv:
    """The 3×3 convolution of ASPP and decoder, in the three forms in circulation.

    ``separable`` is ``"none"``, ``"paper"`` (batch normalisation and ReLU after the depthwise
    convolution) or ``"plain"`` (nothing between the depthwise and the pointwise convolution).
    """
    if separable == "none":
        return ConvBN(inputs, outputs, 3, rate)
    return AtrousSeparableConv(inputs, outputs, rate, norm_between=separable == "paper")


def resize(x: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """Bilinear interpolation of ``[B, C, h, w]`` to ``[B, C, *size]``, the only one in use here.

    With ``align_corners`` the centres of the corner pixels coincide, as in Caffe's ``Interp`` and
    the TensorFlow releases: maps of ``(size - 1) / stride + 1`` pixels then lie exactly on every
    stride-th pixel. Without, the corners of the pictures coincide.
    """
    return F.interpolate(x, size=list(size), mode="bilinear", align_corners=align_corners)


def ratio(scale: float) -> Fraction:
    """A scale as the fraction that is meant: sizes stay whole numbers, also traced ones."""
    return Fraction(scale).limit_denominator(64)


def rescale(x: Tensor, scale: Fraction, align_corners: bool) -> Tensor:
    """Pictures ``[B, C, h, w]`` at another scale, at least a pixel large.

    Aligned corners: (size - 1) scale + 1 pixels, 321 at 3/4 to 241, the corner pixels upon each
    other. Otherwise size · scale pixels, whose coordinates map by the scale itself and not by the
    ratio of the sizes, as in ``interpolate(scale_factor=...)``, which v2's conversions were made
    with. Sizes round down.
    """
    p, q = scale.as_integer_ratio()
    if align_corners:
        return resize(x, [(s - 1) * p // q + 1 for s in x.shape[2:]], True)
    at_least_one: Callable[[int, int], int] = torch.sym_max
    size = [at_least_one(s * p // q, 1) for s in x.shape[2:]]
    # F.interpolate takes a size or a scale, not both.
    upsample = torch.ops.aten.upsample_bilinear2d.default
    out: Tensor = upsample(x, size, False, float(scale), float(scale))
    return out


def init_weights(module: nn.Module) -> None:
    """Draws every convolution from He's normal distribution; a bias starts at 0."""
    for child in module.modules():
        if isinstance(child, nn.Conv2d):
            nn.init.kaiming_normal_(child.weight, mode="fan_out", nonlinearity="relu")
            if child.bias is not None:
                nn.init.zeros_(child.bias)


def init_classifier(conv: nn.Conv2d) -> None:
    """Draws a classifier from a Gaussian of 0.01 with bias 0, as the released networks do."""
    nn.init.normal_(conv.weight, std=0.01)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
