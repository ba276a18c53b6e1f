"""What `make cuda-build` checks of the CUDA module: what it is bound to, which operators it has."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from densecrf_gpu import backends
from tools import cuda_module


@pytest.mark.parametrize(
    ("needed", "fault"),
    [
        (["libtorch.so", "libtorch_cpu.so", "libc10.so", "libc.so.6"], None),
        (["libtorch.so", "libcuda.so.1"], "libcuda.so.1"),
        (["libtorch.so", "libcudart.so.13"], "libcudart.so.13"),
        (["libtorch.so", "libnvrtc.so.13"], "libnvrtc.so.13"),
        (["libtorch_cpu.so"], "not bound to libtorch.so"),
    ],
)
def test_a_module_is_bound_to_torch_and_to_no_library_of_cuda(
    needed: list[str], fault: str | None
) -> None:
    faults = cuda_module.binding_faults(needed)
    assert len(faults) == (0 if fault is None else 1)
    assert fault is None or fault in faults[0]


@pytest.mark.skipif(shutil.which("readelf") is None, reason="there is no readelf")
def test_the_libraries_of_a_module_are_found() -> None:
    (library,) = Path(backends.__file__).parent.glob("_C.*so")
    assert "libtorch_cpu.so" in cuda_module.needed_libraries(library)


def test_an_operator_for_the_cpu_alone_is_a_fault() -> None:
    kernels = {"one": {"CPU", "CUDA"}, "two": {"CPU"}, "three": set(), "four": {"CUDA"}}
    assert cuda_module.unserved(kernels) == ["two"]
