"""crf_refine: kinds of input and output, sizes, ranges, and what is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from problems import NORMALIZATIONS, random_image, random_logits
from torch import Tensor

from densecrf_gpu import (
    CRFParams,
    DenseCRF,
    crf_refine,
    logits_from_labels,
    logits_from_probabilities,
)

H, W, C = 14, 17, 4
PARAMS = CRFParams.pydensecrf()
LABELS = torch.randint(C, (H, W), generator=torch.Generator().manual_seed(0))


def logits(batch: int | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    shape = (C, H, W) if batch is None else (batch, C, H, W)
    return random_logits(C, H * W, batch or 1, dtype).reshape(shape)


def image(batch: int | None = None) -> Tensor:
    x = random_image(H, W, batch=batch or 1)
    return x[0] if batch is None else x


def solved(u: Tensor, x: Tensor, iterations: int = 10, **options: Any) -> Tensor:
    return DenseCRF(u, PARAMS.kernels(), x).inference(iterations, **options)


@pytest.mark.parametrize("batch", [None, 1, 2])
def test_refinement_is_the_inference_of_the_crf(
    device: torch.device, dtype: torch.dtype, batch: int | None
) -> None:
    u, x = logits(batch, dtype).to(device), image(batch).to(device)
    q = crf_refine(u, x)
    assert torch.equal(q, solved(u, x))
    assert q.device == u.device


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_options_reach_the_inference(normalization: str) -> None:
    params = CRFParams.deeplab_v2_vgg()
    options: dict[str, Any] = {"damping": 0.25, "tolerance": 1e-3, "output": "logits"}
    q = crf_refine(logits(), image(), params, iterations=7, normalization=normalization, **options)
    crf = DenseCRF(logits(), params.kernels(normalization), image())
    assert torch.equal(q, crf.inference(7, **options))


@pytest.mark.parametrize("output", ["probabilities", "logits", "labels"])
@pytest.mark.parametrize("batch", [None, 2])
def test_arrays_come_back_as_arrays(batch: int | None, output: str) -> None:
    u, x = logits(batch), image(batch)
    found = crf_refine(u.numpy(), x.numpy(), output=output)
    assert isinstance(found, np.ndarray)
    assert np.array_equal(found, crf_refine(u, x, output=output).numpy())


@pytest.mark.parametrize("kind", ["planes", "interleaved", "pil", "float", "double", "half"])
def test_all_kinds_of_an_image_give_the_same_refinement(kind: str) -> None:
    x = image()
    other: Any = {
        "planes": lambda: x.numpy(),
        "interleaved": lambda: x.permute(1, 2, 0).contiguous(),
        "pil": lambda: Image.fromarray(x.permute(1, 2, 0).contiguous().numpy()),
        "float": lambda: x.float(),
        "double": lambda: x.double(),
        "half": lambda: x.half(),
    }[kind]()
    assert torch.equal(crf_refine(logits(), other), crf_refine(logits(), x))


@pytest.mark.parametrize("kind", ["HW", "CHW", "HWC", "pil"])
def test_grey_image_is_one_channel(kind: str) -> None:
    x = image()[:1]
    other: Any = {
        "HW": x[0],
        "CHW": x,
        "HWC": x.permute(1, 2, 0),
        "pil": Image.fromarray(x[0].numpy()),
    }[kind]
    expected = solved(logits(), x)
    assert torch.equal(crf_refine(logits(), other), expected)


def test_batch_of_grey_images_needs_its_layout() -> None:
    x = image(2)[:, 0]
    with pytest.raises(ValueError, match="may be CHW or HW"):
        crf_refine(logits(2), x)
    q = crf_refine(logits(2), x, image_layout="HW")
    assert torch.equal(q, solved(logits(2), x[:, None]))


def test_one_image_serves_a_batch() -> None:
    q = crf_refine(logits(2), image())
    assert torch.equal(q[1], crf_refine(logits(2)[1], image()))


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_logits_come_back_as_half(half: torch.dtype) -> None:
    u = logits().to(half)
    q = crf_refine(u, image())
    assert q.dtype == half
    assert torch.equal(q, crf_refine(u.float(), image()).to(half))


def test_strided_logits_give_the_same_refinement() -> None:
    u = logits(2).contiguous(memory_format=torch.channels_last)
    assert torch.equal(crf_refine(u, image(2)), crf_refine(logits(2), image(2)))


@pytest.mark.parametrize("batch", [None, 2])
def test_smaller_logits_are_enlarged_bilinearly_to_the_image(batch: int | None) -> None:
    u = logits(batch or 1)[..., :5, :6]
    expected = F.interpolate(u, size=(H, W), mode="bilinear", align_corners=False)
    x = image(batch)
    q = crf_refine(u if batch else u[0], x)
    assert torch.equal(q, solved(expected if batch else expected[0], x))


def test_smaller_probabilities_are_enlarged_before_the_logarithm() -> None:
    p = logits().softmax(0)[:, :5, :6]
    enlarged = F.interpolate(p[None], size=(H, W), mode="bilinear", align_corners=False)[0]
    q = crf_refine(p, image(), input="probabilities")
    assert torch.equal(q, solved(logits_from_probabilities(enlarged), image()))


def test_probabilities_are_refined_as_their_logarithms() -> None:
    p = logits().softmax(0)
    p[0] = 0
    q = crf_refine(p, image(), input="probabilities")
    assert torch.equal(q, solved(logits_from_probabilities(p), image()))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
@pytest.mark.parametrize("batch", [None, 2])
def test_labels_are_refined_as_their_logits(batch: int | None, dtype: torch.dtype) -> None:
    labels = LABELS if batch is None else torch.stack([LABELS, LABELS.flip(0)])
    labels = labels.clone()
    labels[..., :3, :] = 255
    q = crf_refine(labels.to(dtype), image(batch), input="labels", num_classes=C, gt_prob=0.6)
    assert torch.equal(q, solved(logits_from_labels(labels, C, gt_prob=0.6), image(batch)))


def test_label_image_with_palette_is_refined_to_an_array() -> None:
    palette = Image.fromarray(LABELS.to(torch.uint8).numpy()).convert("P")
    palette.putdata(LABELS.flatten().tolist())
    rgb = Image.fromarray(image().permute(1, 2, 0).contiguous().numpy())
    out: Any = crf_refine(
        palette,  # type: ignore[type-var]
        rgb,
        input="labels",
        output="labels",
        num_classes=C,
    )
    expected = crf_refine(LABELS, image(), input="labels", output="labels", num_classes=C)
    assert isinstance(out, np.ndarray)
    assert np.array_equal(out, expected.numpy())


def test_labels_come_back_as_int64_without_class_axis() -> None:
    labels = crf_refine(logits(2), image(2), output="labels")
    assert labels.dtype == torch.int64
    assert torch.equal(labels, crf_refine(logits(2), image(2)).argmax(1))


def test_image_range_scales_the_colour_bandwidth() -> None:
    unit = crf_refine(logits(), image() / 255, image_range=1.0)
    torch.testing.assert_close(unit, crf_refine(logits(), image()), rtol=0, atol=1e-3)


def test_inputs_are_left_as_they_were() -> None:
    u, x = logits(), image()
    crf_refine(u, x)
    assert torch.equal(u, logits())
    assert torch.equal(x, image())


def test_result_shares_no_memory_with_the_logits() -> None:
    u = logits()
    nothing = dataclasses.replace(PARAMS, gaussian_weight=0, bilateral_weight=0)
    assert crf_refine(u, image(), nothing, output="logits").data_ptr() != u.data_ptr()


def test_refinement_compiles_into_one_graph() -> None:
    def double(u: Tensor, x: Tensor) -> Tensor:
        return 2 * crf_refine(u, x)

    compiled = torch.compile(double, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(logits(), image()), double(logits(), image()))


# ---- ranges of float images ----


@pytest.mark.parametrize(
    "params", list(CRFParams.presets().values()), ids=list(CRFParams.presets())
)
@pytest.mark.parametrize("scale", ["unit", "symmetric", "standardised"])
def test_float_image_made_for_a_network_is_refused(scale: str, params: CRFParams) -> None:
    x = image() / 255
    if scale == "symmetric":
        x = 2 * x - 1
    elif scale == "standardised":
        x = (x - 0.45) / 0.225
    with pytest.raises(ValueError, match=r"image_range=1\.0.*/ 255.*image \* 255.*=255\.0"):
        crf_refine(logits(), x, params)


def test_float_image_in_unit_range_passes_with_a_bandwidth_to_match() -> None:
    params = dataclasses.replace(PARAMS, bilateral_srgb=13 / 255)
    crf_refine(logits(), image() / 255, params)


def test_black_float_image_passes_with_its_range() -> None:
    black = torch.zeros(3, H, W)
    with pytest.raises(ValueError, match="image is float within"):
        crf_refine(logits(), black)
    expected = crf_refine(logits(), black.to(torch.uint8))
    assert torch.equal(crf_refine(logits(), black, image_range=255.0), expected)


def test_float_image_in_unit_range_passes_where_colours_are_not_compared() -> None:
    params = dataclasses.replace(PARAMS, bilateral_weight=0)
    crf_refine(logits(), image() / 255, params)


def test_dark_uint8_image_passes() -> None:
    crf_refine(logits(), image() // 200)


# ---- refusals ----


def refused(
    error: type[Exception], match: str, u: Any = None, x: Any = None, **options: Any
) -> None:
    with pytest.raises(error, match=match):
        crf_refine(logits() if u is None else u, image() if x is None else x, **options)


def test_logit_that_is_not_finite_is_named_with_its_index() -> None:
    u = logits(2)
    u[1, 3, 2, 5] = float("-inf")
    refused(ValueError, r"logits\[1, 3, 2, 5\] = -inf", u, image(2))


def test_pixel_that_is_not_finite_is_named_with_the_index_of_the_caller() -> None:
    x = image().permute(1, 2, 0).float()
    x[2, 5, 1] = float("nan")
    refused(ValueError, r"image\[2, 5, 1\] = nan", x=x)


def test_scores_that_are_no_probabilities_are_refused() -> None:
    refused(ValueError, r'probabilities in \[0, 1\].*input="logits"', input="probabilities")


def test_label_out_of_range_is_refused() -> None:
    labels = LABELS.clone()
    labels[2, 5] = C
    refused(ValueError, rf"logits\[2, 5\] = {C}", labels, input="labels", num_classes=C)


def test_labels_need_their_number_of_classes() -> None:
    refused(ValueError, 'num_classes with input="labels", found None', LABELS, input="labels")


def test_float_labels_are_refused() -> None:
    refused(TypeError, "integer dtype", LABELS.float(), input="labels", num_classes=C)


def test_integer_logits_are_refused_with_the_cure() -> None:
    refused(TypeError, 'floating dtype, found torch.int64.*input="labels"', LABELS)


def test_other_number_of_classes_is_refused() -> None:
    refused(ValueError, f"logits of 21 classes, found {C}", num_classes=21)


@pytest.mark.parametrize("shape", [(H, W), (1, 1, C, H, W), (0, H, W), (0, C, H, W)])
def test_logits_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    refused(ValueError, r"\[C, H, W\] or \[B, C, H, W\]", torch.zeros(shape))


def test_image_smaller_than_the_logits_is_refused() -> None:
    refused(ValueError, rf"found shape \[3, {H - 1}, {W}\]", x=image()[:, 1:])


def test_labels_of_another_size_than_the_image_are_refused() -> None:
    refused(ValueError, "found shape", LABELS[:7], input="labels", num_classes=C)


def test_tensors_on_other_devices_are_refused() -> None:
    refused(ValueError, "image on cpu as the logits, found meta", x=image().to("meta"))
    refused(RuntimeError, "cpu or cuda, found meta", logits().to("meta"), image().to("meta"))


def test_other_objects_are_refused() -> None:
    refused(TypeError, "PIL image, found list", [[1.0]])


@pytest.mark.parametrize("name", ["input", "output", "normalization", "image_layout"])
def test_unknown_choices_are_refused(name: str) -> None:
    refused(ValueError, f"{name} to be one of .*, found 'x'", **{name: "x"})


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("iterations", -1, ValueError),
        ("iterations", 2.5, TypeError),
        ("damping", 1.0, ValueError),
        ("damping", float("nan"), ValueError),
        ("tolerance", -1.0, ValueError),
        ("image_range", 0.0, ValueError),
        ("params", (3, 3, 80, 13, 10), TypeError),
    ],
)
def test_options_out_of_range_are_refused(name: str, value: Any, error: type[Exception]) -> None:
    refused(error, f"expected {name}", **{name: value})


def test_bandwidths_must_fit_the_channels() -> None:
    params = dataclasses.replace(PARAMS, bilateral_srgb=(13.0, 13.0))
    refused(ValueError, r"srgb to be a number or 3 numbers, found \(13\.0, 13\.0\)", params=params)


def test_labels_need_no_gradient() -> None:
    labels = crf_refine(logits().requires_grad_(), image(), output="labels")
    assert torch.equal(labels, crf_refine(logits(), image(), output="labels"))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_tensors_that_require_grad_are_accepted_without_grad_mode(mode: Any) -> None:
    with mode():
        q = crf_refine(logits().requires_grad_(), image())
    assert not q.requires_grad
