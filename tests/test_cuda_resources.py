"""What `make cuda-build` checks of a CUDA module: its kernels' resources, what it is bound to."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from densecrf_gpu import backends
from tools import cuda_resources

REPORT = """ptxas info    : Compiling entry function '_Z1fv' for 'sm_90'
ptxas info    : Function properties for _Z1fv
    {stack} bytes stack frame, 0 bytes spill stores, {spilled} bytes spill loads
ptxas info    : Used {registers} registers, used 1 barriers, {shared} bytes smem
"""


@pytest.mark.parametrize(
    ("stack", "spilled", "registers", "shared", "fault"),
    [
        (0, 0, 128, 49152, None),
        (8, 0, 40, 0, "8 bytes of stack"),
        (0, 4, 40, 0, "4 of spilled registers"),
        (0, 0, 129, 0, "129 registers"),
        (0, 0, 40, 49153, "49153 bytes of shared memory"),
    ],
)
def test_a_kernel_beyond_the_budget_is_a_fault(
    stack: int, spilled: int, registers: int, shared: int, fault: str | None
) -> None:
    report = REPORT.format(stack=stack, spilled=spilled, registers=registers, shared=shared)
    (kernel,) = cuda_resources.parse(report)
    assert kernel.arch == "sm_90"
    assert [text for text in kernel.faults() if fault and fault in text] == kernel.faults()
    assert len(kernel.faults()) == (0 if fault is None else 1)


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
    faults = cuda_resources.binding_faults(needed)
    assert len(faults) == (0 if fault is None else 1)
    assert fault is None or fault in faults[0]


@pytest.mark.skipif(shutil.which("readelf") is None, reason="there is no readelf")
def test_the_libraries_of_a_module_are_found() -> None:
    (library,) = Path(backends.__file__).parent.glob("_C.*so")
    assert "libtorch_cpu.so" in cuda_resources.needed_libraries(library)
