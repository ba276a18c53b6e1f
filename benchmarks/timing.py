"""An interleaved stopwatch: every implementation runs in every repetition, in turn.

What drifts (clock speed, other load) then falls on all of them alike, and ratios are taken within
a repetition, where they are safest.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch

Call = Callable[[], torch.Tensor]
Stopwatch = Callable[[Call], tuple[float, torch.Tensor]]


def time_on_cpu(call: Call) -> tuple[float, torch.Tensor]:
    """Wall-clock milliseconds of one call that returns when its work is done."""
    start = time.perf_counter_ns()
    result = call()
    return (time.perf_counter_ns() - start) / 1e6, result


STOPWATCHES: dict[str, Stopwatch] = {"cpu": time_on_cpu}  # one per device


@dataclass(frozen=True)
class Contender:
    """One implementation under one setting."""

    name: str  # the implementation
    threads: int
    cache: str  # of the spatial lattice: "warm", "cold", or "none" where there is no such thing
    call: Call
    settle: Callable[[], None]  # before its turn, untimed: thread count, one call to warm up
    before_each: Callable[[], None]  # before every run, untimed: empty the cache, or nothing
    runs: int  # in a repetition

    def __str__(self) -> str:
        text = f"{self.name}, {self.threads} thread{'s' if self.threads > 1 else ''}"
        return text if self.cache == "none" else f"{text}, {self.cache}"


class Summary(TypedDict):
    """Milliseconds of all runs of a contender."""

    median_ms: float
    min_ms: float
    iqr_ms: float


class Ratio(TypedDict):
    """How many times faster than the baseline, over the repetitions."""

    median: float
    min: float
    max: float


def interleave(
    contenders: Sequence[Contender],
    repetitions: int,
    stopwatch: Stopwatch,
    examine: Callable[[Contender, torch.Tensor], None],
    progress: Callable[[str], None],
) -> list[list[list[float]]]:
    """Time the contenders in turn; `examine` sees each result after its clock has stopped.

    Returns milliseconds [contender][repetition][run].
    """
    times: list[list[list[float]]] = [[] for _ in contenders]
    for repetition in range(repetitions):
        for contender, rows in zip(contenders, times, strict=True):
            contender.settle()
            row = []
            for _ in range(contender.runs):
                contender.before_each()
                milliseconds, result = stopwatch(contender.call)
                examine(contender, result)
                del result  # freed outside the next run
                row.append(milliseconds)
            rows.append(row)
        medians = " | ".join(f"{statistics.median(rows[-1]):.1f}" for rows in times)
        progress(f"repetition {repetition + 1}/{repetitions}, ms: {medians}")
    return times


def summarise(rows: Sequence[Sequence[float]]) -> Summary:
    """Median, minimum and interquartile range of all runs [repetition][run]."""
    runs = sorted(t for row in rows for t in row)
    low, _, high = (
        statistics.quantiles(runs, n=4, method="inclusive") if len(runs) > 1 else runs * 3
    )
    return {"median_ms": statistics.median(runs), "min_ms": runs[0], "iqr_ms": high - low}


def paired_ratio(base: Sequence[Sequence[float]], rows: Sequence[Sequence[float]]) -> Ratio:
    """Speed-up over `base`, repetition by repetition (median against median within each)."""
    ratios = [statistics.median(b) / statistics.median(r) for b, r in zip(base, rows, strict=True)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
