"""Looking at all labels of a data set before a training run stumbles over one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from .dataset import Pair, SegmentationDataset
from .labels import LabelError, read_values

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
        everything = labelled + self.void_pixels
        width = max(map(len, self.classes))
        lines = [f"{self.name}: {self.samples} samples, {len(self.problems)} with problems"]
        rows = zip(self.classes, self.pixels, self.images, strict=True)
        for number, (name, pixels, images) in enumerate(rows):
            share = f"{100 * pixels / labelled:6.2f} %" if pixels else "  absent"
            lines.append(f"  {number:3d} {name:{width}s} {share} in {images} images")
        if everything:
            lines.append(f"  void: {100 * self.void_pixels / everything:.2f} % of all pixels")
        return "\n".join([*lines, *(f"  ! {problem}" for problem in self.problems[:_SHOWN])])


def check_labels(
    dataset: SegmentationDataset,
    *,
    part: tuple[int, int] = (0, 1),
    progress: Callable[[Sequence[Pair]], Iterable[Pair]] | None = None,
) -> LabelReport:
    """Reads every label image and the size of every picture.

    Finds files that are missing or unreadable, sizes that differ, values that are no class's and
    classes that do not occur, and counts the pixels of each class.

    Args:
        dataset: what is read.
        part: (r, n): every n-th sample from the r-th on; n reports, merged, are that of all.
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
    pairs = dataset.pairs[part[0] :: part[1]]
    for pair in pairs if progress is None else progress(pairs):
        try:
            label = dataset.values(read_values(pair.label), str(pair.label)).numpy()
            with Image.open(pair.image) as image:
                size = image.size
        except FileNotFoundError as error:
            report.problems.append(f"{error.filename} is missing")
            continue
        except (LabelError, OSError) as error:
            report.problems.append(str(error))
            continue
        if size != label.shape[::-1]:
            width, height = label.shape[::-1]
            report.problems.append(
                f"{pair.label} is {width}×{height} pixels large, its picture {pair.image.name} "
                f"{size[0]}×{size[1]}"
            )
            continue
        histogram = np.bincount(label.ravel(), minlength=256)
        labelled = int(histogram[:count].sum())
        report.void_pixels += int(histogram[dataset.ignore_index])
        for c in np.flatnonzero(histogram[:count]):
            report.pixels[c] += int(histogram[c])
            report.images[c] += 1
            report.present_pixels[c] += labelled
    return report
