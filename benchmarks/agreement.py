"""`python -m benchmarks agreement`: the CUDA backend in the emulator against the CPU backend.

The kernels of csrc/cuda, compiled as C++ with a*b+c in one operation where nvcc does that, and run
a thread after another by csrc/testing/emulator. It is the arithmetic of the CUDA backend, but for
the exponential and the logarithm of the host; it says nothing about time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from densecrf_gpu import ops

from . import machine, report
from .cases import ROOT, Case, Params, Size, make_case, picture_names

MOST_DQ = 1e-5  # after one iteration
LEAST_EQUAL = 0.9999  # of the labels after the last
BUILD = Path("build/agreement")
HEADER = ("case", "vertices", "max |dQ| after 1", "labels that differ", "of", "widest lead", "s")


def run(
    sizes: Sequence[Size],
    params: Sequence[Params],
    pictures: Sequence[str] | None,
    iterations: int,
    output: Path | None,
    quick: bool,
) -> dict[str, Any]:
    """Compare the backends on every case, print the table, keep JSON in `output`.

    Raises:
        RuntimeError: a case differs by more than it may, or cannot be built or run; what was
            measured is kept.
    """
    program = build()
    document: dict[str, Any] = {
        "benchmark": "agreement",
        "schema": 1,
        "quick": quick,
        "device": "emulated",
        "iterations": iterations,
        "allowed": {"max_dq_after_one": MOST_DQ, "least_equal_labels": LEAST_EQUAL},
        "machine": machine.describe(),
        "cases": [],
    }
    for size in sizes:
        for picture in picture_names(size, pictures):
            for chosen in params:
                case = make_case(picture, size, chosen, iterations)
                sys.stderr.write(f"{case}\n")
                document["cases"].append(
                    {
                        "picture": picture,
                        "size": asdict(size),
                        "params": asdict(chosen),
                        **compare(program, case),
                    }
                )
                if output is not None:
                    report.write_json(document, output)
    print(report.text_table(HEADER, [_row(case) for case in document["cases"]]))
    apart = [report.case_name(case) for case in document["cases"] if not agrees(case)]
    if apart:
        raise RuntimeError(f"the backends differ by more than they may on {', '.join(apart)}")
    return document


def build() -> Path:
    """Compiles the program, where it is not current, and returns its path."""
    # As wide as the CPU backend found this processor to be: fused multiply-add comes with AVX2.
    wide = ops.cpu_isa() in ("avx512", "avx2")
    flags = ["-march=x86-64-v3"] if wide else []
    with _native() as native:
        units = [
            native.unit(Path("tests/cpp/agreement/agreement.cpp"), BUILD, [*flags, "-Itests/cpp"]),
            *native.emulator_units(BUILD, flags),
            *native.emulated_cuda(BUILD, flags, contracted=True),
            *native.cpu_units(),
        ]
        native.link([*native.compile_all(units), "-pthread"], BUILD / "agreement")
    return ROOT / BUILD / "agreement"


@contextmanager
def _native() -> Iterator[Any]:
    """tools/native.py, which is a program and a module of setup.py, not of a package."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import native

        yield native
    except SystemExit as failure:
        raise RuntimeError(f"the program cannot be built: {failure}") from failure
    finally:
        sys.path.remove(str(ROOT / "tools"))


def compare(program: Path, case: Case) -> dict[str, Any]:
    """What the program says of a case, and the pixels it is of."""
    size, chosen = case.size, case.params
    whole = np.array([size.width, size.height, size.classes, case.iterations], np.int64)
    real = np.array(
        [
            *(chosen.bilateral_sxy, chosen.bilateral_srgb, chosen.bilateral_weight),
            *(chosen.gaussian_sxy, chosen.gaussian_weight),
        ]
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "problem")
        parts = (whole, real, case.image.numpy(), case.logits.numpy())
        file.write_bytes(b"".join(part.tobytes() for part in parts))
        result = subprocess.run([program, file], capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"the comparison of {case} failed: {result.stderr.strip()}")
    found: dict[str, Any] = json.loads(result.stdout)
    return {"pixels": size.pixels, **found}


def agrees(case: dict[str, Any]) -> bool:
    """Whether a case is within what is allowed, its lattice vertex for vertex."""
    equal = 1 - case["differing_labels"] / case["pixels"]
    near: bool = case["max_dq_after_one"] < MOST_DQ  # a NaN is not
    return near and equal >= LEAST_EQUAL and case["vertices"] == case["vertices_cpu"]


def _row(case: dict[str, Any]) -> list[str]:
    return [
        report.case_name(case),
        str(case["vertices"]),
        f"{case['max_dq_after_one']:.1e}",
        str(case["differing_labels"]),
        str(case["pixels"]),
        f"{case['widest_lead_of_these']:.1e}",
        f"{case['emulated_seconds']:.0f}",
    ]
