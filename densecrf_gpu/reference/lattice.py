"""The permutohedral lattice in slow motion, after [Adams 2010] and in pydensecrf's arithmetic.

A point f in R^d is lifted into the plane H = {e in R^(d+1): sum_i e_i = 0}, which the lattice tiles
with simplices. The vertices of the lattice are the integer points of H whose coordinates are all
congruent modulo d+1; that common remainder r = 0..d is the colour of the vertex, and a simplex has
one vertex of each. A value is splatted onto the d+1 vertices of its point's simplex, blurred along
each of the d+1 lattice directions, and sliced back with the weights it was splatted with:

    K = alpha S^T B_d ... B_1 B_0 S

The order of the floating-point operations in :func:`embed` is part of the specification: a point
near the border between two simplices falls on the side that rounding says, so only the same
operations in the same order give the same vertices. Nothing there is a fused multiply-add.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from densecrf_gpu.reference.normalization import normalized_filter


@dataclass(frozen=True)
class Embedding:
    """Where each point lies: ``keys`` [N, d+1, d+1] int64, ``weights`` [N, d+1].

    ``keys[n, r]`` holds all d+1 coordinates of the vertex of colour r; they sum to zero.
    """

    keys: Tensor
    weights: Tensor


def _elevate(features: Tensor) -> Tensor:
    """Lifts [N, d] to [N, d+1] in the plane H: y = E p of [Adams 2010], page 5."""
    n, d = features.shape
    # The three stages blur with variances d(d+1)^2/12, d(d+1)^2/2 and d(d+1)^2/12 (page 6). Scaling
    # by this makes the whole a Gaussian of unit variance. pydensecrf rounds it to the dtype first.
    inv_std_dev = torch.tensor(math.sqrt(2.0 / 3.0) * (d + 1), dtype=features.dtype).item()
    elevated = features.new_empty(n, d + 1)
    running = features.new_zeros(n)
    for j in range(d, 0, -1):
        scale = 1.0 / math.sqrt(j * (j + 1)) * inv_std_dev
        scaled = features[:, j - 1] * torch.tensor(scale, dtype=features.dtype)
        elevated[:, j] = running - j * scaled
        running = running + scaled
    elevated[:, 0] = running
    return elevated


def embed(features: Tensor) -> Embedding:
    """Finds the enclosing simplex and the barycentric weights of each point.

    [Adams 2010], pages 5 and 10. The comparison of every pair of coordinates stands in
    for the sort; on a tie the later coordinate gets the higher rank.

    Args:
        features: [N, d] float32 or float64, already divided by the bandwidths.
    """
    d = features.shape[1]
    one = torch.tensor(1.0, dtype=features.dtype)
    down = one / (d + 1)
    elevated = _elevate(features)  # [N, d+1]

    # The nearest vertex of colour 0 to each coordinate by itself; halves go to the even side.
    quotient = torch.round(elevated * down)
    nearest = quotient * (d + 1)
    # rank[i]: how many coordinates have a greater residual; 0 is the greatest.
    residual = elevated - nearest
    rank = torch.zeros_like(elevated)
    for i in range(d + 1):
        for j in range(i + 1, d + 1):
            smaller = (residual[:, i] < residual[:, j]).to(rank.dtype)
            rank[:, i] += smaller
            rank[:, j] += 1 - smaller
    # Rounding may have left the plane H: move the coordinates of extreme rank until sum = 0 again.
    rank += quotient.sum(dim=1, keepdim=True)
    wrap = (rank < 0).to(rank.dtype) - (rank > d).to(rank.dtype)
    rank += wrap * (d + 1)
    nearest += wrap * (d + 1)

    # [Adams 2010], page 10: the weights are differences of the residuals in sorted order.
    position = rank.long()  # a permutation of 0..d in every row
    by_rank = torch.empty_like(elevated)  # t[r] = (e - v0) / (d+1) of the coordinate of rank r
    by_rank.scatter_(1, position, (elevated - nearest) * down)
    descending = by_rank.flip(1)  # t[d], ..., t[0]
    weights = torch.empty_like(elevated)
    weights[:, 0] = descending[:, 0] + (1 - descending[:, d])
    weights[:, 1:] = descending[:, 1:] - descending[:, :-1]

    # Vertex r of the canonical simplex: r in d+1-r places, r - (d+1) in the places of highest rank.
    color = torch.arange(d + 1, device=features.device)
    beyond = position[:, None, :] > d - color[None, :, None]  # [N, d+1 colours, d+1 coordinates]
    keys = nearest.long()[:, None, :] + color[None, :, None] - (d + 1) * beyond
    return Embedding(keys=keys, weights=weights)


class Lattice:
    """The lattice of one set of points: only vertices that some point touches exist.

    Attributes:
        vertices: [M, d+1] int64, the coordinates of each vertex, in lexicographic order.
        index: [N, d+1] int64, the vertices of each point.
        weights: [N, d+1], the barycentric weights.
        neighbors: [d+1, 2, M] int64, the vertices one step back and forth along each axis; M where
            there is none.
    """

    def __init__(self, features: Tensor) -> None:
        """Builds the lattice of ``features`` [N, d]."""
        n, d = features.shape
        embedding = embed(features)
        self.dimensions = d
        self.weights = embedding.weights
        self.vertices, index = torch.unique(
            embedding.keys.reshape(n * (d + 1), d + 1), dim=0, return_inverse=True
        )
        self.index = index.reshape(n, d + 1)
        self.neighbors = self._find_neighbors()

    def __len__(self) -> int:
        """The number of vertices in use, M."""
        return len(self.vertices)

    def _find_neighbors(self) -> Tensor:
        """Looks up the two neighbours of every vertex on every axis.

        One step along axis j adds (1, ..., 1) - (d+1) e_j.
        """
        d = self.dimensions
        known = {tuple(key): i for i, key in enumerate(self.vertices.tolist())}
        missing = len(self)
        neighbors = torch.empty(d + 1, 2, len(self), dtype=torch.int64)
        for axis in range(d + 1):
            for side, sign in enumerate((-1, 1)):
                step = torch.ones(d + 1, dtype=torch.int64)
                step[axis] = -d
                wanted = (self.vertices.cpu() + sign * step).tolist()
                found = [known.get(tuple(key), missing) for key in wanted]
                neighbors[axis, side] = torch.tensor(found)
        return neighbors.to(self.vertices.device)

    def splat(self, values: Tensor) -> Tensor:
        """Applies S, [N, C] -> [M, C]: each vertex receives the weighted sum of its points."""
        out = values.new_zeros(len(self), values.shape[1])
        for corner in range(self.dimensions + 1):
            weighted = self.weights[:, corner, None] * values
            out = out.index_add(0, self.index[:, corner], weighted)
        return out

    def blur(self, rows: Tensor, axis: int) -> Tensor:
        """Applies B_axis to [M, C]: taps 1/2, 1, 1/2; a neighbour that is not there counts as 0."""
        padded = torch.cat([rows, rows.new_zeros(1, rows.shape[1])])
        back, forth = self.neighbors[axis]
        return rows + 0.5 * (padded[back] + padded[forth])

    def slice(self, rows: Tensor) -> Tensor:
        """Applies S^T, [M, C] -> [N, C]: each point receives the weighted sum of its vertices."""
        return (self.weights[:, :, None] * rows[self.index]).sum(dim=1)

    def filter(self, values: Tensor, transpose: bool = False) -> Tensor:
        """Applies K = alpha S^T B_d ... B_0 S to [N, C], or K^T, with the axes in reverse order.

        Each B is symmetric, but they commute only where all vertices in between exist, so K is
        symmetric on a complete lattice alone. alpha makes the response of a vertex to itself one:
        the d+1 axis vectors sum to zero, so the two closed paths around add 2 (1/2)^(d+1).
        """
        d = self.dimensions
        alpha = 1 / (1 + 2.0**-d)
        rows = self.splat(values)
        for axis in reversed(range(d + 1)) if transpose else range(d + 1):
            rows = self.blur(rows, axis)
        return alpha * self.slice(rows)


def build_lattice(features: Tensor) -> list[Lattice]:
    """Builds one lattice for each set of points of ``features`` [B, N, d]."""
    return [Lattice(points) for points in features]


def image_features(
    image: Tensor | None,
    size: Sequence[int],
    spatial_sigmas: Sequence[float],
    channel_sigmas: Sequence[float] = (),
    device: torch.device | str = "cpu",
) -> Tensor:
    """Returns the features (x/sx, y/sy[, z/sz], c_0/s_0, c_1/s_1, ...) of every pixel.

    Args:
        image: [B, ch, *size] uint8, float32 or float64, or None for positions alone.
        size: Spatial size in array order, [H, W] or [D, H, W].
        spatial_sigmas: Bandwidths in pixels, x first.
        channel_sigmas: Bandwidths in the image's own units.
        device: Where to put the features when there is no image.

    Returns:
        [B, N, d] float64 if the image is float64, else float32; B = 1 without an image.
    """
    double = image is not None and image.dtype == torch.float64
    dtype = torch.float64 if double else torch.float32
    if image is not None:
        device = image.device
    axes = [torch.arange(extent, dtype=dtype, device=device) for extent in size]
    grid = torch.meshgrid(*axes, indexing="ij")
    positions = torch.stack([axis.flatten() for axis in reversed(grid)], dim=-1)[None]  # [1, N, D]
    sigmas = torch.tensor([*spatial_sigmas, *channel_sigmas], dtype=dtype, device=device)
    if image is None:
        return positions / sigmas
    channels = image.to(dtype).flatten(2).transpose(1, 2)  # [B, N, ch]
    return torch.cat([positions.expand(image.shape[0], -1, -1), channels], dim=-1) / sigmas


def build_image_lattice(
    image: Tensor | None,
    size: Sequence[int],
    spatial_sigmas: Sequence[float],
    channel_sigmas: Sequence[float] = (),
) -> list[Lattice]:
    """Builds the lattices of :func:`image_features`."""
    return build_lattice(image_features(image, size, spatial_sigmas, channel_sigmas))


def lattice_sizes(lattices: Sequence[Lattice]) -> Tensor:
    """Returns the number of vertices in use of each lattice, int64 [B]."""
    return torch.tensor([len(lattice) for lattice in lattices])


def lattice_filter(
    lattices: Sequence[Lattice], values: Tensor, normalization: str = "none", adjoint: bool = False
) -> Tensor:
    """Filters values on the lattice.

    Args:
        lattices: B lattices, or one for the whole batch.
        values: [B, N, C] in the dtype of the lattice.
        normalization: "none", "before", "after" or "symmetric".
        adjoint: Apply the exact transpose.

    Returns:
        [B, N, C].
    """
    filtered = []
    for b, item in enumerate(values):
        lattice = lattices[b if len(lattices) > 1 else 0]
        filtered.append(
            normalized_filter(
                lattice.filter,
                partial(lattice.filter, transpose=True),
                item,
                normalization,
                adjoint,
            )
        )
    return torch.stack(filtered)
