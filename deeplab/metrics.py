"""Scores of segmentations, all read off one confusion matrix of a whole set."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Scores:
    """What a confusion matrix says; all in [0, 1].

    Attributes:
        iou: ``[C]`` float64 on the CPU, intersection over union; NaN for a class that neither the
            labels nor the predictions hold.
        class_accuracy: ``[C]``, the share of a class's pixels that were found; NaN for a class
            that the labels do not hold.
        mean_iou: mean of ``iou`` over the classes that are not NaN.
        mean_class_accuracy: the same of ``class_accuracy``.
        pixel_accuracy: the share of all pixels that is right.
        weighted_iou: mean of ``iou`` weighted by the classes' share of the labels.
        pixels: how many pixels were counted.
    """

    iou: Tensor
    class_accuracy: Tensor
    mean_iou: float
    mean_class_accuracy: float
    pixel_accuracy: float
    weighted_iou: float
    pixels: int


class ConfusionMatrix:
    """Counts pixels by label and prediction, over any number of pictures, on their device.

    Accumulate it over the whole set: the mean of the pictures' own IoU is another number, and a
    higher one. No update waits for the device: labels outside the classes are counted apart and
    reported by ``counts``.

    Args:
        num_classes: C.
        ignore_index: the label of pixels that do not count, as VOC's 255.
        groups: number of matrices kept side by side, see ``update``.
        device: where the counts are; that of the updates.

    Raises:
        ValueError: ``num_classes`` or ``groups`` is not positive.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        ignore_index: int | None = 255,
        groups: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        if num_classes < 1 or groups < 1:
            raise ValueError(
                f"expected num_classes and groups of at least 1, found {num_classes} and {groups}"
            )
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.groups = groups
        # Behind the matrices: wrong labels, wrong predictions, and a place for what is ignored.
        self._cells = groups * num_classes**2
        self._counts = torch.zeros(self._cells + 3, dtype=torch.int64, device=device)

    def update(self, predictions: Tensor, labels: Tensor, group: Tensor | None = None) -> None:
        """Adds pixels.

        Args:
            predictions: integers in [0, C), any shape.
            labels: integers in [0, C) or ``ignore_index``, of the same shape and device.
            group: the matrix that each pixel is counted in, in [0, groups); pixels of any other
                group do not count.

        Raises:
            TypeError: labels or predictions are no integers.
            ValueError: the shapes differ.
        """
        for name, tensor in (("predictions", predictions), ("labels", labels)):
            if tensor.is_floating_point() or tensor.is_complex():
                raise TypeError(f"expected {name} to be integers, found {tensor.dtype}")
        for other in (labels, *(() if group is None else (group,))):
            if other.shape != predictions.shape:
                raise ValueError(
                    f"expected predictions and labels of one shape, found "
                    f"{list(predictions.shape)} and {list(other.shape)}"
                )
        truth, found, classes = labels.long(), predictions.long(), self.num_classes
        cell = truth * classes + found
        if group is not None:
            cell = cell + group.long() * classes**2
        cell = cell.where((found >= 0) & (found < classes), self._cells + 1)
        cell = cell.where((truth >= 0) & (truth < classes), self._cells)
        skipped = torch.zeros_like(cell, dtype=torch.bool)
        if self.ignore_index is not None:
            skipped |= truth == self.ignore_index
        if group is not None:
            skipped |= (group < 0) | (group >= self.groups)
        cell = cell.where(~skipped, self._cells + 2).flatten()
        # Integers: the sum does not depend on the order, on any device.
        self._counts.scatter_add_(0, cell, torch.ones_like(cell))

    def all_reduce(self) -> None:
        """Sums over the processes of torch.distributed, where they run; each then has the whole."""
        if dist.is_available() and dist.is_initialized():
            nccl = dist.get_backend() == "nccl"
            counts = self._counts if nccl else self._counts.cpu()
            dist.all_reduce(counts)
            self._counts.copy_(counts)

    def counts(self) -> Tensor:
        """The matrices, int64 ``[groups, C, C]`` on the CPU: label by prediction.

        Raises:
            ValueError: a label or a prediction was none of the classes.
        """
        counts = self._counts.cpu()
        for which, number in zip(("labels", "predictions"), counts[-3:-1].tolist(), strict=True):
            if number:
                also = "" if self.ignore_index is None else f" or {self.ignore_index} (ignored)"
                raise ValueError(
                    f"expected {which} in [0, {self.num_classes})"
                    f"{also if which == 'labels' else ''}, found others at {number} pixels"
                )
        return counts[: self._cells].reshape(self.groups, self.num_classes, self.num_classes)

    def scores(self, group: int = 0) -> Scores:
        """The scores of one matrix; ValueError as in ``counts``."""
        return scores(self.counts()[group])


def scores(matrix: Tensor) -> Scores:
    """The scores of a confusion matrix ``[C, C]``, label by prediction."""
    matrix = matrix.double()
    right = matrix.diagonal()
    wanted, found = matrix.sum(1), matrix.sum(0)
    total = matrix.sum()
    iou = right / (wanted + found - right)  # 0 / 0 is NaN
    accuracy = right / wanted
    return Scores(
        iou=iou,
        class_accuracy=accuracy,
        mean_iou=iou.nanmean().item(),
        mean_class_accuracy=accuracy.nanmean().item(),
        pixel_accuracy=(right.sum() / total).item(),
        weighted_iou=((wanted * iou).nansum() / total).item(),
        pixels=int(total.item()),
    )
