"""What holds of every network by name: any size, any layout, half precision, training of one."""

from __future__ import annotations

import pytest
import torch

import deeplab

# The others take seconds to draw their weights.
NETWORKS = [
    pytest.param(name, marks=() if "mobilenet" in name else pytest.mark.slow)
    for name in deeplab.MODELS
]
SIZES = ((1, 1), (2, 5), (31, 17))


def _narrow(name: str, **options: object) -> deeplab.DeepLab:
    """With few channels behind the backbone."""
    head = deeplab.model_config(name)
    if head.fov_hidden:
        options["fov_hidden"] = 8
    elif head.head in ("aspp", "decoder"):
        options["aspp_channels"] = 8
    return deeplab.build(name, num_classes=3, **options)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_takes_any_size_and_trains_on_a_single_picture(name: str) -> None:
    model = _narrow(name)
    for size in SIZES:
        images = torch.randn(1, 3, *size)
        with torch.no_grad():
            scores = model.eval()(images)
        assert scores.shape == (1, 3, *size)
        assert scores.isfinite().all()
        maps = model.train()(images, training_maps=True)
        torch.stack([m.square().mean() for m in maps]).sum().backward()
        for parameter in model.parameters():
            assert parameter.grad is not None
            assert parameter.grad.isfinite().all()
        model.zero_grad()


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_gives_the_same_in_other_layouts_and_nearly_so_in_bfloat16(
    name: str,
) -> None:
    model = _narrow(name).eval()
    images = torch.randn(2, 3, 33, 49)
    with torch.no_grad():
        expected = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            half = model(images)
        model.to(memory_format=torch.channels_last)
        last = model(images.contiguous(memory_format=torch.channels_last))
    scale = expected.abs().max().item()
    torch.testing.assert_close(last, expected, rtol=0, atol=1e-4 * scale)
    torch.testing.assert_close(half.float(), expected, rtol=0, atol=0.1 * scale)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_has_one_set_of_weights_for_all_output_strides(name: str) -> None:
    if deeplab.model_config(name).rates_at == 0:
        pytest.skip("its rates stay, its output stride changes them not")
    model = _narrow(name).eval()
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    images = torch.randn(1, 3, 33, 65)
    with torch.no_grad():
        before = model(images)
        first = model.output_stride
        for stride in (8, 16):
            model.set_output_stride(stride)
            high = model.backbone(images).high
            assert high.shape[2:] == (32 // stride + 1, 64 // stride + 1)
            assert model(images).shape == before.shape
        model.set_output_stride(first)
        assert torch.equal(model(images), before)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[key])
