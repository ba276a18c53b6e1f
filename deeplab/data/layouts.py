"""Where the public data sets keep their files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from .classes import (
    CAMVID,
    CAMVID_VALUES,
    CITYSCAPES,
    CITYSCAPES_ID_VALUES,
    CITYSCAPES_TRAIN_ID_VALUES,
    COCO_STUFF,
    COCO_STUFF_182,
    COCO_STUFF_182_VALUES,
    COCO_STUFF_VALUES,
    voc_palette,
)
from .dataset import Pair, SegmentationDataset
from .labels import DataError, ValueMap, colors_of

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm")


def open_camvid(root: Path, split: str) -> SegmentationDataset:
    """CamVid as SegNet prepared it: 480×360, 11 classes.

    Either ``images/<split>``, ``labels/<split>`` and ``<split>.txt``, or SegNet's own ``<split>``
    and ``<split>annot``.
    """
    if (root / "labels" / split).is_dir():
        images, labels = root / "images" / split, root / "labels" / split
    elif (root / f"{split}annot").is_dir():
        images, labels = root / split, root / f"{split}annot"
    else:
        raise no_split("camvid", split, root)
    palette = list(CAMVID.values())
    return SegmentationDataset(
        "camvid",
        split,
        matching_pairs(images, labels),
        classes=list(CAMVID),
        palette=palette,
        values=ValueMap(CAMVID_VALUES, colors_of(palette, void=(0, 0, 0))),
    )


def open_cityscapes(root: Path, split: str) -> SegmentationDataset:
    """Cityscapes: ``leftImg8bit/<split>`` and ``gtFine/<split>``, 19 classes.

    Prepared ``*_labelTrainIds.png`` are taken where all are there, otherwise ``*_labelIds.png``.
    """
    images = root / "leftImg8bit" / split
    if not images.is_dir():
        raise no_split("cityscapes", split, root / "leftImg8bit")
    coarse = split == "train_extra"
    truth = root / ("gtCoarse" if coarse else "gtFine") / split
    kind = "gtCoarse" if coarse else "gtFine"
    names = [
        (path, path.name.removesuffix("_leftImg8bit.png"))
        for path in sorted(images.glob("*/*_leftImg8bit.png"))
    ]

    def pairs(suffix: str) -> list[Pair]:
        return [
            Pair(name, path, truth / path.parent.name / f"{name}_{kind}_{suffix}.png")
            for path, name in names
        ]

    prepared = pairs("labelTrainIds")
    ready = all(pair.label.is_file() for pair in prepared)
    return SegmentationDataset(
        "cityscapes",
        split,
        prepared if ready else pairs("labelIds"),
        classes=list(CITYSCAPES),
        palette=[color for _, color in CITYSCAPES.values()],
        values=ValueMap(CITYSCAPES_TRAIN_ID_VALUES if ready else CITYSCAPES_ID_VALUES),
    )


def open_coco_stuff(root: Path, split: str) -> SegmentationDataset:
    """COCO-Stuff 164k with its 171 classes, numbered without gaps."""
    return _coco_stuff("cocostuff", root, split)


def open_coco_stuff_182(root: Path, split: str) -> SegmentationDataset:
    """COCO-Stuff 164k with the 182 numbers of its files, eleven of which no pixel has."""
    return _coco_stuff("cocostuff182", root, split)


def _coco_stuff(name: str, root: Path, split: str) -> SegmentationDataset:
    """Pictures in ``<split>2017`` or ``images/<split>2017``, labels in a folder of pixel maps."""
    folder = f"{split.removesuffix('2017')}2017"
    tops = ("annotations", "stuffthingmaps", "stuffthingmaps_trainval2017", "labels")
    images = [p for p in (root / "images" / folder, root / folder) if p.is_dir()]
    labels = [root / top / folder for top in tops if (root / top / folder).is_dir()]
    if not images or not labels:
        raise no_split(name, split, root)
    renumbered = name == "cocostuff"
    classes = COCO_STUFF if renumbered else COCO_STUFF_182
    return SegmentationDataset(
        name,
        split,
        matching_pairs(images[0], labels[0]),
        classes=classes,
        palette=voc_palette(len(classes) + 1)[1:],
        values=ValueMap(COCO_STUFF_VALUES if renumbered else COCO_STUFF_182_VALUES),
    )


def matching_pairs(images: Path, labels: Path, names: Sequence[str] | None = None) -> list[Pair]:
    """The pictures of a folder, or those named, with the PNGs of the same name in another.

    Raises:
        DataError: two pictures have the name, and with it the label, in common.
    """
    by_name: dict[str, list[Path]] = {}
    for path in sorted(p for p in images.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES):
        by_name.setdefault(path.stem, []).append(path)
    pairs = []
    for name in sorted(by_name) if names is None else names:
        is_file = Path(name).suffix in IMAGE_SUFFIXES and names is not None
        stem = Path(name).stem if is_file else name
        found = by_name.get(stem, [images / f"{stem}.jpg"])
        if is_file and images / name in found:
            found = [images / name]
        if len(found) > 1:
            both = " and ".join(path.name for path in found[:2])
            raise DataError(f"{both} in {images} would both have the label {stem}.png")
        pairs.append(Pair(stem, found[0], labels / f"{stem}.png"))
    return pairs


def read_list(path: Path) -> list[str]:
    """The lines of a list that are not empty; DataError if it is no text."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8: {error}") from error
    return [line.strip() for line in lines if line.strip()]


def first_folder(root: Path, candidates: Iterable[str], needed: str) -> Path:
    """The first candidate inside ``root`` that has the folder ``needed``."""
    for candidate in candidates:
        if (root / candidate / needed).is_dir():
            return root / candidate
    raise FileNotFoundError(f"expected a folder {needed} in {root}, found none")


def no_split(name: str, split: str, where: Path, remedy: str = "") -> DataError:
    """The error of a split that is not there, which names what is."""
    found = sorted(p.name for p in where.iterdir())[:12] if where.is_dir() else []
    held = f"has {', '.join(found)}" if found else "is empty or missing"
    return DataError(f"{name} has no split {split!r}: {where} {held}{remedy}")
