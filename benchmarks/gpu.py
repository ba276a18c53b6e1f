"""`python -m benchmarks crf --device cuda`: whole calls on a GPU, and where their time goes."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from densecrf_gpu import CRFParams, DenseCRF, clear_cache, crf_refine, ops
from densecrf_gpu.cache import spatial_lattice

from . import gpu_report, machine, report
from .cases import Case, Params, Size, make_case, picture_names
from .clocks import Call, Clock, CudaClock, HostClock, copy_ceiling
from .crf import LARGE_PIXELS, MAX_MEAN_ABS_DQ, MIN_LABEL_AGREEMENT
from .rivals import run_pydensecrf2, vertex_counts
from .timing import time_on_cpu

MOST_DQ = 1e-5  # between GPU and CPU, after one iteration
CPU_RUNS = 3
GIB = 1 << 30
# Milliseconds of a call, or of an image in a batch of 16: the aims on an H200.
TARGETS = {
    ("500x375x21", "80/13", 1): 0.5,
    ("500x375x21", "67/3", 1): 1.0,
    ("500x375x21", "49/4", 1): 1.0,
    ("500x375x21", "80/13", 16): 0.4,
    ("500x375x21", "67/3", 16): 0.9,
    ("500x375x21", "49/4", 16): 0.9,
    ("2048x1024x19", "80/13", 1): 3.5,
    ("2048x1024x19", "67/3", 1): 9.0,
    ("2048x1024x19", "49/4", 1): 9.0,
}


@dataclass(frozen=True)
class Settings:
    """What to run, as the command line said."""

    sizes: tuple[Size, ...]
    params: tuple[Params, ...]
    pictures: tuple[str, ...] | None
    batches: tuple[int, ...]
    iterations: int
    repeats: int | None  # None: 31, and 11 from a million pixels
    rival: bool
    plot: bool
    quick: bool
    rehearse: bool

    def repeats_for(self, size: Size) -> int:
        """Timed calls at a size."""
        return self.repeats or (11 if size.pixels >= LARGE_PIXELS else 31)


def run(settings: Settings, output: Path | None) -> dict[str, Any]:
    """Measure every case; keep JSON (after every case) and a plot in `output`.

    Raises:
        RuntimeError: there is no CUDA device, pydensecrf2 is wanted and missing, or, at the end,
            a case gave wrong answers or none; its reason is in the results.
    """
    clock: Clock = HostClock() if settings.rehearse else CudaClock()
    if settings.rival and importlib.util.find_spec("pydensecrf") is None:
        sys.stderr.write("without pydensecrf2, which is not installed\n")
        settings = replace(settings, rival=False)
    document: dict[str, Any] = {
        "benchmark": "crf",
        "schema": 1,
        "quick": settings.quick or settings.rehearse,
        "device": "rehearsal" if settings.rehearse else "cuda",
        "iterations": settings.iterations,
        "machine": machine.describe(),
        "copy_gb_s": copy_ceiling(clock, GIB // 64 if settings.rehearse else GIB),
        "cases": [],
    }
    for size in settings.sizes:
        for picture in picture_names(size, settings.pictures):
            base = make_case(picture, size, settings.params[0], settings.iterations)
            for params in settings.params:
                case = replace(base, params=params)
                document["cases"] += _measure_batches(case, settings, clock, document["copy_gb_s"])
                if output is not None:
                    report.write_json(document, output)
    print(gpu_report.table(document))
    if output is not None and settings.plot:
        gpu_report.plot(document, output)
    faults = [f"{gpu_report.name(case)}: {case['error']}" for case in document["cases"]
              if case["error"]]  # fmt: skip
    if faults:
        raise RuntimeError("; ".join(faults))
    return document


def _measure_batches(
    case: Case, settings: Settings, clock: Clock, copy_gb_s: float
) -> list[dict[str, Any]]:
    """A case in every batch size, the CPU's answer and time beside the first."""
    agreement, peers = _compare(case, settings, clock)
    vertices = vertex_counts(case)
    measured = []
    for batch in settings.batches:
        entry = {
            "picture": case.picture,
            "size": asdict(case.size),
            "params": asdict(case.params),
            "batch": batch,
            "vertices": vertices,
            "target_ms": TARGETS.get((str(case.size), str(case.params), batch)),
            "agreement": agreement,
            "peers": peers,
            "error": agreement["fault"],
            "times": None,
        }
        if entry["error"] is None:
            moved = batch * iteration_bytes(case, vertices)
            try:
                times = _time_within_memory(case, batch, vertices["bilateral"], settings, clock)
            except torch.cuda.OutOfMemoryError as error:
                entry["error"] = f"out of memory: {str(error).splitlines()[0]}"
            else:
                rate = moved / times["iteration_ms"] / 1e6
                entry["times"] = {
                    **times,
                    "iteration_bytes": moved,
                    "achieved_gb_s": rate,
                    "share_of_copy": rate / copy_gb_s,
                }
        sys.stderr.write(f"{gpu_report.line(entry)}\n")
        sys.stderr.flush()
        measured.append(entry)
    return measured


def _params(case: Case) -> CRFParams:
    given = case.params
    return CRFParams(
        gaussian_sxy=given.gaussian_sxy,
        gaussian_weight=given.gaussian_weight,
        bilateral_sxy=given.bilateral_sxy,
        bilateral_srgb=given.bilateral_srgb,
        bilateral_weight=given.bilateral_weight,
    )


