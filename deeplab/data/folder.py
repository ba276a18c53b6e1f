"""A plain folder of images and masks as a data set."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .classes import voc_palette
from .dataset import SegmentationDataset
from .labels import IGNORE, Color, DataError, ValueMap, stored_palette
from .layouts import matching_pairs, no_split, read_list

LABEL_FOLDERS = ("labels", "masks", "annotations")


def open_folder(root: Path, split: str, ignore: Sequence[int] = ()) -> SegmentationDataset:
    """Any pictures with masks.

    Pictures are in ``images``, PNG masks of the same name in ``labels``, ``masks`` or
    ``annotations``. The split is either a folder inside both or a list ``<split>.txt`` of names.
    ``classes.txt`` names the classes, one a line, in the order of their numbers; a line may end
    with a colour, ``road 128 64 128``, which masks stored as RGB need. Colours not given are those
    of the masks' own palette, or PASCAL VOC's. A line may begin with the value that the class has
    in the masks, ``255: road``, which is then not void.

    Args:
        root: the folder.
        split: the part of it.
        ignore: values beside 255 that mean no class.
    """
    images = root / "images"
    labels = next((root / name for name in LABEL_FOLDERS if (root / name).is_dir()), None)
    if not images.is_dir() or labels is None:
        raise FileNotFoundError(f"expected folders images and labels in {root}")
    if (images / split).is_dir():
        pairs = matching_pairs(images / split, labels / split)
    elif (root / f"{split}.txt").is_file():
        pairs = matching_pairs(images, labels, read_list(root / f"{split}.txt"))
    else:
        remedy = (
            f"; {split}.txt there, with the names of its pictures one a line, makes it one, as "
            f"folders images/{split} and {labels.name}/{split} do"
        )
        raise no_split("the folder", split, root, remedy)
    classes = _read_classes(root / "classes.txt")
    # A value to ignore may be named in classes.txt: the numbers of the files stay its own.
    kept = [one for one in classes if one.value not in ignore]
    values = dict.fromkeys((*ignore, IGNORE), IGNORE)
    values |= {one.value: label for label, one in enumerate(kept)}
    palette = voc_palette(256)
    stored = stored_palette(pairs[0].label) if pairs and pairs[0].label.is_file() else None
    if stored is not None and len(stored) > max(one.value for one in classes):
        palette = stored
    colors = {one.value: one.color or palette[one.value] for one in classes}
    by_color = None
    if stored is not None or classes[0].color is not None:
        by_color = {colors[one.value]: values[one.value] for one in classes}
    return SegmentationDataset(
        root.name,
        split,
        pairs,
        classes=[one.name for one in kept],
        palette=[colors[one.value] for one in kept],
        values=ValueMap(values, by_color),
    )


class _Class(NamedTuple):
    """A line of classes.txt."""

    name: str
    value: int
    color: Color | None


def _read_classes(path: Path) -> list[_Class]:
    """The classes; values and colours are given to all or to none."""
    if not path.is_file():
        raise FileNotFoundError(f"expected the names of the classes, one a line, in {path}")
    classes: list[_Class] = []
    valued = 0
    for line in read_list(path):
        value, name, color = len(classes), line, None
        if match := re.fullmatch(r"(\d+)\s*:\s*(.+)", line):
            value, name = int(match[1]), match[2]
            valued += 1
        words = name.split()
        if len(words) > 3 and all(word.isdigit() and int(word) < 256 for word in words[-3:]):
            color = (int(words[-3]), int(words[-2]), int(words[-1]))
            name = " ".join(words[:-3])
        classes.append(_Class(name, value, color))
    count = len(classes)
    if not classes:
        raise DataError(f"{path} is empty: expected the names of the classes, one a line")
    for what, given in (
        ("colour", sum(one.color is not None for one in classes)),
        ("value", valued),
    ):
        if given not in (0, count):
            raise DataError(f"{path} gives {given} of {count} classes a {what}")
    if count > IGNORE:
        raise DataError(f"{path}: expected at most {IGNORE} classes, found {count}")
    found = [one.value for one in classes]
    if len(set(found)) < count or max(found) > 255:
        raise DataError(f"{path}: expected values of their own from 0 to 255, found {found}")
    return classes
