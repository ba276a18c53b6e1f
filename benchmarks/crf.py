"""`python -m benchmarks crf`: check that the answers agree, then time whole calls in turn."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from . import machine, memory, report
from .cases import Case, Params, Size, make_case, picture_names
from .rivals import (
    OURS,
    RIVAL,
    forget_spatial_lattices,
    run_densecrf_gpu,
    run_pydensecrf2,
    vertex_counts,
)
from .timing import STOPWATCHES, Contender, interleave, paired_ratio, summarise

MIN_LABEL_AGREEMENT = 0.9999
MAX_MEAN_ABS_DQ = 1e-6
OUR_RUNS = 3  # of ours to one of the rival's in a repetition: they are several times shorter
LARGE_PIXELS = 1_000_000
BUSY = 0.5  # load average before the first run


class DisagreementError(RuntimeError):
    """Two implementations gave different answers: there is nothing to time."""


@dataclass(frozen=True)
class Settings:
    """What to run, as the command line said."""

    sizes: tuple[Size, ...]
    params: tuple[Params, ...]
    pictures: tuple[str, ...] | None  # None: all there are
    iterations: int
    threads: tuple[int, ...]
    repeats: int | None  # None: 7, and 3 from a million pixels
    cold: bool
    rival: bool
    memory: bool
    plot: bool
    device: str
    quick: bool

    def repeats_for(self, size: Size) -> int:
        """Repetitions at a size."""
        if self.repeats is not None:
            return self.repeats
        return 3 if size.pixels >= LARGE_PIXELS else 7


def run(settings: Settings, output: Path | None) -> dict[str, Any]:
    """Measure every case; print the table; keep JSON (after every case) and the plot in `output`.

    Raises:
        DisagreementError: an answer of ours is not pydensecrf2's.
        RuntimeError: pydensecrf2 is wanted and not installed.
    """
    if settings.rival and importlib.util.find_spec("pydensecrf") is None:
        raise RuntimeError("pydensecrf2 is not installed: pip install pydensecrf2, or --no-rival")
    document: dict[str, Any] = {
        "benchmark": "crf",
        "schema": 1,
        "quick": settings.quick,
        "cold": settings.cold,
        "device": settings.device,
        "iterations": settings.iterations,
        "threads": list(settings.threads),
        "machine": machine.describe(),
        "cases": [],
    }
    load = machine.load_average()[0]
    if load > BUSY:
        sys.stderr.write(
            f"the machine is busy (load average {load:.1f}): do not quote these times\n"
        )
    plan = [
        (size, picture, params)
        for size in settings.sizes
        for picture in picture_names(size, settings.pictures)
        for params in settings.params
    ]
    threads_before = torch.get_num_threads()
    try:
        for number, (size, picture, params) in enumerate(plan, start=1):
            case = make_case(picture, size, params, settings.iterations)
            say = _narrator(f"[{number}/{len(plan)}] {case}")
            document["cases"].append(_measure(case, settings, say))
            if output is not None:
                report.write_json(document, output)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: what follows is the finished cases\n")
    finally:
        torch.set_num_threads(threads_before)
    if document["cases"]:
        print(report.crf_table(document))
        if output is not None and settings.plot:
            report.crf_plot(document, output)
    return document


def _narrator(label: str) -> Callable[[str], None]:
    started = time.monotonic()

    def say(text: str) -> None:
        elapsed = time.monotonic() - started
        sys.stderr.write(f"{label} {elapsed:6.1f} s  {text}\n")
        sys.stderr.flush()

    return say


def _measure(case: Case, settings: Settings, say: Callable[[str], None]) -> dict[str, Any]:
    """One case: agreement, times, memory."""
    torch.set_num_threads(max(settings.threads))
    ours = run_densecrf_gpu(case, "probabilities")
    labels = ours.argmax(0)
    agreement = None
    if settings.rival:
        agreement = _compare(case, ours, run_pydensecrf2(case, "probabilities"))
        say(
            f"labels {100 * agreement['labels']:.4f} %, "
            f"mean |dQ| {agreement['mean_abs_dq']:.1e}, max {agreement['max_abs_dq']:.1e}"
        )
    del ours

    def examine(contender: Contender, result: torch.Tensor) -> None:
        same = (result == labels).double().mean().item()
        if same < MIN_LABEL_AGREEMENT:
            raise DisagreementError(
                f"{case}: {contender}: {100 * same:.4f} % of the labels checked"
            )

    contenders = list(_contenders(case, settings))
    say(f"timing {' | '.join(map(str, contenders))}")
    load = machine.OtherLoad()
    times = interleave(
        contenders, settings.repeats_for(case.size), STOPWATCHES[settings.device], examine, say
    )
    other_load = load.read()
    baseline = times[0] if settings.rival else None
    results = []
    for contender, rows in zip(contenders, times, strict=True):
        summary = summarise(rows)
        work = case.size.pixels * case.size.classes * case.iterations
        results.append(
            {
                "implementation": contender.name,
                "threads": contender.threads,
                "cache": contender.cache,
                **summary,
                "ns_per_pixel_class_iteration": 1e6 * summary["median_ms"] / work,
                "speedup": baseline and paired_ratio(baseline, rows),
                "times_ms": [[round(lap.wall, 3) for lap in row] for row in rows],
                "memory": None,
            }
        )
    if settings.memory:
        _add_memory(case, results, say)
    return {
        "picture": case.picture,
        "size": asdict(case.size),
        "params": asdict(case.params),
        "vertices": vertex_counts(case),
        "agreement": agreement,
        "other_load": other_load,
        "load_average": machine.load_average(),
        "results": results,
    }


def _compare(case: Case, ours: torch.Tensor, theirs: torch.Tensor) -> dict[str, float]:
    """Agreement of two answers [C, H, W]; DisagreementError where it is not enough to time them."""
    difference = (ours - theirs).abs()
    agreement = {
        "labels": (ours.argmax(0) == theirs.argmax(0)).double().mean().item(),
        "mean_abs_dq": difference.double().mean().item(),
        "max_abs_dq": difference.max().item(),
    }
    if agreement["labels"] < MIN_LABEL_AGREEMENT or agreement["mean_abs_dq"] >= MAX_MEAN_ABS_DQ:
        raise DisagreementError(
            f"{case}: expected {100 * MIN_LABEL_AGREEMENT:.2f} % equal labels and mean |dQ| < "
            f"{MAX_MEAN_ABS_DQ:g}, found {100 * agreement['labels']:.4f} % and "
            f"{agreement['mean_abs_dq']:.2e}"
        )
    return agreement


def _contenders(case: Case, settings: Settings) -> Iterator[Contender]:
    """The rival first (it is the baseline), then ours; with --cold, ours without the cache only."""

    def nothing() -> None:
        pass

    if settings.rival:
        yield Contender(
            RIVAL, 1, "none", lambda: run_pydensecrf2(case, "labels"), nothing, nothing, runs=1
        )

    def ours(threads: int, cache: str) -> Contender:
        def settle() -> None:
            torch.set_num_threads(threads)
            run_densecrf_gpu(case, "labels")

        return Contender(
            OURS,
            threads,
            cache,
            lambda: run_densecrf_gpu(case, "labels"),
            settle,
            forget_spatial_lattices if cache == "cold" else nothing,
            OUR_RUNS,
        )

    for threads in settings.threads:
        yield ours(threads, "cold" if settings.cold else "warm")
    if not settings.cold:
        yield ours(max(settings.threads), "cold")


def _add_memory(case: Case, results: Sequence[dict[str, Any]], say: Callable[[str], None]) -> None:
    """Measure each implementation at each thread count once, and note it in its results."""
    measured: dict[tuple[str, int], memory.Memory] = {}
    for result in results:
        key = (result["implementation"], result["threads"])
        if key not in measured:
            measured[key] = memory.measure(case, *key)
            say(f"memory of {key[0]}, {key[1]} threads: {_mib(measured[key]['peak_bytes'])} MiB")
        result["memory"] = measured[key]


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f}"
