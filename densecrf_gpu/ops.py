"""The operators of ``torch.ops.densecrf_gpu``: one typed function each, its fake kernel beside it.

These functions trust their arguments as the operators do: shapes and types are checked in C++,
values are not. The classes and functions of the package check values first.

``lattice_filter`` is differentiable in its values and features, ``mean_field`` in logits and
compatibilities. No other operator is differentiable: one that is called in grad mode with a tensor
that requires grad raises RuntimeError, rather than return a result cut off from the graph. Under
autocast all of them compute in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import backends as _backends  # noqa: F401  (loads the libraries that define the operators)
from .cuda_layout import lattice_shapes
from .mean_field_ops import OUTPUTS as OUTPUTS
from .mean_field_ops import mean_field as mean_field
from .mean_field_ops import mean_field_train as mean_field_train
from .registration import (
    computes_in_float32,
    declare_not_differentiable,
    declare_once_differentiable,
    refuse_vmap,
    register_fake,
    reports_lack_of_memory,
)
from .registration import refuse_gradients as refuse_gradients

NORMALIZATIONS = ("none", "before", "after", "symmetric")

_POINTS_PER_BLOCK = 64  # points are stored in blocks of this many


class LatticeData(NamedTuple):
    """What the build operators return; both tensors are opaque and must not be written to."""

    points: Tensor  # uint8 [B, ...]: of each point, its d+1 vertices and barycentric weights
    vertices: Tensor  # uint8: of each vertex, its blur neighbours


# The bound of a lattice that takes the memory it needs, at the price of a wait for the device.
EXACT = -1


@reports_lack_of_memory
def build_lattice(
    features: Tensor, grid: Sequence[int] = (), max_vertices: int | None = None
) -> LatticeData:
    """Builds the lattices of a batch of point sets.

    Args:
        features: ``[B, N, d]``, float32 or float64, divided by the bandwidths.
        grid: the raster of the points, ``[H, W]`` or ``[D, H, W]``; empty for loose points. On
            CUDA all lattices of one mean field must have the same; the CPU ignores it.
        max_vertices: the most vertices that one of the lattices may have, which bounds the memory
            on CUDA (18 + 10 d bytes a vertex in float32, 22 + 10 d in float64); None for as many
            as there could be, (d + 1) N, ``EXACT`` for as many as there are. The CPU always takes
            what is needed.
    """
    return LatticeData(*torch.ops.densecrf_gpu.build_lattice.default(features, grid, max_vertices))


@register_fake("build_lattice")
def _(
    features: Tensor, grid: Sequence[int] = (), max_vertices: int | None = None
) -> tuple[Tensor, Tensor]:
    batch, points, dimension = features.shape
    return _fake_lattice(
        features, batch, grid or (points,), dimension, features.dtype, max_vertices
    )


@reports_lack_of_memory
def build_image_lattice(
    image: Tensor | None,
    size: Sequence[int],
    spatial_sigmas: Sequence[float],
    channel_sigmas: Sequence[float],
    max_vertices: int | None = None,
) -> LatticeData:
    """Builds the lattices of a batch of images, from features that are never stored.

    Args:
        image: ``[B, channels, *size]`` of any strides, uint8, float32 or float64; None for
            positions alone, which gives one lattice for every batch.
        size: of the image, in array order: ``[H, W]`` or ``[D, H, W]``.
        spatial_sigmas: in pixels, x first.
        channel_sigmas: in the image's own units, one per channel.
        max_vertices: see :func:`build_lattice`.
    """
    return LatticeData(
        *torch.ops.densecrf_gpu.build_image_lattice.default(
            image, size, spatial_sigmas, channel_sigmas, max_vertices
        )
    )


@register_fake("build_image_lattice")
def _(
    image: Tensor | None,
    size: Sequence[int],
    spatial_sigmas: Sequence[float],
    channel_sigmas: Sequence[float],
    max_vertices: int | None = None,
) -> tuple[Tensor, Tensor]:
    dimension = len(spatial_sigmas) + len(channel_sigmas)
    if image is None:
        like = torch.empty(0, dtype=torch.uint8)
        return _fake_lattice(like, 1, size, dimension, torch.float32, None)
    dtype = torch.float64 if image.dtype == torch.float64 else torch.float32
    return _fake_lattice(image, image.shape[0], size, dimension, dtype, max_vertices)


def _fake_lattice(
    like: Tensor,
    batch: int,
    grid: Sequence[int],
    dimension: int,
    dtype: torch.dtype,
    max_vertices: int | None,
) -> tuple[Tensor, Tensor]:
    points_shape: tuple[int | torch.SymInt, ...]
    vertices_shape: tuple[int | torch.SymInt, ...]
    if like.is_cuda:
        bound = None if max_vertices == EXACT else max_vertices
        points_shape, vertices_shape = lattice_shapes(batch, grid, dimension, dtype.itemsize, bound)
        if max_vertices == EXACT:
            unknown = torch.library.get_ctx().new_dynamic_size
            points_shape = (*points_shape[:-1], unknown())
            vertices_shape = (*vertices_shape[:-1], unknown())
    else:
        blocks = (prod(grid) + _POINTS_PER_BLOCK - 1) // _POINTS_PER_BLOCK
        # of each point and vertex: an int32 row and a weight
        row_bytes = blocks * _POINTS_PER_BLOCK * (dimension + 1) * (4 + dtype.itemsize)
        points_shape = (batch, row_bytes)
        vertices_shape = (torch.library.get_ctx().new_dynamic_size(),)
    return (
        like.new_empty(points_shape, dtype=torch.uint8),
        like.new_empty(vertices_shape, dtype=torch.uint8),
    )


def lattice_sizes(vertices: Tensor) -> Tensor:
    """Counts the vertices in use, int64 ``[B]``.

    On CUDA a lattice that must not be used has numbers below 0: -1 where its features are not
    finite or span too many bandwidths, -1 - n where n vertices are more than it was to have.
    """
    sizes: Tensor = torch.ops.densecrf_gpu.lattice_sizes.default(vertices)
    return sizes


@register_fake("lattice_sizes")
def _(vertices: Tensor) -> Tensor:
    batch = vertices.shape[0] if vertices.is_cuda else torch.library.get_ctx().new_dynamic_size()
    return vertices.new_empty((batch,), dtype=torch.int64)


@reports_lack_of_memory
def lattice_filter(
    lattice: LatticeData,
    values: Tensor,
    normalization: str,
    adjoint: bool,
    features: Tensor | None = None,
) -> Tensor:
    """Filters values over the points of a lattice.

    Args:
        lattice: of batch B, or 1 to serve any batch.
        values: ``[B, N, C]``, of the lattice's dtype.
        normalization: one of ``NORMALIZATIONS``.
        adjoint: applies the exact transpose instead.
        features: what the lattice was built from, ``[B, N, d]`` or ``[1, N, d]`` as the lattice;
            only needed if they are to receive a gradient.

    Returns:
        ``[B, N, C]``. The filter is linear in ``values``, so their gradient is the other of the
        filter and its adjoint, exactly, and can be differentiated again. The gradient of the
        features is that of :func:`lattice_filter_grad_features`, once.
    """
    result: Tensor = torch.ops.densecrf_gpu.lattice_filter.default(
        *lattice, values, normalization, adjoint, features
    )
    return result


@register_fake("lattice_filter")
def _(
    points: Tensor,
    vertices: Tensor,
    values: Tensor,
    normalization: str,
    adjoint: bool,
    features: Tensor | None = None,
) -> Tensor:
    return torch.empty_like(values, memory_format=torch.contiguous_format)


def _filter_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    points, vertices, values, ctx.normalization, ctx.adjoint, features = inputs
    needed = features is not None and features.requires_grad
    ctx.save_for_backward(points, vertices, *((values, features) if needed else ()))


def _filter_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    points, vertices, *others = ctx.saved_tensors
    lattice = LatticeData(points, vertices)
    values, features = others if others else (None, None)
    grad_values = grad_features = None
    if ctx.needs_input_grad[2]:
        grad_values = lattice_filter(lattice, grad, ctx.normalization, not ctx.adjoint, features)
    if values is not None and features is not None:
        grad_features = lattice_filter_grad_features(
            lattice, features, values, grad, ctx.normalization, ctx.adjoint
        )
    return None, None, grad_values, None, None, grad_features


torch.library.register_autograd(
    "densecrf_gpu::lattice_filter", _filter_backward, setup_context=_filter_context
)


def _filter_vmap(
    info: Any,
    in_dims: tuple[int | None, ...],
    points: Tensor,
    vertices: Tensor,
    values: Tensor,
    normalization: str,
    adjoint: bool,
    features: Tensor | None = None,
) -> tuple[Tensor, int]:
    """Filters the values of all samples as channels of one call."""
    batched = [dim is not None for dim in in_dims]
    if batched[0] or batched[1] or (len(batched) > 5 and batched[5]) or not batched[2]:
        raise NotImplementedError(
            "densecrf_gpu::lattice_filter can be vmapped over its values alone: build lattices of "
            "many point sets in one call, from features [B, N, d]"
        )
    samples = values.movedim(in_dims[2] or 0, 2)  # [B, N, samples, C]
    filtered = lattice_filter(
        LatticeData(points, vertices), samples.flatten(2), normalization, adjoint, features
    )
    return filtered.reshape(samples.shape), 2


torch.library.register_vmap("densecrf_gpu::lattice_filter", _filter_vmap)


@reports_lack_of_memory
def lattice_filter_grad_features(
    lattice: LatticeData,
    features: Tensor,
    values: Tensor,
    grad: Tensor,
    normalization: str,
    adjoint: bool,
) -> Tensor:
    """Differentiates ``<grad, lattice_filter(values)>`` with respect to the features.

    The derivative is that of what the lattice computes: barycentric weights are linear in the
    features as long as a point stays in its simplex; the normalisation's part is included. On the
    border of two simplices, a set of measure zero, it is the derivative of one side. In more than
    three dimensions the filter is not continuous there (vertices appear and vanish), and the
    derivative says nothing about the jumps.

    Args:
        lattice: built from ``features``.
        features: ``[B, N, d]``, or ``[1, N, d]`` to serve any batch.
        values: ``[B, N, C]``, as they were filtered.
        grad: ``[B, N, C]``, of the filter's result.
        normalization: as it was filtered.
        adjoint: as it was filtered.

    Returns:
        The shape of ``features``.
    """
    result: Tensor = torch.ops.densecrf_gpu.lattice_filter_grad_features.default(
        *lattice, features, values, grad, normalization, adjoint
    )
    return result


@register_fake("lattice_filter_grad_features")
def _(
    points: Tensor,
    vertices: Tensor,
    features: Tensor,
    values: Tensor,
    grad: Tensor,
    normalization: str,
    adjoint: bool,
) -> Tensor:
    return torch.empty_like(features, memory_format=torch.contiguous_format)


def cpu_isa() -> str:
    """Names the instruction set that the CPU kernels run with: avx512, avx2 or baseline."""
    isa: str = torch.ops.densecrf_gpu.cpu_isa.default()
    return isa


def workspace_bytes() -> int:
    """Counts the bytes of work memory that are kept between calls at present."""
    held: int = torch.ops.densecrf_gpu.workspace_bytes.default()
    return held


def clear_workspaces() -> None:
    """Frees the work memory that is kept between calls."""
    torch.ops.densecrf_gpu.clear_workspaces.default()


def set_workspace_limit(limit: int) -> None:
    """Bounds the work memory that is kept between calls, in bytes."""
    torch.ops.densecrf_gpu.set_workspace_limit.default(limit)


declare_not_differentiable("build_lattice")
declare_not_differentiable("build_image_lattice")
declare_once_differentiable("lattice_filter_grad_features", of="the filter's features")
for _name in (
    "build_lattice",
    "lattice_filter",
    "lattice_filter_grad_features",
):
    computes_in_float32(_name)
for _name in ("build_lattice", "build_image_lattice", "lattice_filter_grad_features"):
    refuse_vmap(_name, "pass a batch instead, which every argument has an axis for")
