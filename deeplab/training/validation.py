"""Mean IoU of a network on a data set, as it is reported while it trains."""

from __future__ import annotations

from collections.abc import Callable

import torch

from deeplab.data import SegmentationDataset
from deeplab.metrics import ConfusionMatrix, Scores
from deeplab.models import DeepLab

from .distributed import Processes

# On a GPU, where a question costs more than elsewhere and pictures cost less.
_ASKED_EVERY = 8


@torch.no_grad()
def validate(
    model: DeepLab,
    dataset: SegmentationDataset,
    group: Processes,
    interrupted: Callable[[], bool] = lambda: False,
) -> Scores | None:
    """Scores of whole pictures, one at a time, at the size of their labels.

    The processes share the pictures; each returns the scores of all.

    Args:
        model: in evaluation mode.
        dataset: what it is compared with.
        group: this process among its peers.
        interrupted: asked before each picture, on GPUs before every eighth; where it is so in any
            process, all return.

    Returns:
        None if interrupted.
    """
    matrix = ConfusionMatrix(dataset.num_classes, device=group.device)
    every = _ASKED_EVERY if group.device.type == "cuda" and group.world > 1 else 1
    for turn, first in enumerate(range(0, len(dataset), group.world)):
        if turn % every == 0 and group.agreed(interrupted()):
            return None
        index = first + group.rank
        if index >= len(dataset):
            continue
        image, label, _ = dataset[index]
        scores = model(model.normalize(image.to(group.device)[None]))
        matrix.update(scores[0].argmax(0), label.to(group.device))
    matrix.all_reduce()
    return matrix.scores()
