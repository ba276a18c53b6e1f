"""Scores of pictures: scales, flips, sliding windows, and the CRF behind them."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from deeplab_networks import picture, tiny_network
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import deeplab
from deeplab.segmenter import CRF, Segmenter
from deeplab.tiles import window_starts, windows
from densecrf_gpu import CRFParams, crf_refine


class Pointwise(nn.Module):
    """Scores that depend on the pixel alone, with a gradient across the picture or not."""

    def forward(self, images: Tensor) -> Tensor:
        red, green, blue = (images / 64).unbind(1)
        return torch.stack([red, green - blue, 2 - blue], 1)


@given(st.integers(1, 300), st.integers(1, 100))
def test_windows_cover_an_axis_evenly_and_overlap_by_a_third(size: int, window: int) -> None:
    starts = window_starts(size, window)
    length = min(size, window)
    assert starts[0] == 0
    assert starts[-1] + length == size
    steps = [b - a for a, b in pairwise(starts)]
    assert all(0 < step <= max(1, window * 2 / 3) for step in steps)
    assert not steps or max(steps) - min(steps) <= 1


def test_windows_are_no_larger_than_the_picture() -> None:
    assert list(windows((20, 30), (50, 50))) == [(slice(0, 20), slice(0, 30))]


def test_one_pass_gives_the_networks_own_scores() -> None:
    network = tiny_network().eval()
    images = picture(37, 50)
    with torch.no_grad():
        expected = network(network.normalize(images))
    assert torch.equal(Segmenter(network).scores(images), expected)


def test_a_window_as_large_as_the_picture_changes_no_bit() -> None:
    network = tiny_network()
    images = picture(40, 40)
    whole = Segmenter(network).scores(images)
    assert torch.equal(Segmenter(network, window=(40, 40)).scores(images), whole)
    assert torch.equal(Segmenter(network, window=(64, 41)).scores(images), whole)


def test_windows_give_the_whole_picture_where_the_network_sees_single_pixels() -> None:
    images = picture(50, 70)
    whole = Segmenter(Pointwise()).probabilities(images)
    tiled = Segmenter(Pointwise(), window=(24, 31)).probabilities(images)
    torch.testing.assert_close(tiled, whole)


def test_windows_average_the_probabilities_where_they_overlap() -> None:
    class Position(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            column = torch.arange(images.shape[3], dtype=torch.float32).expand(images.shape[2], -1)
            return torch.stack([column, torch.zeros_like(column)])[None]

    found = Segmenter(Position(), window=(1, 3)).probabilities(picture(1, 5))[0, 0, 0]
    p = [1 / (1 + math.exp(-x)) for x in range(3)]  # windows at 0 and 2
    torch.testing.assert_close(found, torch.tensor([p[0], p[1], (p[2] + p[0]) / 2, p[1], p[2]]))


def test_scales_and_flips_average_probabilities_at_the_pictures_size() -> None:
    network = tiny_network(align_corners=False).eval()
    images = picture(48, 64)
    pictures = images.float()
    total = torch.zeros(1, 3, 48, 64)
    with torch.no_grad():
        for size in ((24, 32), (48, 64), (72, 96)):
            scaled = F.interpolate(pictures, size=size, mode="bilinear", align_corners=False)
            for mirrored in (False, True):
                x = scaled.flip(3) if mirrored else scaled
                scores = network(network.normalize(x, full=255.0))
                scores = F.interpolate(scores, size=(48, 64), mode="bilinear", align_corners=False)
                total += (scores.flip(3) if mirrored else scores).softmax(1)
    segmenter = Segmenter(network, scales=(0.5, 1.0, 1.5), flip=True)
    torch.testing.assert_close(segmenter.scores(images), (total / 6).log(), atol=1e-5, rtol=1e-4)


def test_a_flipped_picture_has_flipped_probabilities() -> None:
    segmenter = Segmenter(tiny_network(), flip=True)
    images = picture(33, 47)
    torch.testing.assert_close(
        segmenter.probabilities(images.flip(3)).flip(3), segmenter.probabilities(images)
    )


def test_aligned_corners_scale_321_to_241() -> None:
    seen: list[tuple[int, ...]] = []

    class Sizes(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(tuple(images.shape[2:]))
            return images

    Segmenter(Sizes(), scales=(0.75, 0.5, 1.0), align_corners=True).scores(picture(321, 161))
    assert seen == [(241, 121), (161, 81), (321, 161)]


def test_pictures_are_scaled_as_the_networks_of_several_scales_do() -> None:
    seen: list[Tensor] = []

    def network(images: Tensor) -> Tensor:
        seen.append(images)
        return images

    images = picture(47, 33)
    for align in (False, True):
        Segmenter(network, scales=(0.75,), align_corners=align).scores(images)
    pictures = images.float()
    assert torch.equal(seen[0], F.interpolate(pictures, scale_factor=0.75, mode="bilinear"))
    aligned = F.interpolate(pictures, size=(35, 25), mode="bilinear", align_corners=True)
    assert torch.equal(seen[1], aligned)


def test_scores_at_a_stride_are_enlarged() -> None:
    def coarse(images: Tensor) -> Tensor:
        return images[:, :, ::8, ::8]

    found = Segmenter(coarse).scores(picture(32, 40))
    expected = F.interpolate(
        picture(32, 40).float()[:, :, ::8, ::8], size=(32, 40), mode="bilinear"
    )
    torch.testing.assert_close(found, expected)


def test_a_single_pixel_has_scores_at_every_scale() -> None:
    segmenter = Segmenter(tiny_network(), scales=(0.5, 1.0), flip=True)
    assert segmenter.scores(picture(1, 1)).shape == (1, 3, 1, 1)


def test_the_crf_sees_the_picture_and_the_networks_scores() -> None:
    network = tiny_network()
    images = picture(30, 40, batch=2)
    crf = CRF(params=CRFParams.deeplab_v2_vgg(), iterations=3, normalization="after")
    segmenter = Segmenter(network)
    expected = crf_refine(
        segmenter.scores(images),
        images,
        CRFParams.deeplab_v2_vgg(),
        iterations=3,
        normalization="after",
        output="labels",
    )
    assert torch.equal(segmenter.labels(images, crf), expected)
    probabilities = segmenter.probabilities(images, crf)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(2, 30, 40))


def test_half_precision_is_close() -> None:
    network = tiny_network()
    images = picture(48, 48)
    single = Segmenter(network).probabilities(images)
    half = Segmenter(network, autocast=torch.bfloat16).probabilities(images)
    assert half.dtype == torch.float32
    assert (half - single).abs().max() < 0.02
    assert not torch.equal(half, single)


def test_the_network_is_put_into_evaluation_mode() -> None:
    network = tiny_network().train()
    Segmenter(network)
    assert not network.training


def test_what_does_not_fit_is_refused() -> None:
    segmenter = Segmenter(Pointwise())
    with pytest.raises(TypeError, match=r"uint8 tensor, found torch\.float32"):
        segmenter.scores(torch.rand(1, 3, 4, 4))
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\], found \[3, 4, 4\]"):
        segmenter.scores(torch.zeros(3, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match="scales to be positive"):
        Segmenter(Pointwise(), scales=(1.0, 0.0))
    with pytest.raises(ValueError, match="window of at least 1 pixel, found 0"):
        Segmenter(Pointwise(), window=(0, 5)).scores(picture(4, 9))


@pytest.mark.parametrize("name", ["deeplabv3plus_mobilenetv2", "deeplabv1_vgg16"])
def test_compact_scores_are_small_and_enlarge_to_the_scores(name: str) -> None:
    options = {"aspp_channels": 16} if "plus" in name else {"fov_hidden": 16}
    segmenter = Segmenter(deeplab.build(name, num_classes=3, **options))
    images = picture(65, 49)
    compact = segmenter.compact_scores(images)
    assert compact.shape[2] < 20
    assert torch.equal(segmenter.enlarge(compact, (65, 49)), segmenter.scores(images))
    averaging = Segmenter(segmenter._network, flip=True)
    assert torch.equal(averaging.compact_scores(images), averaging.scores(images))
