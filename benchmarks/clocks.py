"""Clocks for work that a device does: CUDA events, and the host's clock for a rehearsal."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any, Protocol, TypedDict

import torch
from torch import Tensor

Call = Callable[[], Tensor]


class Times(TypedDict):
    """Milliseconds of one call, over several."""

    median_ms: float
    min_ms: float
    iqr_ms: float
    runs: int


class Clock(Protocol):
    """How a device's work is timed."""

    device: torch.device

    def latency(self, call: Call, runs: int) -> Times:
        """Each call alone, from the host's request to the finished result."""

    def queued(self, call: Call, runs: int) -> Times:
        """Calls asked for one after another, each as long as the device takes for it."""

    def captured(self, call: Call) -> Call:
        """The same call as one CUDA graph, where there are such."""

    def peak_bytes(self, call: Call) -> int | None:
        """Most memory that one call has beyond what there was; None where it is not counted."""


def summarise(times: list[float]) -> Times:
    """Median, minimum and interquartile range."""
    low, _, high = statistics.quantiles(times, n=4, method="inclusive")
    return {
        "median_ms": statistics.median(times),
        "min_ms": min(times),
        "iqr_ms": high - low,
        "runs": len(times),
    }


class CudaClock:
    """The current CUDA device's."""

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise RuntimeError(
                "torch sees no CUDA device: run this where there is one, or --rehearse"
            )
        self.device = torch.device("cuda", torch.cuda.current_device())

    def latency(self, call: Call, runs: int) -> Times:
        """By the host's clock, the device idle before and after."""
        _warm_up(call)
        times = []
        for _ in range(max(2, runs)):
            torch.cuda.synchronize()
            start = time.perf_counter_ns()
            call()
            torch.cuda.synchronize()
            times.append((time.perf_counter_ns() - start) / 1e6)
        return summarise(times)

    def queued(self, call: Call, runs: int) -> Times:
        """By CUDA events between the calls."""
        _warm_up(call)
        marks = [_event() for _ in range(max(2, runs) + 1)]
        torch.cuda.synchronize()
        marks[0].record()
        for mark in marks[1:]:
            call()
            mark.record()
        torch.cuda.synchronize()
        return summarise([begin.elapsed_time(end) for begin, end in itertools.pairwise(marks)])

    def captured(self, call: Call) -> Call:
        """Warms up on a side stream, as capture asks for, and captures."""
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = call()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay

    def peak_bytes(self, call: Call) -> int | None:
        """By torch's caching allocator."""
        _warm_up(call)
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before


class HostClock:
    """The CPU in a GPU's place: shows that a measurement runs, not how fast anything is."""

    device = torch.device("cpu")

    def latency(self, call: Call, runs: int) -> Times:
        """By the host's clock."""
        times = []
        for _ in range(max(2, runs)):
            start = time.perf_counter_ns()
            call()
            times.append((time.perf_counter_ns() - start) / 1e6)
        return summarise(times)

    def queued(self, call: Call, runs: int) -> Times:
        """The same as latency: nothing is queued."""
        return self.latency(call, runs)

    def captured(self, call: Call) -> Call:
        """There are no graphs."""
        return call

    def peak_bytes(self, call: Call) -> int | None:
        """Not counted."""
        return None


def copy_ceiling(clock: Clock, size: int) -> float:
    """GB/s at which `size` bytes are read and written once."""
    source = torch.zeros(size // 4, device=clock.device)
    target = torch.empty_like(source)
    times = clock.queued(lambda: target.copy_(source), 11)
    return 2 * size / times["median_ms"] / 1e6


def _warm_up(call: Call) -> None:
    for _ in range(2):
        call()


def _event() -> Any:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
