"""The mean-field operators of ``torch.ops.densecrf_gpu``: inference, and training through it.

Like those of ``densecrf_gpu.ops``, the functions trust their arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import backends as _backends  # noqa: F401  (loads the libraries that define the operators)
from . import mean_field_composite
from .cuda_layout import POINTS_PER_TILE, tile_count
from .registration import (
    computes_in_float32,
    declare_not_differentiable,
    declare_once_differentiable,
    records_gradients,
    refuse_vmap,
    register_fake,
    reports_lack_of_memory,
)

OUTPUTS = ("probabilities", "logits", "labels")

_POINTS_PER_BLOCK = 64  # the CPU's states hold whole blocks of points


@reports_lack_of_memory
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
    Gradients flow to the logits and the compatibilities, exactly; where autograd records, all Q
    before the last are kept until backward. Labels carry no gradient.

    Args:
        logits: ``[B, C, N]``, float32 or float64; under autocast computed in float32.
        points: of each kernel's lattice.
        vertices: of each kernel's lattice.
        compatibilities: of each kernel: ``[1]`` attraction weight of Potts, ``[C]`` attraction
            weight of each class, or ``[C, C]`` penalty. Or ``iterations`` times as many: those of
            the first iteration, then of the second ...
        normalizations: of each kernel, from ``NORMALIZATIONS``.
        iterations: at most this many.
        damping: part of the old Q that stays.
        tolerance: stops once no entry of Q moved by as much; never, if not positive.
        output: one of ``OUTPUTS``.

    Returns:
        ``[B, C, N]`` probabilities or their logarithms, or int64 labels ``[B, N]``.

    Raises:
        RuntimeError: a tolerance together with gradients.
    """
    if output == "labels":
        logits = logits.detach()
        compatibilities = [compatibility.detach() for compatibility in compatibilities]
    elif records_gradients(logits, *compatibilities):
        refuse_tolerance(tolerance)
        result, _ = mean_field_train(
            logits, points, vertices, compatibilities, normalizations, iterations, damping, output
        )
        return result
    inferred: Tensor = torch.ops.densecrf_gpu.mean_field.default(
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
    return inferred


def refuse_tolerance(tolerance: float) -> None:
    """Raises RuntimeError if there is a tolerance: backward wants a fixed number of iterations."""
    if tolerance > 0:
        raise RuntimeError(
            f"expected no tolerance where gradients are recorded, found {tolerance}: the number of "
            "iterations has to be fixed; call it under torch.no_grad(), or pass tolerance=None"
        )


@register_fake("mean_field")
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


@reports_lack_of_memory
def mean_field_train(
    logits: Tensor,
    points: Sequence[Tensor],
    vertices: Sequence[Tensor],
    compatibilities: Sequence[Tensor],
    normalizations: Sequence[str],
    iterations: int,
    damping: float,
    output: str,
) -> tuple[Tensor, Tensor]:
    """Runs mean field as :func:`mean_field` does, and keeps what backward needs.

    Args:
        logits: as for :func:`mean_field`.
        points: likewise.
        vertices: likewise.
        compatibilities: likewise.
        normalizations: likewise.
        iterations: exactly this many.
        damping: part of the old Q that stays.
        output: ``"probabilities"`` or ``"logits"``.

    Returns:
        The result, and the Q before every iteration in a layout of the backend's own.
    """
    result, states = torch.ops.densecrf_gpu.mean_field_train.default(
        logits, points, vertices, compatibilities, normalizations, iterations, damping, output
    )
    return result, states


@register_fake("mean_field_train")
def _(
    logits: Tensor,
    points: Sequence[Tensor],
    vertices: Sequence[Tensor],
    compatibilities: Sequence[Tensor],
    normalizations: Sequence[str],
    iterations: int,
    damping: float,
    output: str,
) -> tuple[Tensor, Tensor]:
    batch, classes, points_per_image = logits.shape
    states: tuple[int, ...] = (batch, iterations, points_per_image, classes)
    if logits.device.type == "cpu":
        blocks = (points_per_image + _POINTS_PER_BLOCK - 1) // _POINTS_PER_BLOCK
        stride = _label_stride(classes, logits.dtype)
        states = (batch, iterations, blocks * _POINTS_PER_BLOCK, stride)
    elif logits.device.type == "cuda":
        grid = points[0].shape[1:-1] if points else (points_per_image,)
        chunk = 16 // logits.element_size()  # rows are loaded 16 bytes at a time
        stride = (classes + chunk - 1) // chunk * chunk
        states = (iterations, batch, tile_count(grid), POINTS_PER_TILE, stride)
    return logits.new_empty((batch, classes, points_per_image)), logits.new_empty(states)


def _label_stride(classes: int, dtype: torch.dtype) -> int:
    """The values that the CPU's rows of labels are padded to."""
    if dtype == torch.float32 and classes <= 32:
        return 4 if classes <= 4 else (classes + 7) // 8 * 8
    return (classes + 15) // 16 * 16


@register_fake("mean_field_backward")
def _(
    grad: Tensor,
    logits: Tensor,
    result: Tensor,
    states: Tensor,
    points: Sequence[Tensor],
    vertices: Sequence[Tensor],
    compatibilities: Sequence[Tensor],
    normalizations: Sequence[str],
    damping: float,
    output: str,
) -> tuple[Tensor, list[Tensor]]:
    contiguous = torch.contiguous_format
    return (
        torch.empty_like(logits, memory_format=contiguous),
        [torch.empty_like(c, memory_format=contiguous) for c in compatibilities],
    )


def _train_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    logits, points, vertices, compatibilities, normalizations, _, damping, form = inputs
    result, states = output
    ctx.mark_non_differentiable(states)
    ctx.set_materialize_grads(False)  # else backward is handed zeros as large as the states
    ctx.kernels, ctx.normalizations = len(points), normalizations
    ctx.damping, ctx.form = damping, form
    ctx.save_for_backward(logits, result, states, *points, *vertices, *compatibilities)


@reports_lack_of_memory
def _train_backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Any, ...]:
    logits, result, states, *lists = ctx.saved_tensors
    points, vertices = lists[: ctx.kernels], lists[ctx.kernels : 2 * ctx.kernels]
    compatibilities = lists[2 * ctx.kernels :]
    none = [None] * ctx.kernels
    # torch takes an empty list of anything for one of tensors.
    modes: list[None] | None = None if ctx.kernels else []
    if grad is None:
        return None, none, none, [None] * len(compatibilities), modes, None, None, None
    grad_logits, grad_compatibilities = torch.ops.densecrf_gpu.mean_field_backward.default(
        grad,
        logits,
        result,
        states,
        points,
        vertices,
        compatibilities,
        ctx.normalizations,
        ctx.damping,
        ctx.form,
    )
    return grad_logits, none, none, grad_compatibilities, modes, None, None, None


torch.library.register_autograd(
    "densecrf_gpu::mean_field_train", _train_backward, setup_context=_train_context
)
declare_not_differentiable("mean_field")
declare_once_differentiable("mean_field_backward", of="mean field")
for _name in ("mean_field", "mean_field_train", "mean_field_backward"):
    computes_in_float32(_name)
    refuse_vmap(_name, "pass a batch instead, logits [B, C, N]")

# Backends without fused passes of their own fall back on these.
torch.library.impl("densecrf_gpu::mean_field_train", "default", mean_field_composite.train)
torch.library.impl("densecrf_gpu::mean_field_backward", "default", mean_field_composite.backward)
