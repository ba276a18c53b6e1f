"""Edges: small pictures, single batches, memory layouts, compilation, export, input ranges."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

import deeplab
from deeplab.layers import BatchNorm2d, CeilMaxPool2d


def small(name: str = "deeplabv3plus_mobilenetv2", **options: object) -> deeplab.DeepLab:
    return deeplab.build(name, num_classes=3, **options).eval()


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (33, 33)])
@pytest.mark.parametrize("variant", ["paper", "tensorflow"])
def test_a_batch_of_one_trains_at_any_size(size: tuple[int, int], variant: str) -> None:
    model = small(variant=variant).train()
    pool = model.aspp.image_pool.bn
    before = pool.running_mean.clone()
    model(torch.randn(1, 3, *size)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert torch.equal(pool.running_mean, before)  # one value has no statistics


def test_a_single_value_is_normalised_with_the_running_statistics() -> None:
    bn = BatchNorm2d(4)
    nn.init.uniform_(bn.running_mean)
    x = torch.randn(1, 4, 1, 1)
    trained = bn(x)
    assert bn.num_batches_tracked == 0
    assert torch.equal(trained, bn.eval()(x))


@pytest.mark.parametrize("stride", [1, 2])
def test_pools_round_up_as_caffes_do(stride: int) -> None:
    reference = nn.MaxPool2d(3, stride, padding=1, ceil_mode=True)
    for size in ((1, 1), (1, 2), (2, 3), (7, 8), (9, 6)):
        x = torch.randn(1, 2, *size).relu()
        assert torch.equal(CeilMaxPool2d(stride)(x), reference(x))


def test_two_values_are_normalised_as_usual() -> None:
    ours, torchs = BatchNorm2d(4), nn.BatchNorm2d(4)
    x = torch.randn(2, 4, 1, 1)
    assert torch.equal(ours(x), torchs(x))
    assert torch.equal(ours.running_var, torchs.running_var)


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (31, 17)])
@pytest.mark.parametrize("name", ["deeplabv2_resnet101", "deeplabv3plus_xception65"])
def test_scores_are_finite_at_any_size(name: str, size: tuple[int, int]) -> None:
    options = {"backbone": "resnet50"} if name == "deeplabv2_resnet101" else {}
    with torch.no_grad():
        assert small(name, **options)(torch.randn(1, 3, *size)).isfinite().all()


def test_vainfs_mobilenet_says_the_smallest_image() -> None:
    model = small(variant="vainf")
    assert model(torch.randn(1, 3, 3, 3)).shape == (1, 3, 3, 3)
    with pytest.raises(ValueError, match="3×3 pixels or more, found 2×9"):
        model(torch.randn(1, 3, 2, 9))


def test_switching_the_output_stride_keeps_the_weights() -> None:
    model = small("deeplabv3plus_resnet50")
    state = {name: (t, t.clone()) for name, t in model.state_dict(keep_vars=True).items()}
    images = torch.randn(1, 3, 65, 65)
    with torch.no_grad():
        before = model(images)
        model.set_output_stride(8)
        assert model.output_stride == model.config.output_stride == 8
        assert model.backbone(images).high.shape[2:] == (9, 9)
        dense = model(images)
        model.set_output_stride(16)
        assert torch.equal(model(images), before)
    assert not torch.equal(dense, before)
    for name, tensor in model.state_dict(keep_vars=True).items():
        assert tensor is state[name][0]
        assert torch.equal(tensor, state[name][1])


def test_images_and_batch_are_left_alone() -> None:
    model = small()
    images = torch.randn(3, 3, 33, 33)
    copied = images.clone()
    with torch.no_grad():
        together = model(images)
        each = torch.cat([model(image[None]) for image in images])
    assert torch.equal(images, copied)
    torch.testing.assert_close(together, each, rtol=1e-4, atol=1e-5)


def test_channels_last_changes_nothing_but_the_layout() -> None:
    model, images = small(), torch.randn(2, 3, 33, 65)
    with torch.no_grad():
        expected = model(images)
        other = copy.deepcopy(model).to(memory_format=torch.channels_last)
        scores = other(images.contiguous(memory_format=torch.channels_last))
        high = other.backbone(images.contiguous(memory_format=torch.channels_last)).high
    assert high.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)


def test_bfloat16_networks_give_bfloat16_scores() -> None:
    with torch.no_grad():
        scores = small().bfloat16()(torch.randn(1, 3, 33, 33, dtype=torch.bfloat16))
    assert scores.dtype == torch.bfloat16
    assert scores.isfinite().all()


CASES = [
    pytest.param("deeplabv3plus_mobilenetv2", {}, id="v3plus"),
    pytest.param(
        "deeplabv3_mobilenetv2_no_aspp",
        {"variant": "tensorflow"},
        id="TensorFlow's",
        marks=pytest.mark.slow,
    ),
    pytest.param("deeplabv3_mobilenetv3_large", {}, id="MobileNetV3", marks=pytest.mark.slow),
    pytest.param("deeplabv3plus_xception", {}, id="Xception", marks=pytest.mark.slow),
    pytest.param("deeplabv1_vgg16", {"fov_hidden": 16}, id="v1"),
    pytest.param("deeplabv2_resnet101", {"backbone": "resnet50"}, id="v2", marks=pytest.mark.slow),
    pytest.param(
        "deeplabv2_resnet101",
        {"backbone": "resnet50", "align_corners": False},
        id="v2 without aligned corners",
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_network_compiles_to_one_graph(name: str, options: dict[str, object]) -> None:
    torch.compiler.reset()
    model = small(name, **options)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    images = torch.randn(1, 3, 33, 49)
    with torch.no_grad():
        assert torch.equal(compiled(images), model(images))
        model.set_output_stride(24 - model.output_stride)  # 8 and 16
        assert torch.equal(compiled(images), model(images))


@pytest.mark.slow
def test_training_compiles_to_one_graph() -> None:
    torch.compiler.reset()
    model = small(dropout=0.0).double().train()  # dropout draws other numbers where it is traced
    reference = copy.deepcopy(model)
    images = torch.randn(2, 3, 33, 33, dtype=torch.float64)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    compiled(images).square().mean().backward()
    reference(images).square().mean().backward()
    # Some gradients are zero but for rounding: the limit is that of the largest.
    limit = 1e-10 * max(p.grad.abs().max().item() for p in reference.parameters())
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-8, atol=limit)
    for ours, theirs in zip(model.buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_an_exported_network_takes_other_sizes(name: str, options: dict[str, object]) -> None:
    model = small(name, **options)
    sides = {2: torch.export.Dim("height", min=17), 3: torch.export.Dim("width", min=17)}
    program = torch.export.export(
        model, (torch.randn(1, 3, 65, 97),), dynamic_shapes={"images": sides}, strict=False
    ).module()
    with torch.no_grad():
        for size in ((65, 97), (50, 33), (129, 18)):
            images = torch.randn(1, 3, *size)
            torch.testing.assert_close(program(images), model(images), rtol=1e-4, atol=1e-5)


_V3PLUS = "deeplabv3plus_mobilenetv2"
_TWO = {"scales": (1.0, 0.5)}
# The smallest side that an exported network takes: one more than the stride at the smallest scale,
# and a pixel more where half a picture's size rounds down.
SMALLEST = [
    pytest.param("deeplabv1_vgg16", {"fov_hidden": 16}, 9, id="v1"),
    pytest.param(_V3PLUS, {"output_stride": 8}, 9, id="v3plus", marks=pytest.mark.slow),
    pytest.param(_V3PLUS, _TWO, 33, id="two scales", marks=pytest.mark.slow),
    pytest.param(
        _V3PLUS,
        {**_TWO, "align_corners": False},
        34,
        id="two scales without aligned corners",
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize(("name", "options", "least"), SMALLEST)
def test_an_exported_network_takes_every_size_above_its_output_stride_and_no_smaller(
    name: str, options: dict[str, object], least: int
) -> None:
    model = small(name, **options)
    sides = {2: torch.export.Dim("height", min=least), 3: torch.export.Dim("width", min=least)}
    program = torch.export.export(
        model, (torch.randn(1, 3, 65, 97),), dynamic_shapes={"images": sides}, strict=False
    ).module()
    with torch.no_grad():
        for size in ((least, least), (least + 1, 41)):
            images = torch.randn(1, 3, *size)
            torch.testing.assert_close(program(images), model(images), rtol=1e-4, atol=1e-5)
        with pytest.raises(AssertionError, match=rf"images\.size\(\)\[2\] >= {least}"):
            program(torch.randn(1, 3, least - 1, least))


FAMILIES = {
    "v1": ("deeplabv1_vgg16", {"fov_hidden": 16}),
    "v2, VGG-16": ("deeplabv2_vgg16_aspp_l", {"fov_hidden": 16}),
    "v2, three scales": ("deeplabv2_resnet101", {"backbone": "resnet50"}),
    "v3": ("deeplabv3_resnet50", {"aspp_channels": 16}),
    "v3, cascade": ("deeplabv3_cascade_resnet50", {}),
    "v3+, MobileNetV2": ("deeplabv3plus_mobilenetv2", {"aspp_channels": 16}),
    "v3+, Xception": ("deeplabv3plus_xception65", {"aspp_channels": 16}),
    "v3, MobileNetV3": ("deeplabv3_mobilenetv3_large", {}),
    "TensorFlow's": ("deeplabv3_mobilenetv2_no_aspp", {"variant": "tensorflow"}),
    "v3, Chollet's Xception": ("deeplabv3_xception", {"aspp_channels": 16}),
}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        # The quickest is exported in every run; the others take up to a minute each.
        pytest.param(*case, id=label, marks=() if label == "v1" else pytest.mark.slow)
        for label, case in FAMILIES.items()
    ],
)
def test_an_onnx_file_takes_other_sizes(
    name: str, options: dict[str, object], tmp_path: Path
) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="torch exports to ONNX through onnxscript")
    model = small(name, **options)
    dims = {
        0: torch.export.Dim("batch"),
        2: torch.export.Dim("height", min=17),
        3: torch.export.Dim("width", min=17),
    }
    path = tmp_path / "model.onnx"
    program = torch.onnx.export(
        model, (torch.randn(2, 3, 65, 97),), dynamo=True, dynamic_shapes={"images": dims},
        input_names=["images"], output_names=["scores"], verbose=False,
    )  # fmt: skip
    program.save(path)
    session = runtime.InferenceSession(str(path))
    for shape in ((2, 3, 65, 97), (1, 3, 50, 33), (3, 3, 18, 81)):
        images = torch.randn(shape)
        (scores,) = session.run(None, {"images": images.numpy()})
        with torch.no_grad():
            expected = model(images)
        limit = 1e-4 * max(1.0, expected.abs().max().item())
        torch.testing.assert_close(torch.from_numpy(scores), expected, rtol=1e-3, atol=limit)


@pytest.mark.slow
def test_a_compiled_network_is_compiled_once_for_all_sizes() -> None:
    torch.compiler.reset()
    model, counter = small(), CompileCounter()
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    with torch.no_grad():
        for size in ((33, 49), (65, 33), (50, 81), (129, 18), (40, 40)):
            images = torch.randn(1, 3, *size)
            torch.testing.assert_close(compiled(images), model(images))
    assert counter.frame_count <= 2  # for the first size, and then for any


@pytest.mark.parametrize(("name", "options", "least"), SMALLEST)
def test_a_compiled_network_takes_pictures_down_to_a_single_pixel(
    name: str, options: dict[str, object], least: int
) -> None:
    torch.compiler.reset()
    model = small(name, **options)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        for size in ((33, 49), (least - 2, 20), (1, 1)):
            images = torch.randn(1, 3, *size)
            torch.testing.assert_close(compiled(images), model(images))


@pytest.mark.parametrize("scheme", ["imagenet", "caffe", "symmetric"])
def test_normalisation_takes_bytes_and_both_float_ranges(scheme: str) -> None:
    images = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    expected = deeplab.normalize(images, scheme)
    for floats, full in ((images.float(), 255.0), (images.double() / 255, 1.0)):
        found = deeplab.normalize(floats, scheme, full)
        assert found.dtype == floats.dtype
        torch.testing.assert_close(found.float(), expected, rtol=1e-5, atol=1e-4)


def test_normalisations_are_those_of_the_families() -> None:
    red = torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None]
    imagenet = deeplab.normalize(red, "imagenet").flatten()
    expected = torch.tensor([(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225])
    torch.testing.assert_close(imagenet, expected, rtol=1e-5, atol=1e-5)
    caffe = deeplab.normalize(red, "caffe").flatten()
    torch.testing.assert_close(caffe, torch.tensor([-104.008, -116.669, 255 - 122.675]))
    assert deeplab.normalize(red, "symmetric").flatten().tolist() == [1, -1, -1]


def test_a_floating_picture_must_say_its_range() -> None:
    with pytest.raises(ValueError, match=r"need full=1.0 or full=255.0"):
        deeplab.normalize(torch.rand(3, 4, 4), "imagenet")
    with pytest.raises(ValueError, match="found 'rgb'"):
        deeplab.normalize(torch.zeros(3, 4, 4, dtype=torch.uint8), "rgb")
    with pytest.raises(ValueError, match=r"found \[4, 4, 3\]"):
        deeplab.normalize(torch.zeros(4, 4, 3, dtype=torch.uint8), "caffe")
    with pytest.raises(TypeError, match=r"found torch.int64"):
        deeplab.normalize(torch.zeros(3, 4, 4, dtype=torch.int64), "caffe")
