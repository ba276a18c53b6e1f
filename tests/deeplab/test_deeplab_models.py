"""The networks against the papers: sizes, parameters, what each map is."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import deeplab
from deeplab.aspp import SummedASPP
from deeplab.layers import ratio, rescale, resize


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def rescaled(images: Tensor, scale: float, align_corners: bool) -> Tensor:
    """As Caffe's layer does it, or ``interpolate`` by a factor."""
    if not align_corners:
        return F.interpolate(images, scale_factor=scale, mode="bilinear")
    size = [int((side - 1) * scale) + 1 for side in images.shape[2:]]
    return F.interpolate(images, size=size, mode="bilinear", align_corners=True)


def on_meta(name: str, **options: object) -> deeplab.DeepLab:
    with torch.device("meta"):
        return deeplab.build(name, **options)


@pytest.mark.parametrize(
    ("name", "options", "millions"),
    [
        ("deeplabv1_vgg16", {}, 20.5),
        ("deeplabv1_vgg16_7x7", {}, 134.3),
        ("deeplabv1_vgg16_4x4", {}, 65.1),
        ("deeplabv1_vgg16_4x4_fov224", {}, 65.1),
        ("deeplabv2_resnet101", {}, 44.05),
        # torchvision's and VainF's v3 have one 3×3 convolution more than the paper's.
        ("deeplabv3_resnet50", {"neck": True}, 39.64),
        ("deeplabv3_resnet101", {"neck": True}, 58.63),
        ("deeplabv3_resnet101", {"neck": True, "auxiliary": True}, 61.00),
        # VainF's v3+ refines once, the paper's twice.
        ("deeplabv3plus_resnet101", {"refinements": 1}, 58.75),
        ("deeplabv3plus_resnet101", {}, 59.34),
        ("deeplabv3plus_xception65", {}, 41.06),
        # What the published key lists sum to.
        ("deeplabv3_mobilenetv3_large", {}, 11.025),
        ("deeplabv3_mobilenetv3_large", {"auxiliary": True}, 11.029),
        ("deeplabv3_mobilenetv2_no_aspp", {}, 2.114),
        ("deeplabv3plus_xception", {"variant": "vainf", "refinements": 1}, 37.05),
        # The normalisation of 2048 channels more, and a 3×3 convolution of 256 channels.
        ("deeplabv3plus_xception", {}, 37.05 + 0.0041 + 0.5903),
    ],
)
def test_parameters_are_those_of_the_papers_and_releases(
    name: str, options: dict[str, object], millions: float
) -> None:
    assert abs(parameters(on_meta(name, **options)) / 1e6 - millions) < (
        0.05 if millions > 12 else 0.0005
    )


@pytest.mark.parametrize("name", deeplab.MODELS)
def test_scores_have_the_size_of_the_images(name: str) -> None:
    model = on_meta(name, num_classes=4).eval()
    for size in ((1, 2), (33, 50)):
        scores = model(torch.empty(2, 3, *size, device="meta"))
        assert scores.shape == (2, 4, *size)


@pytest.mark.parametrize("align_corners", [True, False])
def test_scores_of_several_scales_are_fused_by_their_maximum(align_corners: bool) -> None:
    model = deeplab.build(
        "deeplabv2_resnet101", num_classes=3, backbone="resnet50", align_corners=align_corners
    ).eval()
    images = torch.randn(1, 3, 65, 49)
    with torch.no_grad():
        fused, full, middle, half = model(images, training_maps=True)
        scores = model(images)
    # 321 gives 241 and 161 with aligned corners; here 65×49 gives 33×25 or 32×24.
    assert full.shape == middle.shape == fused.shape == (1, 3, 9, 7)
    assert half.shape == (1, 3, 5, 4)
    expected = torch.maximum(torch.maximum(full, middle), resize(half, (9, 7), align_corners))
    assert torch.equal(fused, expected)
    assert torch.equal(scores, resize(fused, (65, 49), align_corners))


def caffes_vgg(state: dict[str, Tensor], x: Tensor, average_pool: bool) -> Tensor:
    """conv1_1 ... pool5 (pool5a) of the released prototxt files, under torchvision's names."""
    number = 0
    for block, count in enumerate((2, 2, 3, 3, 3)):
        for _ in range(count):
            weight, bias = state[f"features.{number}.weight"], state[f"features.{number}.bias"]
            rate = 2 if block == 4 else 1
            x = F.conv2d(x, weight, bias, padding=rate, dilation=rate).relu()
            number += 2
        x = F.max_pool2d(x, 3, 2 if block < 3 else 1, padding=1, ceil_mode=True)
        number += 1
    return F.avg_pool2d(x, 3, 1, padding=1) if average_pool else x


