"""Logits from label maps and from probabilities, against pydensecrf's energies."""

from __future__ import annotations

import math

import pytest
import torch

from densecrf_gpu import logits_from_labels, logits_from_probabilities

LABELS = torch.tensor([[0, 1, 2], [255, 2, 0]])


def test_given_label_has_gt_prob_and_the_others_share_the_rest(device: torch.device) -> None:
    probabilities = logits_from_labels(LABELS.to(device), 3, gt_prob=0.7).exp()
    assert probabilities[:, 0, 1].tolist() == pytest.approx([0.15, 0.7, 0.15])


def test_unknown_pixels_are_uniform(device: torch.device) -> None:
    probabilities = logits_from_labels(LABELS.to(device), 3).exp()
    assert probabilities[:, 1, 0].tolist() == pytest.approx([1 / 3] * 3)


def test_unknown_may_be_negative() -> None:
    labels = LABELS.masked_fill(LABELS == 255, -1)
    assert torch.equal(
        logits_from_labels(labels, 3, ignore_index=-1), logits_from_labels(LABELS, 3)
    )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_all_integer_dtypes_give_the_same_logits(dtype: torch.dtype) -> None:
    assert torch.equal(logits_from_labels(LABELS.to(dtype), 3), logits_from_labels(LABELS, 3))


def test_batch_of_labels_equals_each_alone() -> None:
    batch = torch.stack([LABELS, LABELS.flip(0)])
    expected = torch.stack([logits_from_labels(labels, 3) for labels in batch])
    assert torch.equal(logits_from_labels(batch, 3), expected)


def test_labels_are_left_as_they_were() -> None:
    labels = LABELS.clone()
    logits_from_labels(labels, 3)
    assert torch.equal(labels, LABELS)


def test_label_logits_are_the_negated_energies_of_pydensecrf() -> None:
    utils = pytest.importorskip("pydensecrf.utils")
    shifted = (LABELS + 1).masked_fill(LABELS == 255, 0)
    energy = utils.unary_from_labels(shifted.numpy(), 3, gt_prob=0.6, zero_unsure=True)
    logits = logits_from_labels(LABELS, 3, gt_prob=0.6)
    torch.testing.assert_close(logits.reshape(3, -1), -torch.from_numpy(energy), rtol=1e-7, atol=0)


@pytest.mark.parametrize("scale", [None, 0.5, 1.0])
def test_probability_logits_are_the_negated_energies_of_pydensecrf(scale: float | None) -> None:
    utils = pytest.importorskip("pydensecrf.utils")
    p = torch.rand(4, 5, 6).softmax(dim=0)
    p[:, 0, 0] = torch.tensor([0.0, 1.0, 0.0, 0.0])
    energy = torch.from_numpy(utils.unary_from_softmax(p.numpy(), scale=scale))
    logits = logits_from_probabilities(p, scale=scale)
    torch.testing.assert_close(logits.reshape(4, -1), -energy, rtol=1e-6, atol=1e-6)


def test_probabilities_are_clipped_from_below() -> None:
    logits = logits_from_probabilities(torch.tensor([0.0, 1.0]).reshape(2, 1, 1))
    assert logits.flatten().tolist() == pytest.approx([math.log(1e-5), 0.0])


def test_half_probabilities_become_float32_logits() -> None:
    assert logits_from_probabilities(torch.full((2, 1, 1), 0.5).half()).dtype == torch.float32


def test_label_out_of_range_is_named_with_its_index() -> None:
    labels = LABELS.clone()
    labels[1, 2] = 7
    with pytest.raises(ValueError, match=r"labels in \[0, 3\) or 255.*found labels\[1, 2\] = 7"):
        logits_from_labels(labels, 3)


def test_unknown_label_inside_the_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="ignore_index outside the 300 classes, found 255"):
        logits_from_labels(LABELS, 300)


def test_one_class_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="num_classes to be at least 2, found 1"):
        logits_from_labels(torch.zeros(2, 2, dtype=torch.long), 1)


@pytest.mark.parametrize("gt_prob", [0.0, 1.0, -1.0, float("nan")])
def test_gt_prob_must_lie_inside_0_and_1(gt_prob: float) -> None:
    with pytest.raises(ValueError, match="gt_prob"):
        logits_from_labels(LABELS, 3, gt_prob=gt_prob)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_labels_must_be_integers(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match=f"integer dtype, found {dtype}"):
        logits_from_labels(torch.zeros(2, 2, dtype=dtype), 3)


@pytest.mark.parametrize("bad", [-0.5, 1.5, float("nan")])
def test_probability_outside_0_and_1_is_named_with_its_index(bad: float) -> None:
    p = torch.full((2, 3, 4), 0.5)
    p[1, 2, 3] = bad
    with pytest.raises(ValueError, match=rf"probabilities\[1, 2, 3\] = {bad}"):
        logits_from_probabilities(p)


def test_rounding_beyond_one_is_accepted() -> None:
    assert logits_from_probabilities(torch.full((1, 1, 1), 1 + 1e-6)).item() == 0
