"""The exact Gaussian filter, the one the lattice approximates: an N x N matrix, O(N^2)."""

from __future__ import annotations

import torch
from torch import Tensor

from densecrf_gpu.reference.normalization import normalized_filter


def exact_kernel(features: Tensor) -> Tensor:
    """Returns K_ij = exp(-|f_i - f_j|^2 / 2), the self term K_ii = 1 included.

    Args:
        features: [N, d], already divided by the bandwidths.

    Returns:
        [N, N].
    """
    # By differences: |f_i|^2 + |f_j|^2 - 2 f_i f_j would lose the digits of near points.
    distance = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
    return torch.exp(-0.5 * distance.square())


def exact_filter(
    features: Tensor, values: Tensor, normalization: str = "none", adjoint: bool = False
) -> Tensor:
    """Filters values by the exact normalised Gaussian.

    Args:
        features: [B, N, d] or [1, N, d], already divided by the bandwidths.
        values: [B, N, C].
        normalization: "none", "before", "after" or "symmetric".
        adjoint: Apply the transpose.

    Returns:
        [B, N, C].
    """
    filtered = []
    for b, item in enumerate(values):
        kernel = exact_kernel(features[b if len(features) > 1 else 0])
        filtered.append(
            normalized_filter(kernel.matmul, kernel.T.matmul, item, normalization, adjoint)
        )
    return torch.stack(filtered)
