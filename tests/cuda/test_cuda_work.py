"""What a call asks of the device: launches, copies and bytes, counted.

The numbers are part of the design; a later change that adds a launch, a copy or memory must say so
here. Launches, copies and memsets are those of a captured graph, which every machine with a GPU can
count; where the profiler sees kernels it has to count the same. tests/cpp/cuda_work_test.cpp counts
what the backend itself asks for, without a GPU.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cuda_capture import captured_work
from cuda_scenes import CALLS, CUDA, image, logits, refine
from torch import Tensor

from densecrf_gpu import clear_cache

BILATERAL_VERTICES = 6  # of a point's simplex, in five dimensions
# Sums of partial rows, a blur along every axis of the widest lattice, and one pass over the points.
LAUNCHES_PER_ITERATION = 1 + BILATERAL_VERTICES + 1
# Two lattices built (41) and folded, unaries, the first pass; positions and weights by torch.
MOST_LAUNCHES_BESIDE = 66
MOST_MEMSETS = 2
# 16 tiles: few enough on any GPU for all iterations to be one cooperative launch.
SMALL = (64, 64)
# 3072 tiles: too many for it (kLoopTiles in csrc/cuda/backend.h) where fewer than 1024 blocks are
# resident at once, two or three a processor.
LARGE = (768, 1024)


def count(call: Callable[[], Tensor]) -> Counter[str]:
    """The launches, copies and memsets of a call that has been made before."""
    call()
    torch.cuda.synchronize()
    found = captured_work(call)
    assert found["launches"] > 0
    assert found["others"] == 0
    return found


@pytest.fixture
def profile(tmp_path: Path) -> Callable[[Callable[[], Tensor]], Counter[str]]:
    """Counts what the profiler sees: kernels, memsets, copies by direction."""

    def counted(call: Callable[[], Tensor]) -> Counter[str]:
        call()
        clear_cache()  # a captured call builds the spatial lattice too
        torch.cuda.synchronize()
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profiler:
            call()
            torch.cuda.synchronize()
        trace = tmp_path / "trace.json"
        profiler.export_chrome_trace(str(trace))
        found: Counter[str] = Counter()
        for event in json.loads(trace.read_text())["traceEvents"]:
            kind = event.get("cat")
            if kind == "kernel":
                found["launches"] += 1
            elif kind == "gpu_memset":
                found["memsets"] += 1
            elif kind == "gpu_memcpy":
                found["copies"] += 1
                found[_direction(event["name"])] += 1
        if not found["launches"]:
            pytest.skip("the profiler sees no kernels on this machine")
        return found

    return counted


def _direction(name: str) -> str:
    return next((way for way in ("HtoD", "DtoH", "DtoD") if way in name), name)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_the_profiler_counts_what_a_captured_graph_holds(call: Any, profile: Any) -> None:
    prepared = call()
    seen, held = profile(prepared), count(prepared)
    for what in ("launches", "memsets", "copies"):
        assert seen[what] == held[what]


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_no_call_copies_between_host_and_device(call: Any, profile: Any) -> None:
    prepared = call()
    if count(prepared)["copies"] == 0:
        return
    seen = profile(prepared)
    assert seen["HtoD"] == 0
    assert seen["DtoH"] == 0


@pytest.mark.parametrize(("size", "each"), [(SMALL, 0), (LARGE, LAUNCHES_PER_ITERATION)])
def test_an_iteration_is_so_many_launches(size: tuple[int, int], each: int) -> None:
    scores, picture = logits(1, 5, size), image(1, size)
    few, many = (
        count(lambda n=n: refine(scores, picture, iterations=n, output="labels")) for n in (2, 12)
    )
    assert many["launches"] - few["launches"] == 10 * each
    assert many["memsets"] == few["memsets"]


@pytest.mark.parametrize(("size", "each"), [(SMALL, 0), (LARGE, LAUNCHES_PER_ITERATION)])
def test_a_call_is_no_more_launches_than_designed(size: tuple[int, int], each: int) -> None:
    scores, picture = logits(1, 5, size), image(1, size)
    found = count(lambda: refine(scores, picture, output="labels"))
    assert found["launches"] <= MOST_LAUNCHES_BESIDE + 10 * each
    assert found["memsets"] <= MOST_MEMSETS
    assert found["copies"] == 0


def test_neither_size_nor_batch_nor_contents_change_the_launches() -> None:
    noise = torch.randint(256, (1, 3, 75, 101), dtype=torch.uint8, device=CUDA)
    problems = [
        (logits(1), image(1)),
        (logits(1), noise),
        (logits(1), torch.zeros_like(noise)),
        (logits(5), image(5)),
        (logits(1, size=(90, 130)), image(1, size=(90, 130))),
    ]
    found = [count(lambda p=p: refine(*p, output="labels"))["launches"] for p in problems]
    assert len(set(found)) == 1, found


def peak_bytes(call: Callable[[], Tensor]) -> int:
    call()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def test_memory_depends_on_shapes_alone() -> None:
    noise = torch.randint(256, (1, 3, 75, 101), dtype=torch.uint8, device=CUDA)
    scores = logits(1)
    peaks = [
        peak_bytes(lambda p=p: refine(scores, p, output="labels"))
        for p in (image(1), noise, torch.zeros_like(noise))
    ]
    assert len(set(peaks)) == 1, peaks


def test_memory_grows_no_faster_than_the_pixels() -> None:
    problems = [(logits(1, size=s), image(1, size=s)) for s in ((128, 128), (256, 256))]
    peaks = [peak_bytes(lambda p=p: refine(*p, output="labels")) for p in problems]
    # Tables have a power of two of slots, so a lattice may take up to twice its share of them.
    assert peaks[1] <= 4.5 * peaks[0], peaks
