"""The demo's photograph, its hand-made mask, and coarse logits such as a network would give."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CLASSES = ("background", "astronaut", "helmet", "flag", "shuttle")

# What stands in for a network: it sees the classes at output stride 16 (as DeepLab's does when it
# trains), is as sure as six nats of a cell that one class fills, and errs at random.
STRIDE = 16
CONFIDENCE = 6.0
NOISE = 2.5
SEED = 0


@dataclass(frozen=True)
class Scene:
    """A photograph [H, W, 3] with its labels [H, W] and the colours [C, 3] of the classes."""

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    colors: NDArray[np.uint8]


def load_scene() -> Scene:
    """Reads the photograph, its mask and the mask's palette from the package."""
    data = files("densecrf_gpu") / "data"
    with (data / "astronaut.jpg").open("rb") as file, Image.open(file) as photo:
        image = np.array(photo.convert("RGB"))
    with (data / "astronaut_mask.png").open("rb") as file, Image.open(file) as mask:
        labels = np.array(mask)
        colors = np.array(mask.getpalette(), np.uint8).reshape(-1, 3)[: len(CLASSES)]
    return Scene(image, labels, colors)


def coarse_logits(
    labels: NDArray[np.uint8], *, noise: float = NOISE, seed: int = SEED
) -> NDArray[np.float32]:
    """Logits [C, H/16, W/16] float32 of an imagined coarse network, made from the mask.

    Each cell holds 6 times the share of every class in its 16 × 16 pixels, plus Gaussian noise.

    Args:
        labels: classes [H, W]; H and W are multiples of 16.
        noise: standard deviation of the noise, in nats.
        seed: of numpy's default generator.
    """
    height, width = labels.shape
    one_hot = labels == np.arange(len(CLASSES), dtype=np.uint8)[:, None, None]  # [C, H, W]
    cells = one_hot.reshape(-1, height // STRIDE, STRIDE, width // STRIDE, STRIDE)
    share = cells.mean(axis=(2, 4))  # [C, H/16, W/16]
    error = np.random.default_rng(seed).normal(scale=noise, size=share.shape)
    logits: NDArray[np.float32] = (CONFIDENCE * share + error).astype(np.float32)
    return logits


def intersection_over_union(
    prediction: NDArray[np.integer], truth: NDArray[np.integer]
) -> NDArray[np.float64]:
    """The intersection over union [C] of each class of the demo."""
    scores = []
    for label in range(len(CLASSES)):
        found, wanted = prediction == label, truth == label
        scores.append((found & wanted).sum() / (found | wanted).sum())
    return np.array(scores)
