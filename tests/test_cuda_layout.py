"""What the operators on CUDA return, as far as shapes tell: no GPU is needed."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from densecrf_gpu import ops  # noqa: F401  (registers the operators)


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