def inputs(case: Case, batch: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Logits [B, C, H, W] and image [B, 3, H, W], every image of a batch shifted otherwise."""
    logits = case.logits.to(device)
    image = case.image.to(device).permute(2, 0, 1).contiguous()
    shifts = [(37 * k % case.size.height, 53 * k % case.size.width) for k in range(batch)]
    return (
        torch.stack([logits.roll(shift, (1, 2)) for shift in shifts]),
        torch.stack([image.roll(shift, (1, 2)) for shift in shifts]),
    )


def _time_within_memory(
    case: Case, batch: int, vertices: int, settings: Settings, clock: Clock
) -> dict[str, Any]:
    """Without a bound on the vertices or, where the memory for that is not there, with one."""
    try:
        return {"max_vertices": None, **_time(case, batch, settings, clock, {})}
    except torch.cuda.OutOfMemoryError:
        clear_cache()
        torch.cuda.empty_cache()
    bound = vertices + vertices // 4
    return {"max_vertices": bound, **_time(case, batch, settings, clock, {"max_vertices": bound})}


def _time(
    case: Case, batch: int, settings: Settings, clock: Clock, bound: dict[str, int]
) -> dict[str, Any]:
    """The whole call alone, queued and as a graph; then its parts."""
    logits, image = inputs(case, batch, clock.device)
    params, runs = _params(case), settings.repeats_for(case.size)
    given: dict[str, Any] = {**bound}
    size, sigmas = (case.size.height, case.size.width), (case.params.gaussian_sxy,) * 2

    def whole() -> Tensor:
        return crf_refine(
            logits, image, params, iterations=settings.iterations, output="labels", **given
        )

    def bilateral() -> Tensor:
        spatial, colour = [case.params.bilateral_sxy] * 2, [case.params.bilateral_srgb] * 3
        return ops.build_image_lattice(image, size, spatial, colour, **given).vertices

    def spatial() -> Tensor:
        clear_cache()
        return spatial_lattice(size, sigmas, torch.float32, clock.device).vertices

    crf = DenseCRF(logits, params.kernels(), image, **given)

    def iterate(count: int) -> Call:
        return lambda: crf.inference(count, output="labels")

    one = clock.queued(iterate(1), runs)
    more = clock.queued(iterate(1 + settings.iterations), runs)
    graph: dict[str, Any] | None
    try:
        graph = {**clock.queued(clock.captured(whole), runs)}
    except RuntimeError as error:  # kept beside the times: the call itself works
        graph = {"error": str(error).splitlines()[0]}
    return {
        "latency": clock.latency(whole, runs),
        "queued": clock.queued(whole, runs),
        "graph": graph,
        "build_bilateral": clock.queued(bilateral, runs),
        "build_spatial": clock.queued(spatial, runs),
        "one_iteration_call": one,
        "iteration_ms": max(1e-6, (more["median_ms"] - one["median_ms"]) / settings.iterations),
        "peak_bytes": clock.peak_bytes(whole),
    }


def iteration_bytes(case: Case, vertices: dict[str, int]) -> int:
    """What an iteration on one image reads and writes, every array once a sweep over it.

    Unaries; of each point's d+1 incidences row and weight for slice, entry and weight for splat; of
    each vertex its row after splat, before and after the blur along d+1 axes, and at slice, and its
    two neighbours an axis. Most of it stays in L2 where the lattice is small.
    """
    row = 4 * (-(-case.size.classes // 4) * 4)
    total = case.size.pixels * row
    for dimension, count in ((5, vertices["bilateral"]), (2, vertices["spatial"])):
        axes = dimension + 1
        total += case.size.pixels * axes * (4 + 4 + 2 + 4)
        total += count * (row * (2 + 2 * axes) + 8 * axes)
    return total


def _compare(
    case: Case, settings: Settings, clock: Clock
) -> tuple[dict[str, Any], dict[str, float | None]]:
    """The device's answers beside the CPU's and pydensecrf2's, whose times it takes as well."""
    logits, image = inputs(case, 1, torch.device("cpu"))
    params = _params(case)

    def on(device: torch.device, iterations: int) -> Callable[[], Tensor]:
        scores, picture = logits.to(device), image.to(device)
        return lambda: crf_refine(scores, picture, params, iterations=iterations)

    cpu = torch.device("cpu")
    dq = (on(clock.device, 1)().cpu() - on(cpu, 1)()).abs().max().item()
    ours = on(clock.device, case.iterations)().cpu()[0]
    ours_on_cpu = on(cpu, case.iterations)
    laps = sorted(time_on_cpu(ours_on_cpu)[0].wall for _ in range(CPU_RUNS))
    labels = _equal(ours, ours_on_cpu()[0])
    agreement: dict[str, Any] = {"max_abs_dq_1": dq, "labels_cpu": labels}
    peers: dict[str, float | None] = {
        "densecrf_gpu_cpu_ms": laps[len(laps) // 2],
        "cpu_threads": torch.get_num_threads(),
        "pydensecrf2_ms": None,
    }
    fault = None
    if not (dq < MOST_DQ and labels >= MIN_LABEL_AGREEMENT):
        fault = f"differs from the CPU: max |dQ| {dq:.1e}, {100 * labels:.4f} % labels equal"
    if settings.rival:
        lap, theirs = time_on_cpu(lambda: run_pydensecrf2(case, "probabilities"))
        last, _ = time_on_cpu(lambda: theirs.argmax(0))
        peers["pydensecrf2_ms"] = lap.wall + last.wall
        mean, same = (ours - theirs).abs().double().mean().item(), _equal(ours, theirs)
        agreement |= {"mean_abs_dq_pydensecrf2": mean, "labels_pydensecrf2": same}
        if not (mean < MAX_MEAN_ABS_DQ and same >= MIN_LABEL_AGREEMENT):
            fault = f"differs from pydensecrf2: mean |dQ| {mean:.1e}, {100 * same:.4f} % labels"
    return {**agreement, "fault": fault}, peers


def _equal(one: Tensor, other: Tensor) -> float:
    return (one.argmax(0) == other.argmax(0)).double().mean().item()
