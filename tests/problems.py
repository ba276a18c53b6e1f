"""Random problems for the tests: points, values and logits with a seed of their own."""

from __future__ import annotations

import torch
from torch import Tensor

NORMALIZATIONS = ("none", "before", "after", "symmetric")

#: Largest difference allowed, relative to the largest absolute value of the expected tensor: the
#: same sums in another order.
RELATIVE = {torch.float32: 5e-6, torch.float64: 1e-13}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_points(
    n: int, d: int, batch: int = 1, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Tensor:
    """Points [B, N, d] in clumps, so that many share a vertex and some are alone."""
    g = generator(seed)
    centers = 4 * torch.randn(batch, max(1, n // 8), d, generator=g, dtype=torch.float64)
    which = torch.randint(centers.shape[1], (batch, n), generator=g)
    points = torch.gather(centers, 1, which[..., None].expand(-1, -1, d))
    spread = torch.randn(batch, n, d, generator=g, dtype=torch.float64)
    return (points + 0.5 * spread).to(dtype)


def random_values(
    n: int, channels: int, batch: int = 1, dtype: torch.dtype = torch.float32, seed: int = 1
) -> Tensor:
    """Values [B, N, C] of both signs."""
    shape = (batch, n, channels)
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64).to(dtype)


def random_logits(
    classes: int, n: int, batch: int = 1, dtype: torch.dtype = torch.float32, seed: int = 2
) -> Tensor:
    """Logits [B, C, N]."""
    shape = (batch, classes, n)
    return (2 * torch.randn(shape, generator=generator(seed), dtype=torch.float64)).to(dtype)


def random_image(
    height: int, width: int, channels: int = 3, batch: int = 1, seed: int = 3
) -> Tensor:
    """A uint8 image [B, ch, H, W] of flat patches with noise: its lattice has neighbours."""
    g = generator(seed)
    patches = torch.randint(40, 215, (batch, channels, 3, 3), generator=g).double()
    smooth = torch.nn.functional.interpolate(patches, size=(height, width), mode="nearest")
    noise = 6 * torch.randn(smooth.shape, generator=g, dtype=torch.float64)
    return (smooth + noise).clamp(0, 255).to(torch.uint8)


def assert_near(actual: Tensor, expected: Tensor, relative: float | None = None) -> None:
    """Fails unless the largest difference is at most ``relative`` of the largest value."""
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    limit = RELATIVE[expected.dtype] if relative is None else relative
    scale = expected.abs().max().clamp_min(1e-30)
    error = (actual.cpu() - expected.cpu()).abs().max() / scale
    assert error <= limit, f"largest difference {error:.3g} of the largest value, allowed {limit:g}"
