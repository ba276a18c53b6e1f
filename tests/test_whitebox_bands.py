"""Embedding against its geometry, and lattices that several bands of points build together.

A band has 4096 points at least, so these lattices are large; their features are few and fixed.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

whitebox = pytest.importorskip(
    "_whitebox", reason="tests/_whitebox is not built: python setup.py build_whitebox"
)

Array = NDArray[Any]
searched = settings(deadline=None, derandomize=True)


@st.composite
def scaled_features(draw: st.DrawFn) -> Array:
    """c [points, d]: near or far, ties among their coordinates included."""
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    shape = (draw(st.integers(1, 20)), draw(st.integers(1, 12)))
    reach = draw(st.sampled_from([2.0**-7, 1.0, 30.0, 1000.0]))
    numbers = st.floats(-reach, reach, width=32, allow_subnormal=False)
    whole = st.integers(-5, 5).map(float)
    return draw(arrays(dtype, shape, elements=draw(st.sampled_from([numbers, whole]))))


def elevate(c: Array) -> Array:
    """Positions [..., d + 1] on the plane of sum zero (Adams et al. 2010, section 3.1)."""
    c = c.astype(np.float64)
    d = c.shape[-1]
    tail = np.concatenate(
        [np.cumsum(c[..., ::-1], -1)[..., ::-1], np.zeros((*c.shape[:-1], 1))], -1
    )
    tail[..., 1:] -= np.arange(1, d + 1) * c
    return tail


def step_along(d: int, axis: Array | int) -> Array:
    """What is added to a vertex to reach its next neighbour: (1, ..., 1) - (d+1) e_axis."""
    return 1 - (d + 1) * np.eye(d + 1, dtype=np.int64)[axis]


def embed(c: Array) -> tuple[Array, Array]:
    """The vertices [points, d+1, d+1] of each point's simplex and their weights [points, d+1]."""
    remainder, axis, weight = whitebox.embed(c, False, False)
    steps = step_along(c.shape[1], axis[:, :0:-1])
    first = remainder[:, None, :]
    return np.concatenate([first, first + np.cumsum(steps, 1)], 1), weight


@searched
@given(scaled_features())
def test_a_point_is_the_combination_of_its_vertices(c: Array) -> None:
    vertices, weight = embed(c)
    position = np.einsum("pr,prj->pj", weight.astype(np.float64), vertices)
    expected = elevate(c)
    tolerance = np.finfo(c.dtype).eps * (c.shape[1] + 1) * (8 + 4 * np.abs(expected).max())
    np.testing.assert_allclose(position, expected, atol=tolerance)


