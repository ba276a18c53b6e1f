"""What is measured: real photographs, seeded network-like logits, published parameter sets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
MOSAIC = "mosaic"
MOSAIC_FROM_PIXELS = 1_000_000  # enlarging one photograph to this size would smooth its texture
MOSAIC_TILES = 3
CLUSTERS = 12
STRIDE = 8  # of the imagined network's output
SEED = 0


@dataclass(frozen=True)
class Size:
    """Width and height in pixels, and the number of classes."""

    width: int
    height: int
    classes: int

    @classmethod
    def parse(cls, text: str) -> Size:
        """Read ``500x375x21``; ValueError for anything else."""
        fields = text.lower().split("x")
        if len(fields) != 3 or not all(field.isdigit() and int(field) > 0 for field in fields):
            raise ValueError(f"a size is WIDTHxHEIGHTxCLASSES such as 500x375x21, got {text!r}")
        return cls(*map(int, fields))

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.width * self.height

    def __str__(self) -> str:
        return f"{self.width}x{self.height}x{self.classes}"


@dataclass(frozen=True)
class Params:
    """One published parameter set: sigmas in pixels and in 0..255 colour units, Potts weights."""

    bilateral_sxy: float
    bilateral_srgb: float
    bilateral_weight: float
    gaussian_sxy: float = 3.0
    gaussian_weight: float = 3.0

    def __str__(self) -> str:
        return f"{self.bilateral_sxy:g}/{self.bilateral_srgb:g}"


PARAMS = {
    str(params): params
    for params in (
        Params(80.0, 13.0, 10.0),  # pydensecrf's example
        Params(67.0, 3.0, 4.0),  # the bilateral term of DeepLab v2, ResNet-101
        Params(49.0, 4.0, 5.0),  # close to the one released with DeepLab v2, VGG-16: 49/5, weight 4
    )
}


@dataclass(frozen=True)
class Case:
    """One measured problem; every array is made, and touched, before any clock starts."""

    picture: str
    size: Size
    params: Params
    iterations: int
    image: torch.Tensor  # uint8 [H, W, 3]
    logits: torch.Tensor  # float32 [C, H, W]
    energies: NDArray[np.float32]  # [C, H*W], -log softmax(logits): what pydensecrf2 asks for

    def __str__(self) -> str:
        return f"{self.size} {self.picture} {self.params}"


def photographs() -> dict[str, Path]:
    """The photographs to hand, by name: the development data's, else the package's own.

    Raises:
        FileNotFoundError: neither is there.
    """
    shared = Path(os.environ.get("DENSECRF_SHARED_DATA", ROOT.parent / "shared" / "data"))
    # The package's .png files are labels.
    for folder, suffixes in (
        (shared / "cc0", (".jpg", ".png")),
        (ROOT / "densecrf_gpu" / "data", (".jpg",)),
    ):
        found = sorted(path for path in folder.glob("*") if path.suffix in suffixes)
        if found:
            return {path.stem: path for path in found}
    raise FileNotFoundError(
        "no photographs: set DENSECRF_SHARED_DATA to a folder that holds cc0/*.png or *.jpg"
    )


def picture_names(size: Size, wanted: Sequence[str] | None) -> list[str]:
    """Which pictures to use at a size: a mosaic where it is large, else each photograph."""
    if size.pixels >= MOSAIC_FROM_PIXELS:
        return [MOSAIC]
    names = list(photographs())
    if wanted is None:
        return names
    unknown = sorted(set(wanted) - set(names))
    if unknown:
        raise ValueError(f"unknown pictures {unknown}; there are {names}")
    return list(wanted)


def load_picture(name: str, width: int, height: int) -> torch.Tensor:
    """A photograph, or the mosaic of them, as uint8 [height, width, 3]."""
    if name == MOSAIC:
        return _to_tensor(_mosaic(list(photographs().values()), width, height))
    return _to_tensor(_fit(Image.open(photographs()[name]).convert("RGB"), width, height))


def coarse_logits(image: torch.Tensor, classes: int, seed: int = SEED) -> torch.Tensor:
    """Logits as a stride-8 network would give them: float32 [C, H, W].

    k-means on colour and position, clusters mapped to random classes; the one-hot map reduced by 8,
    times 4, plus noise of sigma 0.5; enlarged bilinearly.
    """
    generator = torch.Generator().manual_seed(seed)
    height, width = image.shape[:2]
    coarse = (-(-height // STRIDE), -(-width // STRIDE))
    clusters = _k_means(image, coarse, generator)  # [H, W]
    class_of_cluster = torch.randint(classes, (CLUSTERS,), generator=generator)
    labels = class_of_cluster[clusters]
    planes = [
        F.adaptive_avg_pool2d((labels == c).float()[None], coarse) for c in range(classes)
    ]  # C x [1, h, w]
    scores = 4 * torch.cat(planes) + 0.5 * torch.randn(classes, *coarse, generator=generator)
    enlarged = F.interpolate(
        scores[None], size=(height, width), mode="bilinear", align_corners=False
    )
    return enlarged[0].contiguous()


def make_case(picture: str, size: Size, params: Params, iterations: int) -> Case:
    """The image, logits and energies of one problem; the same ones in every run."""
    image = load_picture(picture, size.width, size.height)
    logits = coarse_logits(image, size.classes)
    energies = -logits.flatten(1).log_softmax(0)
    return Case(picture, size, params, iterations, image, logits, energies.numpy())


def _fit(photograph: Image.Image, width: int, height: int, position: float = 0.5) -> Image.Image:
    """Crop to the wanted aspect, `position` along the side that is too long, and resize."""
    scale = min(photograph.width / width, photograph.height / height)
    crop_width, crop_height = width * scale, height * scale
    left = (photograph.width - crop_width) * position
    top = (photograph.height - crop_height) * position
    box = (left, top, left + crop_width, top + crop_height)
    return photograph.resize((width, height), Image.Resampling.BICUBIC, box=box)


def _mosaic(paths: Sequence[Path], width: int, height: int) -> Image.Image:
    """3x3 photographs; one that comes again is mirrored, or cropped elsewhere."""
    mosaic = Image.new("RGB", (width, height))
    tile_width, tile_height = -(-width // MOSAIC_TILES), -(-height // MOSAIC_TILES)
    for tile in range(MOSAIC_TILES**2):
        turn, which = divmod(tile, len(paths))
        photograph = Image.open(paths[which]).convert("RGB")
        if turn % 2:
            photograph = photograph.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        position = (0.5, 0.0, 1.0, 0.25, 0.75)[turn % 5]
        row, column = divmod(tile, MOSAIC_TILES)
        fitted = _fit(photograph, tile_width, tile_height, position)
        mosaic.paste(fitted, (column * tile_width, row * tile_height))
    return mosaic


def _to_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image, dtype=np.uint8))


def _k_means(
    image: torch.Tensor, coarse: tuple[int, int], generator: torch.Generator
) -> torch.Tensor:
    """Cluster of each pixel [H, W]: Lloyd's algorithm on the image reduced by 8."""
    height, width = image.shape[:2]
    planes = image.permute(2, 0, 1).float() / 255.0  # [3, H, W]
    y = torch.linspace(0, 1, height)[:, None].expand(height, width)
    x = torch.linspace(0, 1, width)[None, :].expand(height, width)
    features = torch.cat([planes, x[None], y[None]])  # [5, H, W]
    sample = F.adaptive_avg_pool2d(features[None], coarse)[0].flatten(1).T  # [n, 5]
    # A picture of a few pixels has fewer of them than clusters: some start in one place.
    centres = sample[torch.randint(len(sample), (CLUSTERS,), generator=generator)]
    for _ in range(10):
        nearest = torch.cdist(sample, centres).argmin(1)
        members = F.one_hot(nearest, CLUSTERS).float()  # [n, k]
        counts = members.sum(0)[:, None]
        centres = torch.where(counts > 0, (members.T @ sample) / counts.clamp(min=1), centres)
    flat = features.flatten(1).T  # [N, 5]
    nearest = torch.cat(
        [torch.cdist(part, centres).argmin(1) for part in torch.split(flat, 1 << 18)]
    )
    return nearest.view(height, width)
