"""The bandwidths of all kernels as one vector, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor

from densecrf_gpu.kernels import BilateralKernel, GaussianKernel

ImageKernel: TypeAlias = GaussianKernel | BilateralKernel


def bandwidth_vector(kernels: Sequence[ImageKernel]) -> Tensor:
    """Returns the bandwidths of one kernel after the other, positions first. float64 [n]"""
    values = [sigma for kernel in kernels for part in _parts(kernel) for sigma in part]
    return torch.tensor(values, dtype=torch.float64)


def split_bandwidths(kernels: Sequence[ImageKernel], vector: Tensor) -> list[list[Tensor]]:
    """Returns of each kernel the bandwidths of positions and, if it has any, of colours."""
    counts = [[len(part) for part in _parts(kernel)] for kernel in kernels]
    pieces = iter(torch.split(vector, [count for parts in counts for count in parts]))
    return [[next(pieces) for _ in parts] for parts in counts]


def with_bandwidths(kernels: Sequence[ImageKernel], vector: Tensor) -> list[ImageKernel]:
    """Returns the kernels with other bandwidths, numbers where they had numbers."""
    changed: list[ImageKernel] = []
    for kernel, parts in zip(kernels, split_bandwidths(kernels, vector), strict=True):
        values = [tuple(part.tolist()) for part in parts]
        sxy = _like(kernel.sxy, values[0])
        if isinstance(kernel, BilateralKernel):
            changed.append(replace(kernel, sxy=sxy, srgb=_like(kernel.srgb, values[1])))
        else:
            changed.append(replace(kernel, sxy=sxy))
    return changed


def _parts(kernel: ImageKernel) -> list[tuple[float, ...]]:
    sigmas = [kernel.sxy, kernel.srgb] if isinstance(kernel, BilateralKernel) else [kernel.sxy]
    return [sigma if isinstance(sigma, tuple) else (float(sigma),) for sigma in sigmas]


def _like(
    sigmas: float | tuple[float, ...], values: tuple[float, ...]
) -> float | tuple[float, ...]:
    return values if isinstance(sigmas, tuple) else values[0]
