"""The shapes of lattice tensors on CUDA, which Python and C++ compute each for themselves."""

from __future__ import annotations

from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from densecrf_gpu import ops
from densecrf_gpu.cuda_layout import lattice_shapes, tile_count

whitebox = pytest.importorskip("_whitebox", reason="`make build` makes the white-box module")

GRIDS = st.lists(st.integers(1, 70), min_size=1, max_size=3)


@given(st.integers(1, 3), GRIDS, st.integers(1, 12), st.sampled_from([4, 8]), st.data())
def test_python_knows_the_shapes_that_cpp_makes(
    batch: int, grid: list[int], dimensions: int, scalar_size: int, data: st.DataObject
) -> None:
    most = prod(grid) * (dimensions + 1)
    bound = data.draw(st.integers(1, most + 10))
    points, vertices = lattice_shapes(batch, grid, dimensions, scalar_size, bound)
    expected = whitebox.cuda_lattice(batch, grid, dimensions, scalar_size, bound)
    assert points[:-1] == (batch, *grid)
    assert vertices[:-1] == (batch, scalar_size, dimensions + 1)
    assert (points[-1], vertices[-1], tile_count(grid)) == expected[:3]
    assert min(expected[3:]) >= 0, "the tensors have less room than was asked for"


@pytest.mark.parametrize(
    ("dimensions", "batch", "says"), [(255, 1, "255 dimensions"), (5, 2000, "split it")]
)
def test_what_32_bits_cannot_number_is_refused(dimensions: int, batch: int, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        whitebox.cuda_lattice(batch, [500, 375], dimensions, 4, 1)


def test_fake_lattices_have_the_shapes_of_real_ones() -> None:
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
        image = torch.empty((2, 3, 20, 30), dtype=torch.uint8, device="cuda")
        data = ops.build_image_lattice(image, [20, 30], [8.0, 8.0], [13.0] * 3, 500)
        assert ops.lattice_sizes(data.vertices).shape == (2,)
    points, vertices = lattice_shapes(2, [20, 30], 5, 4, 500)
    assert (data.points.shape, data.vertices.shape) == (points, vertices)
    assert data.points.device.type == "cuda"
