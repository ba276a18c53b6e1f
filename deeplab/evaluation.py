"""The scores of a network on a data set, alone and refined by a CRF."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from .metrics import ConfusionMatrix, Scores
from .segmenter import CRF, Segmenter
from .trimap import Outline, TrimapMatrix


class LabelledImages(Protocol):
    """What is asked of a data set, and what those of ``deeplab.data`` have."""

    @property
    def ignore_index(self) -> int:
        """The label of void."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Tensor, Tensor, str]:
        """RGB, uint8 ``[3, H, W]``; labels, int64 ``[H, W]``; a name."""


@dataclass(frozen=True)
class Result:
    """The scores of one way to label.

    Attributes:
        scores: over the whole set, at the labels' size.
        trimap: the same within bands around the outlines, one a width.
        seconds: per picture, from the picture on the device to its labels there.
    """

    scores: Scores
    trimap: tuple[Scores, ...]
    seconds: float


@dataclass(frozen=True)
class Evaluation:
    """What ``evaluate`` found.

    Attributes:
        network: of the network alone.
        crf: with the CRF behind it, ``None`` without one; its seconds are the CRF's alone.
        widths: of the trimap bands, in pixels.
        images: how many pictures were labelled.
    """

    network: Result
    crf: Result | None
    widths: tuple[int, ...]
    images: int


class _Tally:
    """Counts and time of one way to label."""

    def __init__(self, matrix: ConfusionMatrix, trimap: TrimapMatrix | None) -> None:
        self.matrix, self.trimap = matrix, trimap
        self.seconds = 0.0

    def update(self, predictions: Tensor, labels: Tensor, seconds: float) -> None:
        self.matrix.update(predictions, labels)
        if self.trimap is not None:
            self.trimap.update(predictions, labels)
        self.seconds += seconds

    def result(self, images: int) -> Result:
        """The whole set's, once all processes have theirs."""
        self.matrix.all_reduce()
        trimap: tuple[Scores, ...] = ()
        if self.trimap is not None:
            self.trimap.all_reduce()
            trimap = tuple(self.trimap.scores())
        return Result(self.matrix.scores(), trimap, _sum(self.seconds) / max(images, 1))


def evaluate(
    segmenter: Segmenter,
    dataset: LabelledImages,
    num_classes: int,
    *,
    crf: CRF | None = None,
    widths: Sequence[int] = (),
    outline: Outline = "void",
    device: torch.device | str = "cpu",
    workers: int = 0,
    progress: Callable[[Iterable[Any], int], Iterable[Any]] | None = None,
) -> Evaluation:
    """Labels a data set and compares, pixels of all pictures counted together.

    Under torch.distributed each process takes every n-th picture, and all get the result. The
    network runs once per picture, whether there is a CRF or not.

    Args:
        segmenter: what labels the pictures.
        dataset: pictures with labels of their own size.
        num_classes: of network and labels.
        crf: to be compared with the network alone.
        widths: of trimap bands, see ``TrimapMatrix``; none are counted by default.
        outline: what the bands are around, see ``TrimapMatrix``.
        device: where everything is computed.
        workers: processes that read pictures; 0 reads them here.
        progress: draws a bar around an iterable of known length.

    Raises:
        ValueError: the network has another number of classes, or labels are none of them.
    """
    device = torch.device(device)

    def tally() -> _Tally:
        void = dataset.ignore_index
        matrix = ConfusionMatrix(num_classes, ignore_index=void, device=device)
        if not widths:
            return _Tally(matrix, None)
        trimap = TrimapMatrix(
            num_classes, widths, outline=outline, ignore_index=void, device=device
        )
        return _Tally(matrix, trimap)

    alone = tally()
    refined = None if crf is None else tally()
    loader = _loader(dataset, workers, device)
    for image, label, name in loader if progress is None else progress(loader, len(loader)):
        images = image.to(device, non_blocking=True)[None]
        labels = label.to(device, non_blocking=True)[None]
        start = _now(device)
        scores = segmenter.scores(images)
        if scores.shape[1] != num_classes:
            raise ValueError(
                f"expected scores of {num_classes} classes, found {scores.shape[1]} for {name}"
            )
        predictions = scores.argmax(1)
        middle = _now(device)
        alone.update(predictions, labels, middle - start)
        if crf is not None and refined is not None:
            start = _now(device)
            predictions = crf(scores, images)
            refined.update(predictions, labels, _now(device) - start)
    total = len(dataset)
    return Evaluation(
        alone.result(total),
        None if refined is None else refined.result(total),
        tuple(widths),
        total,
    )


def _loader(dataset: Any, workers: int, device: torch.device) -> DataLoader[Any]:
    mine: Dataset[Any] = dataset
    if dist.is_available() and dist.is_initialized():
        mine = Subset(dataset, range(dist.get_rank(), len(dataset), dist.get_world_size()))
    cuda = device.type == "cuda"
    return DataLoader(mine, batch_size=None, num_workers=workers, pin_memory=cuda)


def _sum(value: float) -> float:
    if not (dist.is_available() and dist.is_initialized()):
        return value
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    total = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return total.item()


def _now(device: torch.device) -> float:
    """Seconds, once the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
