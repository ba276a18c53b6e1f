"""Augmentation: picture and label stay together, padding is the mean colour and void."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

pytest.importorskip("kornia")

from deeplab.data import IGNORE, Sample
from deeplab.data.augment import Augmentation

CPU = torch.device("cpu")


def _sample(height: int = 40, width: int = 60) -> Sample:
    """A picture whose red channel is the label."""
    label = torch.randint(0, 20, (height, width))
    image = torch.stack([label * 12, torch.zeros_like(label), torch.zeros_like(label)])
    return Sample(image.to(torch.uint8), label, "noise")


def _identity(images: Tensor, full: float) -> Tensor:
    return images * 255.0 / full


def test_without_scaling_a_window_is_a_part_of_the_picture(device: torch.device) -> None:
    sample = _sample()
    image, label = Augmentation((16, 24), flip=False)(sample, 3, _identity, device)
    assert image.shape == (3, 16, 24)
    assert label.dtype == torch.int64
    torch.testing.assert_close(image[0].round(), label * 12.0)
    windows = sample.label.unfold(0, 16, 1).unfold(1, 24, 1).flatten(0, 1)
    assert (windows == label.cpu()).flatten(1).all(1).any()


def test_what_the_picture_does_not_fill_is_mean_coloured_and_void(device: torch.device) -> None:
    sample = Sample(torch.full((3, 10, 12), 200, dtype=torch.uint8), torch.ones(10, 12).long(), "")
    image, label = Augmentation((20, 30), flip=False)(sample, 0, _identity, device)
    assert (label == 1).sum() == 10 * 12
    assert (label == IGNORE).sum() == 20 * 30 - 10 * 12
    assert image[:, label == IGNORE].abs().max() < 0.01  # rounding of the grid
    torch.testing.assert_close(image[:, label == 1].cpu(), torch.full((3, 120), 200.0))


def test_flipping_mirrors_picture_and_label() -> None:
    sample = _sample()
    whole = Augmentation((40, 60), flip=True)
    seen = {whole(sample, seed, _identity, CPU)[1].numpy().tobytes() for seed in range(20)}
    assert seen == {x.contiguous().numpy().tobytes() for x in (sample.label, sample.label.flip(1))}
    for seed in range(4):
        image, label = whole(sample, seed, _identity, CPU)
        torch.testing.assert_close(image[0].round(), label * 12.0)


@pytest.mark.parametrize("scale", [0.5, 1.5, 2.0])
def test_scaling_keeps_picture_and_label_in_place(scale: float) -> None:
    """A vertical edge lies where the scale says, in both."""
    label = torch.zeros(40, 60, dtype=torch.int64)
    label[:, 20:] = 1
    sample = Sample((label * 240).to(torch.uint8).expand(3, -1, -1).clone(), label, "edge")
    crop = (round(40 * scale), round(60 * scale))
    image, scaled = Augmentation(crop, (scale, scale), flip=False)(sample, 1, _identity, CPU)
    assert (scaled == IGNORE).sum() == 0
    edge = round(20 * scale)
    assert scaled[:, :edge].eq(0).all()
    assert scaled[:, edge:].eq(1).all()
    inner = image[0, 2:-2]  # at the border of the picture it fades into the padding
    torch.testing.assert_close(inner[:, 2 : edge - 2], torch.zeros_like(inner[:, 2 : edge - 2]))
    rest = inner[:, edge + 2 : -2]
    torch.testing.assert_close(rest, torch.full_like(rest, 240.0))


def test_scales_keep_to_their_steps() -> None:
    augmentation = Augmentation((8, 8), (0.5, 1.5), scale_step=0.25)
    import numpy as np

    rng = np.random.default_rng(0)
    drawn = {augmentation._scale(rng) for _ in range(200)}
    assert drawn == {0.5, 0.75, 1.0, 1.25, 1.5}
    uneven = dataclasses.replace(augmentation, scale_step=0.4)
    assert {round(uneven._scale(rng), 6) for _ in range(200)} == {0.5, 0.9, 1.3}
    between = dataclasses.replace(augmentation, scale_step=0.0)
    assert all(0.5 <= between._scale(rng) <= 1.5 for _ in range(50))


def test_equal_seeds_draw_equal_windows() -> None:
    augmentation = Augmentation((16, 16), (0.5, 2.0), color_jitter=0.3)
    sample = _sample()
    first, again = (augmentation(sample, 7, _identity, CPU) for _ in range(2))
    other = augmentation(sample, 8, _identity, CPU)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])


def test_jitter_changes_colours_but_no_label_and_no_sample() -> None:
    sample = _sample()
    before = sample.image.clone()
    plain = Augmentation((40, 60), flip=False)
    jittered = dataclasses.replace(plain, color_jitter=0.5)
    a, label_a = plain(sample, 5, _identity, CPU)
    b, label_b = jittered(sample, 5, _identity, CPU)
    assert torch.equal(label_a, label_b)
    assert not torch.allclose(a, b, atol=1)
    assert torch.equal(sample.image, before)
    assert b.min() >= 0
    assert b.max() <= 255
