"""Photographs for the tests: the bundled one, and those of a shared folder where there is one."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("DENSECRF_SHARED_DATA", ROOT.parent / "shared" / "data"))

BUNDLED = {"astronaut": ROOT / "densecrf_gpu" / "data" / "astronaut.jpg"}
ELSEWHERE = {
    "im1": SHARED / "pydensecrf_examples" / "im1.png",
    "coffee": SHARED / "cc0" / "coffee.png",
    "chelsea": SHARED / "cc0" / "chelsea.png",
    "msrc": SHARED / "msrc" / "images" / "5_23_s.jpg",
}
PHOTOGRAPHS = BUNDLED | ELSEWHERE


def load(name: str) -> Tensor:
    """A photograph, uint8 [1, 3, H, W]."""
    with Image.open(PHOTOGRAPHS[name]) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]


def crop(image: Tensor, height: int, width: int) -> Tensor:
    """The centre of an image, or all of it where it is smaller. [B, 3, h, w]"""
    top = max(0, (image.shape[2] - height) // 2)
    left = max(0, (image.shape[3] - width) // 2)
    return image[:, :, top : top + height, left : left + width].contiguous()


def blobs(image: Tensor, labels: int, seed: int = 0) -> Tensor:
    """Logits [1, L, H, W] as a network gives them: smooth, uncertain, in blobs of any label."""
    g = torch.Generator().manual_seed(seed)
    height, width = image.shape[2:]
    coarse = 2 * torch.randn(1, labels, height // 8 + 2, width // 8 + 2, generator=g)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    return smooth + 0.5 * torch.randn(smooth.shape, generator=g)
