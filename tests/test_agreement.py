"""The CUDA backend in the emulator against the CPU backend, on photographs."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import agreement
from benchmarks.cases import photographs

try:
    photographs()
except FileNotFoundError:
    pytest.skip("there are no photographs to compare on", allow_module_level=True)

WITHIN = {
    "pixels": 100_000,
    "vertices": 5,
    "vertices_cpu": 5,
    "max_dq_after_one": 9e-6,
    "differing_labels": 10,
}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"vertices_cpu": 6}, False),
        ({"max_dq_after_one": 1e-5}, False),
        ({"max_dq_after_one": math.nan}, False),
        ({"differing_labels": 11}, False),
    ],
)
def test_backends_agree_where_vertices_probabilities_and_labels_do(
    change: dict[str, Any], expected: bool
) -> None:
    assert agreement.agrees({**WITHIN, **change}) is expected


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
def test_the_emulated_cuda_backend_agrees_with_the_cpu_backend(tmp_path: Path) -> None:
    assert benchmarks.main(["agreement", "--quick", "--output", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("agreement-emulated-*-quick.json")
    cases = json.loads(path.read_text())["cases"]
    assert [case["params"]["bilateral_srgb"] for case in cases] == [13, 3]
    assert all(agreement.agrees(case) and case["vertices"] > 1000 for case in cases)

    broken = tmp_path / "problem"
    broken.write_bytes(bytes(80))
    result = subprocess.run([agreement.build(), broken], capture_output=True, text=True)
    assert result.returncode == 1
    assert "is not as long as its first numbers say" in result.stderr
