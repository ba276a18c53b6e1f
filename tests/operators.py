"""The operators in the shapes the tests use, and the stored results of pydensecrf."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import densecrf_gpu  # noqa: F401  (registers the operators)
from densecrf_gpu import reference

ops = torch.ops.densecrf_gpu
Lattice = tuple[Tensor, Tensor]  # points, vertices


def filter_points(
    features: Tensor, values: Tensor, normalization: str = "none", adjoint: bool = False
) -> Tensor:
    """Builds the lattice of features [B, N, d] and filters values [B, N, C] on it."""
    points, vertices = ops.build_lattice(features)
    return ops.lattice_filter(points, vertices, values, normalization, adjoint)


def infer(
    logits: Tensor,
    lattices: list[Lattice],
    compatibilities: list[Tensor],
    normalization: str = "symmetric",
    iterations: int = 10,
    damping: float = 0.0,
    tolerance: float = 0.0,
    output: str = "probabilities",
) -> Tensor:
    """Runs mean_field with one normalisation for all kernels."""
    return ops.mean_field(
        logits,
        [points for points, _ in lattices],
        [vertices for _, vertices in lattices],
        compatibilities,
        [normalization] * len(lattices),
        iterations,
        damping,
        tolerance,
        output,
    )


def assert_has_no_lattice(
    build: Callable[[], Lattice], device: torch.device, complaint: str
) -> None:
    """The CPU refuses such values at once; CUDA does not look, and says so in the lattice."""
    if device.type == "cpu":
        with pytest.raises(ValueError, match=complaint):
            build()
    else:
        assert (ops.lattice_sizes(build()[1]) < 0).all()


def per_axis(sigma: float | list[float], axes: int) -> list[float]:
    return [float(s) for s in (sigma if isinstance(sigma, list) else [sigma] * axes)]


def image_lattices(
    image: Tensor, sxy: float | list[float], srgb: float | list[float]
) -> list[Lattice]:
    """The spatial lattice of sigma 3 and the bilateral one of an image [B, ch, H, W]."""
    size = list(image.shape[2:])
    spatial = reference.image_features(None, size, (3, 3), device=image.device)
    bilateral = ops.build_image_lattice(
        image, size, per_axis(sxy, 2), per_axis(srgb, image.shape[1])
    )
    return [ops.build_lattice(spatial, size), bilateral]


@dataclass(frozen=True)
class Case:
    """One run of pydensecrf2 1.1: what went in, and Q after one and after ten iterations."""

    name: str
    mode: str
    sxy: float | list[float]
    srgb: float | list[float]
    image: Tensor  # uint8 [1, 3, H, W]
    logits: Tensor  # float32 [1, L, N]
    compatibilities: list[Tensor]
    q: dict[int, Tensor]  # iterations -> [L, N]
    kl: dict[int, float]


@functools.cache
def stored_cases() -> dict[str, Case]:
    """The cases of tests/data/vectors.npz by name; tests/data/make_vectors.py makes the file."""
    data = np.load(Path(__file__).parent / "data" / "vectors.npz")
    return {case["name"]: _stored_case(data, case) for case in json.loads(str(data["cases"]))}


def _stored_case(data: Any, case: dict[str, Any]) -> Case:
    _, _, height, width = case["crop"]
    return Case(
        name=case["name"],
        mode=case["mode"],
        sxy=case["sxy"],
        srgb=case["srgb"],
        image=torch.from_numpy(data[f"image_{height}x{width}"]).permute(2, 0, 1)[None],
        logits=torch.from_numpy(data[f"logits_{case['labels']}_{height}x{width}"])[None],
        compatibilities=[
            torch.tensor(weight, dtype=torch.float32).reshape(-1)
            if depth < 2
            else torch.tensor(weight)
            for weight, depth in (
                (case["gaussian"], 0),
                (case["bilateral"], np.ndim(case["bilateral"])),
            )
        ],
        q={i: torch.from_numpy(data[f"{case['name']}/q{i}"]) for i in (1, 10)},
        kl={i: float(data[f"{case['name']}/kl{i}"]) for i in (1, 10)},
    )
