"""Mean-field inference of the dense CRF: algorithm 1 of [KK 2011], with any filter."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

#: values [1, N, C] of image b -> filtered values [1, N, C], normalisation included.
Filter = Callable[[Tensor, int], Tensor]

OUTPUTS = ("probabilities", "logits", "labels")


def penalty(message: Tensor, compatibility: Tensor) -> Tensor:
    """Returns the energy that one kernel's message adds to each label.

    Args:
        message: F(Q) [N, C].
        compatibility: [1] Potts attraction w: -w F(Q). [C] attraction per class: -w_c F(Q)_c.
            [C, C] penalty matrix: mu F(Q), so that Potts is w (1 - I).
    """
    if compatibility.dim() == 2:
        return message @ compatibility.T
    return -compatibility * message


def mean_field(
    logits: Tensor,
    filters: Sequence[Filter],
    compatibilities: Sequence[Tensor],
    iterations: int = 10,
    damping: float = 0.0,
    tolerance: float = 0.0,
    output: str = "probabilities",
) -> Tensor:
    """Iterates Q <- (1 - damping) softmax(logits - sum_k C_k F_k(Q)) + damping Q.

    Q starts as softmax(logits). Each image stops by itself as soon as no element of its Q moved by
    ``tolerance`` or more; zero never stops. The self term is part of F, as in pydensecrf.

    Args:
        logits: [B, C, N], minus the unary energy.
        filters: One per kernel: called with values [1, N, C] and the image's index in the batch.
        compatibilities: One per kernel, see :func:`penalty`.
        iterations: Number of updates; 0 leaves softmax(logits).
        damping: Share of the old Q that is kept, in [0, 1).
        tolerance: Stop when max |Q_new - Q_old| is below it.
        output: "probabilities", "logits" (log Q) or "labels" (int64, the first of equal maxima).

    Returns:
        [B, C, N], or [B, N] for labels.
    """
    if output not in OUTPUTS:
        raise ValueError(f"output must be one of {OUTPUTS}, got {output!r}")
    return torch.stack(
        [
            _one_image(
                logits[b].T, b, filters, compatibilities, iterations, damping, tolerance, output
            )
            for b in range(logits.shape[0])
        ]
    )


def _one_image(
    logits: Tensor,  # [N, C]
    image: int,
    filters: Sequence[Filter],
    compatibilities: Sequence[Tensor],
    iterations: int,
    damping: float,
    tolerance: float,
    output: str,
) -> Tensor:
    log_q = logits.log_softmax(dim=1)
    q = logits.softmax(dim=1)
    for _ in range(iterations):
        updated = logits
        for kernel, compatibility in zip(filters, compatibilities, strict=True):
            message = kernel(q[None], image)[0]
            updated = updated - penalty(message, compatibility)
        new_log_q = updated.log_softmax(dim=1)
        new_q = updated.softmax(dim=1)
        if damping > 0:
            new_log_q = torch.logaddexp(new_log_q + math.log1p(-damping), log_q + math.log(damping))
            new_q = (1 - damping) * new_q + damping * q
        change = (new_q - q).abs().max()
        q, log_q = new_q, new_log_q
        if change < tolerance:
            break
    if output == "labels":
        return q.argmax(dim=1)
    return (q if output == "probabilities" else log_q).T
