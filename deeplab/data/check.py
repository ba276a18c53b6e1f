"""Looking at all of a data set before a training run stumbles over a part of it."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from .dataset import SegmentationDataset
from .labels import LabelError

_SHOWN = 10  # problems in a report


@dataclass
class LabelReport:
    """What the labels of a data set hold.

    ``str(report)`` is a table of it; ``problems`` is empty if the data set can be trained on.
    """

    name: str
    classes: tuple[str, ...]
    samples: int
    pixels: list[int]  # of each class
    images: list[int]  # in which a class occurs
    present_pixels: list[int]  # of the images in which a class occurs, void left out
    void_pixels: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def absent(self) -> list[str]:
        """Classes that no pixel has."""
        return [name for name, count in zip(self.classes, self.pixels, strict=True) if not count]

    @property
    def hint(self) -> str:
        """What may be meant where one class and void are all there is; else nothing."""
        if sum(map(bool, self.pixels)) != 1 or not self.void_pixels or len(self.classes) == 1:
            return ""
        return (
            f"255 is void, as {100 * self._void_share:.1f} % of all pixels are: if it means "
            f"{self.absent[0]}, classes.txt says so by lines as 0: {self.classes[0]} and "
            f"255: {self.absent[0]}"
        )

    @property
    def _void_share(self) -> float:
        return self.void_pixels / (sum(self.pixels) + self.void_pixels)

    @classmethod
    def merged(cls, parts: Sequence[LabelReport]) -> LabelReport:
        """The report on all samples, from those on parts of them."""
        first = parts[0]

        def total(counts: Sequence[list[int]]) -> list[int]:
            return [sum(each) for each in zip(*counts, strict=True)]

        return cls(
            first.name,
            first.classes,
            first.samples,
            total([part.pixels for part in parts]),
            total([part.images for part in parts]),
            total([part.present_pixels for part in parts]),
            sum(part.void_pixels for part in parts),
            [problem for part in parts for problem in part.problems],
        )

    def raise_for_problems(self) -> None:
        """Raises LabelError, with the first problems, if there are any."""
        if self.problems:
            shown = "\n  ".join(self.problems[:_SHOWN])
            rest = len(self.problems) - _SHOWN
            more = f"\n  and {rest} more" if rest > 0 else ""
            raise LabelError(
                f"{len(self.problems)} of the {self.samples} samples of {self.name} cannot be "
                f"trained on:\n  {shown}{more}"
            )

    def __str__(self) -> str:
        labelled = sum(self.pixels)
        width = max(map(len, self.classes))
        lines = [f"{self.name}: {self.samples} samples, {len(self.problems)} with problems"]
        rows = zip(self.classes, self.pixels, self.images, strict=True)
        for number, (name, pixels, images) in enumerate(rows):
            share = f"{100 * pixels / labelled:6.2f} %" if pixels else "  absent"
            lines.append(f"  {number:3d} {name:{width}s} {share} in {images} images")
        if labelled or self.void_pixels:
            lines.append(f"  void: {100 * self._void_share:.2f} % of all pixels")
        if self.hint:
            lines.append(f"  ? {self.hint}")
        return "\n".join([*lines, *(f"  ! {problem}" for problem in self.problems[:_SHOWN])])


def check_labels(
    dataset: SegmentationDataset,
    *,
    part: tuple[int, int] = (0, 1),
    workers: int = 0,
    progress: Callable[[Iterable[Any]], Iterable[Any]] | None = None,
) -> LabelReport:
    """Reads every label image and every picture.

    Finds files that are missing or unreadable, sizes that differ, values that are no class's and
    classes that do not occur, and counts the pixels of each class.

    Args:
        dataset: what is read.
        part: (r, n): every n-th sample from the r-th on; n reports, merged, are that of all.
        workers: processes that read; 0 reads here.
        progress: draws a bar around the samples.
    """
    count = dataset.num_classes
    report = LabelReport(
        f"{dataset.name} {dataset.split}",
        dataset.classes,
        len(dataset),
        [0] * count,
        [0] * count,
        [0] * count,
    )
    looks = _Looks(dataset, range(part[0], len(dataset), part[1]))
    found: Iterable[Any] = DataLoader(
        looks, batch_size=None, num_workers=workers, collate_fn=_as_it_is
    )
    for histogram in found if progress is None else progress(found):
        if isinstance(histogram, str):
            report.problems.append(histogram)
            continue
        labelled = int(histogram[:count].sum())
        report.void_pixels += int(histogram[dataset.ignore_index])
        for c in np.flatnonzero(histogram[:count]):
            report.pixels[c] += int(histogram[c])
            report.images[c] += 1
            report.present_pixels[c] += labelled
    return report


class _Looks(Dataset[Any]):
    """How many pixels of a sample have each label; a text where something is wrong with it."""

    def __init__(self, dataset: SegmentationDataset, indices: Sequence[int]) -> None:
        self._dataset, self._indices = dataset, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> NDArray[np.int64] | str:
        try:
            label = self._dataset[self._indices[index]].label
        except FileNotFoundError as error:
            return f"{error.filename} is missing"
        except (LabelError, OSError) as error:
            return str(error)
        counts: NDArray[np.int64] = np.bincount(label.numpy().ravel(), minlength=256)
        return counts


def _as_it_is(found: Any) -> Any:
    return found


def fingerprint(dataset: SegmentationDataset) -> str:
    """Other for a data set whose files, or their meaning, changed; the same where it was moved."""
    digest = hashlib.sha256(pickle.dumps((dataset.classes, dataset.values, dataset.upright)))
    for pair in dataset.pairs:
        for path in (pair.image, pair.label):
            try:
                held = path.stat()
                found = f"{path.name} {held.st_size} {held.st_mtime_ns}\n"
            except OSError as error:
                found = f"{path.name} {error.strerror}\n"
            digest.update(found.encode())
    return digest.hexdigest()
