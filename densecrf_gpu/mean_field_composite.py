"""Mean field for training, put together from filter calls: for backends without fused passes.

One iteration is Q' = softmax(z), z = logits - sum_k C_k F_k(Q). With G = dL/dQ' and g = dL/dz:

    g       = Q' (G - <Q', G>)                    and dL/dlogits += g
    dL/dQ   = -sum_k C_k^T F_k^T g                F_k^T: the exact adjoint of the filter
    dL/dC_k = -sum_points (F_k^T g) Q^T

The filter acts on points and C on classes, so that they commute: g is filtered once per kernel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Stands in for Q where that vanishes; a quotient by it is multiplied by a Q no larger later on.
_SMALLEST = 1e-30


def _filter(points: Tensor, vertices: Tensor, rows: Tensor, mode: str, adjoint: bool) -> Tensor:
    filtered: Tensor = torch.ops.densecrf_gpu.lattice_filter.default(
        points, vertices, rows, mode, adjoint
    )
    return filtered


def check(
    points: Sequence[Tensor], compatibilities: Sequence[Tensor], iterations: int, output: str
) -> None:
    """Raises unless the output is one that has gradients and the compatibilities are enough."""
    if output not in ("probabilities", "logits"):
        raise ValueError(f"output must be probabilities or logits, got {output}")
    allowed = (len(points), max(iterations, 1) * len(points))
    if len(compatibilities) not in allowed:
        raise ValueError(
            f"compatibilities must have one entry per kernel ({len(points)}) or per iteration and "
            f"kernel ({iterations * len(points)}), got {len(compatibilities)}"
        )


def _of_iteration(kernels: int, entries: int, iteration: int) -> range:
    """The indices of an iteration's compatibilities."""
    first = 0 if entries == kernels else iteration * kernels
    return range(first, first + kernels)


def train(
    logits: Tensor,
    points: Sequence[Tensor],
    vertices: Sequence[Tensor],
    compatibilities: Sequence[Tensor],
    normalizations: Sequence[str],
    iterations: int,
    damping: float,
    output: str,
) -> tuple[Tensor, Tensor]:
    """Returns the result ``[B, C, N]`` and all Q but the last, ``[B, iterations, N, C]``."""
    check(points, compatibilities, iterations, output)
    unary = logits.transpose(1, 2).contiguous()  # [B, N, C]
    batch, count, classes = unary.shape
    states = unary.new_empty(batch, iterations, count, classes)
    log_q = unary.log_softmax(2)
    q = log_q.exp()
    for t in range(iterations):
        states[:, t] = q
        z = unary.clone()
        for k, entry in enumerate(_of_iteration(len(points), len(compatibilities), t)):
            message = _filter(points[k], vertices[k], q, normalizations[k], False)
            c = compatibilities[entry]
            if c.dim() == 2:
                z -= message @ c.T
            else:
                z += message * c
        new = z.log_softmax(2)
        if damping > 0:
            kept = torch.tensor(damping, dtype=torch.float64)
            log_q = torch.logaddexp(new + (1 - kept).log(), log_q + kept.log())
            q = torch.lerp(new.exp(), q, damping)
        else:
            log_q, q = new, new.exp()
    result = q if output == "probabilities" else log_q
    return result.transpose(1, 2).contiguous(), states


def backward(
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
    """Returns the gradients of the logits ``[B, C, N]`` and of the compatibilities."""
    iterations = states.shape[1]
    check(points, compatibilities, iterations, output)
    grads = [torch.zeros_like(c, memory_format=torch.contiguous_format) for c in compatibilities]
    upstream = grad.transpose(1, 2)  # [B, N, C], like all that follows
    after = result.transpose(1, 2)
    if output == "logits":
        after = after.exp()
    total = torch.zeros_like(after, memory_format=torch.contiguous_format)
    for t in reversed(range(iterations)):
        q = states[:, t]
        fresh = (after - damping * q) / (1 - damping)  # softmax(z)
        if output == "logits" and t == iterations - 1:
            share = 1 - damping * q / after.clamp_min(_SMALLEST)  # of `fresh` in the result
            g = share * upstream - fresh * (share * upstream).sum(2, keepdim=True)
            upstream = upstream / after.clamp_min(_SMALLEST)
        else:
            g = (1 - damping) * _through_softmax(fresh, upstream)
        g = g.contiguous()
        total += g
        upstream = damping * upstream
        for k, entry in enumerate(_of_iteration(len(points), len(compatibilities), t)):
            filtered = _filter(points[k], vertices[k], g, normalizations[k], True)
            c = compatibilities[entry]
            if c.dim() == 2:
                upstream = upstream - filtered @ c
                grads[entry] -= (filtered.transpose(1, 2) @ q).sum(0)
            else:
                upstream = upstream + filtered * c
                product = (filtered * q).sum((0, 1))
                grads[entry] += product.sum() if c.shape[0] == 1 else product
        after = q
    if iterations == 0 and output == "logits":
        total = upstream - after * upstream.sum(2, keepdim=True)
    else:
        total += _through_softmax(after, upstream)
    return total.transpose(1, 2).contiguous(), grads


def _through_softmax(q: Tensor, upstream: Tensor) -> Tensor:
    """The gradient of z from that of q = softmax(z)."""
    return q * (upstream - (q * upstream).sum(2, keepdim=True))
