"""A temporary folder for the tests of the `densecrf` command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from densecrf_gpu.cli import main

HEIGHT, WIDTH, CLASSES = 20, 30, 3


class Workplace:
    """A temporary folder with an image, a label map of three stripes, and logits of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rng = np.random.default_rng(0)
        self.labels = np.repeat(np.arange(CLASSES, dtype=np.uint8), WIDTH // CLASSES)
        self.labels = np.tile(self.labels, (HEIGHT, 1))  # [H, W]
        noise = rng.integers(0, 40, (HEIGHT, WIDTH, 3))
        self.pixels = (70 * self.labels[..., None] + noise).astype(np.uint8)  # [H, W, 3]
        self.logits = rng.normal(size=(CLASSES, HEIGHT, WIDTH)).astype(np.float32)
        self.logits += 2 * (self.labels == np.arange(CLASSES)[:, None, None])
        self.image = self.save("image.png", self.pixels)

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def save(self, name: str, pixels: np.ndarray, palette: np.ndarray | None = None) -> str:
        image = Image.fromarray(pixels)
        if palette is not None:
            image.putpalette(palette.astype(np.uint8).tobytes())
        (self.folder / name).parent.mkdir(exist_ok=True)
        image.save(self.folder / name)
        return self.path(name)

    def save_logits(self, name: str) -> str:
        (self.folder / name).parent.mkdir(exist_ok=True)
        np.save(self.folder / name, self.logits)
        return self.path(name)

    def refine(self, *options: str) -> int:
        return main(["refine", self.image, *options])

    def read(self, name: str) -> np.ndarray:
        with Image.open(self.folder / name) as image:
            return np.array(image)

    def save_three(self) -> None:
        """Images a, b and c in one folder, their logits in another."""
        for name in ("a", "b", "c"):
            self.save(f"images/{name}.png", self.pixels)
            self.save_logits(f"logits/{name}.npy")