@pytest.mark.parametrize(
    ("name", "average_pool"),
    [("deeplabv1_vgg16", True), ("deeplabv2_vgg16_largefov", True),
     ("deeplabv2_vgg16_aspp_s", False), ("deeplabv2_vgg16_aspp_l", False)],
)  # fmt: skip
def test_vgg_is_the_one_of_the_released_configurations(name: str, average_pool: bool) -> None:
    backbone = deeplab.build(name, fov_hidden=8).double().backbone
    images = torch.randn(1, 3, 30, 33, dtype=torch.float64)
    with torch.no_grad():
        expected = caffes_vgg(backbone.state_dict(), images, average_pool)
        torch.testing.assert_close(backbone(images).high, expected, rtol=1e-12, atol=1e-12)


def test_the_released_sizes_of_the_scales_are_241_and_161() -> None:
    model = on_meta("deeplabv2_resnet101").eval()
    images = torch.empty(1, 3, 321, 321, device="meta")
    assert [rescale(images, ratio(s), True).shape[-1] for s in (0.75, 0.5)] == [241, 161]
    maps = model(images, training_maps=True)
    assert [m.shape[-1] for m in maps] == [41, 41, 41, 21]


def test_without_aligned_corners_coordinates_map_by_the_scale_itself() -> None:
    images = torch.randn(1, 3, 47, 33)
    expected = F.interpolate(images, scale_factor=0.75, mode="bilinear")
    assert torch.equal(rescale(images, ratio(0.75), False), expected)
    assert rescale(images[:, :, :1, :1], ratio(0.5), False).shape == (1, 3, 1, 1)


@pytest.mark.parametrize("align_corners", [True, False])
def test_the_scales_of_a_network_are_those_of_the_convention(align_corners: bool) -> None:
    model = deeplab.build(
        "deeplabv3_mobilenetv2", scales=(1.0, 0.75), align_corners=align_corners, aspp_channels=8
    ).eval()
    images = torch.randn(1, 3, 47, 33)
    with torch.no_grad():
        first, second = model.scores(images), model.scores(rescaled(images, 0.75, align_corners))
        fused = torch.maximum(first, resize(second, first.shape[2:], align_corners))
        assert torch.equal(model.fused_scores(images), fused)


def test_training_maps_of_v1_stay_at_the_output_stride() -> None:
    model = on_meta("deeplabv1_vgg16")
    (scores,) = model(torch.empty(1, 3, 321, 321, device="meta"), training_maps=True)
    assert scores.shape == (1, 21, 41, 41)


def test_training_maps_of_v3_have_the_size_of_the_images() -> None:
    model = on_meta("deeplabv3_resnet50", auxiliary=True)
    maps = model(torch.empty(2, 3, 65, 33, device="meta"), training_maps=True)
    assert [m.shape for m in maps] == [(2, 21, 65, 33)] * 2


def test_the_decoder_of_v3plus_works_at_stride_4() -> None:
    model = on_meta("deeplabv3plus_xception65").eval()
    assert model.scores(torch.empty(1, 3, 513, 513, device="meta")).shape == (1, 21, 129, 129)
    assert model.decoder.reduce.conv.weight.shape == (48, 256, 1, 1)
    assert model.decoder.refine[0].depthwise.conv.weight.shape == (304, 1, 3, 3)


def test_low_features_of_xception_are_taken_before_the_strided_convolution() -> None:
    model = on_meta("deeplabv3plus_xception65").eval()
    levels = model.backbone(torch.empty(1, 3, 65, 65, device="meta"))
    assert [m.shape[1:] for m in levels] == [(256, 17, 17), (728, 5, 5), (2048, 5, 5)]


def test_the_v3_head_is_aspp_with_the_papers_rates() -> None:
    model = on_meta("deeplabv3_resnet101")
    assert [conv.conv.dilation[0] for conv in model.aspp.atrous] == [6, 12, 18]
    model.set_output_stride(8)
    assert [conv.conv.dilation[0] for conv in model.aspp.atrous] == [12, 24, 36]


