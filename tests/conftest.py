"""Fixtures of every test: the devices that can run here, the dtypes, fixed seeds."""

from __future__ import annotations

import pytest
import torch
from devices import why_no_cuda

from densecrf_gpu import clear_cache


@pytest.fixture(
    params=[
        "cpu",
        pytest.param(
            "cuda", marks=pytest.mark.skipif(why_no_cuda() is not None, reason=str(why_no_cuda()))
        ),
    ]
)
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.fixture(params=[torch.float32, torch.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture(autouse=True)
def _reproducible() -> None:
    torch.manual_seed(0)
    clear_cache()
