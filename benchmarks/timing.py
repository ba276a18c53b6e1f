"""An interleaved stopwatch: every implementation runs in every repetition, in turn.

What drifts (clock speed, other load) then falls on all of them alike, and ratios are taken within
a repetition, where they are safest.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypedDict

import torch


class Lap(NamedTuple):
    """Milliseconds of one call: by the clock, and of all threads of the process together."""

    wall: float
    cpu: float


Call = Callable[[], torch.Tensor]
Stopwatch = Callable[[Call], tuple[Lap, torch.Tensor]]


def time_on_cpu(call: Call) -> tuple[Lap, torch.Tensor]:
    """One call that returns when its work is done."""
    wall, cpu = time.perf_counter_ns(), time.process_time_ns()
    result = call()
    lap = Lap((time.perf_counter_ns() - wall) / 1e6, (time.process_time_ns() - cpu) / 1e6)
    return lap, result


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
    median_cpu_ms: float


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
) -> list[list[list[Lap]]]:
    """Time the contenders in turn; `examine` sees each result after its clock has stopped.

    Returns [contender][repetition][run].
    """
    times: list[list[list[Lap]]] = [[] for _ in contenders]
    for repetition in range(repetitions):
        for contender, rows in zip(contenders, times, strict=True):
            contender.settle()
            row = []
            for _ in range(contender.runs):
                contender.before_each()
                lap, result = stopwatch(contender.call)
                examine(contender, result)
                del result  # freed outside the next run
                row.append(lap)
            rows.append(row)
        medians = " | ".join(f"{_median_wall(rows[-1]):.1f}" for rows in times)
        progress(f"repetition {repetition + 1}/{repetitions}, ms: {medians}")
    return times


def summarise(rows: Sequence[Sequence[Lap]]) -> Summary:
    """Median, minimum and interquartile range of all runs [repetition][run]."""
    laps = [lap for row in rows for lap in row]
    runs = sorted(lap.wall for lap in laps)
    low, _, high = (
        statistics.quantiles(runs, n=4, method="inclusive") if len(runs) > 1 else runs * 3
    )
    return {
        "median_ms": statistics.median(runs),
        "min_ms": runs[0],
        "iqr_ms": high - low,
        "median_cpu_ms": statistics.median(lap.cpu for lap in laps),
    }


def paired_ratio(base: Sequence[Sequence[Lap]], rows: Sequence[Sequence[Lap]]) -> Ratio:
    """Speed-up over `base`, repetition by repetition (median against median within each)."""
    ratios = [_median_wall(b) / _median_wall(r) for b, r in zip(base, rows, strict=True)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def _median_wall(laps: Sequence[Lap]) -> float:
    return statistics.median(lap.wall for lap in laps)
