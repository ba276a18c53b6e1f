"""What is shown and kept of a measurement: tables on the terminal, JSON, a plot."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .rivals import RIVAL

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Document = dict[str, Any]
RESULTS = Path(__file__).resolve().parent / "results"
COLOURS = ("#8c8c8c", "#9ecae1", "#3182bd", "#08519c", "#fdae6b")  # the rival first


def stem(document: Document) -> str:
    """File name of a measurement: what, on which device, on which day."""
    day = document["machine"]["date"][:10]
    quick = "-quick" if document["quick"] else ""
    return f"{document['benchmark']}-{document['device']}-{day}{quick}"


def write_json(document: Document, folder: Path) -> Path:
    """Write the document so that a reader never sees half of it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem(document)}.json"
    partial = path.with_suffix(".json.partial")
    partial.write_text(json.dumps(document, indent=1) + "\n")
    return partial.replace(path)


def read_results(folder: Path, benchmark: str) -> list[Document]:
    """The full (not quick) measurements of a kind in `folder`, oldest first."""
    documents = [json.loads(path.read_text()) for path in folder.glob(f"{benchmark}-*.json")]
    full = [document for document in documents if not document["quick"]]
    return sorted(full, key=lambda document: str(document["machine"]["date"]))


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns padded to their widest entry: the first to the left, the others to the right."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for row in (header, *rows):
        first, *others = (
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join((first, *others)).rstrip())
    return "\n".join(lines)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first two columns are text and the others numbers."""
    rule = ["---" if index < 2 else "---:" for index in range(len(header))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def case_name(case: dict[str, Any]) -> str:
    """Size, picture and bandwidths."""
    return f"{size_name(case['size'])} {case['picture']} {bandwidths(case['params'])}"


def size_name(size: dict[str, int]) -> str:
    """Width, height and classes: 500x375x21."""
    return f"{size['width']}x{size['height']}x{size['classes']}"


def bandwidths(params: dict[str, float]) -> str:
    """Of the bilateral term, in pixels and colour units: 80/13."""
    return f"{params['bilateral_sxy']:g}/{params['bilateral_srgb']:g}"


def contender_name(result: dict[str, Any]) -> str:
    """Implementation, threads, and the state of the cache of spatial lattices."""
    threads = f"{result['threads']} thread{'s' if result['threads'] > 1 else ''}"
    cache = "" if result["cache"] == "none" else f", {result['cache']}"
    return f"{result['implementation']}, {threads}{cache}"


def crf_table(document: Document) -> str:
    """One block a case: what was checked, then a line a contender."""
    header = (
        "milliseconds", "median", "min", "IQR", "CPU", "ns/px/class/it", "speed-up", "range",
        "first call", "peak MiB", "kept MiB",
    )  # fmt: skip
    blocks = []
    for case in document["cases"]:
        vertices, agreement = case["vertices"], case["agreement"]
        title = f"{case_name(case)}: {vertices['bilateral']} + {vertices['spatial']} vertices"
        if agreement:
            title += (
                f"; labels {100 * agreement['labels']:.4f} % equal, "
                f"mean |dQ| {agreement['mean_abs_dq']:.1e}"
            )
        if case["other_load"] is not None:
            title += f"; others kept {case['other_load']:.2f} cores busy"
        rows = [_crf_row(result) for result in case["results"]]
        blocks.append(f"{title}\n{text_table(header, rows)}")
    return "\n\n".join(blocks)


def _crf_row(result: dict[str, Any]) -> tuple[str, ...]:
    speedup, memory = result["speedup"], result["memory"]
    return (
        contender_name(result),
        f"{result['median_ms']:.1f}",
        f"{result['min_ms']:.1f}",
        f"{result['iqr_ms']:.1f}",
        f"{result['median_cpu_ms']:.1f}",
        f"{result['ns_per_pixel_class_iteration']:.2f}",
        f"{speedup['median']:.2f}x" if speedup else "-",
        f"{speedup['min']:.1f}-{speedup['max']:.1f}" if speedup else "-",
        f"{memory['first_call_ms']:.1f}" if memory else "-",
        f"{memory['peak_bytes'] / 2**20:.1f}" if memory else "-",
        f"{memory['kept_bytes'] / 2**20:.1f}" if memory else "-",
    )


def require_matplotlib() -> None:
    """RuntimeError, before anything is timed, where the plot could not be drawn afterwards."""
    if importlib.util.find_spec("matplotlib") is None:
        raise RuntimeError("the plot needs matplotlib: pip install matplotlib, or --no-plot")


def crf_plot(document: Document, folder: Path) -> Path:
    """Median times as bars, a panel a size, the speed-ups written beside them."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    panels: dict[str, list[dict[str, Any]]] = {}
    for case in document["cases"]:
        panels.setdefault(size_name(case["size"]), []).append(case)
    counts = [len(cases) for cases in panels.values()]
    bars = len(document["cases"][0]["results"])
    figure, grid = plt.subplots(
        len(panels),
        squeeze=False,
        figsize=(9, 1.5 + len(panels) + 0.17 * bars * sum(counts)),
        height_ratios=counts,
        layout="constrained",
    )
    for axes, (name, cases) in zip(grid[:, 0], panels.items(), strict=True):
        _crf_panel(axes, cases)
        axes.set_title(name, fontsize=10, loc="left")
    grid[-1, 0].set_xlabel("whole call, median, milliseconds")
    about = document["machine"]
    figure.suptitle(
        f"Dense CRF, {document['iterations']} iterations: {about['cpu']}, {about['cores']} cores",
        fontsize=11,
    )
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8)
    path = folder / f"{stem(document)}.png"
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def _crf_panel(axes: Axes, cases: Sequence[dict[str, Any]]) -> None:
    """The bars of all cases of one size, on an axis of milliseconds that begins at zero."""
    bars = len(cases[0]["results"])
    height = 0.8 / bars
    for row, case in enumerate(cases):
        for index, result in enumerate(case["results"]):
            y = row + (index - (bars - 1) / 2) * height
            axes.barh(
                y,
                result["median_ms"],
                height,
                color=COLOURS[index % len(COLOURS)],
                label=contender_name(result) if row == 0 else None,
            )
            text = f" {result['median_ms']:,.0f} ms"
            if result["speedup"] and result["implementation"] != RIVAL:
                text += f"  ({result['speedup']['median']:.1f}x)"
            axes.text(result["median_ms"], y, text, va="center", fontsize=7)
    names = [f"{case['picture']} {bandwidths(case['params'])}" for case in cases]
    axes.set_yticks(range(len(cases)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * axes.get_xlim()[1])  # room for the text
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


MEMORY_HEADER = ("picture", "bandwidths", "vertices/px", "output", "peak MiB", "bytes/(px*class)",
                 "kept MiB")  # fmt: skip


def memory_rows(document: Document) -> Sequence[Sequence[str]]:
    """One row a measured call."""
    rows = []
    for case in document["cases"]:
        size, measured = case["size"], case["memory"]
        pixels = size["width"] * size["height"]
        rows.append(
            (
                size_name(size),
                bandwidths(case["params"]),
                f"{case['vertices']['bilateral'] / pixels:.2f}",
                case["output"],
                f"{measured['peak_bytes'] / 2**20:.1f}",
                f"{measured['peak_bytes'] / (pixels * size['classes']):.1f}",
                f"{measured['kept_bytes'] / 2**20:.1f}",
            )
        )
    return rows