def test_rates_of_resnet_follow_multi_grid_and_output_stride() -> None:
    def rates(model: deeplab.DeepLab, layer: int) -> list[int]:
        return [unit.atrous.conv.dilation[0] for unit in model.backbone.layers[layer - 1]]

    model = on_meta("deeplabv3_resnet50")
    assert (rates(model, 3), rates(model, 4)) == ([1] * 6, [2, 4, 8])
    model.set_output_stride(8)
    assert (rates(model, 3), rates(model, 4)) == ([2] * 6, [4, 8, 16])

    cascade = on_meta("deeplabv3_cascade_resnet50")
    assert [rates(cascade, n)[0] for n in (4, 5, 6, 7)] == [2, 4, 8, 16]  # v3, figure 3 (b)
    cascade.set_output_stride(256)
    assert [rates(cascade, n) for n in (4, 5, 6, 7)] == [[1, 2, 4]] * 4

    torchvision = on_meta(
        "deeplabv3_resnet50", output_stride=8, contract_dilation=True, multi_grid=(1, 1, 1)
    )
    assert (rates(torchvision, 3), rates(torchvision, 4)) == ([1] + [2] * 5, [2, 4, 4])


def test_v2_strides_in_the_first_convolution_and_has_rates_2_and_4() -> None:
    layers = on_meta("deeplabv2_resnet101").backbone.layers
    assert [layer[0].reduce.conv.stride[0] for layer in layers] == [1, 2, 1, 1]
    assert {unit.atrous.conv.dilation for unit in layers[2]} == {(2, 2)}
    assert {unit.atrous.conv.dilation for unit in layers[3]} == {(4, 4)}


def test_batch_normalisation_has_the_papers_eps_and_momentum() -> None:
    def found(module: nn.Module) -> set[tuple[float, float | None]]:
        return {(m.eps, m.momentum) for m in module.modules() if isinstance(m, nn.BatchNorm2d)}

    model = on_meta("deeplabv3plus_xception65")
    assert found(model.backbone) == {(1e-3, 3e-4)}
    assert found(model.aspp) == found(model.decoder) == {(1e-5, 3e-4)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "resnet18"}, "backbone to be one of"),
        ({"output_stride": 12}, r"output_stride to be one of \[4, 8, 16, 32\], found 12"),
        ({"output_stride": 64}, r"one of \[4, 8, 16, 32\], found 64"),
        ({"output_stride": 7}, r"one of \[4, 8, 16, 32\], found 7"),
        ({"output_stride": 12, "rates_at": 0}, r"one of \[4, 8, 16, 32\], found 12"),
        ({"output_stride": 2, "backbone": "mobilenetv2", "multi_grid": (1, 1, 1)}, "found 2"),
        ({"output_stride": 32, "rates": (5,)}, r"rates \(5,\) at .* no whole numbers at 32"),
        ({"num_classes": 0}, "num_classes >= 1"),
        ({"cascade": 1, "backbone": "mobilenetv2"}, "does not read"),
        ({"fov_hidden": 7}, "'decoder' does not read fov_hidden, found 7"),
        ({"scales": (0.5, 1.0)}, "start at 1"),
        ({"scales": (1.0, float("nan"))}, r"positive and finite .* found \(1\.0, nan\)"),
        ({"scales": (1.0, float("inf"))}, r"positive and finite .* found \(1\.0, inf\)"),
        ({"scales": (1.0, 0.5), "auxiliary": True}, "several scales, have no auxiliary classifier"),
        ({"project_kernel": 2}, "expected project_kernel to be odd, found 2"),
        ({"multi_grid": (1, 2)}, "expected 3 factors"),
        ({"rates": (0, 1, 2)}, r"expected rates >= 1, found \(0, 1, 2\)"),
        ({"refinements": -1}, "expected refinements >= 0, found -1"),
        ({"dropout": 1.5}, r"expected dropout in \[0, 1\], found 1\.5"),
        ({"bn_eps": 0}, r"expected bn_eps > 0 and finite, found 0\.0"),
        ({"bn_eps": float("nan")}, "expected bn_eps > 0 and finite, found nan"),
        ({"head": "sum", "rates": ()}, "needs rates"),
        ({"backbone": "xception", "variant": "jfzhang"}, "variant of xception to be one of"),
        ({"backbone": "xception65", "variant": "vainf"}, "variant of xception65 to be one of"),
    ],
)
def test_configurations_that_cannot_be_are_refused(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        deeplab.model_config("deeplabv3plus_resnet50", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rates": (3,)}, r"a 4×4 kernel needs even rates, found \(3,\) at output stride 8"),
        ({"output_stride": 32}, r"even rates, found \(1,\) at output stride 32"),
        ({"rates": (3,), "rates_at": 0}, r"even rates, found \(3,\)"),
        ({"auxiliary": True}, r"losses of v1 and v2, .* expected auxiliary=False"),
    ],
)
def test_configurations_of_v1_that_cannot_be_are_refused(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        deeplab.model_config("deeplabv1_vgg16_4x4", **options)


def test_unknown_names_and_options_are_refused() -> None:
    with pytest.raises(ValueError, match="found 'deeplabv4'"):
        deeplab.build("deeplabv4")
    with pytest.raises(TypeError, match="'atrous' is no option of a network: expected backbone, "):
        deeplab.build("deeplabv3_resnet50", atrous=True)
    with pytest.raises(TypeError, match=r"did you mean output_stride\?"):
        deeplab.build("deeplabv3_resnet50", output_strid=8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_stride": "8"}, "expected output_stride to be int, found '8'"),
        ({"rates": 6}, r"expected rates to be tuple\[int, \.\.\.\], found 6"),
        ({"rates": (6, 12.5)}, "expected rates to be int, found 12.5"),
        ({"align_corners": "yes"}, "expected align_corners to be bool, found 'yes'"),
        ({"aspp_channels": True}, "expected aspp_channels to be int, found True"),
    ],
)
def test_options_of_another_type_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        deeplab.model_config("deeplabv3_resnet50", **options)


