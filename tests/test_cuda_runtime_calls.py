"""What the CUDA backend asks of the runtime: one file does, and nothing there waits or allocates.

Read in the sources, since it holds for every call and not for those that a test makes: the calls
that are left are those that may stand in the capture of a CUDA graph.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAUNCH = ROOT / "csrc/cuda/launch.h"
SOURCES = sorted(
    path
    for pattern in ("csrc/*.h", "csrc/*.cpp", "csrc/cuda/*", "csrc/torch/cuda_*")
    for path in ROOT.glob(pattern)
)
CALL = re.compile(r"\b(cuda[A-Z]\w*)\s*[(<]")
QUERIES = {
    "cudaDeviceGetAttribute",
    "cudaGetDevice",
    "cudaGetErrorString",
    "cudaGetLastError",
    "cudaOccupancyMaxActiveBlocksPerMultiprocessor",
}
ON_A_STREAM = {"cudaLaunchKernelEx", "cudaMemcpyAsync", "cudaMemsetAsync"}


def code(path: Path) -> str:
    """A source without its comments."""
    return re.sub(r"//.*", "", path.read_text())


def test_one_file_calls_the_cuda_runtime() -> None:
    assert len(SOURCES) > 40
    calling = [path.name for path in SOURCES if CALL.search(code(path))]
    assert calling == [LAUNCH.name]


def test_the_runtime_is_asked_for_launches_copies_and_properties_alone() -> None:
    assert set(CALL.findall(code(LAUNCH))) == QUERIES | ON_A_STREAM | {"cudaStreamSynchronize"}


def test_the_host_waits_where_the_exact_number_of_vertices_is_wanted_and_nowhere_else() -> None:
    assert code(LAUNCH).count("cudaStreamSynchronize") == 1
    waiting = {path.name: code(path).count("cuda::wait(") for path in SOURCES}
    assert {name for name, count in waiting.items() if count} == {"cuda_build.cu"}
    assert waiting["cuda_build.cu"] == 1
    body = code(ROOT / "csrc/torch/cuda_build.cu").split("LatticeTensors shrink(")[1]
    assert "cuda::wait(" in body.split("\n}\n")[0]


def test_kernels_keep_no_state_between_calls() -> None:
    state = re.compile(
        r"__constant__|__managed__|^\s*(static\s+)?__device__\s[^(]*[;=]", re.MULTILINE
    )
    assert [path.name for path in SOURCES if state.search(code(path))] == []