@searched
@given(st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_elevation_of_scaled_features_is_a_similarity(d: int, seed: int) -> None:
    f = np.random.default_rng(seed).normal(size=(5, d))
    scale = np.array([whitebox.feature_scale(i, d) for i in range(d)])
    expected = math.sqrt(2 / 3) * (d + 1) * np.linalg.norm(f, axis=1)
    np.testing.assert_allclose(np.linalg.norm(elevate(f * scale), axis=1), expected, rtol=1e-12)


@dataclasses.dataclass
class Built:
    """A lattice taken apart, beside what the features themselves say of it."""

    parts: dict[str, Any]
    vertices: Array  # [points, d+1, d+1] coordinates
    weight: Array  # [points, d+1]
    row: Array  # [points, d+1], of the whole lattice
    coordinates: Array  # [rows, d+1]

    @property
    def copies(self) -> Array:
        return np.array(self.parts["copies"], np.int64).reshape(-1, 2)

    def primary(self) -> Array:
        """The primary row of every row."""
        of = np.arange(self.parts["rows"])
        of[self.copies[:, 1]] = self.copies[:, 0]
        return of

    def primary_vertices(self) -> Array:
        """The coordinates of the rows that are no copies, sorted."""
        rows = np.setdiff1d(np.arange(self.parts["rows"]), self.copies[:, 1])
        return np.array(sorted(self.coordinates[rows].tolist()))


def features_of(kind: str, n: int) -> Array:
    """Features [n, d] as images give them, as noise gives them, and with keys of several words."""
    rng = np.random.default_rng(n)
    smooth = np.stack([np.arange(n) % 97 * 0.1, np.arange(n) // 97 * 0.1], 1)
    if kind == "plane":
        features = smooth
    elif kind == "image":
        features = np.concatenate([smooth, rng.random((n, 1)) + (smooth[:, :1] > 5)], 1)
    elif kind == "noise":
        features = rng.random((n, 3)) * 60
    elif kind == "one point":
        features = np.full((n, 5), 3.7)
    else:
        features = rng.uniform(-200, 200, (n, 9))
        features[::2] = rng.random((len(features[::2]), 9))
    return features.astype(np.float32)


KINDS = ("plane", "image", "noise", "one point", "wide keys")


@cache
def build(kind: str, threads: int, points: int) -> Built:
    features = features_of(kind, points)
    n, d = features.shape
    parts = whitebox.build_lattice(features, threads, seed=threads)
    scale = np.array([whitebox.feature_scale32(m, d) for m in range(d)], np.float32)
    vertices, weight = embed(features * scale)
    band = np.searchsorted(parts["first_block"][1:], np.arange(n) // 64, side="right")
    row = parts["row"][:n].astype(np.int64) + parts["row_base"][band][:, None]
    coordinates = np.zeros((parts["rows"], d + 1), np.int64)
    coordinates[row] = vertices
    return Built(parts, vertices, weight, row, coordinates)


@pytest.fixture(params=[(kind, bands) for kind in KINDS for bands in (2, 3)], ids=str)
def built(request: pytest.FixtureRequest) -> Built:
    kind, bands = request.param
    lattice = build(kind, bands, 4096 * bands + 70)
    assert lattice.parts["bands"] == bands
    assert (lattice.parts["words"] > 1) == (kind == "wide keys")
    return lattice


def test_points_have_the_vertices_and_weights_of_their_embedding(built: Built) -> None:
    n = len(built.vertices)
    np.testing.assert_array_equal(built.coordinates[built.row], built.vertices)
    np.testing.assert_array_equal(built.parts["weight"][:n], built.weight)
    assert not built.parts["weight"][n:].any()
    assert not built.parts["row"][n:].any()


def test_rows_are_numbered_by_first_touch_in_every_band(built: Built) -> None:
    parts = built.parts
    for b in range(parts["bands"]):
        first, last = parts["first_block"][b : b + 2]
        rows = parts["row"][64 * first : min(64 * last, len(built.row))]
        touched, at = np.unique(rows, return_index=True)
        assert len(touched) == parts["row_base"][b + 1] - parts["row_base"][b]
        assert (np.diff(at) > 0).all()  # a larger row is touched later
        marks = parts["first_rows"][first + b : last + b + 1]
        per_block = 64 * rows.shape[1]
        expected = [np.count_nonzero(at < per_block * i) for i in range(last - first + 1)]
        np.testing.assert_array_equal(marks, expected)


def test_copies_are_the_later_rows_of_equal_vertices(built: Built) -> None:
    first: dict[tuple[int, ...], int] = {}
    expected = []
    for row, vertex in enumerate(map(tuple, built.coordinates.tolist())):
        primary = first.setdefault(vertex, row)
        if primary != row:
            expected.append((primary, row))
    assert len(expected) > 0
    assert sorted(built.parts["copies"]) == sorted(expected)
    cuts = built.parts["copy_cuts"]
    assert cuts[0] == 0
    assert cuts[-1] == len(expected)
    primaries = built.copies[:, 0]
    for begin, end in itertools.pairwise(cuts):
        assert begin <= end
        outside = np.concatenate([primaries[:begin], primaries[end:]])
        assert not np.isin(primaries[begin:end], outside).any()  # no two tasks, one row


def test_chains_visit_every_vertex_with_neighbours_once_and_no_copy(built: Built) -> None:
    primaries = np.setdiff1d(np.arange(built.parts["rows"]), built.copies[:, 1])
    row_of = dict(zip(map(tuple, built.coordinates[primaries].tolist()), primaries, strict=True))
    d = built.parts["dimensions"]
    for axis in range(d + 1):
        following = map(tuple, (built.coordinates[primaries] + step_along(d, axis)).tolist())
        next_row = {row: row_of.get(v) for row, v in zip(primaries, following, strict=True)}
        preceded = {row for row in next_row.values() if row is not None}
        expected = []
        for head in primaries:
            if head in preceded or next_row[head] is None:
                continue
            chain, row = [head], next_row[head]
            while row is not None:
                chain.append(row)
                row = next_row[row]
            expected.append(chain)
        assert built.parts["chains"][axis] == expected


def test_chain_lists_are_cut_evenly(built: Built) -> None:
    for chains, ends in zip(built.parts["chains"], built.parts["part_chains"], strict=True):
        lengths = np.array([len(chain) for chain in chains], np.int64)
        shares = np.diff([0, *(lengths[:end].sum() for end in ends)])
        assert ends[-1] == len(chains)
        assert np.abs(shares - lengths.sum() / len(ends)).max() <= 2 * lengths.max(initial=1)


def test_ones_are_the_blurred_splat_of_ones_on_copies_too(built: Built) -> None:
    primary = built.primary()
    ones = np.zeros(built.parts["rows"])
    np.add.at(ones, primary[built.row], built.weight)
    for chains in built.parts["chains"]:
        old = ones.copy()
        for chain in chains:
            ones[chain[1:]] += old[chain[:-1]] / 2
            ones[chain[:-1]] += old[chain[1:]] / 2
    np.testing.assert_allclose(built.parts["ones"], ones[primary], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_bands_finds_the_same_vertices(kind: str) -> None:
    points = 7 * 4096 + 1 if kind == "image" else 3 * 4096
    expected = build(kind, 1, points)
    for threads in (2, 3, 7) if kind == "image" else (2, 3):
        found = build(kind, threads, points)
        assert found.parts["bands"] == threads
        assert found.parts["vertices"] == expected.parts["vertices"]
        np.testing.assert_array_equal(found.primary_vertices(), expected.primary_vertices())


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_the_bands_leaves_no_trace(kind: str) -> None:
    features = features_of(kind, 3 * 4096)
    first, second = (whitebox.build_lattice(features, 3, seed) for seed in (1, 2))
    for name, value in first.items():
        np.testing.assert_equal(value, second[name])
