"""Data sets: what their files mean, and what is said of files that mean nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pictures
import pytest
import scenes
import torch
from PIL import Image

from deeplab.data import DATASETS, LabelError, check_labels, open_dataset
from deeplab.data.classes import CITYSCAPES, COCO_STUFF, COCO_STUFF_182, VOC, voc_palette


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return scenes.write_folder(tmp_path / "scenes")


def _png(path: Path, pixels: object, palette: list[int] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.array(pixels, dtype=np.uint8))
    if palette is not None:
        image.putpalette(palette + [0] * (768 - len(palette)))
    image.save(path)


def _picture(path: Path, height: int, width: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(path)


def test_a_sample_is_a_picture_its_label_and_its_name(folder: Path) -> None:
    dataset = open_dataset("folder", folder, "train")
    image, label, name = dataset[0]
    assert image.dtype == torch.uint8
    assert image.shape == (3, 41, 57)
    assert label.dtype == torch.int64
    assert label.shape == (41, 57)
    assert name == "scene0"
    assert set(label.unique().tolist()) <= {0, 1, 2, 3, dataset.ignore_index}
    assert dataset.classes == scenes.NAMES
    assert len(dataset) == 4


def test_palette_index_and_colour_masks_mean_the_same(folder: Path) -> None:
    plain = open_dataset("folder", folder, "train")[0].label
    path = folder / "labels" / "scene0.png"
    indices = np.array(Image.open(path))
    _png(path, indices, palette=scenes.COLORS.ravel().tolist())
    coloured_palette = open_dataset("folder", folder, "train")
    assert torch.equal(coloured_palette[0].label, plain)
    assert coloured_palette.palette == tuple(map(tuple, scenes.COLORS.tolist()))

    known = np.where(indices == 255, 0, indices)
    _png(path, scenes.COLORS[known])
    lines = [
        f"{n} {r} {g} {b}"
        for n, (r, g, b) in zip(scenes.NAMES, scenes.COLORS.tolist(), strict=True)
    ]
    (folder / "classes.txt").write_text("\n".join(lines))
    colours = open_dataset("folder", folder, "train")
    assert colours.classes == scenes.NAMES
    assert torch.equal(colours[0].label, torch.from_numpy(known.astype(np.int64)))


def test_ignored_values_become_void_and_the_others_close_the_gap(folder: Path) -> None:
    before = open_dataset("folder", folder, "train")[0].label
    dataset = open_dataset("folder", folder, "train", ignore=(1,))
    label = dataset[0].label
    assert dataset.classes == ("background", "green", "blue")
    assert torch.equal(label == 255, (before == 255) | (before == 1))
    assert torch.equal(label == 2, before == 3)


def test_a_split_may_be_a_folder(folder: Path) -> None:
    for kind in ("images", "labels"):
        (folder / kind / "extra").mkdir()
        (folder / kind / "scene5.png").rename(folder / kind / "extra" / "scene5.png")
    assert [pair.name for pair in open_dataset("folder", folder, "extra").pairs] == ["scene5"]


def test_a_value_that_is_no_class_is_named_with_its_file(folder: Path) -> None:
    _png(folder / "labels" / "scene0.png", np.full((41, 57), 9))
    dataset = open_dataset("folder", folder, "train")
    with pytest.raises(LabelError, match=r"scene0\.png: found the values 9, expected 0…3, 255"):
        dataset[0]


def test_a_label_of_another_size_is_an_error(folder: Path) -> None:
    _png(folder / "labels" / "scene0.png", np.zeros((41, 58)))
    with pytest.raises(LabelError, match=r"scene0\.png is 58×41 pixels large.*57×41"):
        open_dataset("folder", folder, "train")[0]


def test_colours_where_numbers_belong_are_an_error(folder: Path) -> None:
    _png(folder / "labels" / "scene0.png", np.zeros((41, 57, 3)))
    with pytest.raises(LabelError, match="the classes have no colours"):
        open_dataset("folder", folder, "train")[0]


def test_the_report_finds_every_fault_and_counts_the_rest(folder: Path) -> None:
    _png(folder / "labels" / "scene0.png", np.full((41, 57), 77))
    _png(folder / "labels" / "scene1.png", np.zeros((5, 5)))
    (folder / "labels" / "scene2.png").write_text("no picture")
    (folder / "labels" / "scene3.png").unlink()
    (folder / "train.txt").write_text("\n".join(f"scene{i}" for i in range(5)))
    _png(folder / "labels" / "scene4.png", np.r_[np.full((40, 57), 2), np.full((1, 57), 255)])
    report = check_labels(open_dataset("folder", folder, "train"))
    assert len(report.problems) == 4
    assert report.pixels == [0, 0, 40 * 57, 0]
    assert report.images == [0, 0, 1, 0]
    assert report.void_pixels == 57
    assert report.absent == ["background", "red", "blue"]
    assert "absent" in str(report)
    with pytest.raises(LabelError, match="4 of the 5 samples"):
        report.raise_for_problems()


def test_a_sound_data_set_has_no_problems(folder: Path) -> None:
    report = check_labels(open_dataset("folder", folder, "train"))
    assert report.problems == []
    assert sum(report.pixels) + report.void_pixels == 4 * 41 * 57
    report.raise_for_problems()


def test_what_is_not_there_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a data set among camvid"):
        open_dataset("vco2012", folder, "train")
    with pytest.raises(ValueError, match="no split 'trian'"):
        open_dataset("folder", folder, "trian")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        open_dataset("folder", tmp_path / "nowhere", "train")
    with pytest.raises(FileNotFoundError, match="JPEGImages"):
        open_dataset("voc2012", folder, "train")
    with pytest.raises(TypeError, match="voc2012 takes no options"):
        open_dataset("voc2012", folder, "train", ignore=(3,))
    (folder / "classes.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"classes\.txt"):
        open_dataset("folder", folder, "train")


def test_voc_reads_both_kinds_of_lists(tmp_path: Path) -> None:
    base = tmp_path / "VOCdevkit" / "VOC2012"
    lists = base / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for name in ("a", "b", "c"):
        _picture(base / "JPEGImages" / f"{name}.jpg", 4, 6)
        _png(base / "SegmentationClassAug" / f"{name}.png", np.full((4, 6), 20))
    _png(base / "SegmentationClass" / "a.png", np.full((4, 6), 255), [0, 0, 0, 9, 9, 9])
    (lists / "val.txt").write_text("a\n")
    assert (open_dataset("voc2012", tmp_path, "val")[0].label == 255).all()

    without_list = open_dataset("voc2012", tmp_path, "trainaug")
    assert [pair.name for pair in without_list.pairs] == ["b", "c"]
    (lists / "trainaug.txt").write_text("/JPEGImages/c.jpg /SegmentationClassAug/c.png\n")
    with_list = open_dataset("voc2012", tmp_path, "trainaug")
    assert [pair.name for pair in with_list.pairs] == ["c"]
    assert (with_list[0].label == 20).all()
    assert with_list.classes[20] == "tvmonitor"


def test_the_voc_palette_is_the_devkits() -> None:
    palette = voc_palette(256)
    assert palette[:4] == [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)]
    assert palette[20] == (0, 64, 128)
    assert palette[255] == (224, 224, 192)
    assert len(VOC) == 21


@pytest.mark.parametrize(("suffix", "values"), [("labelIds", [7, 33]), ("labelTrainIds", [0, 18])])
def test_cityscapes_ids_become_the_evaluated_classes(
    tmp_path: Path, suffix: str, values: list[int]
) -> None:
    name = "ulm_000000_000019"
    _picture(tmp_path / "leftImg8bit" / "train" / "ulm" / f"{name}_leftImg8bit.png", 1, 3)
    void = 255 if suffix == "labelTrainIds" else 0
    truth = tmp_path / "gtFine" / "train" / "ulm" / f"{name}_gtFine_{suffix}.png"
    _png(truth, [[*values, void]])
    dataset = open_dataset("cityscapes", tmp_path, "train")
    assert dataset[0].label.tolist() == [[0, 18, 255]]
    assert dataset.num_classes == len(CITYSCAPES) == 19


def test_coco_stuff_closes_the_gaps_in_its_numbers(tmp_path: Path) -> None:
    _picture(tmp_path / "train2017" / "000.jpg", 1, 4)
    _png(tmp_path / "stuffthingmaps" / "train2017" / "000.png", [[0, 12, 181, 255]])
    closed = open_dataset("cocostuff", tmp_path, "train")
    assert closed[0].label.tolist() == [[0, 11, 170, 255]]
    assert [closed.classes[i] for i in (0, 11, 170)] == ["person", "stop sign", "wood"]
    open_numbers = open_dataset("cocostuff182", tmp_path, "train2017")
    assert open_numbers[0].label.tolist() == [[0, 12, 181, 255]]
    assert [open_numbers.classes[i] for i in (0, 12, 181)] == ["person", "stop sign", "wood"]
    assert (len(COCO_STUFF), len(COCO_STUFF_182)) == (171, 182)


def test_camvid_as_segnet_has_it_and_as_a_converted_copy(tmp_path: Path) -> None:
    for image, label in (("train", "trainannot"), ("images/train", "labels/train")):
        root = tmp_path / label.replace("/", "_")
        _picture(root / image / "x.png", 1, 3)
        _png(root / label / "x.png", [[0, 10, 11]])
        assert open_dataset("camvid", root, "train")[0].label.tolist() == [[0, 10, 255]]


@pytest.mark.skipif(not (pictures.SHARED / "camvid").is_dir(), reason="no CamVid here")
def test_the_real_camvid_is_sound() -> None:
    sizes = {"train": 367, "val": 101, "test": 233}
    for split, size in sizes.items():
        dataset = open_dataset("camvid", pictures.SHARED / "camvid", split)
        assert len(dataset) == size
        report = check_labels(dataset)
        assert report.problems == []
        assert report.absent == []


@pytest.mark.skipif(not (pictures.SHARED / "voc_sample").is_dir(), reason="no VOC here")
def test_the_real_voc_keeps_its_void_and_palette() -> None:
    dataset = open_dataset("voc2012", pictures.SHARED / "voc_sample", "val")
    report = check_labels(dataset)
    assert report.problems == []
    assert report.void_pixels > 0
    assert dataset.palette[15] == (192, 128, 128)


def test_every_data_set_has_a_colour_for_each_class() -> None:
    assert sorted(DATASETS) == [
        "camvid", "cityscapes", "cocostuff", "cocostuff182", "folder", "voc2012",
    ]  # fmt: skip
