"""Scores near the outlines of objects, where a CRF shows: trimap IoU over band widths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .metrics import ConfusionMatrix, Scores, scores

Outline = Literal["void", "labels"]

# The widths of the figures in DeepLab v1 to v3+, in pixels.
PAPER_WIDTHS = tuple(range(1, 41))


class TrimapMatrix:
    """Counts the pixels within bands of several widths around the outlines of objects.

    As in DeepLab v1 (section 5) and Krähenbühl and Koltun (NIPS 2011): the narrower the band, the
    more the scores tell of the outlines alone. A band of width w holds the pixels no farther than
    w pixels, in straight line, from an outline pixel.

    Args:
        num_classes: C.
        widths: of the bands, whole pixels, ascending.
        outline: ``"void"``: the outline is what the labels leave out, VOC's thin void bands, as in
            the papers; ``"labels"``: the pixels with a neighbour, to the right or below, of another
            class, for data sets whose void is no outline (CamVid, Cityscapes).
        ignore_index: the label of void.
        device: that of the updates.

    Raises:
        ValueError: the widths are not positive and ascending.
    """

    def __init__(
        self,
        num_classes: int,
        widths: Sequence[int] = PAPER_WIDTHS,
        *,
        outline: Outline = "void",
        ignore_index: int = 255,
        device: torch.device | str = "cpu",
    ) -> None:
        self.widths = tuple(widths)
        if not widths or self.widths[0] < 1 or sorted(set(widths)) != list(widths):
            raise ValueError(f"expected widths to be positive and ascending, found {self.widths}")
        if outline not in ("void", "labels"):
            raise ValueError(f'expected outline to be "void" or "labels", found {outline!r}')
        self.outline = outline
        self.ignore_index = ignore_index
        self._rings = ConfusionMatrix(
            num_classes, ignore_index=ignore_index, groups=len(self.widths), device=device
        )
        bounds = [width**2 for width in self.widths]
        self._bounds = torch.tensor(bounds, dtype=torch.int32, device=device)

    def rings(self, labels: Tensor) -> Tensor:
        """The first band that holds each pixel, int64 like ``labels``; their number if none."""
        if self.outline == "void":
            source = labels == self.ignore_index
        else:
            source = outline_pixels(labels, self.ignore_index)
        squared = squared_distance(source, self.widths[-1])
        return torch.bucketize(squared, self._bounds)

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Adds pictures: predictions and labels, integers ``[B, H, W]``."""
        self._rings.update(predictions, labels, self.rings(labels))

    def all_reduce(self) -> None:
        """See ``ConfusionMatrix``."""
        self._rings.all_reduce()

    def scores(self) -> list[Scores]:
        """The scores within each band, over all pictures."""
        return [scores(matrix) for matrix in self._rings.counts().cumsum(0)]


def outline_pixels(labels: Tensor, ignore_index: int) -> Tensor:
    """Pixels whose right or lower neighbour has another label, bool ``[B, H, W]``.

    Neither of the two is void: where labels end is not where an object does.
    """
    edges = torch.zeros_like(labels, dtype=torch.bool)
    known = labels != ignore_index
    across = (labels[..., :-1] != labels[..., 1:]) & known[..., :-1] & known[..., 1:]
    down = (labels[..., :-1, :] != labels[..., 1:, :]) & known[..., :-1, :] & known[..., 1:, :]
    edges[..., :-1] |= across
    edges[..., :-1, :] |= down
    return edges


def squared_distance(source: Tensor, reach: int) -> Tensor:
    """Squared Euclidean distance to the nearest pixel of ``source``, exact up to ``reach``.

    Rows and columns separate: the distance along columns first, then for each pixel the best of
    the columns within reach.

    Args:
        source: bool ``[B, H, W]``.
        reach: in pixels; beyond it the result is some number larger than ``reach**2``.

    Returns:
        int32 ``[B, H, W]``.
    """
    far = reach + 1
    height, width = source.shape[-2:]
    row = torch.arange(height, device=source.device, dtype=torch.int32)[:, None]
    above = row.where(source, -far).cummax(-2).values
    below = row.where(source, height + far).flip(-2).cummin(-2).values.flip(-2)
    vertical = torch.minimum(row - above, below - row).clamp_max(far).square_()  # [B, H, W]
    padded = F.pad(vertical, (reach, reach), value=far**2)
    nearest = vertical.clone()
    for offset in range(-reach, reach + 1):
        start = reach + offset
        torch.minimum(nearest, padded[..., start : start + width] + offset**2, out=nearest)
    return nearest
