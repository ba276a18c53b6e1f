"""Masks, overlays and probabilities of picture files.

A picture goes to the device once, decoded; network, CRF and drawing happen there; each result
comes back once, to be encoded. Files are read and written by threads meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from densecrf_gpu.cli.arrays import save_array
from densecrf_gpu.cli.errors import FileError
from densecrf_gpu.cli.masks import MaskStyle, save_labels, save_picture

from .data.pictures import read_image
from .labelling import Labelling
from .segmenter import CRF, Segmenter
from .trimap import outline_pixels

# Pictures read ahead, and results that wait to be written: what may be in memory at a time.
_AHEAD = 4
_NO_VOID = -1


@dataclass(frozen=True)
class Job:
    """A picture and where its results go; None is not wanted."""

    image: Path
    mask: Path | None
    overlay: Path | None
    probabilities: Path | None


@dataclass(frozen=True)
class Prediction:
    """Results on the host.

    Attributes:
        labels: ``[H, W]``, uint8, or int32 of more than 256 classes.
        overlay: uint8 ``[H, W, 3]``, if wanted.
        probabilities: float16 ``[C, H, W]``, if wanted.
    """

    labels: Tensor
    overlay: Tensor | None
    probabilities: Tensor | None


class Predictor:
    """Labels pictures; the picture goes to the device once and each result comes back once.

    Args:
        segmenter: what labels them.
        labelling: the colours of the classes.
        crf: refines, if given.
        device: where everything is computed.
        overlay: also draw the labels over the picture.
        probabilities: also return those of the classes.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        labelling: Labelling,
        *,
        crf: CRF | None = None,
        device: torch.device | str = "cpu",
        overlay: bool = False,
        probabilities: bool = False,
    ) -> None:
        self._segmenter = segmenter
        self._crf = crf
        self._device = torch.device(device)
        self._overlay = overlay
        self._probabilities = probabilities
        self._colors = labelling.colors(device)

    @torch.inference_mode()
    def __call__(self, image: Tensor) -> Prediction:
        """Labels one picture, uint8 RGB ``[3, H, W]`` on the host."""
        if self._device.type == "cuda":
            image = image.pin_memory()
        images = image.to(self._device, non_blocking=True)[None]
        probabilities: Tensor | None = None
        if self._probabilities:
            found = self._segmenter.probabilities(images, self._crf)
            labels, probabilities = found.argmax(1)[0], found[0].half()
        else:
            labels = self._segmenter.labels(images, self._crf)[0]
        overlay = draw_overlay(images[0], labels, self._colors) if self._overlay else None
        small = labels.to(torch.uint8 if len(self._colors) <= 256 else torch.int32)
        return Prediction(
            small.cpu(),
            None if overlay is None else overlay.cpu(),
            None if probabilities is None else probabilities.cpu(),
        )


def draw_overlay(image: Tensor, labels: Tensor, colors: Tensor) -> Tensor:
    """Labels over a picture in the colours of their classes, white lines between them.

    Args:
        image: uint8 ``[3, H, W]``.
        labels: int64 ``[H, W]``.
        colors: uint8 ``[C, 3]``.

    Returns:
        uint8 ``[H, W, 3]``.
    """
    tint = colors.index_select(0, labels.flatten()).reshape(*labels.shape, 3)
    blend = ((image.permute(1, 2, 0).to(torch.int16) + tint) // 2).to(torch.uint8)
    return blend.masked_fill(outline_pixels(labels, _NO_VOID)[..., None], 255)


def plan(images: Sequence[Path], out: Path, *, overlay: bool, probabilities: bool) -> list[Job]:
    """Where the results of pictures go in a folder.

    ``<name>.png``, ``<name>_overlay.png`` and ``<name>_probabilities.npy``.

    Raises:
        FileError: results would overwrite each other, or a picture.
    """
    jobs = [
        Job(
            path,
            out / f"{path.stem}.png",
            out / f"{path.stem}_overlay.png" if overlay else None,
            out / f"{path.stem}_probabilities.npy" if probabilities else None,
        )
        for path in images
    ]
    taken = {path.resolve(): path for path in images}
    for job in jobs:
        for target in (job.mask, job.overlay, job.probabilities):
            if target is None:
                continue
            if target.resolve() in taken:
                raise FileError(f"{target} would overwrite {taken[target.resolve()]}")
            taken[target.resolve()] = job.image
    return jobs


def run(
    jobs: Sequence[Job],
    predictor: Predictor,
    labelling: Labelling,
    threads: int = 2,
    *,
    upright: bool = False,
) -> Iterator[tuple[Job, Exception | None]]:
    """Labels files; yields each job once its files are written, or with what went wrong.

    Args:
        jobs: what to label; those behind a failed one go on.
        predictor: labels a picture.
        labelling: gives masks their palette.
        threads: that read, and that write.
        upright: turn pictures as their EXIF orientation says.
    """
    style = MaskStyle(np.array(labelling.palette, np.uint8))
    with ThreadPoolExecutor(threads) as readers, ThreadPoolExecutor(threads) as writers:
        reading: deque[tuple[Job, Future[Tensor]]] = deque()
        writing: deque[tuple[Job, Future[None]]] = deque()
        waiting = iter(jobs)

        def read_ahead() -> None:
            for job in waiting:
                reading.append((job, readers.submit(read_image, job.image, upright=upright)))
                if len(reading) >= _AHEAD:
                    return

        read_ahead()
        while reading:
            job, picture = reading.popleft()
            read_ahead()
            try:
                prediction = predictor(picture.result())
            except _FAILURES as error:
                yield job, error
                continue
            writing.append((job, writers.submit(_write, job, prediction, style)))
            if len(writing) >= _AHEAD:
                yield _outcome(*writing.popleft())
        for item in writing:
            yield _outcome(*item)


_FAILURES = (FileError, OSError, ValueError, TypeError, RuntimeError, MemoryError)


def _outcome(job: Job, written: Future[None]) -> tuple[Job, Exception | None]:
    try:
        written.result()
    except _FAILURES as error:
        return job, error
    return job, None


def _write(job: Job, prediction: Prediction, style: MaskStyle) -> None:
    if job.mask is not None:
        save_labels(job.mask, prediction.labels.long().numpy(), style)
    if job.overlay is not None and prediction.overlay is not None:
        save_picture(job.overlay, prediction.overlay.numpy())
    if job.probabilities is not None and prediction.probabilities is not None:
        save_array(job.probabilities, prediction.probabilities, "probabilities")
