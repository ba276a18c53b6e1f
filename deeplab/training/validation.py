"""Mean IoU of a network on a data set, as it is reported while it trains."""

from __future__ import annotations

from collections.abc import Callable

import torch

from deeplab.data import SegmentationDataset
from deeplab.metrics import ConfusionMatrix, Scores
from deeplab.models import DeepLab

from .distributed import Processes


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
        interrupted: asked before each picture, where there is one process alone.

    Returns:
        None if interrupted.
    """
    matrix = ConfusionMatrix(dataset.num_classes, device=group.device)
    for index in range(group.rank, len(dataset), group.world):
        if group.world == 1 and interrupted():
            return None
        image, label, _ = dataset[index]
        scores = model(model.normalize(image.to(group.device)[None]))
        matrix.update(scores[0].argmax(0), label.to(group.device))
    matrix.all_reduce()
    return matrix.scores()
