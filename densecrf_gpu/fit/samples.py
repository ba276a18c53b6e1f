"""One image of a held-out set: what the network says, what it sees and what is true."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from densecrf_gpu.backends import require_backend
from densecrf_gpu.checks import check_finite, check_labels
from densecrf_gpu.inputs import Guide, compute_dtype, prepare_image, prepare_scores


class Sample(NamedTuple):
    """One image of a held-out set.

    Attributes:
        logits: ``[C, h, w]``, floating, on the device to compute on; enlarged bilinearly with
            ``align_corners=False`` where the image is larger.
        image: ``[channels, H, W]``, uint8 or floating.
        labels: ``[H, W]`` of an integer dtype, in ``[0, C)`` or unknown.
    """

    logits: Tensor
    image: Tensor
    labels: Tensor


class Prepared(NamedTuple):
    """A sample that has been checked, in the shapes of the operators."""

    unary: Tensor  # [1, C, N], float32 or float64
    guide: Guide
    labels: Tensor  # [N]
    size: tuple[int, int]


def prepare(sample: Sample, index: int, ignore_index: int | None) -> Prepared:
    """Checks a sample; errors say which one it is.

    Raises:
        TypeError: an entry is of another type or dtype.
        ValueError: shapes do not fit, or entries are out of range.
    """
    try:
        logits, image, labels = sample
        if not isinstance(logits, Tensor) or not isinstance(labels, Tensor):
            raise TypeError("expected logits and labels to be tensors")
        prepare_scores("logits", logits)
        if logits.dim() != 3:
            raise ValueError(f"expected logits of shape [C, h, w], found {list(logits.shape)}")
        require_backend(logits.device)
        check_finite("logits", logits)
        dtype = compute_dtype(logits.dtype)
        small = (logits.shape[1], logits.shape[2])
        guide = prepare_image(image, "CHW", small, None, logits.device, dtype, resizable=True)
        h, w = guide.pixels.shape[2:]
        _check_labels(labels, (h, w), logits.shape[0], ignore_index)
    except (TypeError, ValueError) as error:
        raise type(error)(f"sample {index}: {error}") from error
    unary = logits.detach()[None].to(dtype)
    if small != (h, w):
        unary = F.interpolate(unary, size=(h, w), mode="bilinear", align_corners=False)
    known = labels.to(logits.device).reshape(-1)
    return Prepared(unary.flatten(2), guide, known, (h, w))


def _check_labels(
    labels: Tensor, size: tuple[int, int], classes: int, ignore_index: int | None
) -> None:
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise TypeError(f"expected labels of an integer dtype, found {labels.dtype}")
    if tuple(labels.shape) != size:
        raise ValueError(f"expected labels of shape {list(size)}, found {list(labels.shape)}")
    check_labels("labels", labels, classes, ignore_index)


def check_samples(samples: Sequence[Sample]) -> int:
    """Returns the number of classes; raises ValueError if there is no sample."""
    if len(samples) == 0:
        raise ValueError("expected at least one sample, found none")
    return int(samples[0][0].shape[0])


class Fingerprint:
    """Tells data sets apart: a hash over all that goes in."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, sample: Sample) -> None:
        """Takes in the bytes of one sample."""
        for tensor in sample:
            self._hash.update(f"{tensor.dtype}{list(tensor.shape)}".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            self._hash.update(flat.view(torch.uint8).numpy().data)

    def hexdigest(self) -> str:
        """Returns the hash of all samples so far."""
        return self._hash.hexdigest()
