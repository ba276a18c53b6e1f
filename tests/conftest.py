"""Fixtures of every test: the devices that can run here, the dtypes, fixed seeds."""

from __future__ import annotations

import pytest
import torch

from densecrf_gpu import backends, clear_cache


def _why_no_cuda() -> str | None:
    if not backends.CUDA_BUILT:
        return "densecrf_gpu was built without CUDA, or torch was"
    return None if torch.cuda.is_available() else "no CUDA device"


@pytest.fixture(
    params=[
        "cpu",
        pytest.param(
            "cuda", marks=pytest.mark.skipif(_why_no_cuda() is not None, reason=str(_why_no_cuda()))
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