def test_a_configuration_survives_json() -> None:
    for name in deeplab.MODELS:
        config = deeplab.model_config(name, num_classes=5)
        assert deeplab.Config.from_json(config.to_json()) == config
    with pytest.raises(ValueError, match="unknown fields: depth"):
        deeplab.Config.from_json('{"backbone": "resnet50", "head": "aspp", "depth": 3}')


def test_a_failed_change_of_stride_leaves_the_network_alone() -> None:
    model = on_meta("deeplabv3_resnet50")
    with pytest.raises(ValueError, match="found 24"):
        model.set_output_stride(24)
    assert model.output_stride == 16
    assert model.backbone.layers[3][0].atrous.conv.dilation == (2, 2)
    assert dataclasses.asdict(model.config)["output_stride"] == 16


def atrous_settings(model: nn.Module) -> list[tuple[object, ...]]:
    """Strides, rates and paddings of everything inside."""
    names = ("stride", "dilation", "padding")
    return [tuple(getattr(m, name, None) for name in names) for m in model.modules()]


def test_rates_that_do_not_fit_the_kernel_leave_the_network_at_its_stride() -> None:
    model = on_meta("deeplabv1_vgg16_4x4")
    before = atrous_settings(model)
    with pytest.raises(ValueError, match="4×4 kernel needs even rates"):
        model.set_output_stride(32)
    assert model.output_stride == 8
    assert atrous_settings(model) == before


