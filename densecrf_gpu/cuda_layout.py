"""Shapes of the opaque lattice tensors on CUDA, as ``csrc/cuda/lattice_view.h`` has them.

Fake kernels need them without the library that computes them. They follow from shapes alone, since
nothing on CUDA waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod, sqrt

POINTS_PER_TILE = 256
_ALIGN = 16


def lattice_shapes(
    batch: int,
    grid: Sequence[int],
    dimensions: int,
    scalar_size: int,
    max_vertices: int | None = None,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the shapes of ``points`` and ``vertices``.

    Args:
        batch: number of images B.
        grid: the raster of the points, ``[N]`` for loose ones.
        dimensions: d of the features.
        scalar_size: bytes of the lattice's scalar, 4 or 8.
        max_vertices: the bound of one image, or None.
    """
    per_point = dimensions + 1
    points = prod(grid)
    capacity = points * per_point
    if max_vertices is not None:
        capacity = min(capacity, max_vertices)
    capacity = _up(batch * capacity, 16)
    tile_rows = _up(batch * points * per_point, 16)
    tiles = batch * tile_count(grid)
    incidences = tiles * per_point * POINTS_PER_TILE
    points_bytes = _bytes(
        (incidences, 4), (incidences, scalar_size), (incidences, 2), (tiles + 1, 4),
        (tile_rows, 2), (tile_rows, 4),
    )  # fmt: skip
    vertices_bytes = _bytes(
        (1, 4), (batch, 4), (batch + 1, 4), (capacity + 1, 4), (2 * per_point * capacity, 4),
        (capacity, scalar_size), (2 * per_point, 4), (per_point * (capacity // 2), 4),
    )  # fmt: skip
    return (
        (batch, *grid, _divide_up(points_bytes, batch * points)),
        (
            batch,
            scalar_size,
            per_point,
            _divide_up(vertices_bytes, batch * scalar_size * per_point),
        ),
    )


def most_vertices(size: Sequence[int], sigmas: Sequence[float]) -> int:
    """Returns a number of vertices that the lattice of a raster's positions never exceeds.

    With the wide bandwidths that positions have it is a small part of the d+1 a point there could
    be: the sum of all coordinates of a vertex is 0, and all are congruent modulo d+1, so that d of
    them and the remainder tell it; each has a range that follows from that of the positions
    (Adams, Baek and Davis, Eurographics 2010, section 3).

    Args:
        size: of the raster, in array order.
        sigmas: in pixels, x first.
    """
    d = len(size)
    elevated = [
        (extent - 1) / sigma * sqrt(2 / 3) * (d + 1) / sqrt((m + 1) * (m + 2))
        for m, (extent, sigma) in enumerate(zip(reversed(size), sigmas, strict=True))
    ]
    spans = [sum(elevated[j:]) + (j * elevated[j - 1] if j else 0.0) for j in range(d + 1)]
    # The simplex of a point reaches less than d+1 beyond it on either side; one more for rounding.
    counts = sorted(int(span / (d + 1)) + 4 for span in spans)
    return min((d + 1) * prod(size), (d + 1) * prod(counts[:d]))


def tile_count(grid: Sequence[int]) -> int:
    """Returns how many tiles of 256 points cover a raster of 1 to 3 sides, slowest first."""
    x, y, z = (*reversed(grid), 1, 1)[:3]
    left = 8
    log_z = min(_ceil_log(z), 2)
    left -= log_z
    log_y = min(_ceil_log(y), left // 2)
    log_x = min(_ceil_log(x), left - log_y)
    log_y = left - log_x
    return prod(
        _divide_up(extent, 1 << log) for extent, log in ((x, log_x), (y, log_y), (z, log_z))
    )


def _ceil_log(extent: int) -> int:
    return (extent - 1).bit_length()


def _bytes(*parts: tuple[int, int]) -> int:
    return sum(_up(count * size, _ALIGN) for count, size in parts)


def _up(count: int, step: int) -> int:
    return _divide_up(count, step) * step


def _divide_up(count: int, step: int) -> int:
    return (count + step - 1) // step
