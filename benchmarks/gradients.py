"""`python -m benchmarks gradients`: backward through mean field against forward, and its memory.

Three calls in turn in every repetition: inference, the forward pass that keeps its states, and
backward to logits and weights. Lattices are built before the clock starts: all three share them.
Memory is that of a whole training step, lattices included, in a process of its own, at two numbers
of iterations: their difference is what an iteration keeps.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypedDict

import torch

from densecrf_gpu import BilateralKernel, DenseCRF, GaussianKernel
from densecrf_gpu.kernels import Kernel

from . import machine, memory, report
from .cases import Case, Params, Size, make_case, picture_names
from .rivals import TRAINING, vertex_counts
from .timing import time_on_cpu

#: What is learned: a number a kernel as pydensecrf has it, or a matrix a kernel as CRF-as-RNN.
KINDS = {"number, symmetric": "symmetric", "matrix, after": "after"}


class Times(TypedDict):
    """Milliseconds, medians; ratios are taken within a repetition, their median and range."""

    inference_ms: float
    forward_ms: float
    backward_ms: float
    backward_to_inference: tuple[float, float, float]
    backward_to_forward: tuple[float, float, float]


def run(
    sizes: Sequence[Size],
    params: Sequence[Params],
    threads: int,
    iterations: int,
    repeats: int,
    output: Path | None,
    quick: bool,
) -> dict[str, Any]:
    """Times and measures all cases, prints the tables, keeps JSON in `output`."""
    document: dict[str, Any] = {
        "benchmark": "gradients",
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
            sys.stderr.write(f"{case}\n")
            load = machine.OtherLoad()
            times = {kind: time_case(case, kind, threads, repeats) for kind in KINDS}
            document["cases"].append(
                {
                    "picture": picture,
                    "size": asdict(size),
                    "params": asdict(chosen),
                    "vertices": vertex_counts(case),
                    "times": times,
                    "other_load": load.read(),
                    "memory": _step_memory(case, threads),
                }
            )
    print(report.text_table(HEADER, rows(document)))
    print()
    print(report.text_table(MEMORY_HEADER, memory_rows(document)))
    if output is not None:
        report.write_json(document, output)
    return document


def time_case(case: Case, kind: str, threads: int, repeats: int) -> Times:
    """Times inference, forward and backward in turn, after one untimed round."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        laps = _laps(case, kind, repeats)
    finally:
        torch.set_num_threads(before)
    inference, forward, backward = zip(*laps, strict=True)
    return {
        "inference_ms": statistics.median(inference),
        "forward_ms": statistics.median(forward),
        "backward_ms": statistics.median(backward),
        "backward_to_inference": _ratio(backward, inference),
        "backward_to_forward": _ratio(backward, forward),
    }


def _laps(case: Case, kind: str, repeats: int) -> list[tuple[float, float, float]]:
    classes, params = case.size.classes, case.params
    potts = 1.0 - torch.eye(classes)
    learned = [
        torch.tensor(weight) if kind.startswith("number") else weight * potts
        for weight in (params.gaussian_weight, params.bilateral_weight)
    ]
    inputs = [tensor.clone().requires_grad_() for tensor in (case.logits, *learned)]
    kernels: list[Kernel] = [
        GaussianKernel(params.gaussian_sxy, inputs[1], KINDS[kind]),
        BilateralKernel(params.bilateral_sxy, params.bilateral_srgb, inputs[2], KINDS[kind]),
    ]
    crf = DenseCRF(inputs[0], kernels, case.image.permute(2, 0, 1))
    direction = torch.randn(case.logits.shape, generator=torch.Generator().manual_seed(0))

    def infer() -> torch.Tensor:
        with torch.no_grad():
            return crf.inference(case.iterations)

    laps = []
    for _ in range(repeats + 1):
        inference, _ = time_on_cpu(infer)
        forward, q = time_on_cpu(lambda: crf.inference(case.iterations))
        backward, _ = time_on_cpu(
            lambda q=q: torch.autograd.grad(q, inputs, direction)[0]  # type: ignore[misc]
        )
        laps.append((inference.wall, forward.wall, backward.wall))
    return laps[1:]


def _ratio(above: Sequence[float], below: Sequence[float]) -> tuple[float, float, float]:
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def _step_memory(case: Case, threads: int) -> dict[str, Any]:
    """Peak memory of a training step with the iterations of the case, and with twice as many."""
    short = memory.measure(case, TRAINING, threads, "probabilities")
    long = memory.measure(
        replace(case, iterations=2 * case.iterations), TRAINING, threads, "probabilities"
    )
    values = case.size.pixels * case.size.classes * case.iterations
    return {
        "step": short,
        "step_of_twice_the_iterations": long,
        "bytes_per_pixel_class_iteration": (long["peak_bytes"] - short["peak_bytes"]) / values,
    }


HEADER = ("case", "weights", "inference ms", "forward ms", "backward ms", "backward/inference",
          "range", "backward/forward", "range")  # fmt: skip
MEMORY_HEADER = ("case", "training step MiB", "bytes/(px*class*iteration)")


def rows(document: report.Document) -> list[tuple[str, ...]]:
    """One row a case and kind of weight."""
    found = []
    for case in document["cases"]:
        for kind, times in case["times"].items():
            ratios = []
            for name in ("backward_to_inference", "backward_to_forward"):
                median, low, high = times[name]
                ratios += [f"{median:.2f}", f"{low:.2f}-{high:.2f}"]
            milliseconds = [times[f"{name}_ms"] for name in ("inference", "forward", "backward")]
            found.append(
                (report.case_name(case), kind, *(f"{ms:.1f}" for ms in milliseconds), *ratios)
            )
    return found


def memory_rows(document: report.Document) -> list[tuple[str, ...]]:
    """One row a case."""
    return [
        (
            report.case_name(case),
            f"{case['memory']['step']['peak_bytes'] / 2**20:.1f}",
            f"{case['memory']['bytes_per_pixel_class_iteration']:.2f}",
        )
        for case in document["cases"]
    ]
