"""`python -m benchmarks networks`: size, cost and time of DeepLab's networks, without a CRF.

A call is one picture's way from normalised pixels to scores of its own size, float32. Weights are
random: convolutions take as long with any.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import deeplab
from deeplab.cli.models import multiply_adds

from . import machine, report
from .timing import Lap, summarise, time_on_cpu

CLASSES = 21

#: Mean IoU on VOC 2012 val in the papers, in percent, alone and with their CRF; None where they
#: give none. One scale, no flip. v1: ICLR 2015, those without a CRF from v2; v2: TPAMI 2018; v3:
#: arXiv 1706.05587, and v3+: ECCV 2018, at output stride 16 and without a CRF.
PAPERS: dict[str, tuple[float | None, float | None]] = {
    "deeplabv1_vgg16": (62.25, 67.64),
    "deeplabv1_vgg16_4x4": (59.80, 63.74),
    "deeplabv1_vgg16_4x4_fov224": (63.41, 67.14),
    "deeplabv1_vgg16_7x7": (64.38, 67.64),
    "deeplabv2_vgg16_largefov": (65.76, 69.84),
    "deeplabv2_vgg16_aspp_s": (66.98, 69.73),
    "deeplabv2_vgg16_aspp_l": (68.96, 71.57),
    "deeplabv2_resnet101_largefov": (75.54, None),
    "deeplabv2_resnet101": (76.35, 77.69),
    "deeplabv3_resnet50": (None, None),
    "deeplabv3_resnet101": (77.21, None),
    "deeplabv3_mobilenetv2": (None, None),
    "deeplabv3_mobilenetv2_no_aspp": (None, None),
    "deeplabv3_mobilenetv3_large": (None, None),
    "deeplabv3_xception": (None, None),
    "deeplabv3_xception65": (None, None),
    "deeplabv3plus_resnet50": (None, None),
    "deeplabv3plus_resnet101": (78.85, None),
    "deeplabv3plus_mobilenetv2": (None, None),
    "deeplabv3plus_xception": (None, None),
    "deeplabv3plus_xception65": (79.79, None),
}


def run(
    names: Sequence[str],
    size: tuple[int, int],
    threads: int,
    repeats: int,
    output: Path | None,
    quick: bool,
) -> report.Document:
    """Counts and times each network on a picture of (height, width), and keeps JSON in `output`.

    Raises:
        ValueError: a name is no network's.
    """
    document: report.Document = {
        "benchmark": "networks",
        "schema": 1,
        "quick": quick,
        "device": "cpu",
        "size": {"width": size[1], "height": size[0], "classes": CLASSES},
        "threads": [threads],
        "repeats": repeats,
        "machine": machine.describe(),
        "cases": [],
    }
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for name in names:
            sys.stderr.write(f"{name}\n")
            document["cases"].append(_case(name, size, repeats))
    finally:
        torch.set_num_threads(before)
    print(report.text_table(HEADER, rows(document)))
    if output is not None:
        report.write_json(document, output)
    return document


def _case(name: str, size: tuple[int, int], repeats: int) -> dict[str, Any]:
    with torch.device("meta"):
        outline = deeplab.build(name, num_classes=CLASSES).eval()
    torch.manual_seed(0)
    model = deeplab.build(name, num_classes=CLASSES).eval()
    images = model.normalize(torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8))
    load = machine.OtherLoad()
    laps = _laps(model, images, repeats)
    return {
        "network": name,
        "output_stride": model.output_stride,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "multiply_adds": multiply_adds(outline, size),
        "time": {**summarise([laps]), "all_ms": [round(lap.wall, 3) for lap in laps]},
        "other_load": load.read(),
    }


@torch.inference_mode()
def _laps(model: deeplab.DeepLab, images: torch.Tensor, repeats: int) -> list[Lap]:
    """Calls in a row, after one untimed that allocates."""
    return [time_on_cpu(lambda: model(images))[0] for _ in range(repeats + 1)][1:]


HEADER = ("network", "stride", "parameters M", "multiply-adds G", "CPU ms", "median ms", "min",
          "IQR")  # fmt: skip


_TIMES = ("median_cpu_ms", "median_ms", "min_ms", "iqr_ms")


def rows(document: report.Document) -> list[tuple[str, ...]]:
    """One row a network."""
    return [
        (
            case["network"],
            str(case["output_stride"]),
            f"{case['parameters'] / 1e6:.2f}",
            f"{case['multiply_adds'] / 1e9:.1f}",
            *(f"{case['time'][key]:.1f}" for key in _TIMES),
        )
        for case in document["cases"]
    ]


def section(results: Path) -> str:
    """The table of networks from the newest full results, the papers' scores beside our times.

    Raises:
        FileNotFoundError: there are none.
    """
    documents = report.read_results(results, "networks")
    if not documents:
        raise FileNotFoundError(f"no results of `python -m benchmarks networks` in {results.name}/")
    document = documents[-1]
    cases = {case["network"]: case for case in document["cases"]}
    threads, size, about = document["threads"][0], document["size"], document["machine"]
    header = ("network", "parameters", "multiply–adds", "time", "mean IoU in the paper", "with CRF")
    lines = [f"| {' | '.join(header)} |", "|---|---:|---:|---:|---:|---:|"]
    for name, scores in PAPERS.items():
        case = cases[name]
        cells = [
            f"`{name}`",
            f"{case['parameters'] / 1e6:.2f} M",
            f"{case['multiply_adds'] / 1e9:.1f} G",
            _seconds(case["time"]["median_cpu_ms" if threads == 1 else "median_ms"]),
            *("–" if score is None else f"{score:.2f}" for score in scores),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    # On one thread the processor's time is the call's, whatever else the machine does meanwhile.
    clock = "processor time, medians" if threads == 1 else "medians"
    load = max((case["other_load"] or 0.0 for case in document["cases"]), default=0.0)
    note = f" Other programs kept up to {load:.1f} cores busy meanwhile." if load > 0.1 else ""
    table = "\n".join(lines)
    return (
        f"{table}\n\n"
        f"Time: {clock} of {document['repeats']} calls on one picture of {size['width']} × "
        f"{size['height']}, {size['classes']} classes, float32, {threads} "
        f"thread{'s' if threads > 1 else ''} of {about['cpu']} ({about['isa']['torch']}), torch "
        f"{about['versions']['torch']}, {about['date'][:10]}, commit {about['commit']}: "
        f"`python -m benchmarks networks`.{note}"
    )


def _seconds(milliseconds: float) -> str:
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.2f} s"
