"""Evaluations as text, JSON and a plot."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .evaluation import Evaluation, Result

_SHOWN = 8  # widths of bands in the table

_NAMES = {
    "mean_iou": "mean IoU",
    "pixel_accuracy": "pixel accuracy",
    "mean_class_accuracy": "mean class accuracy",
    "weighted_iou": "frequency-weighted IoU",
}


def table(evaluation: Evaluation, classes: Sequence[str]) -> str:
    """IoU by class, then the common scores, in percent; with and without CRF, and the gain."""
    results = [r for r in (evaluation.network, evaluation.crf) if r is not None]
    rows = [
        (name, [float(result.scores.iou[index]) for result in results])
        for index, name in enumerate(classes)
    ]
    common = [
        (text, [float(getattr(result.scores, field)) for result in results])
        for field, text in _NAMES.items()
    ]
    width = max(len(name) for name, _ in rows + common)
    head = ["network", "with CRF", "gain"] if len(results) == 2 else ["network"]
    lines = [f"{'IoU, %':<{width}}" + "".join(f"{text:>10}" for text in head)]
    lines += [_row(name, values, width) for name, values in rows]
    lines += ["", *(_row(name, values, width) for name, values in common)]
    for index, band in enumerate(evaluation.widths):
        if len(evaluation.widths) > _SHOWN and band & (band - 1):
            continue  # many widths are for the plot: the table shows the powers of two
        values = [float(result.trimap[index].mean_iou) for result in results]
        lines.append(_row(f"mean IoU within {band} px", values, width))
    lines += ["", _note(evaluation)]
    return "\n".join(lines)


def _row(name: str, values: Sequence[float], width: int) -> str:
    cells = "".join(f"{'–' if math.isnan(v) else f'{100 * v:.2f}':>10}" for v in values)
    if len(values) == 2 and not any(map(math.isnan, values)):
        cells += f"{100 * (values[1] - values[0]):>+10.2f}"
    return f"{name:<{width}}{cells}"


def _note(evaluation: Evaluation) -> str:
    result = evaluation.network
    text = (
        f"{evaluation.images} pictures, {result.scores.pixels} labelled pixels; "
        f"network {1000 * result.seconds:.0f} ms a picture"
    )
    if evaluation.crf is not None:
        text += f", CRF {1000 * evaluation.crf.seconds:.0f} ms"
    return text


def as_json(
    evaluation: Evaluation, classes: Sequence[str], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """All scores in [0, 1], null for a class that occurs nowhere, with what was run."""
    report: dict[str, Any] = {"settings": dict(settings), "images": evaluation.images}
    for name, result in (("network", evaluation.network), ("crf", evaluation.crf)):
        if result is not None:
            report[name] = _result(result, classes, evaluation.widths)
    return report


def _result(result: Result, classes: Sequence[str], widths: Sequence[int]) -> dict[str, Any]:
    scores = result.scores
    report: dict[str, Any] = {field: getattr(scores, field) for field in _NAMES}
    report["pixels"] = scores.pixels
    report["seconds_per_image"] = result.seconds
    for field in ("iou", "class_accuracy"):
        values = getattr(scores, field).tolist()
        report[field] = {
            name: None if math.isnan(value) else value
            for name, value in zip(classes, values, strict=True)
        }
    if widths:
        report["trimap_mean_iou"] = {
            str(width): band.mean_iou for width, band in zip(widths, result.trimap, strict=True)
        }
    return report


def write_json(path: Path, report: Mapping[str, Any]) -> None:
    """Writes a report."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")


def plot_trimap(evaluation: Evaluation, path: Path) -> None:
    """Draws mean IoU over band width, as the papers do; PNG, PDF or SVG by the path's suffix.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        ValueError: no bands were counted.
    """
    if not evaluation.widths:
        raise ValueError("expected an evaluation with trimap bands, found none")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for label, color, result in (
        ("network", "tab:gray", evaluation.network),
        ("with CRF", "tab:blue", evaluation.crf),
    ):
        if result is not None:
            values = [100 * band.mean_iou for band in result.trimap]
            marker = "o" if len(values) < 12 else None
            axes.plot(evaluation.widths, values, color=color, marker=marker, label=label)
            axes.axhline(100 * result.scores.mean_iou, color=color, linestyle=":", linewidth=1)
    axes.set_xlabel("width of the band around outlines, pixels")
    axes.set_ylabel("mean IoU, %")
    axes.set_title("Dotted: whole pictures", fontsize="small", loc="right")
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
