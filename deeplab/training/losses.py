"""The papers' losses on the maps that a network gives in training."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor

from deeplab.config import Config
from deeplab.data import IGNORE, LabelReport


def shrink_labels(labels: Tensor, size: Sequence[int], stride: int) -> Tensor:
    """Every stride-th label: ``[B, H, W]`` to ``[B, *size]``, as Caffe's ``Interp`` does.

    Raises:
        ValueError: that gives another size: the window does not fit the network's strides.
    """
    shrunk = labels[:, ::stride, ::stride]
    if shrunk.shape[1:] != torch.Size(size):
        height, width = labels.shape[1:]
        raise ValueError(
            f"a window of {height}×{width} does not fit scores of {size[0]}×{size[1]} at stride "
            f"{stride}: expected a multiple of {stride} and one more, as {stride * 40 + 1}"
        )
    return shrunk


def targets(maps: Sequence[Tensor], labels: Tensor, config: Config) -> list[Tensor]:
    """The labels that each map of ``DeepLab(..., training_maps=True)`` is compared with.

    v1 and v2 compare maps at the output stride with every stride-th label (v1, section 4.1), v3
    and v3+ enlarge the maps instead (v3, section 4.1, "upsampling logits").
    """
    if len(config.scales) > 1:
        # First the fused scores. A scale whose inverse is whole keeps its own, coarser map.
        inverses = [1 / Fraction(scale).limit_denominator(64) for scale in config.scales]
        factors = [1] + [int(f) if f.denominator == 1 else 1 for f in inverses]
        strides = [config.output_stride * factor for factor in factors]
    else:
        strides = [config.output_stride if config.head == "sum" else 1] * len(maps)
    return [
        shrink_labels(labels, m.shape[2:], stride) for m, stride in zip(maps, strides, strict=True)
    ]


def pixel_losses(
    scores: Tensor, labels: Tensor, *, weights: Tensor | None = None, keep: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Sum of the cross-entropies of a map, and what to divide it by.

    Void has no part in either. With ``keep`` below 1 only that share of the labelled pixels
    counts, those with the largest losses (OHEM: online hard example mining).

    Args:
        scores: ``[B, C, h, w]``.
        labels: ``[B, h, w]``.
        weights: of the classes, ``[C]``; the divisor is then the sum of the pixels' weights.
        keep: share of the pixels.
    """
    losses = F.cross_entropy(scores, labels, weights, ignore_index=IGNORE, reduction="none")
    labelled = labels != IGNORE
    shares = labelled.to(losses.dtype)
    if weights is not None:
        shares = weights[labels.where(labelled, 0)] * shares
    if keep < 1:
        losses, shares = losses[labelled], shares[labelled]
        hardest = losses.detach().topk(max(round(keep * len(losses)), min(1, len(losses)))).indices
        losses, shares = losses[hardest], shares[hardest]
    return losses.sum(), shares.sum()


def median_frequency(report: LabelReport) -> list[float]:
    """Class weights: median of the classes' frequencies over the class's own.

    A frequency is the class's share of the pixels of the images that it occurs in (Eigen and
    Fergus, ICCV 2015, section 6.2). Classes that do not occur weigh 1.
    """
    frequencies = [
        pixels / present if present else 0.0
        for pixels, present in zip(report.pixels, report.present_pixels, strict=True)
    ]
    occurring = sorted(f for f in frequencies if f)
    middle = len(occurring) // 2
    median = (occurring[middle] + occurring[-middle - 1]) / 2
    return [median / f if f else 1.0 for f in frequencies]
