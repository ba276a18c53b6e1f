"""Atrous convolution: its definition, its rates, the strides it replaces."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deeplab.aspp import ASPP, FovBranch, SummedASPP
from deeplab.backbones import VGG16, Backbone, MobileNetV2, ResNet, Xception65, atrous_plan
from deeplab.decoder import Decoder
from deeplab.layers import AtrousSeparableConv, CeilMaxPool2d, ConvBN, set_atrous


def atrous(x: Tensor, weight: Tensor, rate: int) -> Tensor:
    """``y[i] = Σ_k x[i + rate · k] w[k]`` (v2, equation 1), k counted from the kernel's centre."""
    kernel = weight.shape[-1]
    reach = rate * (kernel // 2)
    padded = F.pad(x, (reach,) * 4)
    height, width = x.shape[2:]
    y = x.new_zeros(x.shape[0], weight.shape[0], height, width)
    for i in range(kernel):
        for j in range(kernel):
            shifted = padded[:, :, rate * i : rate * i + height, rate * j : rate * j + width]
            y += torch.einsum("bchw,oc->bohw", shifted, weight[:, :, i, j])
    return y


def normalised(x: Tensor, bn: nn.Module) -> Tensor:
    assert isinstance(bn, nn.BatchNorm2d)
    scale = bn.weight / torch.sqrt(bn.running_var + bn.eps)
    return torch.relu((x - bn.running_mean[:, None, None]) * scale[:, None, None]
                      + bn.bias[:, None, None])  # fmt: skip


def randomise(module: nn.Module) -> None:
    """Random statistics, so that a normalisation left out shows."""
    for bn in module.modules():
        if isinstance(bn, nn.BatchNorm2d):
            nn.init.normal_(bn.running_mean, std=0.1)
            nn.init.uniform_(bn.running_var, 0.5, 2)
            nn.init.uniform_(bn.weight, 0.5, 2)
            nn.init.normal_(bn.bias, std=0.1)


def one_branch(x: Tensor, conv: nn.Module, rate: int) -> Tensor:
    if isinstance(conv, ConvBN):
        return normalised(atrous(x, conv.conv.weight, rate), conv.bn)
    assert isinstance(conv, AtrousSeparableConv)
    depthwise = torch.cat(
        [atrous(x[:, i : i + 1], conv.depthwise.conv.weight[i : i + 1], rate) for i in range(6)], 1
    )
    if isinstance(conv.depthwise.bn, nn.BatchNorm2d):
        depthwise = normalised(depthwise, conv.depthwise.bn)
    return normalised(atrous(depthwise, conv.pointwise.conv.weight, 1), conv.pointwise.bn)


@pytest.mark.parametrize("separable", ["none", "paper", "plain"])
def test_aspp_is_the_papers_pyramid_of_atrous_convolutions(separable: str) -> None:
    rates = (2, 3, 5)
    aspp = ASPP(6, 4, separable=separable).double().eval()
    aspp.set_rates(rates)
    randomise(aspp)
    x = torch.randn(2, 6, 9, 13, dtype=torch.float64)

    branches = [one_branch(x, aspp.pointwise, 1)]
    branches += [one_branch(x, c, r) for c, r in zip(aspp.atrous, rates, strict=True)]
    image = one_branch(x.mean((2, 3), keepdim=True), aspp.image_pool, 1)
    branches.append(image.repeat(1, 1, 9, 13))
    expected = one_branch(torch.cat(branches, 1), aspp.project, 1)

    torch.testing.assert_close(aspp(x), expected, rtol=1e-12, atol=1e-12)


def test_summed_aspp_adds_the_scores_of_atrous_classifiers() -> None:
    rates = (1, 2, 6)
    aspp = SummedASPP(3, 4, branches=3).double()
    aspp.set_rates(rates)
    x = torch.randn(1, 3, 8, 11, dtype=torch.float64)
    expected = sum(
        atrous(x, conv.weight, rate) + conv.bias[:, None, None]
        for conv, rate in zip(aspp.branches, rates, strict=True)
    )
    torch.testing.assert_close(aspp(x), expected, rtol=1e-12, atol=1e-12)


def test_the_field_of_view_branch_is_fc6_fc7_fc8() -> None:
    branch = FovBranch(3, 4, kernel=3, hidden=5).double().eval()
    branch.set_atrous(12)
    x = torch.randn(1, 3, 30, 26, dtype=torch.float64)
    h = torch.relu(atrous(x, branch.fc6.weight, 12) + branch.fc6.bias[:, None, None])
    h = torch.relu(atrous(h, branch.fc7.weight, 1) + branch.fc7.bias[:, None, None])
    expected = atrous(h, branch.fc8.weight, 1) + branch.fc8.bias[:, None, None]
    torch.testing.assert_close(branch(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("kernel", "rate"), [(3, 12), (4, 4), (4, 8), (7, 4)])
def test_an_atrous_kernel_sees_its_taps_and_nothing_between(kernel: int, rate: int) -> None:
    conv = nn.Conv2d(1, 1, kernel)
    set_atrous(conv, rate)
    x = torch.randn(1, 1, 61, 61, requires_grad=True)
    y = conv(x)
    assert y.shape == x.shape
    y[0, 0, 30, 30].backward()
    seen = x.grad[0, 0].abs().sum(0).nonzero().flatten() - 30
    first = -rate * (kernel - 1) // 2
    assert seen.tolist() == [first + rate * k for k in range(kernel)]


def test_an_even_kernel_with_an_odd_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="a 4×4 kernel needs an even rate, found rate 1"):
        set_atrous(nn.Conv2d(1, 1, 4), 1)


def test_the_decoder_joins_enlarged_features_with_reduced_low_ones() -> None:
    decoder = Decoder(5, 4, low_channels=3, align_corners=True).double().eval()
    randomise(decoder)
    encoded = torch.randn(1, 4, 3, 4, dtype=torch.float64)
    low = torch.randn(1, 5, 9, 13, dtype=torch.float64)
    enlarged = F.interpolate(encoded, (9, 13), mode="bilinear", align_corners=True)
    x = torch.cat([enlarged, one_branch(low, decoder.reduce, 1)], 1)
    for conv in decoder.refine:
        x = one_branch(x, conv, 1)
    torch.testing.assert_close(decoder(encoded, low), x, rtol=1e-12, atol=1e-12)


def test_strides_become_rates_behind_the_stage_that_loses_them() -> None:
    assert atrous_plan([4, 1, 2, 2, 2], 16) == [(4, 1, 1), (1, 1, 1), (2, 1, 1), (2, 1, 1),
                                                (1, 1, 2)]  # fmt: skip
    assert atrous_plan([4, 1, 2, 2, 2], 8)[3:] == [(1, 1, 2), (1, 2, 4)]
    with pytest.raises(ValueError, match=r"one of \[4, 8, 16, 32\], found 64"):
        atrous_plan([4, 1, 2, 2, 2], 64)
    # Below 4 there would be no level of stride 4; ResNet's stem would keep its stride all the same.
    for strides in ([4, 1, 2, 2, 2], [2, 1, 2, 2, 2, 2]):
        with pytest.raises(ValueError, match=r"one of \[4, 8, 16, 32\], found 2"):
            atrous_plan(strides, 2)


BACKBONES = {
    "msra": lambda: ResNet((3, 4, 6, 3), stride_in_1x1=True, multi_grid=(1, 2, 4)),
    "torchvision": lambda: ResNet((3, 4, 6, 3), contract_dilation=True),
    "mobilenetv2": MobileNetV2,
    "xception65": Xception65,
}


@pytest.mark.parametrize(
    "name",
    ["msra", "torchvision", "mobilenetv2", pytest.param("xception65", marks=pytest.mark.slow)],
)
def test_atrous_convolution_computes_the_plain_networks_responses_densely(name: str) -> None:
    backbone = BACKBONES[name]().double().eval()
    images = torch.randn(1, 3, 65, 97, dtype=torch.float64)
    with torch.no_grad():
        backbone.set_output_stride(32)
        plain = backbone(images).high
        for stride in (16, 8):
            backbone.set_output_stride(stride)
            dense = backbone(images).high
            step = 32 // stride
            assert dense.shape[2:] == (64 // stride + 1, 96 // stride + 1)
            torch.testing.assert_close(
                dense[:, :, ::step, ::step], plain, rtol=1e-9, atol=1e-9 * plain.abs().max().item()
            )


def seen_by(backbone: Backbone, image: Tensor, column: int) -> tuple[int, int]:
    """The columns of a one-pixel high image on which one column of the last map depends."""
    image = image.clone().requires_grad_()
    backbone(image).high[0, :, 0, column].sum().backward()
    seen = image.grad.abs().sum((0, 1, 2)).nonzero().flatten()
    return int(seen.min()), int(seen.max())


def averaging(backbone: Backbone) -> Backbone:
    """All weights positive, so that no contribution cancels and no ReLU cuts one off."""
    backbone = backbone.double().eval()
    for conv in backbone.modules():
        if isinstance(conv, nn.Conv2d):
            nn.init.constant_(conv.weight, 1 / conv.weight[0].numel())
    return backbone


@pytest.mark.parametrize(
    ("name", "stride"),
    [
        ("mobilenetv2", 8),
        ("mobilenetv2", 16),
        ("mobilenetv2", 32),
        pytest.param("xception65", 8, marks=pytest.mark.slow),
        pytest.param("xception65", 16, marks=pytest.mark.slow),
    ],
)
def test_stride_and_receptive_field_are_those_that_gradients_measure(
    name: str, stride: int
) -> None:
    backbone = averaging(BACKBONES[name]())
    backbone.set_output_stride(stride)
    field, jump = 1, 1
    for conv in backbone.modules():
        if isinstance(conv, nn.Conv2d) and conv.kernel_size[0] > 1:
            field += (conv.kernel_size[0] - 1) * conv.dilation[0] * jump
            jump *= conv.stride[0]
    assert jump == stride

    width = 2 * field // 64 * 64 + 65
    image = torch.full((1, 3, 1, width), 1e-4, dtype=torch.float64)
    middle = width // stride // 2
    first, last = seen_by(backbone, image, middle)
    assert last - first + 1 == field
    assert seen_by(backbone, image, middle + 1) == (first + stride, last + stride)


def _field_and_stride(backbone: Backbone) -> tuple[int, int]:
    """By the rule of windows behind each other, along the longest way; shortcuts are shorter."""
    field, jump = 1, 1
    for name, layer in backbone.named_modules():
        if ".shortcut" in name:
            continue
        if isinstance(layer, nn.Conv2d):
            kernel, rate, stride = layer.kernel_size[0], layer.dilation[0], layer.stride[0]
        elif isinstance(layer, CeilMaxPool2d):
            kernel, rate, stride = 3, 1, layer.stride
        elif isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
            kernel, rate, stride = 3, 1, int(layer.stride)
        else:
            continue
        field += (kernel - 1) * rate * jump
        jump *= stride
    return field, jump


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("name", ["vgg16", "msra", "torchvision"])
def test_windows_of_pooling_networks_are_those_that_gradients_measure(
    name: str, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A maximum hands its gradient to one pixel alone: averages take its place."""

    def average(
        x: Tensor, kernel: int, stride: int, padding: int, *rest: int, **more: bool
    ) -> Tensor:
        return F.avg_pool2d(x, kernel, stride, padding)

    monkeypatch.setattr(F, "max_pool2d", average)
    backbone = averaging(VGG16(average_pool=True) if name == "vgg16" else BACKBONES[name]())
    backbone.set_output_stride(stride)
    field, jump = _field_and_stride(backbone)
    assert jump == stride
    image = torch.full((1, 3, 1, 2 * field // 64 * 64 + 65), 1e-4, dtype=torch.float64)
    middle = image.shape[3] // stride // 2
    first, last = seen_by(backbone, image, middle)
    assert last - first + 1 == field
    assert seen_by(backbone, image, middle + 1) == (first + stride, last + stride)


def test_the_receptive_field_of_a_dense_network_is_the_plain_networks() -> None:
    fields = set()
    for stride in (8, 16, 32):
        backbone = averaging(MobileNetV2())
        backbone.set_output_stride(stride)
        image = torch.full((1, 3, 1, 1025), 1e-4, dtype=torch.float64)
        first, last = seen_by(backbone, image, 512 // stride)
        fields.add(last - first + 1)
    assert len(fields) == 1
