"""What every data set of pictures and labels looks like to training and evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor
from torch.utils.data import Dataset

from .labels import IGNORE, Color, DataError, LabelError, ValueMap, read_values
from .pictures import is_turned, read_image


class Sample(NamedTuple):
    """A picture and what is to be seen on it."""

    image: Tensor  # RGB, uint8 [3, H, W]
    label: Tensor  # class numbers and IGNORE, int64 [H, W]
    name: str  # of the picture, without folder and suffix


class Pair(NamedTuple):
    """The two files of a sample."""

    name: str
    image: Path
    label: Path


class SegmentationDataset(Dataset[Sample]):
    """Pictures with a class number at every pixel.

    Args:
        name: of the data set.
        split: the part of it, such as ``"train"``.
        pairs: the files, in a fixed order.
        classes: names; a class's number is its place.
        palette: an RGB colour per class.
        values: what the values in the label images mean.

    Attributes:
        upright: turn pictures as their EXIF orientation says; False, since label images seldom
            know of it.
    """

    ignore_index = IGNORE

    def __init__(
        self,
        name: str,
        split: str,
        pairs: Sequence[Pair],
        *,
        classes: Sequence[str],
        palette: Sequence[Color],
        values: ValueMap,
    ) -> None:
        if not pairs:
            raise DataError(f"the split {split!r} of {name} has no pictures")
        if len(classes) != len(palette):
            raise ValueError(f"found {len(classes)} classes and {len(palette)} colours")
        self.name = name
        self.split = split
        self.pairs = tuple(pairs)
        self.classes = tuple(classes)
        self.palette = tuple(palette)
        self.values = values
        self.upright = False

    @property
    def num_classes(self) -> int:
        """How many classes there are, ``ignore_index`` not counted."""
        return len(self.classes)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Reads a sample.

        Raises:
            LabelError: the label image is unreadable, of another size than the picture, or holds a
                value that is no class's.
            FileNotFoundError: a file is missing.
            PictureError: the picture is none, damaged, or has more than 8 bits a channel.
        """
        pair = self.pairs[index]
        image = read_image(pair.image, upright=self.upright)
        label = self.values(read_values(pair.label), str(pair.label))
        if image.shape[1:] != label.shape:
            turned = (
                ", which its EXIF orientation turns: data.upright=true in training, --upright in "
                "evaluation"
                if not self.upright and is_turned(pair.image)
                else ""
            )
            raise LabelError(
                f"{pair.label} is {_size(label)} pixels large, its picture {pair.image.name} "
                f"{_size(image[0])}{turned}"
            )
        return Sample(image, label, pair.name)

    def __repr__(self) -> str:
        return f"<{self.name} {self.split}: {len(self)} pictures, {self.num_classes} classes>"


def _size(x: Tensor) -> str:
    """``[H, W]`` as people say it, width first."""
    return f"{x.shape[1]}×{x.shape[0]}"
