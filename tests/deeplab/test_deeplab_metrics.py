"""Confusion matrices and the scores read off them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deeplab.metrics import ConfusionMatrix


def by_hand(predictions: Tensor, labels: Tensor, classes: int, ignore: int) -> list[float]:
    """Intersection over union of every class, pixel by pixel."""
    result = []
    pairs = [
        (p, t)
        for p, t in zip(predictions.flatten().tolist(), labels.flatten().tolist(), strict=True)
        if t != ignore
    ]
    for c in range(classes):
        both = sum(p == c and t == c for p, t in pairs)
        either = sum(p == c or t == c for p, t in pairs)
        result.append(both / either if either else math.nan)
    return result


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 5), st.integers(1, 60), st.integers(0, 2**31))
def test_iou_is_that_of_counting_pixel_by_pixel(classes: int, pixels: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    predictions = torch.randint(classes, (pixels,), generator=g)
    labels = torch.randint(classes, (pixels,), generator=g)
    labels[torch.rand(pixels, generator=g) < 0.2] = 255
    matrix = ConfusionMatrix(classes)
    matrix.update(predictions, labels)
    expected = torch.tensor(by_hand(predictions, labels, classes, 255), dtype=torch.float64)
    torch.testing.assert_close(matrix.scores().iou, expected, equal_nan=True)


def test_the_four_scores_of_a_small_example() -> None:
    #            predicted 0  1
    # label 0:             3  1
    # label 1:             2  4
    matrix = ConfusionMatrix(2)
    matrix.update(
        torch.tensor([0, 0, 0, 1, 0, 0, 1, 1, 1, 1]), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
    )
    assert matrix.counts().tolist() == [[[3, 1], [2, 4]]]
    scores = matrix.scores()
    assert scores.pixel_accuracy == pytest.approx(7 / 10)
    assert scores.class_accuracy.tolist() == pytest.approx([3 / 4, 4 / 6])
    assert scores.mean_class_accuracy == pytest.approx((3 / 4 + 4 / 6) / 2)
    assert scores.iou.tolist() == pytest.approx([3 / 6, 4 / 7])
    assert scores.mean_iou == pytest.approx((3 / 6 + 4 / 7) / 2)
    assert scores.weighted_iou == pytest.approx(0.4 * 3 / 6 + 0.6 * 4 / 7)
    assert scores.pixels == 10


def test_pictures_are_accumulated_before_the_ratio_is_taken() -> None:
    matrix = ConfusionMatrix(2)
    matrix.update(torch.tensor([0, 0, 0, 0]), torch.tensor([0, 0, 0, 1]))
    matrix.update(torch.tensor([1]), torch.tensor([1]))
    assert matrix.scores().iou.tolist() == [3 / 4, 1 / 2]
    assert matrix.scores().pixel_accuracy == 4 / 5  # by picture: 7/8


def test_ignored_pixels_do_not_count_whatever_is_predicted() -> None:
    matrix = ConfusionMatrix(3, ignore_index=11)
    matrix.update(torch.tensor([[0, 1], [2, 77]]), torch.tensor([[0, 11], [11, 11]]))
    assert matrix.scores().pixels == 1
    assert matrix.scores().mean_iou == 1


def test_a_class_in_neither_labels_nor_predictions_is_left_out_of_the_mean() -> None:
    matrix = ConfusionMatrix(3)
    matrix.update(torch.tensor([0, 1]), torch.tensor([0, 1]))
    assert matrix.scores().mean_iou == 1
    assert math.isnan(matrix.scores().iou[2])


def test_a_class_that_is_only_predicted_counts_as_zero() -> None:
    matrix = ConfusionMatrix(3)
    matrix.update(torch.tensor([0, 2]), torch.tensor([0, 0]))
    assert matrix.scores().iou.tolist()[2] == 0
    assert math.isnan(matrix.scores().class_accuracy[2])


def test_labels_outside_the_classes_are_reported_with_their_number() -> None:
    matrix = ConfusionMatrix(3)
    matrix.update(torch.tensor([0, 0, 0]), torch.tensor([0, 3, -1]))
    message = r"labels in \[0, 3\) or 255 \(ignored\), found others at 2 pixels"
    with pytest.raises(ValueError, match=message):
        matrix.scores()


def test_predictions_outside_the_classes_are_reported() -> None:
    matrix = ConfusionMatrix(3)
    matrix.update(torch.tensor([5, 0]), torch.tensor([0, 0]))
    with pytest.raises(ValueError, match=r"predictions in \[0, 3\), found others at 1 pixels"):
        matrix.counts()


def test_groups_are_counted_apart_and_unknown_groups_not_at_all() -> None:
    matrix = ConfusionMatrix(2, groups=2)
    matrix.update(
        torch.tensor([0, 1, 1, 0]), torch.tensor([0, 0, 1, 0]), torch.tensor([0, 1, 1, 2])
    )
    assert matrix.counts().tolist() == [[[1, 0], [0, 0]], [[0, 1], [0, 1]]]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_every_integer_type_is_counted(dtype: torch.dtype) -> None:
    matrix = ConfusionMatrix(20)
    labels = torch.arange(20, dtype=dtype)
    matrix.update(labels, labels)
    assert matrix.scores().mean_iou == 1


def test_the_tensors_of_the_caller_stay_as_they_are() -> None:
    predictions, labels = torch.tensor([0, 1, 1]), torch.tensor([255, 1, 0])
    ConfusionMatrix(2).update(predictions, labels)
    assert predictions.tolist() == [0, 1, 1]
    assert labels.tolist() == [255, 1, 0]


def test_what_does_not_fit_is_refused() -> None:
    matrix = ConfusionMatrix(2)
    with pytest.raises(ValueError, match=r"of one shape, found \[2\] and \[3\]"):
        matrix.update(torch.zeros(2, dtype=torch.long), torch.zeros(3, dtype=torch.long))
    with pytest.raises(TypeError, match=r"labels to be integers, found torch\.float32"):
        matrix.update(torch.zeros(2, dtype=torch.long), torch.zeros(2))
    with pytest.raises(ValueError, match="at least 1"):
        ConfusionMatrix(0)
