"""Data sets of pictures with a class number at every pixel.

    dataset = deeplab.data.open_dataset("camvid", "data/camvid", "train")
    image, label, name = dataset[0]  # uint8 RGB [3, H, W], int64 [H, W], str
    print(check_labels(dataset))

Wherever they come from, void pixels are labelled ``ignore_index``, 255.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .check import LabelReport, check_labels
from .dataset import Pair, Sample, SegmentationDataset
from .folder import open_folder
from .labels import IGNORE, DataError, LabelError
from .layouts import (
    open_camvid,
    open_cityscapes,
    open_coco_stuff,
    open_coco_stuff_182,
)
from .pictures import PictureError
from .voc import open_sbd, open_voc

__all__ = [
    "DATASETS",
    "IGNORE",
    "DataError",
    "LabelError",
    "LabelReport",
    "Pair",
    "PictureError",
    "Sample",
    "SegmentationDataset",
    "check_labels",
    "open_dataset",
]

DATASETS: dict[str, Callable[..., SegmentationDataset]] = {
    "camvid": open_camvid,
    "cityscapes": open_cityscapes,
    "cocostuff": open_coco_stuff,
    "cocostuff182": open_coco_stuff_182,
    "folder": open_folder,
    "sbd": open_sbd,
    "voc2012": open_voc,
}


def open_dataset(
    name: str,
    root: str | os.PathLike[str],
    split: str,
    *,
    upright: bool = False,
    **options: Any,
) -> SegmentationDataset:
    """Opens a part of a data set.

    Args:
        name: ``"voc2012"`` (splits ``train``, ``val``, ``trainval``, ``trainaug``), ``"sbd"``,
            ``"camvid"``, ``"cityscapes"``, ``"cocostuff"`` (171 classes), ``"cocostuff182"`` or
            ``"folder"``.
        root: where its files are; ``~`` is the home folder.
        split: the part.
        upright: turn pictures as their EXIF orientation says, where the labels are turned.
        options: of ``"folder"``: ``ignore``, values beside 255 that mean no class.

    Raises:
        DataError: a ValueError: the name or the split is unknown, or the data set is not as it
            should be.
        FileNotFoundError: the files are not where they belong.
    """
    if name not in DATASETS:
        raise DataError(f"expected a data set among {', '.join(DATASETS)}; found {name!r}")
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder} with the data set {name}")
    if options and name != "folder":
        raise TypeError(f"{name} takes no options, found {', '.join(options)}")
    dataset = DATASETS[name](folder, split, **options)
    dataset.upright = upright
    return dataset
