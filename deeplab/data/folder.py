"""A plain folder of images and masks as a data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .classes import voc_palette
from .dataset import SegmentationDataset
from .labels import IGNORE, Color, ValueMap, stored_palette
from .layouts import matching_pairs, no_split, read_list

LABEL_FOLDERS = ("labels", "masks", "annotations")


def open_folder(root: Path, split: str, ignore: Sequence[int] = ()) -> SegmentationDataset:
    """Any pictures with masks.

    Pictures are in ``images``, PNG masks of the same name in ``labels``, ``masks`` or
    ``annotations``. The split is either a folder inside both or a list ``<split>.txt`` of names.
    ``classes.txt`` names the classes, one a line, in the order of their numbers; a line may end
    with a colour, ``road 128 64 128``, which masks stored as RGB need. Colours not given are those
    of the masks' own palette, or PASCAL VOC's.

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
        raise no_split("the folder", split, root)
    classes, colors = _read_classes(root / "classes.txt")
    # A value to ignore may be named in classes.txt: the numbers of the files stay its own.
    kept = [value for value in range(len(classes)) if value not in ignore]
    values = {value: label for label, value in enumerate(kept)}
    values |= dict.fromkeys((*ignore, IGNORE), IGNORE)
    if colors is None and pairs and pairs[0].label.is_file():
        colors = stored_palette(pairs[0].label)
    palette = voc_palette(len(classes)) if colors is None or len(colors) < len(classes) else colors
    by_color = {color: values[value] for value, color in enumerate(palette[: len(classes)])}
    return SegmentationDataset(
        root.name,
        split,
        pairs,
        classes=[classes[value] for value in kept],
        palette=[palette[value] for value in kept],
        values=ValueMap(values, by_color if colors is not None else None),
    )


def _read_classes(path: Path) -> tuple[list[str], list[Color] | None]:
    """The names, and the colours where every line has one."""
    if not path.is_file():
        raise FileNotFoundError(f"expected the names of the classes, one a line, in {path}")
    names: list[str] = []
    colors: list[Color] = []
    for line in read_list(path):
        words = line.split()
        if len(words) > 3 and all(word.isdigit() and int(word) < 256 for word in words[-3:]):
            names.append(" ".join(words[:-3]))
            colors.append((int(words[-3]), int(words[-2]), int(words[-1])))
        else:
            names.append(line)
    if colors and len(colors) != len(names):
        raise ValueError(f"{path} gives {len(colors)} of {len(names)} classes a colour")
    return names, colors or None
