"""What labels are worth: accuracy and IoU, from a confusion matrix over a whole data set."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

METRICS = ("miou", "accuracy")


@dataclass(frozen=True)
class Scores:
    """Scores of predicted labels over a data set, in [0, 1].

    Attributes:
        miou: mean of the IoU of the classes that occur in labels or predictions.
        accuracy: share of the known pixels whose label is right.
        iou: of each class; NaN for a class that occurs nowhere.
    """

    miou: float
    accuracy: float
    iou: tuple[float, ...]

    @classmethod
    def of(cls, confusion: Tensor) -> Scores:
        """Returns the scores of a confusion matrix, int64 ``[C, C]``, labels in rows."""
        counts = confusion.double()
        right, union = counts.diag(), counts.sum(0) + counts.sum(1) - counts.diag()
        iou = tuple((right / union).tolist())  # 0 / 0 is NaN
        occurring = [value for value in iou if not math.isnan(value)]
        total = counts.sum().item()
        return cls(
            miou=sum(occurring) / len(occurring) if occurring else math.nan,
            accuracy=right.sum().item() / total if total else math.nan,
            iou=iou,
        )


def confusion_matrix(
    predicted: Tensor, labels: Tensor, num_classes: int, ignore_index: int | None
) -> Tensor:
    """Counts known pixels by label and prediction, int64 ``[C, C]`` on the CPU, labels in rows.

    Args:
        predicted: labels in ``[0, num_classes)``, any shape.
        labels: of the same shape; pixels of ``ignore_index`` do not count.
        num_classes: C.
        ignore_index: None where all labels are known.
    """
    predicted, labels = predicted.reshape(-1), labels.reshape(-1)
    if ignore_index is not None:
        known = labels != ignore_index
        predicted, labels = predicted[known], labels[known]
    pairs = labels.long() * num_classes + predicted.long()
    counts = torch.bincount(pairs, minlength=num_classes * num_classes)
    return counts.reshape(num_classes, num_classes).cpu()
