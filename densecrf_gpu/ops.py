"""The operators of ``torch.ops.densecrf_gpu``: one typed function each, its fake kernel beside it.

These functions trust their arguments as the operators do: shapes and types are checked in C++,
values are not. The classes and functions of the package check values first.

``lattice_filter`` is differentiable in its values. No other operator is differentiable: one that
is called in grad mode with a tensor that requires grad raises RuntimeError, rather than return a
result cut off from the graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn, TypeVar

import torch
from torch import Tensor

from . import backends as _backends  # noqa: F401  (loads the libraries that define the operators)

NORMALIZATIONS = ("none", "before", "after", "symmetric")
OUTPUTS = ("probabilities", "logits", "labels")

_POINTS_PER_BLOCK = 64  # points are stored in blocks of this many


_Function = TypeVar("_Function", bound=Callable[..., Any])


def _register_fake(name: str) -> Callable[[_Function], _Function]:
    """``torch.library.register_fake`` with types."""
    decorate: Callable[[_Function], _Function]
    decorate = torch.library.register_fake(f"densecrf_gpu::{name}")
    return decorate


class LatticeData(NamedTuple):
    """What the build operators return; both tensors are opaque and must not be written to."""

    points: Tensor  # uint8 [B, bytes]: of each point, its d+1 vertices and barycentric weights
    vertices: Tensor  # uint8 [bytes]: of each vertex, its blur neighbours


def refuse_gradients(caller: str, *tensors: Tensor) -> None:
    """Raises RuntimeError if autograd would have to record what ``caller`` does to ``tensors``."""
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        _raise_not_differentiable(caller)


def _raise_not_differentiable(caller: str) -> NoReturn:
    raise RuntimeError(
        f"{caller} is not differentiable: call it under torch.no_grad() or "
        "torch.inference_mode(), or pass tensor.detach()"
    )


def _declare_not_differentiable(name: str) -> None:
    """Makes a direct call of ``torch.ops.densecrf_gpu.<name>`` refuse gradients as well."""

    def refuse(*_: Any, **__: Any) -> NoReturn:
        _raise_not_differentiable(f"densecrf_gpu::{name}")

    torch.library.register_autograd(f"densecrf_gpu::{name}", refuse, setup_context=refuse)


def build_lattice(features: Tensor) -> LatticeData:
    """Builds the lattices of a batch of point sets.

    Args:
        features: ``[B, N, d]``, float32 or float64, divided by the bandwidths.
    """
    return LatticeData(*torch.ops.densecrf_gpu.build_lattice.default(features))


@_register_fake("build_lattice")
def _(features: Tensor) -> tuple[Tensor, Tensor]:
    batch, points, dimension = features.shape
    return _fake_lattice(features, batch, points, dimension, features.dtype)


def build_image_lattice(
    image: Tensor | None,
    size: Sequence[int],
    spatial_sigmas: Sequence[float],
    channel_sigmas: Sequence[float],
) -> LatticeData:
    """Builds the lattices of a batch of images, from features that are never stored.

    Args:
        image: ``[B, channels, *size]`` of any strides, uint8, float32 or float64; None for
            positions alone, which gives one lattice for every batch.
        size: of the image, in array order: ``[H, W]`` or ``[D, H, W]``.
        spatial_sigmas: in pixels, x first.
        channel_sigmas: in the image's own units, one per channel.
    """
    return LatticeData(
        *torch.ops.densecrf_gpu.build_image_lattice.default(
            image, size, spatial_sigmas, channel_sigmas
        )
    )


@_register_fake("build_image_lattice")
def _(
    image: Tensor | None,
    size: Sequence[int],
    spatial_sigmas: Sequence[float],
    channel_sigmas: Sequence[float],
) -> tuple[Tensor, Tensor]:
    points = 1
    for extent in size:
        points *= extent
    dimension = len(spatial_sigmas) + len(channel_sigmas)
    if image is None:
        like = torch.empty(0, dtype=torch.uint8)
        return _fake_lattice(like, 1, points, dimension, torch.float32)
    dtype = torch.float64 if image.dtype == torch.float64 else torch.float32
    return _fake_lattice(image, image.shape[0], points, dimension, dtype)


def _fake_lattice(
    like: Tensor, batch: int, points: int, dimension: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    blocks = (points + _POINTS_PER_BLOCK - 1) // _POINTS_PER_BLOCK
    # of each point and vertex: an int32 row and a weight
    row_bytes = blocks * _POINTS_PER_BLOCK * (dimension + 1) * (4 + dtype.itemsize)
    vertex_bytes = torch.library.get_ctx().new_dynamic_size()
    return (
        like.new_empty((batch, row_bytes), dtype=torch.uint8),
        like.new_empty((vertex_bytes,), dtype=torch.uint8),
    )


def lattice_sizes(vertices: Tensor) -> Tensor:
    """Counts the vertices in use, int64 ``[B]``."""
    sizes: Tensor = torch.ops.densecrf_gpu.lattice_sizes.default(vertices)
    return sizes


@_register_fake("lattice_sizes")
def _(vertices: Tensor) -> Tensor:
    batch = torch.library.get_ctx().new_dynamic_size()
    return vertices.new_empty((batch,), dtype=torch.int64)


def lattice_filter(
    lattice: LatticeData, values: Tensor, normalization: str, adjoint: bool
) -> Tensor:
    """Filters values over the points of a lattice.

    Args:
        lattice: of batch B, or 1 to serve any batch.
        values: ``[B, N, C]``, of the lattice's dtype.
        normalization: one of ``NORMALIZATIONS``.
        adjoint: applies the exact transpose instead.

    Returns:
        ``[B, N, C]``. The filter is linear in ``values``, so their gradient is the other of the
        filter and its adjoint, exactly, and can be differentiated again.
    """
    result: Tensor = torch.ops.densecrf_gpu.lattice_filter.default(
        *lattice, values, normalization, adjoint
    )
    return result


@_register_fake("lattice_filter")
def _(
    points: Tensor, vertices: Tensor, values: Tensor, normalization: str, adjoint: bool
) -> Tensor:
    return torch.empty_like(values, memory_format=torch.contiguous_format)


def _filter_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    points, vertices, _, ctx.normalization, ctx.adjoint = inputs
    ctx.save_for_backward(points, vertices)


def _filter_backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor, None, None]:
    lattice = LatticeData(*ctx.saved_tensors)
    return None, None, lattice_filter(lattice, grad, ctx.normalization, not ctx.adjoint), None, None


torch.library.register_autograd(
    "densecrf_gpu::lattice_filter", _filter_backward, setup_context=_filter_context
)


def mean_field(
    logits: Tensor,
    points: Sequence[Tensor],
    vertices: Sequence[Tensor],
    compatibilities: Sequence[Tensor],
    normalizations: Sequence[str],
    iterations: int,
    damping: float,
    tolerance: float,
    output: str,
) -> Tensor:
    """Runs mean-field inference from ``Q = softmax(logits)``.

    Every iteration is ``Q = (1 - damping) softmax(logits - sum_k C_k F_k(Q)) + damping Q``.

    Args:
        logits: ``[B, C, N]``, float32 or float64.
        points: of each kernel's lattice.
        vertices: of each kernel's lattice.
        compatibilities: of each kernel: ``[1]`` attraction weight of Potts, ``[C]`` attraction
            weight of each class, or ``[C, C]`` penalty.
        normalizations: of each kernel, from ``NORMALIZATIONS``.
        iterations: at most this many.
        damping: part of the old Q that stays.
        tolerance: stops once no entry of Q moved by as much; never, if not positive.
        output: one of ``OUTPUTS``.

    Returns:
        ``[B, C, N]`` probabilities or their logarithms, or int64 labels ``[B, N]``.
    """
    result: Tensor = torch.ops.densecrf_gpu.mean_field.default(
        logits,
        points,
        vertices,
        compatibilities,
        normalizations,
        iterations,
        damping,
        tolerance,
        output,
    )
    return result


@_register_fake("mean_field")
def _(
    logits: Tensor,
    points: Sequence[Tensor],
    vertices: Sequence[Tensor],
    compatibilities: Sequence[Tensor],
    normalizations: Sequence[str],
    iterations: int,
    damping: float,
    tolerance: float,
    output: str,
) -> Tensor:
    batch, classes, points_per_image = logits.shape
    if output == "labels":
        return logits.new_empty((batch, points_per_image), dtype=torch.int64)
    return logits.new_empty((batch, classes, points_per_image))


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


_declare_not_differentiable("build_lattice")
_declare_not_differentiable("build_image_lattice")
_declare_not_differentiable("mean_field")
