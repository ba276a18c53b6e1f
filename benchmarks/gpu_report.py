"""What is shown and kept of a measurement on a GPU: terminal, plot, the table of README.md."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from . import report
from .report import Document

PENDING = (
    "GPU results are pending: no measurement of the CUDA backend is kept yet "
    "(`make gpu-check`, on a machine with a GPU, makes one)."
)
HEADER = (
    "milliseconds", "alone", "queued", "graph", "bilateral", "spatial", "iteration", "of copy",
    "peak MiB", "target", "CPU", "pydensecrf2",
)  # fmt: skip


def name(case: dict[str, Any]) -> str:
    """Size, picture, bandwidths and batch."""
    return f"{report.case_name(case)} x{case['batch']}"


def line(case: dict[str, Any]) -> str:
    """One case for who waits."""
    if case["error"]:
        return f"{name(case)}: {case['error']}"
    times = case["times"]
    return (
        f"{name(case)}: {times['latency']['median_ms']:.3f} ms alone, "
        f"{times['queued']['median_ms']:.3f} ms queued"
    )


def table(document: Document) -> str:
    """One line a case; times of a batch are the whole batch's."""
    rows = [_row(case) for case in document["cases"]]
    title = (
        f"{document['machine']['gpu'] or 'rehearsed on the CPU'}; copies run at "
        f"{document['copy_gb_s']:.0f} GB/s; {document['iterations']} iterations"
    )
    return f"{title}\n{report.text_table(HEADER, rows)}"


def _row(case: dict[str, Any]) -> tuple[str, ...]:
    peers, times = case["peers"], case["times"]
    target = case["target_ms"] and case["target_ms"] * case["batch"]  # of an image
    ends = (_ms(target), _ms(peers["densecrf_gpu_cpu_ms"]), _ms(peers["pydensecrf2_ms"]))
    if times is None:
        return (name(case), "failed", *["-"] * 7, *ends)
    return (
        name(case),
        *(_ms(times[part]["median_ms"]) for part in ("latency", "queued")),
        _ms((times["graph"] or {}).get("median_ms")),
        *(_ms(times[part]["median_ms"]) for part in ("build_bilateral", "build_spatial")),
        _ms(times["iteration_ms"]),
        f"{100 * times['share_of_copy']:.0f} %",
        "-" if times["peak_bytes"] is None else f"{times['peak_bytes'] / 2**20:.0f}",
        *ends,
    )


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def plot(document: Document, folder: Path) -> Path:
    """Where the time of a call goes: builds and iterations as stacked bars, a panel a size."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    panels: dict[str, list[dict[str, Any]]] = {}
    for case in document["cases"]:
        if case["times"] is not None:
            panels.setdefault(report.size_name(case["size"]), []).append(case)
    counts = [len(cases) for cases in panels.values()] or [1]
    figure, grid = plt.subplots(
        len(counts),
        squeeze=False,
        figsize=(9, 1.5 + len(counts) + 0.3 * sum(counts)),
        height_ratios=counts,
        layout="constrained",
    )
    for axes, (size, cases) in zip(grid[:, 0], panels.items(), strict=True):
        labels = [f"{c['picture']} {report.bandwidths(c['params'])} ×{c['batch']}" for c in cases]
        builds = [c["times"]["build_bilateral"]["median_ms"] / c["batch"] for c in cases]
        loops = [document["iterations"] * c["times"]["iteration_ms"] / c["batch"] for c in cases]
        wholes = [c["times"]["queued"]["median_ms"] / c["batch"] for c in cases]
        axes.barh(labels, builds, color="#fdae6b", label="bilateral lattice")
        axes.barh(labels, loops, left=builds, color="#3182bd", label="iterations")
        axes.plot(wholes, labels, "k|", markersize=12, label="whole call")
        axes.set_title(size, fontsize=10, loc="left")
        axes.invert_yaxis()
    grid[-1, 0].set_xlabel("milliseconds an image, median")
    about = document["machine"]["gpu"]
    figure.suptitle(f"Dense CRF, {document['iterations']} iterations: "
                    f"{about['name'] if about else 'rehearsed on the CPU'}")  # fmt: skip
    handles, names = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, fontsize=8)
    path = folder / f"{report.stem(document)}.png"
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def readme_section(documents: list[Document]) -> str:
    """The newest measurement as a table, or that there is none."""
    if not documents:
        return PENDING
    document = documents[-1]
    groups: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for case in document["cases"]:
        key = (report.size_name(case["size"]), report.bandwidths(case["params"]), case["batch"])
        groups.setdefault(key, []).append(case)
    header = ("size, classes", "sxy/srgb", "batch", "vertices per pixel", "a call alone", "queued",
              "build", "an iteration", "peak memory", "CPU backend", "pydensecrf2")  # fmt: skip
    rows = [_readme_row(key, cases) for key, cases in groups.items()]
    about, gpu = document["machine"], document["machine"]["gpu"]
    threads = document["cases"][0]["peers"]["cpu_threads"]
    return (
        f"{report.markdown_table(header, rows)}\n\n"
        f"Whole calls from logits to labels on the GPU, {document['iterations']} iterations, "
        f"milliseconds an image, medians: *alone* by the host's clock from the call to the result, "
        f"*queued* by CUDA events, calls one after another. *Build* is the bilateral lattice, part "
        f"of every call. CPU backend ({threads} threads) and pydensecrf2 ran on the same machine. "
        f"Measured on {gpu['name']}, driver {gpu['driver']}, torch {about['versions']['torch']}, "
        f"{about['date'][:10]}, commit {about['commit']}; copies there run at "
        f"{document['copy_gb_s']:.0f} GB/s: `python -m benchmarks crf --device cuda`."
    )


def _readme_row(key: tuple[str, str, int], cases: list[dict[str, Any]]) -> list[str]:
    size, bandwidths, batch = key
    pixels = cases[0]["size"]["width"] * cases[0]["size"]["height"]
    timed = [case["times"] for case in cases if case["times"] is not None]

    def median(values: list[float | None]) -> str:
        known = [value for value in values if value is not None]
        return f"{statistics.median(known):.3g} ms" if known else "-"

    def an_image(part: str) -> str:
        return median([times[part]["median_ms"] / batch for times in timed])

    peaks = [times["peak_bytes"] for times in timed if times["peak_bytes"] is not None]
    return [
        size,
        bandwidths,
        str(batch),
        f"{statistics.median(c['vertices']['bilateral'] / pixels for c in cases):.2f}",
        an_image("latency"),
        an_image("queued"),
        an_image("build_bilateral"),
        median([times["iteration_ms"] / batch for times in timed]),
        f"{max(peaks) / 2**20:.0f} MiB" if peaks else "-",
        median([case["peers"]["densecrf_gpu_cpu_ms"] for case in cases]),
        median([case["peers"]["pydensecrf2_ms"] for case in cases]),
    ]
