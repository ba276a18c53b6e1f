"""Mean field put together from filter calls, so that gradients reach the features as well."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recomputed

from . import ops
from .cache import position_features
from .inputs import Guide
from .kernels import BilateralKernel, GaussianKernel
from .ops import LatticeData


class FilterTerm(NamedTuple):
    """One kernel: its lattice, and the features to which gradients flow, if any."""

    lattice: LatticeData
    features: Tensor | None  # [B or 1, N, d]
    normalization: str

    def filter(self, q: Tensor) -> Tensor:
        """Returns F(Q), [B, N, C]."""
        return ops.lattice_filter(self.lattice, q, self.normalization, False, self.features)


def differentiable_term(
    kernel: GaussianKernel | BilateralKernel,
    sigmas: list[Tensor] | None,
    guide: Guide,
    size: tuple[int, int],
    like: Tensor,
) -> FilterTerm:
    """Builds a kernel's lattice from features that remember where they come from.

    Args:
        kernel: whose bandwidths to take if they are not learned.
        sigmas: bandwidths of positions and, for a bilateral kernel, of colours, [1] or one per
            feature; None if they are not learned.
        guide: the image.
        size: of the image.
        like: a tensor of the dtype and device to compute with.
    """
    if sigmas is None:
        if not (isinstance(kernel, BilateralKernel) and guide.pixels.requires_grad):
            lattice = kernel.lattice(size, guide, like.dtype, like.device)
            return FilterTerm(lattice, None, kernel.normalization)
        sigmas = [like.new_tensor(kernel.sxy), like.new_tensor(kernel.srgb)]
    positions = position_features(size, (1.0, 1.0), like.dtype, like.device)[None]  # [1, N, 2]
    features = positions / sigmas[0]
    if isinstance(kernel, BilateralKernel):
        scale = 1.0 if kernel.image_range is None else kernel.image_range / 255
        colors = guide.pixels.flatten(2).transpose(1, 2).to(like.dtype)  # [B, N, channels]
        positions = features.expand(colors.shape[0], -1, -1)
        features = torch.cat([positions, colors / (sigmas[1] * scale)], dim=2)
    features = features.contiguous()
    lattice = ops.build_lattice(features.detach())
    return FilterTerm(lattice, features, kernel.normalization)


def unrolled_mean_field(
    unary: Tensor,
    terms: Sequence[FilterTerm],
    compatibilities: Sequence[Tensor],
    iterations: int,
    damping: float,
    output: str,
    recompute: bool,
) -> Tensor:
    """Does what ``ops.mean_field`` does, recorded by autograd step by step.

    Args:
        unary: logits [B, C, N].
        terms: of each kernel.
        compatibilities: of each kernel, or of each iteration and kernel, as for the operator.
        iterations: exactly this many.
        damping: part of the old Q that stays.
        output: ``"logits"`` or ``"probabilities"``.
        recompute: keeps Q of every iteration alone, and runs the rest again in backward.

    Returns:
        [B, C, N].
    """
    unary = unary.transpose(1, 2).contiguous()  # [B, N, C], as the filter takes it
    log_q = unary.log_softmax(dim=2)
    shared = len(compatibilities) == len(terms)

    def update(log_q: Tensor, *used: Tensor) -> Tensor:
        q, z = log_q.exp(), unary
        for term, compatibility in zip(terms, used, strict=True):
            message = term.filter(q)
            if compatibility.dim() == 2:
                z = z - message @ compatibility.T
            else:
                z = z + message * compatibility
        new = z.log_softmax(dim=2)
        if damping > 0:
            new = torch.logaddexp(new + math.log1p(-damping), log_q + math.log(damping))
        return new

    for t in range(iterations):
        used = compatibilities if shared else compatibilities[t * len(terms) : (t + 1) * len(terms)]
        if recompute:
            log_q = recomputed(update, log_q, *used, use_reentrant=False, preserve_rng_state=False)
        else:
            log_q = update(log_q, *used)
    result = log_q if output == "logits" else log_q.exp()
    return result.transpose(1, 2).contiguous()
