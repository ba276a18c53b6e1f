"""PASCAL VOC 2012, and the Semantic Boundaries Dataset (SBD) that labels more of its pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from .classes import VOC, VOC_VOID, voc_palette
from .dataset import Pair, SegmentationDataset
from .labels import IGNORE, ValueMap, colors_of
from .layouts import first_folder, no_split, read_list

_AUGMENTED = ("trainaug", "trainvalaug", "train_aug")
# Where SBD's archive, or torchvision, puts "img" and "cls".
_SBD_FOLDERS = ("benchmark_RELEASE/dataset", "dataset", "")


def open_voc(root: Path, split: str) -> SegmentationDataset:
    """PASCAL VOC 2012: ``JPEGImages``, ``SegmentationClass``, ``ImageSets/Segmentation``.

    ``"trainaug"`` and ``"trainvalaug"`` take the labels of ``SegmentationClassAug`` (VOC's and
    SBD's together). Where no list of them is found, they are all pictures labelled there: without
    those of ``"val"``, or with them. Where there is no such folder but SBD as it is distributed,
    in ``root`` or its folder ``SBD``, VOC's pictures have VOC's labels, the others SBD's.
    """
    base = first_folder(root, ("", "VOC2012", "VOCdevkit/VOC2012"), "JPEGImages")
    lists = base / "ImageSets" / "Segmentation"
    augmented = split in _AUGMENTED
    labels = base / ("SegmentationClassAug" if augmented else "SegmentationClass")
    boundaries = _find_sbd(root, base) if augmented and not labels.is_dir() else None
    if boundaries is not None:
        return _dataset("voc2012", split, _augmented_pairs(base, boundaries, split))
    if (lists / f"{split}.txt").is_file():
        entries = read_list(lists / f"{split}.txt")
    elif augmented and labels.is_dir():
        held_out = set() if split == "trainvalaug" else set(read_list(lists / "val.txt"))
        entries = sorted({path.stem for path in labels.glob("*.png")} - held_out)
    else:
        raise no_split("voc2012", split, lists)
    pairs = []
    for entry in entries:
        # Lists of trainaug in circulation give both paths: "/JPEGImages/x.jpg /Seg.../x.png".
        columns = entry.split()
        name = Path(columns[0]).stem
        label = base / columns[1].lstrip("/") if len(columns) == 2 else labels / f"{name}.png"
        pairs.append(Pair(name, base / "JPEGImages" / f"{name}.jpg", label))
    return _dataset("voc2012", split, pairs)


def open_sbd(root: Path, split: str) -> SegmentationDataset:
    """SBD as it is distributed: ``img``, labels in MATLAB's format in ``cls``, and lists.

    Of its own, ``"train"`` and ``"val"``, which are others than VOC's and overlap with them.
    ``"train_noval"``, both without the pictures of VOC's ``"val"``, needs a list of that name;
    with VOC beside it, ``"trainaug"`` of ``"voc2012"`` is that and VOC's ``"train"``.
    """
    base = first_folder(root, _SBD_FOLDERS, "cls")
    if not (base / f"{split}.txt").is_file():
        raise no_split("sbd", split, base)
    return _dataset("sbd", split, _sbd_pairs(base, read_list(base / f"{split}.txt")))


def _dataset(name: str, split: str, pairs: Sequence[Pair]) -> SegmentationDataset:
    values = {**{label: label for label in range(21)}, IGNORE: IGNORE}
    return SegmentationDataset(
        name,
        split,
        pairs,
        classes=VOC,
        palette=voc_palette(21),
        values=ValueMap(values, colors_of(voc_palette(21), VOC_VOID)),
    )


def _find_sbd(root: Path, voc: Path) -> Path | None:
    """SBD's folder in ``root``, in VOC's own, or in a folder ``SBD`` or ``sbd`` of either."""
    for start in (root, voc):
        for name in ("", "SBD", "sbd"):
            for folder in _SBD_FOLDERS:
                if (start / name / folder / "cls").is_dir():
                    return start / name / folder
    return None


def _augmented_pairs(voc: Path, sbd: Path, split: str) -> list[Pair]:
    """VOC's ``"train"``, and what SBD has beyond VOC's ``"val"``; of trainvalaug, that as well."""
    lists = voc / "ImageSets" / "Segmentation"
    held_out = set(read_list(lists / "val.txt"))
    own = set(read_list(lists / "train.txt"))
    more = {name for part in ("train", "val") for name in read_list(sbd / f"{part}.txt")}
    more -= own | held_out
    if split == "trainvalaug":
        own |= held_out
    pairs = [
        Pair(
            name,
            voc / "JPEGImages" / f"{name}.jpg",
            voc / "SegmentationClass" / f"{name}.png",
        )
        for name in own
    ]
    return sorted(pairs + _sbd_pairs(sbd, more))


def _sbd_pairs(base: Path, names: Iterable[str]) -> list[Pair]:
    return [
        Pair(name, base / "img" / f"{name}.jpg", base / "cls" / f"{name}.mat") for name in names
    ]
