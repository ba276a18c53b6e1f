"""Data sets: what their files mean, and what is said of files that mean nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pictures
import pytest
import scenes
import torch
from PIL import Image

from deeplab.data import DATASETS, DataError, LabelError, LabelReport, check_labels, open_dataset
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


def test_a_class_may_have_any_value_and_then_255_is_not_void(folder: Path) -> None:
    _png(folder / "labels" / "scene0.png", np.r_[np.zeros((40, 57)), np.full((1, 57), 255)])
    (folder / "classes.txt").write_text("0: background\n255: thing")
    dataset = open_dataset("folder", folder, "train")
    assert dataset.classes == ("background", "thing")
    assert dataset[0].label.unique().tolist() == [0, 1]
    (folder / "classes.txt").write_text("0: background 0 0 0\n200: thing 9 8 7\n")
    dataset = open_dataset("folder", folder, "train", ignore=[0])
    assert (dataset.classes, dataset.palette) == (("thing",), ((9, 8, 7),))
    _png(folder / "labels" / "scene0.png", np.full((41, 57, 3), (9, 8, 7)))
    assert dataset[0].label.unique().tolist() == [0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"classes\.txt is empty: expected the names"),
        ("0: a\nb", "gives 1 of 2 classes a value"),
        ("a 1 2 3\nb", "gives 1 of 2 classes a colour"),
        ("0: a\n0: b", r"values of their own from 0 to 255, found \[0, 0\]"),
        ("0: a\n256: b", r"values of their own from 0 to 255, found \[0, 256\]"),
        ("\n".join(map(str, range(256))), "at most 255 classes, found 256"),
    ],
)
def test_classes_that_cannot_be_are_said(folder: Path, text: str, message: str) -> None:
    (folder / "classes.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        open_dataset("folder", folder, "train")


def test_pictures_that_a_camera_turned_are_said_and_may_be_turned(folder: Path) -> None:
    """The label is drawn on the picture as people see it."""
    path = folder / "images" / "scene0.png"
    with Image.open(path) as image:
        exif = image.getexif()
        exif[0x0112] = 6
        image.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    dataset = open_dataset("folder", folder, "train")
    hint = r"41×57, which its EXIF orientation turns: data\.upright=true in training, --upright"
    with pytest.raises(LabelError, match=hint):
        dataset[0]
    assert "EXIF" in check_labels(dataset).problems[0]
    upright = open_dataset("folder", folder, "train", upright=True)
    assert upright[0].image.shape == (3, *upright[0].label.shape)
    assert check_labels(upright).problems == []


def test_two_pictures_of_one_name_are_said(folder: Path) -> None:
    _picture(folder / "images" / "scene0.jpg", 41, 57)
    with pytest.raises(DataError, match=r"scene0\.jpg and scene0\.png in .* the label scene0\.png"):
        open_dataset("folder", folder, "train")
    (folder / "train.txt").write_text("scene1\nscene0.png")
    pairs = open_dataset("folder", folder, "train").pairs
    assert [pair.image.name for pair in pairs] == ["scene1.png", "scene0.png"]


def test_a_folder_without_splits_is_told_how_to_get_them(folder: Path) -> None:
    (folder / "train.txt").unlink()
    with pytest.raises(
        DataError, match=r"classes\.txt, images, labels, val\.txt; train\.txt there"
    ):
        open_dataset("folder", folder, "train")


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


def test_pictures_that_cannot_be_trained_on_are_found(folder: Path) -> None:
    whole = (folder / "images" / "scene0.png").read_bytes()
    (folder / "images" / "scene0.png").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(np.zeros((41, 57), np.uint16)).save(folder / "images" / "scene1.png")
    for workers in (0, 1):
        report = check_labels(open_dataset("folder", folder, "train"), workers=workers)
        assert [problem.partition(": ")[2] for problem in report.problems] == [
            "image file is truncated",
            "expected 8 bits a channel, found mode I;16",
        ]
        assert report.images[0] == 2


def test_reports_on_parts_merge_to_that_on_all(folder: Path) -> None:
    _png(folder / "labels" / "scene0.png", np.full((41, 57), 77))
    (folder / "labels" / "scene3.png").unlink()
    dataset = open_dataset("folder", folder, "train")
    parts = [check_labels(dataset, part=(rank, 3)) for rank in range(3)]
    whole, merged = check_labels(dataset), LabelReport.merged(parts)
    assert sorted(merged.problems) == sorted(whole.problems)
    assert "scene3.png is missing" in "".join(whole.problems)
    merged.problems = whole.problems
    assert merged == whole


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


def _sbd_label(path: Path, classes: object) -> None:
    """As SBD stores it: a structure GTcls with the classes and, per class, sparse outlines."""
    io = pytest.importorskip("scipy.io", reason="scipy is not installed")
    sparse = pytest.importorskip("scipy.sparse")
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.array(classes, dtype=np.uint8)
    outlines = np.empty((20, 1), dtype=object)
    for i in range(20):
        outlines[i, 0] = sparse.csc_matrix(pixels == i + 1)
    truth = {"Boundaries": outlines, "Segmentation": pixels, "CategoriesPresent": [[1]]}
    io.savemat(path, {"GTcls": truth}, do_compression=True)


@pytest.fixture
def sbd(tmp_path: Path) -> Path:
    """Of SBD's pictures a ... d, VOC has a in its val and b in its train."""
    base = tmp_path / "benchmark_RELEASE" / "dataset"
    for name, label in zip("abcd", ([[1, 2]], [[3, 4]], [[5, 20]], [[0, 7]]), strict=True):
        _picture(base / "img" / f"{name}.jpg", 1, 2)
        _sbd_label(base / "cls" / f"{name}.mat", label)
    (base / "train.txt").write_text("a\nc\n")
    (base / "val.txt").write_text("b\nd\n")
    return tmp_path


