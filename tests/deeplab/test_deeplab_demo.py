"""The demonstration, and the weights that come with the package."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import SHARED
from PIL import Image

import deeplab
from deeplab.cli import main
from deeplab.data import open_dataset
from deeplab.data.classes import CAMVID
from deeplab.demo import FRAME, load_frame
from deeplab.demo.figure import colorize
from deeplab.labelling import Labelling, labelling_beside
from deeplab.metrics import ConfusionMatrix
from deeplab.weights import packaged_weights


def test_the_demonstration_draws_the_street_and_prints_the_scores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "-o", str(tmp_path / "new" / "demo.png")]) == 0
    with Image.open(tmp_path / "new" / "demo.png") as picture:
        assert picture.size == (1036, 880)
    printed = capsys.readouterr().out
    for word in ("network", "CRF", "time", "road", "mean", "pixels"):
        assert word in printed
    (before, after) = re.findall(r"^pixels +([\d.]+)% +([\d.]+)%", printed, re.M)[0]
    assert float(after) > float(before) > 80


def test_the_packaged_network_knows_camvids_classes_and_its_crf() -> None:
    labelling = labelling_beside(packaged_weights(), 11)
    assert labelling.classes == tuple(CAMVID)
    assert labelling.palette == tuple(CAMVID.values())
    assert labelling.crf is not None


def test_the_packaged_weights_are_a_few_megabytes() -> None:
    assert packaged_weights().stat().st_size < 8e6


def test_predict_takes_the_packaged_network(tmp_path: Path) -> None:
    street = Path(deeplab.__file__).parent / "demo" / f"{FRAME}.jpg"
    assert main(["predict", str(street), "--crf", "-o", str(tmp_path), "-q"]) == 0
    _, truth = load_frame()
    with Image.open(tmp_path / f"{FRAME}.png") as mask:
        labels = torch.from_numpy(np.array(mask).astype(np.int64))
    matrix = ConfusionMatrix(11)
    matrix.update(labels, truth)
    assert matrix.scores().pixel_accuracy > 0.83


def test_the_frame_is_the_data_sets() -> None:
    if not (SHARED / "camvid").is_dir():
        pytest.skip("no CamVid here")
    dataset = open_dataset("camvid", SHARED / "camvid", "test")
    index = [pair.name for pair in dataset.pairs].index(FRAME)
    image, labels, _ = dataset[index]
    found, truth = load_frame()
    assert torch.equal(found, image)
    assert torch.equal(truth, labels)


def test_colorize_tints_classes_darkens_void_and_draws_lines() -> None:
    image = torch.full((3, 2, 6), 100, dtype=torch.uint8)
    labels = torch.tensor([[0, 0, 1, 1, 255, 255]]).expand(2, -1)
    shown = colorize(image, labels, Labelling(("a", "b"), ((200, 0, 0), (0, 0, 200))))
    assert (shown[:, 1] == 255).all()
    assert shown[0, 0].tolist() == [162, 38, 38]
    assert shown[0, 2].tolist() == [38, 38, 162]
    assert shown[0, 5].tolist() == [25, 25, 25]
