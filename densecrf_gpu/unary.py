"""Unary terms from label maps and from probabilities, as logits.

pydensecrf states unaries as energies ``U = -log P``; here they are logits ``log P = -U``, which is
what a network puts out and what ``softmax`` turns back into P. Negate one to obtain the other.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .checks import check_count, check_labels, check_probabilities

CLIP = 1e-5  # pydensecrf's


def logits_from_labels(
    labels: Tensor, num_classes: int, *, gt_prob: float = 0.7, ignore_index: int | None = 255
) -> Tensor:
    """Returns log-probabilities that trust a label map to a given degree.

    The given label has probability ``gt_prob``, the others share the rest; a pixel that holds
    ``ignore_index`` is unknown: all its labels are equally likely. The negative of pydensecrf's
    ``unary_from_labels``, except that there label 0 marks the unknown pixels and the other labels
    count from 1.

    Args:
        labels: ``[H, W]`` or ``[B, H, W]``, of an integer dtype.
        num_classes: at least 2; unknown does not count.
        gt_prob: in (0, 1).
        ignore_index: outside ``[0, num_classes)``; None where no label is unknown.

    Returns:
        float32 ``[C, H, W]`` or ``[B, C, H, W]``.

    Raises:
        TypeError: ``labels`` is not an integer tensor.
        ValueError: its shape is another, it holds labels out of range, or another argument is
            out of its range. On a GPU a label out of range counts as unknown instead.
    """
    num_classes = check_count("num_classes", num_classes, least=2)
    if not 0 < gt_prob < 1:
        raise ValueError(f"expected gt_prob in (0, 1), found {gt_prob}")
    check_label_map("labels", labels, num_classes, ignore_index)
    return label_logits(labels, num_classes, gt_prob)


def label_logits(labels: Tensor, num_classes: int, gt_prob: float) -> Tensor:
    """Does the work of :func:`logits_from_labels`; every label out of range counts as unknown."""
    class_dim = labels.dim() - 2
    shape = (*labels.shape[:class_dim], num_classes, *labels.shape[class_dim:])
    logits = torch.full(shape, math.log((1 - gt_prob) / (num_classes - 1)), device=labels.device)
    index = labels.long().unsqueeze(class_dim)
    # A GPU that scatters out of range stops the whole process.
    unknown = (index < 0) | (index >= num_classes)
    logits.scatter_(class_dim, index.masked_fill(unknown, 0), math.log(gt_prob))
    return logits.masked_fill_(unknown, math.log(1 / num_classes))


def check_label_map(name: str, labels: Tensor, num_classes: int, ignore_index: int | None) -> None:
    """Raises TypeError or ValueError unless ``labels`` is a map that can become logits."""
    if not isinstance(labels, Tensor):
        raise TypeError(f"expected {name} to be a torch.Tensor, found {type(labels).__name__}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"expected {name} of an integer dtype, found {labels.dtype}")
    if labels.dim() not in (2, 3):
        raise ValueError(
            f"expected {name} of shape [H, W] or [B, H, W], found {list(labels.shape)}"
        )
    if ignore_index is not None and 0 <= ignore_index < num_classes:
        raise ValueError(
            f"expected ignore_index outside the {num_classes} classes, found {ignore_index}: "
            "pass None if no label is unknown"
        )
    check_labels(name, labels, num_classes, ignore_index)


def logits_from_probabilities(
    probabilities: Tensor, *, clip: float = CLIP, scale: float | None = None
) -> Tensor:
    """Returns the logarithms of probabilities, clipped from below so that they are finite.

    The negative of pydensecrf's ``unary_from_softmax``. The entries of a pixel need not sum to 1.
    Gradients flow to the probabilities that are not clipped.

    Args:
        probabilities: ``[C, H, W]`` or ``[B, C, H, W]``, in [0, 1].
        clip: the least probability, positive.
        scale: in (0, 1]; mixes the probabilities with uniform ones before clipping,
            ``scale P + (1 - scale) / C``.

    Returns:
        A new tensor of the same shape; float64 if ``probabilities`` is, else float32.

    Raises:
        TypeError: ``probabilities`` is not a floating tensor.
        ValueError: its shape is another, or an entry or argument is out of its range.
    """
    if not isinstance(probabilities, Tensor) or not probabilities.is_floating_point():
        found = getattr(probabilities, "dtype", type(probabilities).__name__)
        raise TypeError(f"expected probabilities to be a floating tensor, found {found}")
    if probabilities.dim() not in (3, 4):
        raise ValueError(
            "expected probabilities of shape [C, H, W] or [B, C, H, W], "
            f"found {list(probabilities.shape)}"
        )
    if not 0 < clip <= 1:
        raise ValueError(f"expected clip in (0, 1], found {clip}")
    if scale is not None and not 0 < scale <= 1:
        raise ValueError(f"expected scale in (0, 1], found {scale}")
    check_probabilities("probabilities", probabilities)
    return probability_logits(probabilities, clip, scale)


def probability_logits(probabilities: Tensor, clip: float, scale: float | None = None) -> Tensor:
    """Does the work of :func:`logits_from_probabilities` on arguments that have been checked."""
    wide = torch.float64 if probabilities.dtype == torch.float64 else torch.float32
    result = probabilities.to(wide)
    if scale is not None:
        result = scale * result + (1 - scale) / result.shape[-3]
    clipped = result.clamp(clip, 1.0)
    return clipped.log() if clipped.requires_grad else clipped.log_()