def test_sbd_is_read_as_it_is_distributed(sbd: Path) -> None:
    dataset = open_dataset("sbd", sbd, "train")
    assert [sample.name for sample in dataset] == ["a", "c"]
    assert dataset[1].label.tolist() == [[5, 20]]
    assert dataset[1].image.shape == (3, 1, 2)
    assert dataset.classes == tuple(VOC)
    inside = open_dataset("sbd", sbd / "benchmark_RELEASE" / "dataset", "val")
    assert [sample.name for sample in inside] == ["b", "d"]
    assert check_labels(inside).problems == []
    with pytest.raises(ValueError, match="sbd has no split 'train_noval'"):
        open_dataset("sbd", sbd, "train_noval")


@pytest.mark.parametrize("place", ["", "SBD"])
def test_trainaug_is_vocs_train_and_sbd_without_vocs_val(sbd: Path, place: str) -> None:
    base = sbd / "VOCdevkit" / "VOC2012"
    if place:
        (sbd / "benchmark_RELEASE").rename(sbd / "moved")
        (sbd / place).mkdir()
        (sbd / "moved" / "dataset").rename(sbd / place / "dataset")
    lists = base / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for name in "abe":
        _picture(base / "JPEGImages" / f"{name}.jpg", 1, 2)
        _png(base / "SegmentationClass" / f"{name}.png", [[255, 9]])
    (lists / "val.txt").write_text("a\n")
    (lists / "train.txt").write_text("b\ne\n")
    train = open_dataset("voc2012", sbd, "trainaug")
    assert {name: label.tolist() for _, label, name in train} == {
        "b": [[255, 9]], "c": [[5, 20]], "d": [[0, 7]], "e": [[255, 9]],
    }  # fmt: skip
    everything = open_dataset("voc2012", sbd, "trainvalaug")
    assert [sample.name for sample in everything] == ["a", "b", "c", "d", "e"]
    # Ready-made labels go before.
    _png(base / "SegmentationClassAug" / "c.png", [[8, 8]])
    ready = open_dataset("voc2012", sbd, "trainaug")
    assert [pair.label for pair in ready.pairs] == [base / "SegmentationClassAug" / "c.png"]


def test_what_is_no_label_of_sbd_is_said(sbd: Path) -> None:
    io = pytest.importorskip("scipy.io", reason="scipy is not installed")
    labels = sbd / "benchmark_RELEASE" / "dataset" / "cls"
    (labels / "a.mat").write_bytes(b"")
    io.savemat(labels / "c.mat", {"GTinst": {"Segmentation": np.zeros((1, 2), np.uint8)}})
    io.savemat(labels / "b.mat", {"GTcls": {"Segmentation": np.zeros((1, 2))}})
    _sbd_label(labels / "d.mat", [[0, 21]])
    problems = [
        problem
        for split in ("train", "val")
        for problem in check_labels(open_dataset("sbd", sbd, split)).problems
    ]
    assert "a.mat holds no GTcls.Segmentation" in problems[0]
    assert "c.mat holds no GTcls.Segmentation: 'GTcls'" in problems[1]
    assert "b.mat: expected GTcls.Segmentation to be numbers [H, W], found float64" in problems[2]
    assert "d.mat: found the values 21, expected 0…20, 255" in problems[3]
    (labels / "a.mat").unlink()
    (missing,) = check_labels(open_dataset("sbd", sbd, "train")).problems[:1]
    assert "a.mat" in missing


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
        "camvid", "cityscapes", "cocostuff", "cocostuff182", "folder", "sbd", "voc2012",
    ]  # fmt: skip
