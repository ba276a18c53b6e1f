"""The four normalisations of a kernel K and of its transpose, whatever computes K."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

NORMALIZATIONS = ("none", "before", "after", "symmetric")

#: Added to the filter of ones, as pydensecrf does.
EPSILON = 1e-20


def normalized_filter(
    kernel: Callable[[Tensor], Tensor],
    transpose: Callable[[Tensor], Tensor],
    values: Tensor,
    normalization: str,
    adjoint: bool = False,
) -> Tensor:
    """Filters by K, K D^-1 ("before"), D^-1 K ("after") or D^-1/2 K D^-1/2 ("symmetric").

    ``D = diag(K 1)``. The adjoint is the exact transpose: K becomes K^T and "before" and "after"
    change sides, while D stays that of the forward filter. "after" is the normalisation of
    [KK 2011], "symmetric" that of [KK 2013], section 3.3.

    Args:
        kernel: v [N, C] -> K v [N, C].
        transpose: v [N, C] -> K^T v [N, C].
        values: [N, C].
        normalization: One of :data:`NORMALIZATIONS`.
        adjoint: Apply the transpose of the normalised filter.

    Raises:
        ValueError: ``normalization`` is unknown.
    """
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization must be one of {NORMALIZATIONS}, got {normalization!r}")
    apply = transpose if adjoint else kernel
    if normalization == "none":
        return apply(values)
    mass = kernel(torch.ones_like(values[:, :1])) + EPSILON  # [N, 1], the diagonal of D
    if normalization == "symmetric":
        factor = 1 / mass.sqrt()
        return factor * apply(factor * values)
    scale_input_first = (normalization == "before") != adjoint
    return apply(values / mass) if scale_input_first else apply(values) / mass
