"""Checks what each CUDA kernel takes of a GPU, on every architecture it was compiled for.

Usage: python -m tools.cuda_resources, after a build with CUDA. It reads the reports that the build
keeps beside its objects. A spilled register or a stack frame is memory traffic in an inner loop
that nobody wrote, and a block that takes too much leaves a GPU half empty: both are failures.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

OBJECTS = Path("build/objects")

MOST_REGISTERS = 128  # of a thread: two blocks of 256 threads on every GPU
MOST_SHARED = 48 << 10  # bytes of a block: what every GPU gives without being asked

_KERNEL = re.compile(r"Compiling entry function '(\w+)' for '(sm_\w+)'")
_STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers")
_SHARED = re.compile(r"(\d+) bytes smem")


@dataclass(frozen=True)
class Kernel:
    """What one kernel takes on one architecture."""

    name: str  # mangled
    arch: str
    stack: int
    spilled: int
    registers: int
    shared: int

    def faults(self) -> list[str]:
        """Says what is beyond the budget."""
        found = []
        if self.stack or self.spilled:
            found.append(f"{self.stack} bytes of stack, {self.spilled} of spilled registers")
        if self.registers > MOST_REGISTERS:
            found.append(f"{self.registers} registers, at most {MOST_REGISTERS}")
        if self.shared > MOST_SHARED:
            found.append(f"{self.shared} bytes of shared memory, at most {MOST_SHARED}")
        return found


def parse(report: str) -> list[Kernel]:
    """Reads the report of nvcc -Xptxas=-v.

    Raises:
        ValueError: a kernel's report is not complete.
    """
    kernels = []
    for part in re.split(r"(?=ptxas info\s*: Compiling entry function)", report)[1:]:
        kernel, stack, used = (pattern.search(part) for pattern in (_KERNEL, _STACK, _USED))
        if not (kernel and stack and used):
            raise ValueError(f"expected a kernel's name, stack and registers, found {part!r}")
        shared = _SHARED.search(part)
        kernels.append(
            Kernel(
                name=kernel[1],
                arch=kernel[2],
                stack=int(stack[1]),
                spilled=int(stack[2]) + int(stack[3]),
                registers=int(used[1]),
                shared=int(shared[1]) if shared else 0,
            )
        )
    return kernels


def readable(name: str) -> str:
    """A kernel's name as C++ has it, without its parameters, where c++filt is installed."""
    if not shutil.which("c++filt"):
        return name
    said = subprocess.run(["c++filt", name], capture_output=True, text=True, check=True).stdout
    return re.sub(r"\(.*\)$", "", said.strip()).replace("densecrf::cuda::", "")


def main() -> None:
    """Checks all kernels, and prints the largest kernel of each kind."""
    kernels = [
        kernel
        for folder in ("cuda", "torch")
        for report in sorted((OBJECTS / folder).glob("*.log"))
        for kernel in parse(report.read_text())
    ]
    if not kernels:
        sys.exit(f"densecrf_gpu: no report of a CUDA kernel in {OBJECTS}: build with CUDA first")
    faults = [
        f"{readable(kernel.name)} on {kernel.arch}: {fault}"
        for kernel in kernels
        for fault in kernel.faults()
    ]
    print(*faults, sep="\n")
    names = {kernel.name for kernel in kernels}
    archs = sorted({kernel.arch for kernel in kernels}, key=lambda arch: int(arch[3:].rstrip("af")))
    for arch in archs:
        here = [kernel for kernel in kernels if kernel.arch == arch]
        if missing := names - {kernel.name for kernel in here}:
            faults.append(arch)
            print(f"{arch} lacks {len(missing)} kernels")
        registers = max(here, key=lambda kernel: kernel.registers)
        shared = max(here, key=lambda kernel: kernel.shared)
        print(
            f"{arch}: {len(here)} kernels, at most {registers.registers} registers"
            f" ({readable(registers.name)}), {shared.shared} bytes of shared memory"
            f" ({readable(shared.name)})"
        )
    if faults:
        sys.exit(f"densecrf_gpu: {len(faults)} faults in the CUDA kernels, see above")


if __name__ == "__main__":
    main()
