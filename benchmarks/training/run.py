"""All seeds of the training benchmark, each kept as it ends, and the tables of all."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine, report

from .data import load_split, msrc_folder
from .experiment import FULL, QUICK, Plan, Splits, supervised, weakly_supervised

HEADER = ("method", "accuracy", "mIoU", "trimap mIoU")
NAMES = ("accuracy", "miou", "trimap_miou")


def run(seeds: Sequence[int], output: Path | None, quick: bool) -> None:
    """Runs what is not kept yet, prints the tables, writes JSON and Markdown.

    Args:
        seeds: of the runs.
        output: the folder of results; seeds that ended lie in its ``training-parts``. None keeps
            nothing.
        quick: with a plan that only shows that it runs.
    """
    plan = QUICK if quick else FULL
    folder = msrc_folder()
    splits = Splits(*(load_split(folder, name, plan.limit) for name in ("train", "val", "test")))
    torch.set_num_threads(1)
    parts = [_one_seed(seed, splits, plan, output) for seed in seeds]
    document = {
        "benchmark": "training",
        "device": "cpu",
        "quick": quick,
        "machine": machine.describe(),
        "data": "MSRC-21",
        "pictures": {name: len(value) for name, value in vars(splits).items()},
        "plan": asdict(plan),
        "seeds": parts,
    }
    print(text(document))
    if output is not None:
        path = report.write_json(document, output)
        path.with_suffix(".md").write_text(markdown(document))
        print(f"written: {path} and {path.with_suffix('.md').name}")


def _one_seed(seed: int, splits: Splits, plan: Plan, output: Path | None) -> dict[str, Any]:
    path = None if output is None else output / "training-parts" / f"seed-{seed}.json"
    settings = json.loads(json.dumps(asdict(plan)))
    if path is not None and path.exists():
        kept: dict[str, Any] = json.loads(path.read_text())
        if kept["plan"] == settings:
            return kept["result"]  # type: ignore[no-any-return]
    start = time.monotonic()

    def say(line: str) -> None:
        print(f"seed {seed}, {time.monotonic() - start:5.0f} s: {line}", flush=True)

    result = {
        "seed": seed,
        "supervised": supervised(splits, plan, seed, say),
        "scribbles": weakly_supervised(splits, plan, seed, say),
    }
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"plan": settings, "result": result}, indent=1) + "\n")
    return result


def rows(document: report.Document, experiment: str) -> list[tuple[str, ...]]:
    """Mean and standard deviation over the seeds of every method, in percent."""
    runs = [one[experiment]["scores"] for one in document["seeds"]]
    return [
        (method, *(_spread([100 * run[method][name] for run in runs]) for name in NAMES))
        for method in runs[0]
    ]


def gains(document: report.Document, experiment: str, one: str, other: str) -> str:
    """How much a method is above another, seed by seed."""
    runs = [part[experiment]["scores"] for part in document["seeds"]]
    texts = []
    for name, title in zip(NAMES, HEADER[1:], strict=True):
        values = [100 * (run[one][name] - run[other][name]) for run in runs]
        texts.append(f"{title} {_spread(values, sign=True)}")
    return f"{one} against {other}, seed by seed: {', '.join(texts)}"


def _spread(values: Sequence[float], sign: bool = False) -> str:
    mean = f"{statistics.mean(values):{'+' if sign else ''}.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


LEARNED = "CRF as RNN, end to end"
CLAIMS = (
    ("supervised", LEARNED, "preset CRF"),
    ("supervised", LEARNED, "preset CRF, trained longer"),
    ("supervised", LEARNED, "fitted CRF, trained longer"),
    ("scribbles", "with DenseCRFLoss", "partial cross-entropy"),
)


def text(document: report.Document) -> str:
    """Both tables for the terminal."""
    blocks = [
        report.text_table(HEADER, rows(document, name)) for name in ("supervised", "scribbles")
    ]
    blocks.append("\n".join(gains(document, *claim) for claim in CLAIMS))
    return "\n\n".join(blocks)


def markdown(document: report.Document) -> str:
    """Both tables with what they were measured on."""
    counts, plan = document["pictures"], document["plan"]
    about = document["machine"]
    seeds = ", ".join(str(part["seed"]) for part in document["seeds"])
    labelled = statistics.mean(part["scribbles"]["labelled"] for part in document["seeds"])
    network, more, weak = plan["network"], plan["more"], plan["scribbles"]
    lines = [
        "# Training through the CRF, on MSRC-21",
        "",
        f"`python -m benchmarks training`, {about['date'][:10]}, commit {about['commit']}, "
        f"{about['cpu']}, one thread. Percent on the {counts['test']} test pictures, mean ± "
        f"standard deviation over seeds {seeds}. Pictures at half size, 160 x 107. "
        "Trimap: pixels within 2 of a border between labels.",
        "",
        f"A small network, {network['epochs']} epochs on {counts['train']} pictures from scratch. "
        f"Fitted: `search_crf` on {plan['fitted_on']} validation pictures. Trained longer: "
        f"{more['epochs']} more epochs without the CRF; end to end: as many through `CRFasRNN`, "
        "which starts from the fitted parameters. CRFs run 10 iterations, the layer 5 in training. "
        "Preset: `CRFParams.pydensecrf()`, bandwidths of positions halved as the pictures are.",
        "",
        report.markdown_table(HEADER, rows(document, "supervised")),
        "",
        f"Scribbles on {100 * labelled:.1f} % of the training pixels: {weak['epochs']} epochs of "
        f"partial cross-entropy, then {more['epochs']} more with or without `DenseCRFLoss` "
        f"(weight {plan['loss_weight']:g}).",
        "",
        report.markdown_table(HEADER, rows(document, "scribbles")),
        "",
        *(f"* {gains(document, *claim)}" for claim in CLAIMS),
        "",
    ]
    return "\n".join(lines)