def test_a_change_of_stride_that_breaks_off_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model = on_meta("deeplabv3plus_resnet50")
    before = atrous_settings(model)
    last, set_atrous = model.aspp.atrous[2], model.aspp.atrous[2].set_atrous

    def interrupted(rate: int) -> None:
        if rate != 18:
            raise KeyboardInterrupt
        set_atrous(rate)

    monkeypatch.setattr(last, "set_atrous", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.set_output_stride(8)
    assert model.output_stride == 16
    assert atrous_settings(model) == before


class Draws(TorchDispatchMode):
    """Notes the shape of everything that is drawn at random."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        out = op(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in op.tags:
            self.shapes.append(tuple((out[0] if isinstance(out, tuple) else out).shape))
        return out


@pytest.mark.parametrize(
    ("name", "options", "shapes"),
    [
        ("deeplabv1_vgg16", {}, [(2, 1024, 5, 7)] * 2),
        ("deeplabv1_vgg16_7x7", {}, [(2, 4096, 5, 7)] * 2),
        ("deeplabv2_vgg16_aspp_l", {}, [(2, 1024, 5, 7)] * 8),
        ("deeplabv2_resnet101", {}, []),
        ("deeplabv3_cascade_resnet50", {}, []),
        ("deeplabv3_resnet50", {}, [(2, 256, 3, 4)]),
        ("deeplabv3plus_xception65", {}, [(2, 256, 3, 4)]),
        ("deeplabv3plus_resnet50", {"auxiliary": True}, [(2, 256, 3, 4), (2, 256, 3, 4)]),
    ],
)
def test_training_draws_where_the_papers_have_dropout_and_nowhere_else(
    name: str, options: dict[str, object], shapes: list[tuple[int, ...]]
) -> None:
    model, images = on_meta(name, **options), torch.empty(2, 3, 33, 49, device="meta")
    with Draws() as draws:
        model(images, training_maps=True)
    assert draws.shapes == shapes
    with Draws() as draws:
        model.eval()(images, training_maps=True)
    assert draws.shapes == []


@pytest.mark.parametrize(
    ("name", "before", "behind", "share"),
    [
        ("deeplabv1_vgg16", "classifier.branches.0.fc6", "classifier.branches.0.fc7", 0.5),
        ("deeplabv1_vgg16", "classifier.branches.0.fc7", "classifier.branches.0.fc8", 0.5),
        ("deeplabv3_mobilenetv2", "aspp", "classifier", 0.1),
        ("deeplabv3_mobilenetv2", "auxiliary.conv", "auxiliary.classifier", 0.1),
        ("deeplabv3plus_mobilenetv2", "aspp", "decoder", 0.1),
        ("deeplabv3_mobilenetv3_large", "aspp", "neck", 0.5),
    ],
)
def test_dropout_zeroes_the_papers_share_and_enlarges_the_rest(
    name: str, before: str, behind: str, share: float
) -> None:
    options = {"fov_hidden": 128} if "v1" in name else {"auxiliary": "auxiliary" in before}
    model = deeplab.build(name, **options)
    seen: dict[str, Tensor] = {}
    model.get_submodule(before).register_forward_hook(
        lambda module, inputs, output: seen.update(whole=output.detach().relu())
    )
    model.get_submodule(behind).register_forward_pre_hook(
        lambda module, inputs: seen.update(left=inputs[0].detach())
    )
    images = torch.randn(4, 3, 65, 65)
    model(images, training_maps=True)
    whole, left = seen["whole"], seen["left"]
    alive = whole > 0
    kept = alive & (left != 0)
    assert int(alive.sum()) > 1000
    assert float(kept.sum() / alive.sum()) == pytest.approx(1 - share, abs=0.03)
    torch.testing.assert_close(left, torch.where(kept, whole / (1 - share), 0.0))
    with torch.no_grad():
        model.eval()(images, training_maps=True)
    assert torch.equal(seen["left"], seen["whole"])


@pytest.mark.parametrize(
    ("name", "classifiers"),
    [
        ("deeplabv1_vgg16", ["classifier.branches.0.fc8"]),
        ("deeplabv2_vgg16_aspp_s", [f"classifier.branches.{i}.fc8" for i in range(4)]),
        ("deeplabv2_resnet101", [f"classifier.branches.{i}" for i in range(4)]),
        ("deeplabv3_cascade_resnet50", ["classifier"]),
        ("deeplabv3_mobilenetv2", ["classifier", "auxiliary.classifier"]),
        ("deeplabv3plus_mobilenetv2", ["classifier", "auxiliary.classifier"]),
    ],
)
def test_classifiers_start_from_a_gaussian_of_a_hundredth_without_bias(
    name: str, classifiers: list[str]
) -> None:
    config = deeplab.model_config(name, num_classes=150)
    # Their own weights do not depend on the backbone, and large ones take seconds to draw.
    head = dataclasses.replace(
        config,
        backbone="mobilenetv2",
        **({"fov_hidden": 64} if config.fov_hidden else {}),
        **dict.fromkeys(("stride_in_1x1", "ceil_pool", "average_pool"), False),
        cascade=0,
        multi_grid=(1, 1, 1),
        auxiliary=len(classifiers) == 2,
    )
    model = deeplab.DeepLab(head)
    for key in classifiers:
        classifier = model.get_submodule(key)
        assert classifier.weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert classifier.weight.mean().abs() < 1e-3
        assert not classifier.bias.any()


@pytest.mark.parametrize("call", ["forward", "scores", "fused_scores"])
@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), TypeError, "normalised floating"),
        (torch.zeros(1, 3, 8, 8).double(), TypeError, r"torch\.float32 .*, found torch\.float64"),
        (torch.zeros(1, 3, 0, 8), ValueError, "1×1 pixels or more, found 0×8"),
        (torch.zeros(1, 3, 8, 0), ValueError, "1×1 pixels or more, found 8×0"),
        (torch.zeros(3, 8, 8), ValueError, r"\[B, 3, H, W\], found \[3, 8, 8\]"),
        (torch.zeros(1, 4, 8, 8), ValueError, r"found \[1, 4, 8, 8\]"),
        ([1.0], TypeError, "found list"),
    ],
)
def test_images_of_another_kind_are_refused(
    images: Tensor, error: type[Exception], message: str, call: str
) -> None:
    model = deeplab.build("deeplabv3_mobilenetv2", aspp_channels=8)
    with pytest.raises(error, match=message):
        getattr(model, call)(images)


def test_autocast_takes_images_of_every_dtype_but_float64() -> None:
    model = deeplab.build("deeplabv3_mobilenetv2", aspp_channels=8).eval()
    images = torch.randn(1, 3, 9, 9)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert model(images.half()).isfinite().all()
        with pytest.raises(TypeError, match=r"found torch\.float64"):
            model(images.double())


@pytest.mark.parametrize(
    ("kernel", "taps"), [(1, [3]), (3, [0, 3, 6]), (4, [0, 2, 4, 6]), (7, [0, 1, 2, 3, 4, 5, 6])]
)
def test_fc6_and_fc7_are_a_regular_part_of_vggs_classifier(kernel: int, taps: list[int]) -> None:
    heads = SummedASPP(2, 3, branches=2, kernel=kernel, hidden=3)
    # Six filters over two channels of 7×7: 1000 the filter, 100 the channel, 10 the row, 1 the
    # column. fc7 is 10 the row, 1 the column.
    n = torch.arange(7)
    numbers = 10 * n[:, None] + n
    fc6 = 1000 * torch.arange(6)[:, None, None, None] + 100 * torch.arange(2)[:, None, None]
    state = {
        "classifier.0.weight": (fc6 + numbers).float().flatten(1),
        "classifier.0.bias": torch.arange(6.0),
        "classifier.3.weight": numbers[:6, :6].float(),
        "classifier.3.bias": 10 + torch.arange(6.0),
    }
    heads.load_state_dict(heads.from_vgg(state), strict=False)
    for branch in heads.branches:
        for i, f in enumerate((0, 2, 4)):
            assert branch.fc6.bias[i] == f
            assert branch.fc7.bias[i] == 10 + f
            assert branch.fc7.weight[i].flatten().tolist() == [10 * f, 10 * f + 2, 10 * f + 4]
            for c in (0, 1):
                expected = [[1000 * f + 100 * c + 10 * a + b for b in taps] for a in taps]
                assert branch.fc6.weight[i, c].tolist() == expected


@pytest.mark.parametrize("rate", [4, 8])
def test_the_taps_kept_of_fc6_lie_where_those_of_7x7_at_rate_4_do(rate: int) -> None:
    """A 7×7 kernel that is zero but for the taps kept is the smaller one at its larger rate."""
    kernel, larger = {4: (3, 12), 8: (4, 8)}[rate]
    part = SummedASPP(2, 3, branches=1, kernel=kernel, hidden=4).double()
    whole = SummedASPP(2, 3, branches=1, kernel=7, hidden=4).double()
    state = {
        "classifier.0.weight": torch.randn(4, 98).double(),
        "classifier.0.bias": torch.randn(4).double(),
        "classifier.3.weight": torch.randn(4, 4).double(),
        "classifier.3.bias": torch.randn(4).double(),
    }
    part.load_state_dict(part.from_vgg(state), strict=False)
    kept = torch.zeros(7, dtype=torch.float64)
    kept[:: 6 // (kernel - 1)] = 1
    fc6 = state["classifier.0.weight"].view(4, 2, 7, 7) * kept[:, None] * kept
    whole.load_state_dict(
        whole.from_vgg({**state, "classifier.0.weight": fc6.flatten(1)}), strict=False
    )
    part.set_rates([larger])
    whole.set_rates([4])
    x = torch.randn(1, 2, 30, 33).double()
    torch.testing.assert_close(part.branches[0].fc6(x), whole.branches[0].fc6(x))


def vgg_file(path: Path, *, filters: int = 8) -> dict[str, Tensor]:
    """torchvision's VGG-16 with a narrow classifier, random."""
    with torch.device("meta"):
        features = deeplab.build("deeplabv1_vgg16", fov_hidden=8).backbone.state_dict()
    state = {key: torch.randn(t.shape) * 0.02 for key, t in features.items()}
    shapes = {"0.weight": (filters, 25088), "0.bias": (filters,),
              "3.weight": (filters, filters), "3.bias": (filters,)}  # fmt: skip
    state |= {f"classifier.{key}": torch.randn(shape) for key, shape in shapes.items()}
    torch.save(state, path)
    return state


@pytest.mark.parametrize(
    ("name", "hidden", "kernel", "step"),
    [
        ("deeplabv1_vgg16", 4, 3, 3),
        ("deeplabv1_vgg16_4x4", 8, 4, 2),
        ("deeplabv1_vgg16_7x7", 8, 7, 1),
        ("deeplabv2_vgg16_aspp_s", 4, 3, 3),
    ],
)
def test_vgg_networks_start_with_the_classifiers_fc6_and_fc7(
    tmp_path: Path, name: str, hidden: int, kernel: int, step: int
) -> None:
    state = vgg_file(tmp_path / "vgg16.pth")
    network = deeplab.build(name, fov_hidden=hidden)
    deeplab.load_backbone(network, tmp_path / "vgg16.pth")
    each = 8 // hidden
    fc6 = state["classifier.0.weight"].view(8, 512, 7, 7)[::each, :, ::step, ::step]
    for branch in network.classifier.branches:
        assert torch.equal(branch.fc6.weight, fc6)
        fc7 = state["classifier.3.weight"][::each, ::each, None, None]
        assert torch.equal(branch.fc7.weight, fc7)
    assert torch.equal(network.backbone.features[0].weight, state["features.0.weight"])


def test_a_vgg_without_a_classifier_leaves_the_head_as_drawn(tmp_path: Path) -> None:
    """torchvision's IMAGENET1K_FEATURES has nan there."""
    state = vgg_file(tmp_path / "vgg16.pth")
    drawn = deeplab.build("deeplabv1_vgg16", fov_hidden=4)
    head = {key: t.clone() for key, t in drawn.classifier.state_dict().items()}
    nan = {k: t * float("nan") if "classifier" in k else t for k, t in state.items()}
    for kept in (nan, {k: t for k, t in state.items() if "classifier" not in k}):
        torch.save(kept, tmp_path / "vgg16.pth")
        deeplab.load_backbone(drawn, tmp_path / "vgg16.pth")
        assert all(torch.equal(t, head[k]) for k, t in drawn.classifier.state_dict().items())


def test_the_cascade_starts_as_copies_of_the_last_block(tmp_path: Path) -> None:
    plain = deeplab.build("deeplabv3_resnet50", aspp_channels=8)
    deeplab.save(plain, tmp_path / "resnet50.safetensors")
    cascade = deeplab.build("deeplabv3_cascade_resnet50").eval()
    deeplab.load_backbone(cascade, tmp_path / "resnet50.safetensors")
    layers = cascade.backbone.layers
    x = torch.randn(1, 2048, 5, 6)
    for copied in list(layers)[4:]:
        for unit, source in zip(copied, (layers[3][1], layers[3][1], layers[3][2]), strict=True):
            for part in ("reduce", "atrous", "expand"):
                theirs = source.get_submodule(part).state_dict()
                for key, tensor in unit.get_submodule(part).state_dict().items():
                    assert torch.equal(tensor, theirs[key])
        torch.testing.assert_close(copied[0].shortcut(x), x, rtol=1e-4, atol=1e-5)
    found, wanted = cascade.backbone.state_dict(), plain.backbone.state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in wanted.items())


def test_a_cascade_of_the_file_itself_is_kept_as_it_is() -> None:
    network = deeplab.build("deeplabv3_cascade_resnet50", cascade=1)
    nn.init.constant_(network.backbone.layers[4][0].shortcut.conv.weight, 0.5)
    state = network.backbone.completed(network.backbone.state_dict())
    assert all(torch.equal(t, state[key]) for key, t in network.backbone.state_dict().items())
    partly = {k: t for k, t in state.items() if not k.startswith("layers.4.2.")}
    assert not any(k.startswith("layers.4.2.") for k in network.backbone.completed(partly))
