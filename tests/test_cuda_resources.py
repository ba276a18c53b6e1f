"""What `make cuda-build` checks of the kernels: registers, stack, shared memory."""

from __future__ import annotations

import pytest

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
