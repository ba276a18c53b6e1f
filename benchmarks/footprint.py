"""`python -m benchmarks memory`: peak extra memory of one call, per pixel and class."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import machine, memory, report
from .cases import Params, Size, make_case, picture_names
from .rivals import OURS, Output, vertex_counts


def run(
    sizes: Sequence[Size],
    params: Sequence[Params],
    outputs: Sequence[Output],
    threads: int,
    iterations: int,
    output: Path | None,
    quick: bool,
) -> dict[str, Any]:
    """Measure one call of `crf_refine` a case, print the table, keep JSON in `output`."""
    document: dict[str, Any] = {
        "benchmark": "memory",
        "schema": 1,
        "quick": quick,
        "device": "cpu",
        "iterations": iterations,
        "threads": [threads],
        "machine": machine.describe(),
        "cases": [],
    }
    for size in sizes:
        picture = picture_names(size, None)[0]
        for chosen in params:
            case = make_case(picture, size, chosen, iterations)
            vertices = vertex_counts(case)
            for kind in outputs:
                sys.stderr.write(f"{case}, {kind}\n")
                document["cases"].append(
                    {
                        "picture": picture,
                        "size": asdict(size),
                        "params": asdict(chosen),
                        "vertices": vertices,
                        "output": kind,
                        "memory": memory.measure(case, OURS, threads, kind),
                    }
                )
    print(report.text_table(report.MEMORY_HEADER, report.memory_rows(document)))
    if output is not None:
        report.write_json(document, output)
    return document
