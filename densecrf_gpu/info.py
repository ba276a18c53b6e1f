"""What was built, and what it runs on."""

from __future__ import annotations

import platform

import torch

from . import ops
from .backends import CUDA_BUILT


def build_info() -> dict[str, str | int | bool | None]:
    """Returns versions, backends and threads, as a report of a bug should state them.

    Returns:
        ``version``, ``python``, ``torch``; ``cpu_isa``, the instruction set that the CPU kernels
        run with (the environment variable DENSECRF_ISA forces one); ``num_threads`` of torch,
        which the kernels follow; ``torch_cuda``, the CUDA version of torch or None; ``cuda_built``,
        whether the package has CUDA kernels that this torch loads; ``cuda_available``, whether
        they can run here.
    """
    from . import __version__

    return {
        "version": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu_isa": ops.cpu_isa(),
        "num_threads": torch.get_num_threads(),
        "torch_cuda": torch.version.cuda,
        "cuda_built": CUDA_BUILT,
        "cuda_available": CUDA_BUILT and torch.cuda.is_available(),
    }
