"""The insides of the CPU backend: embedding, keys, tables, chains and the arithmetic of vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from problems import random_points

from densecrf_gpu import reference

whitebox = pytest.importorskip(
    "_whitebox", reason="tests/_whitebox is not built: python setup.py build_whitebox"
)

searched = settings(max_examples=60, deadline=None, derandomize=True)
Array = NDArray[Any]
seeds = st.integers(0, 10_000)
spreads = st.sampled_from([0.0, 0.1, 1.0, 30.0, 500.0])
FIXED = (1, 2, 3, 5, 8)  # dimensions with code of their own


def scaled(features: torch.Tensor) -> Array:
    """Features [N, d] times feature_scale, as the embedding takes them."""
    d = features.shape[1]
    scale = whitebox.feature_scale32 if features.dtype == torch.float32 else whitebox.feature_scale
    factors = torch.tensor([scale(i, d) for i in range(d)], dtype=features.dtype)
    return (features * factors).numpy()


def vertices_of(remainder: Array, axis: Array) -> Array:
    """Walks each simplex: vertex r+1 is vertex r plus (1, ..., 1) - (d+1) e_a. [N, d+1, d+1]"""
    n, vertices = remainder.shape
    keys = np.empty((n, vertices, vertices), dtype=np.int64)
    keys[:, 0] = remainder
    for r in range(vertices - 1):
        keys[:, r + 1] = keys[:, r] + 1
        keys[np.arange(n), r + 1, axis[:, vertices - 1 - r]] -= vertices
    return keys


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("vectors", [False, True])
@pytest.mark.parametrize("fixed", [False, True])
@searched
@given(data=st.data())
def test_embedding_is_that_of_the_reference_to_the_bit(
    dtype: torch.dtype, vectors: bool, fixed: bool, data: st.DataObject
) -> None:
    d = data.draw(st.sampled_from(FIXED) if fixed else st.integers(1, 14))
    points = random_points(data.draw(st.integers(1, 40)), d, dtype=dtype, seed=data.draw(seeds))[0]
    points = points * data.draw(spreads)
    points = points.round() if data.draw(st.booleans()) else points
    remainder, axis, weight = whitebox.embed(scaled(points), fixed, vectors)
    expected = reference.embed(points)
    assert np.array_equal(vertices_of(remainder, axis), expected.keys.numpy())
    assert np.array_equal(weight, expected.weights.numpy())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@searched
@given(d=st.integers(1, 20), seed=seeds, spread=spreads)
def test_weights_are_not_negative_and_sum_to_one(
    dtype: torch.dtype, d: int, seed: int, spread: float
) -> None:
    points = spread * random_points(50, d, dtype=dtype, seed=seed)[0]
    c = scaled(points)
    _, _, weight = whitebox.embed(c, False, True)
    # A weight is a difference of coordinates as large as d+1 features.
    rounding = 8 * torch.finfo(dtype).eps * (1 + np.abs(c).max() * (d + 1))
    assert weight.min() >= -rounding
    assert np.abs(weight.sum(1) - 1).max() <= rounding


@searched
@given(d=st.integers(1, 20), seed=seeds, spread=spreads)
def test_vertices_are_lattice_points_one_of_each_remainder(
    d: int, seed: int, spread: float
) -> None:
    points = spread * random_points(50, d, dtype=torch.float32, seed=seed)[0]
    remainder, axis, _ = whitebox.embed(scaled(points), False, True)
    keys = vertices_of(remainder, axis)
    assert (keys.sum(2) == 0).all()
    assert (keys % (d + 1) == np.arange(d + 1)[None, :, None]).all()
    assert all(sorted(row) == list(range(d + 1)) for row in axis.tolist())


@st.composite
def boxes(draw: st.DrawFn) -> tuple[Any, Array]:
    """A key layout for points in a box, and lattice vertices [M, d+1] of points in that box."""
    d = draw(st.integers(1, 14))
    rng = np.random.default_rng(draw(seeds))
    wide = draw(st.sampled_from([0.0, 1.0, 50.0, 3000.0, 1e6, 1e9]))
    low = rng.uniform(-1, 0.5, d) * wide * rng.choice([1e-3, 1.0], d)
    high = low + rng.uniform(0, 1, d) * wide * rng.choice([1e-3, 1.0], d)
    c = rng.uniform(low, high, (30, d))
    c[:8] = np.where(rng.random((8, d)) < 0.5, low, high)  # corners reach farthest
    remainder, axis, _ = whitebox.embed(c, False, False)
    layout = whitebox.KeyLayout(low.tolist(), high.tolist(), whitebox.max_elevated(True))
    return layout, np.unique(vertices_of(remainder, axis).reshape(-1, d + 1), axis=0)


def neighbors_of(vertices: Array) -> Array:
    """The next vertex along every axis. [M, d+1, d+1]"""
    width = vertices.shape[1]
    return vertices[:, None] + 1 - width * np.eye(width, dtype=np.int64)


@searched
@given(boxes())
def test_keys_are_one_to_one_with_vertices_and_their_neighbours(box: tuple[Any, Array]) -> None:
    layout, vertices = box
    width = vertices.shape[1]
    step = 1 - width * np.eye(width, dtype=np.int64)
    around = np.concatenate([vertices[:, None] + step, vertices[:, None] - step]).reshape(-1, width)
    everyone = np.unique(np.concatenate([vertices, around]), axis=0)
    keys = layout.pack(everyone)
    assert keys.shape == (len(everyone), layout.words)
    assert len(np.unique(keys, axis=0)) == len(everyone)


@searched
@given(boxes())
def test_neighbours_by_addition_are_neighbours_by_coordinates(box: tuple[Any, Array]) -> None:
    layout, vertices = box
    keys = layout.pack(vertices)
    for axis, following in enumerate(neighbors_of(vertices).transpose(1, 0, 2)):
        with np.errstate(over="ignore"):
            assert np.array_equal(keys + layout.steps[axis], layout.pack(following))


@searched
@given(boxes())
def test_keys_leave_the_highest_bit_of_every_word_free(box: tuple[Any, Array]) -> None:
    layout, vertices = box
    assert (layout.pack(vertices) < np.uint64(1 << 63)).all()
    assert layout.words == 1 or sum(layout.widths) > 63
    assert layout.widths.count(0) == 1


@pytest.mark.parametrize("reach", [1e14, 1e300, float("inf"), float("nan")])
def test_a_layout_is_refused_where_coordinates_are_not_resolved(reach: float) -> None:
    with pytest.raises(ValueError, match="bandwidths"):
        whitebox.KeyLayout([0.0, 0.0], [1.0, reach], whitebox.max_elevated(True))


@pytest.mark.parametrize("words", [1, 2, 3])
@searched
@given(seed=seeds, distinct=st.sampled_from([1, 5, 300, 9000]), bits=st.sampled_from([2, 16, 62]))
def test_vertex_set_numbers_keys_in_order_of_first_sight(
    words: int, seed: int, distinct: int, bits: int
) -> None:
    """Few bits make keys that share words; 9000 keys outgrow the table and its memory."""
    rng = np.random.default_rng(seed)
    pool = rng.integers(0, 1 << bits, (distinct, words), dtype=np.uint64)
    keys = pool[rng.integers(0, distinct, 3 * distinct)]
    rows: dict[tuple[int, ...], int] = {}
    expected = [rows.setdefault(tuple(key), len(rows)) for key in keys.tolist()]
    table = whitebox.VertexSet(words)
    half = len(keys) // 2
    assert table.add(keys[:half]) + table.add(keys[half:]) == expected
    assert [tuple(key) for key in table.keys.tolist()] == list(rows)
    assert table.slots >= 2 * len(rows)
    others = rng.integers(0, 1 << bits, (200, words), dtype=np.uint64)
    assert table.find(others) == [rows.get(tuple(key), -1) for key in others.tolist()]
    assert table.find(keys) == expected


@pytest.mark.parametrize("stride", [1, 1 << 20, 1 << 40, 1 << 50])
def test_vertex_set_takes_keys_in_arithmetic_order(stride: int) -> None:
    """Neighbouring vertices differ by constants: the hash must not pile them up."""
    keys = np.arange(8000, dtype=np.uint64)[:, None] * np.uint64(stride)
    table = whitebox.VertexSet(1)
    assert table.add(keys) == list(range(8000))
    assert table.find(keys[::-1]) == list(range(8000))[::-1]


@searched
@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 1000)), max_size=60),
    st.permutations(range(60)),
)
def test_offers_keep_the_smallest_row_in_any_order(
    offers: list[tuple[int, int]], order: list[int]
) -> None:
    expected = {key: min(row for k, row in offers if k == key) for key, _ in offers}
    shuffled = [offers[i] for i in order if i < len(offers)]
    assert dict(whitebox.offer(6, offers)) == expected
    assert dict(whitebox.offer(6, shuffled)) == expected


@st.composite
def lattices(draw: st.DrawFn) -> tuple[torch.Tensor, dict[str, Any]]:
    """Features [N, d] and their lattice: one band, since a band has 4096 points at least."""
    n = draw(st.sampled_from([1, 15, 64, 65, 200, 500]))
    d = draw(st.integers(1, 9))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    # The widest of them at many dimensions makes keys of several words.
    spread = draw(st.sampled_from([0.0, 0.05, 0.3, 1.0, 20.0, 400.0]))
    points = spread * random_points(n, d, dtype=dtype, seed=draw(seeds))[0]
    return points, whitebox.build_lattice(points.numpy(), draw(st.integers(1, 6)), draw(seeds))


def row_coordinates(points: torch.Tensor, built: dict[str, Any]) -> Array:
    """The coordinates [rows, d+1] of every row, from the points that name it."""
    assert built["bands"] == 1
    keys = reference.embed(points).keys.numpy()
    unknown = np.iinfo(np.int64).max
    coordinates = np.full((built["rows"], points.shape[1] + 1), unknown)
    for rows, vertices in zip(built["row"][: len(points)], keys, strict=True):
        known = coordinates[rows, 0] != unknown
        assert np.array_equal(coordinates[rows][known], vertices[known])
        coordinates[rows] = vertices
    assert (coordinates != unknown).all()  # no row without a point
    return coordinates


@searched
@given(lattices())
def test_rows_name_the_vertices_of_their_points(
    case: tuple[torch.Tensor, dict[str, Any]],
) -> None:
    points, built = case
    coordinates = row_coordinates(points, built)
    expected = reference.Lattice(points)
    assert built["vertices"] == len(expected) == len(np.unique(coordinates, axis=0))
    assert np.array_equal(built["weight"][: len(points)], expected.weights.numpy())
    assert (built["weight"][len(points) :] == 0).all()
    assert built["bytes"] == built["section_bytes"]


@searched
@given(lattices())
def test_rows_are_numbered_by_first_touch(case: tuple[torch.Tensor, dict[str, Any]]) -> None:
    """So a block can clear the rows it sees first, which follow one another."""
    points, built = case
    seen = 0
    for block in range(built["first_block"][1]):
        assert built["first_rows"][block] == seen
        for row in built["row"][64 * block : min(64 * block + 64, len(points))].flatten().tolist():
            assert row <= seen
            seen = max(seen, row + 1)
    assert built["first_rows"][-1] == seen == built["rows"]


@searched
@given(lattices())
def test_chains_visit_every_vertex_with_a_neighbour_once(
    case: tuple[torch.Tensor, dict[str, Any]],
) -> None:
    points, built = case
    coordinates = row_coordinates(points, built)
    row_of = {tuple(vertex): row for row, vertex in enumerate(coordinates.tolist())}
    width = points.shape[1] + 1
    for axis, chains in enumerate(built["chains"]):
        step = 1 - width * (np.arange(width) == axis)
        following = {
            row: row_of.get(tuple((coordinates[row] + step).tolist())) for row in row_of.values()
        }
        preceded = {row for row in following.values() if row is not None}
        connected = {row for row, other in following.items() if other is not None} | preceded
        visited = [row for chain in chains for row in chain]
        assert len(visited) == len(set(visited))
        assert set(visited) == connected
        for chain in chains:
            assert chain[0] not in preceded
            assert [following[row] for row in chain] == [*chain[1:], None]


@searched
@given(lattices())
def test_chains_are_cut_into_parts_between_chains(
    case: tuple[torch.Tensor, dict[str, Any]],
) -> None:
    _, built = case
    for chains, ends in zip(built["chains"], built["part_chains"], strict=True):
        assert len(ends) == built["parts"]
        assert ends == sorted(ends)
        assert ends[-1] == len(chains)


@searched
@given(lattices())
def test_filter_of_ones_is_stored_for_every_row(
    case: tuple[torch.Tensor, dict[str, Any]],
) -> None:
    points, built = case
    coordinates = row_coordinates(points, built)
    expected = reference.Lattice(points)
    rows = expected.splat(torch.ones(len(points), 1, dtype=points.dtype))
    for axis in range(points.shape[1] + 1):
        rows = expected.blur(rows, axis)
    index = {tuple(key): i for i, key in enumerate(expected.vertices.tolist())}
    wanted = rows[[index[tuple(key)] for key in coordinates.tolist()], 0].numpy()
    scale = float(wanted.max())
    limit = 1e-5 if points.dtype == torch.float32 else 1e-13
    assert np.abs(built["ones"] - wanted).max() <= limit * scale


def test_keys_of_several_words_are_built_too() -> None:
    """What the searched lattices may miss: the path of wide keys."""
    points = 300 * random_points(300, 12, dtype=torch.float32, seed=0)[0]
    built = whitebox.build_lattice(points.numpy(), 1, 0)
    assert built["words"] > 1
    assert built["vertices"] == len(reference.Lattice(points))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exponential_is_right_to_the_last_bits(dtype: type) -> None:
    info = np.finfo(dtype)
    x = np.concatenate(
        [np.linspace(info.minexp + 2, info.maxexp - 2, 100_003), np.linspace(-2, 2, 100_001)]
    ).astype(dtype)
    exact = np.exp2(x.astype(np.longdouble))
    for near in (False, True):
        error = np.abs(whitebox.exp2(x, near).astype(np.longdouble) / exact - 1)
        assert error.max() < 2 * info.eps


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exponential_saturates(dtype: type) -> None:
    info = np.finfo(dtype)
    far = np.array([-1e6, -1e5, 1e5, 1e6], dtype=dtype)
    for x, near in ((far * dtype(0.99), True), (np.append(far, [info.min, info.max]), False)):
        found = whitebox.exp2(x.astype(dtype), near)
        assert np.isfinite(found).all()
        assert (found[x < 0] < info.tiny * 8).all()
        assert (found[x > 0] > info.max / 8).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (16, 4), (16, 24), (32, 16)])
def test_transpose_moves_every_entry_and_nothing_else(dtype: type, rows: int, columns: int) -> None:
    matrix = np.arange(rows * columns, dtype=dtype).reshape(rows, columns)
    found = whitebox.transpose(matrix, columns + 4, rows + 8)
    assert np.array_equal(found[:, :rows], matrix.T)
    assert (found[:, rows:] == -1).all()
