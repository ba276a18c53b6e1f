"""Which devices can run here, and why others cannot."""

from __future__ import annotations

import torch

from densecrf_gpu import backends


def why_no_cuda() -> str | None:
    """None where tests can run on CUDA."""
    if not backends.CUDA_BUILT:
        return "densecrf_gpu was built without CUDA, or torch was"
    return None if torch.cuda.is_available() else "no CUDA device"
