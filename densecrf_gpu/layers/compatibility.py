"""From the layer's parameters to what the mean-field operator takes for every kernel."""

from __future__ import annotations

import torch
from torch import Tensor

from densecrf_gpu.checks import check_finite

from .bandwidths import ImageKernel

WEIGHTS = ("class", "kernel")
COMPATIBILITIES = ("full", "symmetric", "potts")


def potts(num_classes: int) -> Tensor:
    """Returns the penalties of Potts, ``1 - identity``. [C, C]"""
    return 1 - torch.eye(num_classes)


def initial_weights(kernel: ImageKernel, num_classes: int, weights: str) -> Tensor:
    """Returns the weight of a kernel as the layer holds it: [] or [C].

    Raises:
        ValueError: it has another shape, or an entry that is not finite.
    """
    weight = torch.as_tensor(kernel.weight, dtype=torch.get_default_dtype()).detach()
    shapes = [()] if weights == "kernel" else [(), (num_classes,)]
    if tuple(weight.shape) not in shapes:
        expected = "a number" if weights == "kernel" else f"a number or [{num_classes}]"
        raise ValueError(
            f"expected the weight of every kernel to be {expected}, found {list(weight.shape)}"
        )
    check_finite("weight", weight)
    return weight if weights == "kernel" else weight.expand(num_classes)


def combine(weights: Tensor, matrix: Tensor | None, form: str, zero_diagonal: bool) -> list[Tensor]:
    """Returns ``mu diag(w_k)`` of every kernel, or ``[1]`` or ``[C]`` attractions for Potts.

    Args:
        weights: [K] or [K, C].
        matrix: mu before its form is imposed, [C, C]; None for Potts.
        form: one of ``COMPATIBILITIES``.
        zero_diagonal: whether the diagonal of mu is 0.
    """
    if matrix is None:
        return [weight.reshape(-1) for weight in weights.unbind()]
    if form == "symmetric":
        matrix = (matrix + matrix.T) / 2
    if zero_diagonal:
        matrix = matrix * potts(matrix.shape[0]).to(matrix)
    # A weight [C] scales columns: it belongs to the label that the message comes from.
    return [matrix * weight for weight in weights.unbind()]
