"""Loads the compiled libraries, and says which devices they serve."""

from __future__ import annotations

import importlib

import torch

REBUILD = (
    "run `python setup.py build_ext --inplace` (or `pip install --no-build-isolation .`) "
    "in the source tree"
)


def _load(name: str) -> bool:
    """Imports ``densecrf_gpu.<name>``; False where that library was not built."""
    qualified = f"{__package__}.{name}"
    try:
        importlib.import_module(qualified)
    except ModuleNotFoundError as error:
        if error.name != qualified:
            raise
        return False
    except ImportError as error:
        raise ImportError(
            f"{qualified} exists but does not load under torch {torch.__version__} "
            f"({error}); to build it for this torch, {REBUILD}"
        ) from error
    return True


if not _load("_C"):
    raise ImportError(
        f"{__package__} has not been built: its library of operators, {__package__}._C, "
        f"is missing; {REBUILD}"
    )

# _CUDA binds libtorch_cuda, which only a CUDA build of torch has, with or without a GPU.
CUDA_BUILT: bool = torch.version.cuda is not None and _load("_CUDA")


def _has_gpu() -> bool:
    # Asking for devices takes a while; where torch is at work on one, there is one.
    initialized: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return initialized or torch.cuda.is_available()


def require_backend(device: torch.device) -> None:
    """Raises unless the operators can run on ``device``.

    Raises:
        RuntimeError: there is no kernel for ``device``, or nothing to run it on; the text says how
            to get one.
    """
    if device.type == "cpu":
        return
    if device.type == "cuda" and CUDA_BUILT:
        if torch.compiler.is_compiling() or _has_gpu():
            return
        raise RuntimeError(
            f"the tensors are on {device}, but torch {torch.__version__} finds no GPU with a "
            "driver for it: move them to the CPU, or see what nvidia-smi says"
        )
    if device.type == "cuda":
        raise RuntimeError(
            f"the tensors are on {device}, but this {__package__} was built without its CUDA "
            f"library: move them to the CPU, or with the CUDA toolkit installed {REBUILD}"
        )
    raise RuntimeError(f"expected tensors on cpu or cuda, found {device}")
