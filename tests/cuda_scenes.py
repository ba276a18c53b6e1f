"""Images and logits on the GPU, and calls on them, for the tests of tests/cuda."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from problems import random_image, random_logits, random_points, random_values
from torch import Tensor

from densecrf_gpu import (
    BilateralKernel,
    CRFParams,
    DenseCRF,
    GaussianKernel,
    PermutohedralLattice,
    crf_refine,
)

CUDA = torch.device("cuda")
PARAMS = CRFParams(
    gaussian_sxy=3, gaussian_weight=3, bilateral_sxy=60, bilateral_srgb=10, bilateral_weight=5
)
HEIGHT, WIDTH, CLASSES = 75, 101, 21


def logits(
    batch: int = 2,
    classes: int = CLASSES,
    size: tuple[int, int] = (HEIGHT, WIDTH),
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """[B, C, H, W]"""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    rows = random_logits(classes, size[0] * size[1], batch, wide)
    return rows.reshape(batch, classes, *size).to(CUDA, dtype)


def image(batch: int = 2, size: tuple[int, int] = (HEIGHT, WIDTH), seed: int = 3) -> Tensor:
    """uint8 [B, 3, H, W]"""
    return random_image(*size, batch=batch, seed=seed).to(CUDA)


def refine(scores: Tensor, picture: Tensor, **options: Any) -> Tensor:
    """`crf_refine` with bandwidths that fit pictures of this size."""
    return crf_refine(scores, picture, PARAMS, **options)


def refine_call(output: str = "probabilities", **options: Any) -> Callable[[], Tensor]:
    """A call whose tensors are on the GPU already."""
    scores, picture = logits(), image()
    return lambda: refine(scores, picture, output=output, **options)


def large_call() -> Callable[[], Tensor]:
    """More tiles than go through in one cooperative launch."""
    scores, picture = logits(1, 5, (768, 1024)), image(1, (768, 1024))
    return lambda: refine(scores, picture)


def general_call() -> Callable[[], Tensor]:
    """Mean field on the path of matrices, damping and tolerance."""
    matrix = torch.rand(CLASSES, CLASSES, generator=torch.Generator().manual_seed(0)).to(CUDA)
    kernels = [GaussianKernel(3, 3), BilateralKernel(60, 10, matrix, "after")]
    scores, picture = logits(), image()
    return lambda: DenseCRF(scores, kernels, picture).inference(5, damping=0.1, tolerance=1e-4)


def filter_call() -> Callable[[], Tensor]:
    """A lattice of loose points, built and used."""
    points, values = random_points(3000, 4, 2).to(CUDA), random_values(3000, 7, 2).to(CUDA)
    return lambda: PermutohedralLattice(points).filter(values, "symmetric")


def label_map_call() -> Callable[[], Tensor]:
    """Labels in, labels out."""
    labels, picture = logits().argmax(1), image()
    return lambda: refine(labels, picture, input="labels", num_classes=CLASSES, output="labels")


def half_call() -> Callable[[], Tensor]:
    """bfloat16 at half the resolution."""
    scores, picture = logits()[..., ::2, ::2].bfloat16(), image().float()
    return lambda: refine(scores, picture)


CALLS: dict[str, Callable[[], Callable[[], Tensor]]] = {
    "probabilities": refine_call,
    "labels": lambda: refine_call("labels"),
    "tolerance": lambda: refine_call(tolerance=1e-3, damping=0.2),
    "large": large_call,
    "general": general_call,
    "filter": filter_call,
    "label map": label_map_call,
    "half": half_call,
}
