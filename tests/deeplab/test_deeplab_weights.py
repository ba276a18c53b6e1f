"""The weights that come with the package do what their card says."""

from __future__ import annotations

import pictures
import pytest
import torch

import deeplab
from deeplab.data import open_dataset
from deeplab.data.classes import CAMVID
from deeplab.demo import load_frame
from deeplab.labelling import labelling_beside
from deeplab.metrics import ConfusionMatrix
from deeplab.weights import packaged_weights


def test_the_packaged_weights_are_small_and_name_their_classes() -> None:
    path = packaged_weights()
    assert path.stat().st_size < 8e6
    labelling = labelling_beside(path, 11)
    assert dict(zip(labelling.classes, labelling.palette, strict=True)) == CAMVID
    model = deeplab.load(path)
    assert model.config.backbone == "mobilenetv2"
    assert model.config.head == "decoder"
    assert all(p.dtype == torch.float32 for p in model.parameters())


@torch.no_grad()
def test_the_packaged_network_knows_a_street() -> None:
    """The frame of the demo is of the test set: the network has not seen it."""
    model = deeplab.load(packaged_weights())
    image, label = load_frame()
    scores = model(model.normalize(image[None]))
    matrix = ConfusionMatrix(11)
    matrix.update(scores[0].argmax(0), label)
    assert matrix.scores().pixel_accuracy > 0.8


@pytest.mark.slow
@pytest.mark.skipif(not (pictures.SHARED / "camvid").is_dir(), reason="no CamVid here")
@torch.no_grad()
def test_the_packaged_network_scores_as_its_card_says() -> None:
    model = deeplab.load(packaged_weights())
    dataset = open_dataset("camvid", pictures.SHARED / "camvid", "val")
    matrix = ConfusionMatrix(11)
    for image, label, _ in dataset:
        matrix.update(model(model.normalize(image[None]))[0].argmax(0), label)
    assert matrix.scores().mean_iou == pytest.approx(0.5621, abs=0.002)
