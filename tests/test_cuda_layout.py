"""What the operators on CUDA return, as far as shapes tell: no GPU is needed."""

from __future__ import annotations

from math import prod

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from densecrf_gpu import cache_info, ops
from densecrf_gpu.cuda_layout import lattice_shapes, most_vertices


@pytest.mark.parametrize(("dtype", "stride"), [(torch.float32, 24), (torch.float64, 22)])
def test_states_on_cuda_hold_16_byte_pieces_for_every_lane_of_every_tile(
    dtype: torch.dtype, stride: int
) -> None:
    with FakeTensorMode():
        features = torch.empty(2, 20 * 35, 5, dtype=dtype, device="cuda")
        points, vertices = torch.ops.densecrf_gpu.build_lattice.default(features, [20, 35])
        logits = torch.empty(2, 21, 20 * 35, dtype=dtype, device="cuda")
        weights = [torch.empty(1, dtype=dtype, device="cuda")]
        result, states = torch.ops.densecrf_gpu.mean_field_train.default(
            logits, [points], [vertices], weights, ["symmetric"], 3, 0.0, "probabilities"
        )
    assert result.shape == logits.shape
    assert states.shape == (3, 2, 2 * 3, 256, stride)


def test_states_on_cuda_without_a_kernel_lie_in_runs_of_256_points() -> None:
    with FakeTensorMode():
        logits = torch.empty(1, 3, 700, device="cuda")
        _, states = torch.ops.densecrf_gpu.mean_field_train.default(
            logits, [], [], [], [], 2, 0.0, "logits"
        )
    assert states.shape == (2, 1, 3, 256, 4)


@pytest.mark.parametrize("size", [(1,), (300,), (1, 1), (9, 7), (1, 500), (120, 90), (7, 20, 33)])
@pytest.mark.parametrize("sigma", [0.3, 1.0, 3.0, 7.7, 160.0])
def test_positions_never_have_more_vertices_than_memory_is_taken_for(
    size: tuple[int, ...], sigma: float
) -> None:
    sigmas = (sigma, 1.3 * sigma, 0.8 * sigma)[: len(size)]
    built = ops.build_image_lattice(None, size, sigmas, [])
    (count,) = ops.lattice_sizes(built.vertices).tolist()
    assert count <= most_vertices(size, sigmas) <= (len(size) + 1) * prod(size)


def bytes_of_positions(size: tuple[int, int]) -> int:
    bound = most_vertices(size, (3.0, 3.0))
    return sum(prod(shape) for shape in lattice_shapes(1, size, 2, 4, bound))


def test_positions_take_the_memory_that_is_stated() -> None:
    assert 57 <= bytes_of_positions((375, 500)) / (375 * 500) <= 58  # README.md says 58


def test_the_positions_of_two_large_images_stay_in_the_cache() -> None:
    assert 2 * bytes_of_positions((1024, 2048)) <= cache_info().max_bytes
