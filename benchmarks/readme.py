"""`python -m benchmarks readme`: the measured tables of the pages, from the newest results."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from . import gpu_report, report
from .rivals import OURS, RIVAL

BEGIN = "<!-- benchmark:begin -->"
END = "<!-- benchmark:end -->"


def update(page: Path, measured: str) -> bool:
    """Put `measured` between the markers of a page; True where that changed the file.

    Raises:
        ValueError: the file does not hold the two markers, once each and in order.
    """
    text = page.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"{page.name} must hold {BEGIN} and {END}, once each and in this order")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    updated = f"{before}{BEGIN}\n{measured}\n{END}{after}"
    page.write_text(updated)
    return updated != text


def section(results: Path) -> str:
    """README.md's tables: the newest of speed, memory, and speed on a GPU.

    Raises:
        FileNotFoundError: there are no full results.
    """
    every = report.read_results(results, "crf")
    crf = [document for document in every if document["device"] == "cpu"]
    if not crf:
        raise FileNotFoundError(f"no results of `python -m benchmarks crf` in {results.name}/")
    parts = [_speed(crf[-1])]
    memory = report.read_results(results, "memory")
    if memory:
        parts.append(_memory(memory[-1]))
    parts.append(gpu_report.readme_section([d for d in every if d["device"] == "cuda"]))
    return "\n\n".join(parts)


def _speed(document: report.Document) -> str:
    """A row a size and parameter set: over its pictures, medians of medians, range of ratios."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for case in document["cases"]:
        groups.setdefault((_size(case["size"]), report.bandwidths(case["params"])), []).append(case)
    headline = "cold" if document["cold"] else "warm"
    threads = document["threads"]
    header = ["size", "sxy/srgb", "vertices per pixel", RIVAL]
    header += [f"{OURS}, {_threads(count)}" for count in threads]
    header += [f"speed-up, {_threads(count)}" for count in threads]
    header += ["peak memory"]
    rows = []
    for (name, bandwidths), cases in groups.items():
        ours = [[_result(case, OURS, count, headline) for case in cases] for count in threads]
        rival = [_result(case, RIVAL, 1, "none") for case in cases]
        pixels = cases[0]["size"]["width"] * cases[0]["size"]["height"]
        row = [
            name,
            bandwidths,
            _range([c["vertices"]["bilateral"] / pixels for c in cases], ".2f"),
        ]
        row.append(_milliseconds(rival))
        row += [_milliseconds(results) for results in ours]
        row += [_speedup(results) for results in ours]
        row.append(f"{_peak(rival)} → {_peak(ours[-1])}")
        rows.append(row)
    about = document["machine"]
    pictures = len({case["picture"] for case in document["cases"]})
    loads = [case["other_load"] for case in document["cases"] if case["other_load"] is not None]
    shared = max(loads, default=0.0)
    note = f" Other programs kept up to {shared:.1f} cores busy meanwhile." if shared > 0.1 else ""
    cache = "rebuilt in every call" if document["cold"] else "cached from an earlier call"
    return (
        f"{report.markdown_table(header, rows)}\n\n"
        f"Whole calls from scores to labels, lattices included (the spatial lattice, the same for "
        f"every image of a size, {cache}), {document['iterations']} iterations; medians, on "
        f"{pictures} real picture{'s' if pictures > 1 else ''}, of interleaved runs. {RIVAL} is "
        f"given energies ready-made and always uses one thread. Peak memory is the extra memory of "
        f"one call. Measured on "
        f"{about['cpu']}, {about['cores']} cores, {about['isa']['densecrf_gpu']}, torch "
        f"{about['versions']['torch']}, {about['date'][:10]}, commit {about['commit']}: "
        f"`python -m benchmarks crf`.{note}"
    )


def _memory(document: report.Document) -> str:
    header = ["size", "sxy/srgb", "vertices per pixel", "peak memory", "bytes per pixel and class"]
    rows = []
    for case in document["cases"]:
        if case["output"] == "labels":
            size, peak = case["size"], case["memory"]["peak_bytes"]
            pixels = size["width"] * size["height"]
            rows.append(
                [
                    _size(size),
                    report.bandwidths(case["params"]),
                    f"{case['vertices']['bilateral'] / pixels:.2f}",
                    f"{peak / 2**20:.0f} MiB",
                    f"{peak / (pixels * size['classes']):.1f}",
                ]
            )
    return (
        f"{report.markdown_table(header, rows)}\n\n"
        f'Peak extra memory of one call of `crf_refine(..., output="labels")`, '
        f'{_threads(document["threads"][0])}; `"probabilities"` are a result of 4 bytes more. The '
        f"lattices come per pixel, whatever the number of classes: `python -m benchmarks memory`."
    )


def _size(size: dict[str, int]) -> str:
    return f"{size['width']}×{size['height']}, {size['classes']} classes"


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def _result(case: dict[str, Any], name: str, threads: int, cache: str) -> dict[str, Any] | None:
    wanted = (name, threads, cache)
    for result in case["results"]:
        if (result["implementation"], result["threads"], result["cache"]) == wanted:
            found: dict[str, Any] = result
            return found
    return None


def _milliseconds(results: list[dict[str, Any] | None]) -> str:
    times = [result["median_ms"] for result in results if result]
    return f"{statistics.median(times):.0f} ms" if times else "-"


def _speedup(results: list[dict[str, Any] | None]) -> str:
    ratios = [result["speedup"]["median"] for result in results if result and result["speedup"]]
    return f"**{_range(ratios, '.1f')}×**" if ratios else "-"


def _peak(results: list[dict[str, Any] | None]) -> str:
    peaks = [result["memory"]["peak_bytes"] for result in results if result and result["memory"]]
    return f"{max(peaks) / 2**20:.0f} MiB" if peaks else "-"


def _range(values: list[float], form: str) -> str:
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low}–{high}"
