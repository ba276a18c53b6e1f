"""What nvcc makes of the mean field's kernels, read in their PTX: no GPU is needed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLAGS = ("-std=c++20", "-O3", "--expt-relaxed-constexpr", "-Icsrc", "-arch=sm_90")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("nvcc") is None, reason="there is no nvcc"),
]


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """PTX of each kernel of mean_field.cu by its mangled name."""
    output = tmp_path_factory.mktemp("ptx") / "mean_field.ptx"
    command = ["nvcc", *FLAGS, "-ptx", "csrc/cuda/mean_field.cu", "-o", str(output)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = {}
    for part in output.read_text().split(".entry ")[1:]:
        match = re.match(r"\w+", part)
        assert match is not None
        found[match[0]] = part
    return found


def loads(ptx: str) -> set[str]:
    """The kinds of loads from global memory, such as ld.global.v4.f32."""
    return set(re.findall(r"\bld\.global[.\w]*", ptx))


def test_the_loop_loads_nothing_through_the_read_only_cache(kernels: dict[str, str]) -> None:
    loops = {name: ptx for name, ptx in kernels.items() if "run_iterations" in name}
    assert len(loops) == 12  # seven widths in float, five in double
    for name, ptx in loops.items():
        # A grid barrier orders what other blocks wrote before loads that are not of this kind.
        assert not [load for load in loads(ptx) if load.startswith("ld.global.nc")], name
        assert "ld.acquire.gpu" in ptx, f"no grid barrier in {name}"


@pytest.mark.parametrize("kernel", ["blur_rows", "add_partial_rows"])
@pytest.mark.parametrize(
    ("letter", "whole", "part"),
    [("f", "ld.global.v4.f32", "ld.global.f32"), ("d", "ld.global.v2.f64", "ld.global.f64")],
)
def test_rows_are_loaded_16_bytes_at_once(
    kernels: dict[str, str], kernel: str, letter: str, whole: str, part: str
) -> None:
    (ptx,) = (ptx for name, ptx in kernels.items() if f"{kernel}I{letter}E" in name)
    assert whole in loads(ptx)
    assert part not in loads(ptx)
