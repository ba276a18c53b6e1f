"""Trimap scores: distances, bands, and what is counted in them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from deeplab.metrics import ConfusionMatrix
from deeplab.trimap import TrimapMatrix, outline_pixels, squared_distance


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 24), st.integers(1, 24), st.integers(1, 9), st.integers(0, 2**31))
def test_distances_are_scipys_up_to_their_reach(
    height: int, width: int, reach: int, seed: int
) -> None:
    g = torch.Generator().manual_seed(seed)
    source = torch.rand(1, height, width, generator=g) < 0.03
    found = squared_distance(source, reach)[0]
    if not source.any():
        assert (found > reach**2).all()
        return
    exact = torch.from_numpy(ndimage.distance_transform_edt(~source[0].numpy())).square().round()
    near = exact <= reach**2
    torch.testing.assert_close(found[near].double(), exact[near])
    assert (found[~near] > reach**2).all()


def test_the_pictures_of_a_batch_do_not_see_each_other() -> None:
    g = torch.Generator().manual_seed(0)
    source = torch.rand(3, 20, 30, generator=g) < 0.02
    together = squared_distance(source, 6)
    alone = torch.cat([squared_distance(one[None], 6) for one in source])
    assert torch.equal(together, alone)


def test_a_band_holds_the_pixels_within_its_width_of_the_void() -> None:
    labels = torch.zeros(1, 1, 9, dtype=torch.long)
    labels[0, 0, 4] = 255
    assert TrimapMatrix(2, [1, 3]).rings(labels).tolist() == [[[2, 1, 1, 0, 0, 0, 1, 1, 2]]]


def test_an_outline_runs_between_classes_and_not_along_void() -> None:
    labels = torch.tensor([[[0, 0, 1], [0, 0, 1], [255, 255, 1]]])
    expected = [[[False, True, False], [False, True, False], [False, False, False]]]
    assert outline_pixels(labels, 255).tolist() == expected


def test_bands_are_scored_as_masks_by_hand() -> None:
    g = torch.Generator().manual_seed(1)
    labels = torch.zeros(2, 40, 50, dtype=torch.long)
    labels[:, 10:30, 12:35] = 1
    labels[:, 9:11, 12:35] = 255
    predictions = torch.randint(2, labels.shape, generator=g)
    trimap = TrimapMatrix(2, [1, 2, 5])
    for picture in range(2):
        trimap.update(predictions[picture][None], labels[picture][None])
    for width, found in zip(trimap.widths, trimap.scores(), strict=True):
        band = torch.stack(
            [
                torch.from_numpy(ndimage.distance_transform_edt((one != 255).numpy())) <= width
                for one in labels
            ]
        )
        matrix = ConfusionMatrix(2)
        matrix.update(predictions, labels.where(band, 255))
        assert found.mean_iou == matrix.scores().mean_iou
        assert found.pixels == matrix.scores().pixels > 0


def test_a_wide_band_around_everything_is_the_whole_picture() -> None:
    g = torch.Generator().manual_seed(2)
    labels = torch.randint(3, (1, 12, 12), generator=g)
    predictions = torch.randint(3, (1, 12, 12), generator=g)
    trimap = TrimapMatrix(3, [40], outline="labels")
    trimap.update(predictions, labels)
    whole = ConfusionMatrix(3)
    whole.update(predictions, labels)
    assert trimap.scores()[0].mean_iou == whole.scores().mean_iou


def test_a_prediction_off_by_a_pixel_is_worst_in_the_narrowest_band() -> None:
    labels = torch.zeros(1, 60, 60, dtype=torch.long)
    labels[:, 20:40, 20:40] = 1
    trimap = TrimapMatrix(2, [1, 2, 4, 8, 16], outline="labels")
    trimap.update(labels.roll(1, 2), labels)
    scores = [band.mean_iou for band in trimap.scores()]
    assert scores == sorted(scores)
    assert scores[0] < 0.75 < 0.9 < scores[-1]


@pytest.mark.parametrize("widths", [[], [0, 1], [2, 1], [1, 1]])
def test_widths_must_be_positive_and_ascending(widths: list[int]) -> None:
    with pytest.raises(ValueError, match="positive and ascending"):
        TrimapMatrix(2, widths)
