"""Data sets small enough to train on in a test: coloured rectangles, one colour per class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

COLORS = np.array([[30, 30, 30], [220, 40, 40], [40, 220, 40], [40, 40, 220]], dtype=np.uint8)
NAMES = ("background", "red", "green", "blue")


def draw(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A noisy picture [H, W, 3] and its labels [H, W], 255 in one corner."""
    label = np.zeros((height, width), dtype=np.uint8)
    for number in (1, 2, 3):
        top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
        label[top : top + height // 3, left : left + width // 3] = number
    noise = rng.integers(-20, 20, (height, width, 3))
    image = np.clip(COLORS[label].astype(int) + noise, 0, 255).astype(np.uint8)
    label[:3, :3] = 255
    return image, label


def write_folder(root: Path, count: int = 6, height: int = 41, width: int = 57) -> Path:
    """A plain folder with the splits train and val."""
    rng = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    names = [f"scene{i}" for i in range(count)]
    for name in names:
        image, label = draw(rng, height, width)
        Image.fromarray(image).save(root / "images" / f"{name}.png")
        Image.fromarray(label).save(root / "labels" / f"{name}.png")
    (root / "classes.txt").write_text("\n".join(NAMES))
    (root / "train.txt").write_text("\n".join(names[: count - 2]))
    (root / "val.txt").write_text("\n".join(names[count - 2 :]))
    return root
