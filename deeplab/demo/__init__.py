"""The demonstration: a photograph, the network that comes with the package, and the CRF."""

from __future__ import annotations

import time
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from deeplab.checkpoints import load
from deeplab.data.labels import IGNORE
from deeplab.labelling import choose_crf_params, labelling_beside
from deeplab.metrics import ConfusionMatrix, Scores
from deeplab.segmenter import CRF, Segmenter
from deeplab.weights import packaged_weights
from densecrf_gpu.cli.arrays import replacing

from .figure import Panel, draw_figure

FRAME = "Seq05VD_f05070"


def load_frame() -> tuple[Tensor, Tensor]:
    """A street from CamVid's test set: uint8 ``[3, H, W]``, and its labels, int64 ``[H, W]``."""
    folder = files("deeplab") / "demo"
    with (folder / f"{FRAME}.jpg").open("rb") as file, Image.open(file) as image:
        pixels = np.array(image.convert("RGB"))
    with (folder / f"{FRAME}.png").open("rb") as file, Image.open(file) as image:
        labels = np.array(image).astype(np.int64)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous(), torch.from_numpy(labels)


def run_demo(output: Path) -> int:
    """Labels the frame, prints the scores and draws them to ``output``, a PNG."""
    weights = packaged_weights()
    model = load(weights).float()
    labelling = labelling_beside(weights, model.config.num_classes)
    crf = CRF(params=choose_crf_params("auto", labelling.crf))
    segmenter = Segmenter(model)
    image, truth = load_frame()
    images = image[None]
    segmenter.scores(images)  # the first call allocates
    start = time.perf_counter()
    scores = segmenter.scores(images)
    middle = time.perf_counter()
    refined = crf(scores, images)[0]
    end = time.perf_counter()
    alone = scores.argmax(1)[0]
    before, after = (_score(labels, truth, len(labelling.classes)) for labels in (alone, refined))
    # Of one picture: the classes that it shows. Over a set, as eval counts, one seen where there is
    # none has an IoU of 0 in the mean; here the few pixels of one would decide it.
    present = [label for label in np.unique(truth.numpy()).tolist() if label != IGNORE]
    means = [scores.iou[present].mean().item() for scores in (before, after)]

    figure = draw_figure(
        image,
        [
            Panel("DeepLab", f"mean IoU {means[0]:.1%}", alone),
            Panel("DeepLab, then the CRF", f"mean IoU {means[1]:.1%}", refined),
            Panel("Labelled by hand", "dark: void, which does not count", truth),
        ],
        labelling,
    )
    with replacing(output) as file:
        figure.save(file, format="PNG", optimize=True)

    height, width = truth.shape
    print(f"photograph   {width} x {height}, {FRAME} of CamVid's test set")
    print(f"network      {weights.name}, output stride {model.output_stride}")
    print(f"CRF          {crf.params}")
    print(f"device       {torch.get_num_threads()} CPU threads")
    print(f"time         network {middle - start:.2f} s, CRF {end - middle:.2f} s")
    print(f"\n{'IoU':<13}{'network':>9}{'with CRF':>10}")
    for label in present:
        name = labelling.classes[label]
        print(f"{name:<13}{before.iou[label]:>9.1%}{after.iou[label]:>10.1%}")
    print(f"{'mean':<13}{means[0]:>9.1%}{means[1]:>10.1%}   of the classes above, which it shows")
    print(f"{'pixels':<13}{before.pixel_accuracy:>9.1%}{after.pixel_accuracy:>10.1%}")
    print(f"\nwrote {output}")
    return 0


def _score(predictions: Tensor, labels: Tensor, classes: int) -> Scores:
    matrix = ConfusionMatrix(classes, ignore_index=IGNORE)
    matrix.update(predictions, labels)
    return matrix.scores()
