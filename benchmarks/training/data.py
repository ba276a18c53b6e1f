"""MSRC-21 in memory at half its size, crops for training, and scribbles drawn from its labels."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from benchmarks.cases import ROOT

VOID = 255


@dataclass(frozen=True)
class Picture:
    """One photograph, uint8 [3, H, W], and its labels, int64 [H, W], ``VOID`` where unknown."""

    name: str
    image: Tensor
    labels: Tensor


def msrc_folder() -> Path:
    """Where MSRC-21 lies: in ``DENSECRF_SHARED_DATA`` or beside the repository.

    Raises:
        FileNotFoundError: it is not there.
    """
    shared = Path(os.environ.get("DENSECRF_SHARED_DATA", ROOT.parent / "shared" / "data"))
    folder = shared / "msrc"
    if not (folder / "classes.txt").exists():
        raise FileNotFoundError(
            f"{folder} has no MSRC-21 (images/, labels/, train.txt, val.txt, test.txt): "
            "set DENSECRF_SHARED_DATA to the folder that holds msrc/"
        )
    return folder


def load_split(folder: Path, split: str, limit: int | None = None) -> list[Picture]:
    """Reads a split, at most ``limit`` of it, evenly spread."""
    names = (folder / f"{split}.txt").read_text().split()
    if limit is not None and limit < len(names):
        names = [names[i * len(names) // limit] for i in range(limit)]
    return [_load(folder, name) for name in names]


def _load(folder: Path, name: str) -> Picture:
    with Image.open(folder / "images" / f"{name}.jpg") as image:
        size = (image.width // 2, image.height // 2)
        small = image.convert("RGB").resize(size, Image.Resampling.BOX)
        pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1).contiguous()
    with Image.open(folder / "labels" / f"{name}.png") as labels:
        index = np.array(labels.resize(size, Image.Resampling.NEAREST))
    return Picture(name, pixels, torch.from_numpy(index).long())


def to_network(images: Tensor) -> Tensor:
    """Scales uint8 images for the network."""
    return images.float().div(255).sub(0.45).div(0.25)


def crop_batch(
    pictures: list[Picture], size: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Random crops: scaled by 0.75 ... 1.33, flipped, brightness and contrast changed.

    Returns:
        images uint8 [B, 3, size, size] and labels int64 [B, size, size], ``VOID`` beyond the
        picture, where images hold its mean colour.
    """
    images, labels = zip(*(_crop(picture, size, generator) for picture in pictures), strict=True)
    return torch.stack(images), torch.stack(labels)


def _crop(picture: Picture, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    scale, flip, top, left, gain, shift = torch.rand(6, generator=generator).tolist()
    factor = 0.75 * (16 / 9) ** scale
    h, w = (round(extent * factor) for extent in picture.labels.shape)
    image = F.interpolate(picture.image[None].float(), size=(h, w), mode="bilinear")[0]
    labels = F.interpolate(picture.labels[None, None].float(), size=(h, w))[0, 0].long()
    pad = (0, max(0, size - w), 0, max(0, size - h))
    mean = image.mean(dim=(1, 2), keepdim=True)
    image = F.pad(image - mean, pad) + mean
    labels = F.pad(labels, pad, value=VOID)
    y = int(top * (image.shape[1] - size + 1))
    x = int(left * (image.shape[2] - size + 1))
    image, labels = image[:, y : y + size, x : x + size], labels[y : y + size, x : x + size]
    if flip < 0.5:
        image, labels = image.flip(2), labels.flip(1)
    image = (image - 128) * (0.8 + 0.4 * gain) + 128 + 40 * (shift - 0.5)
    return image.clamp(0, 255).to(torch.uint8), labels


def scribbles(labels: Tensor) -> Tensor:
    """Keeps labels on the ridges of the distance to the border of every region, else ``VOID``.

    What an annotator would draw along the middle of things, some 3 % of the pixels.
    """
    from scipy import ndimage

    array = labels.numpy()
    kept = np.full_like(array, VOID)
    for label in np.unique(array):
        if label == VOID:
            continue
        padded = np.pad(array == label, 1)
        depth = ndimage.distance_transform_edt(padded)[1:-1, 1:-1]
        ridge = (depth >= ndimage.maximum_filter(depth, size=3)) & (depth > 2)
        kept[ridge] = label
    return torch.from_numpy(kept)
