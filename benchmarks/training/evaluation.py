"""Accuracy, mIoU and trimap mIoU over a split, of several methods on the same logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densecrf_gpu.fit.scores import Scores, confusion_matrix

from .data import VOID, Picture, to_network

#: logits [1, C, H, W] and image uint8 [1, 3, H, W] -> labels [1, H, W]
Method = Callable[[Tensor, Tensor], Tensor]

TRIMAP_RADIUS = 2  # pixels to each side of a border between labels, of pictures at half size


@dataclass(frozen=True)
class Result:
    """Scores of one method over a split, in [0, 1]."""

    accuracy: float
    miou: float
    trimap_miou: float


@torch.no_grad()
def evaluate(
    network: nn.Module, methods: Mapping[str, Method], pictures: list[Picture], classes: int
) -> dict[str, Result]:
    """Runs the network once a picture and every method on its logits."""
    network.eval()
    everywhere = {name: torch.zeros(classes, classes, dtype=torch.int64) for name in methods}
    near = {name: torch.zeros(classes, classes, dtype=torch.int64) for name in methods}
    for picture in pictures:
        image = picture.image[None]
        logits = network(to_network(image))
        band = trimap(picture.labels)
        for name, method in methods.items():
            found = method(logits, image)[0]
            everywhere[name] += confusion_matrix(found, picture.labels, classes, VOID)
            near[name] += confusion_matrix(found[band], picture.labels[band], classes, VOID)
    return {
        name: Result(
            Scores.of(everywhere[name]).accuracy,
            Scores.of(everywhere[name]).miou,
            Scores.of(near[name]).miou,
        )
        for name in methods
    }


def trimap(labels: Tensor) -> Tensor:
    """Marks the pixels within ``TRIMAP_RADIUS`` of a border between two known labels. [H, W]"""
    border = torch.zeros_like(labels, dtype=torch.bool)
    for axis in (0, 1):
        a, b = (
            labels.narrow(axis, 0, labels.shape[axis] - 1),
            labels.narrow(axis, 1, -1 + labels.shape[axis]),
        )
        change = (a != b) & (a != VOID) & (b != VOID)
        border.narrow(axis, 0, change.shape[axis]).logical_or_(change)
        border.narrow(axis, 1, change.shape[axis]).logical_or_(change)
    radius = TRIMAP_RADIUS - 1  # the border's own pixels are the first
    spread = F.max_pool2d(border[None].float(), 2 * radius + 1, stride=1, padding=radius)
    return spread[0].bool()
