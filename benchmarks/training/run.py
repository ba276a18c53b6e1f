"""All seeds of the training benchmark, each kept as it ends, and the tables of all."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine, report

from .data import load_split, msrc_folder
from .experiment import FULL, QUICK, Plan, Splits, supervised, weakly_supervised

HEADER = ("method", "accuracy", "mIoU", "trimap mIoU")
NAMES = ("accuracy", "miou", "trimap_miou")
#: What runs for a seed, and the fields of the plan that bear on it.
EXPERIMENTS: dict[str, tuple[Callable[..., dict[str, Any]], tuple[str, ...]]] = {
    "supervised": (supervised, ("network", "more", "layer_rates", "share", "fitted_on", "limit")),
    "scribbles": (weakly_supervised, ("scribbles", "more", "loss_weight", "limit")),
}


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
    return {
        "seed": seed,
        **{name: _part(name, seed, splits, plan, output) for name in EXPERIMENTS},
    }


def _part(name: str, seed: int, splits: Splits, plan: Plan, output: Path | None) -> dict[str, Any]:
    """Runs an experiment, or takes what is kept of it with these settings."""
    experiment, fields = EXPERIMENTS[name]
    path = None if output is None else output / "training-parts" / f"{name}-{seed}.json"
    every = json.loads(json.dumps(asdict(plan)))
    settings = {field: every[field] for field in fields}
    if path is not None and path.exists():
        kept: dict[str, Any] = json.loads(path.read_text())
        if kept["plan"] == settings:
            return kept["result"]  # type: ignore[no-any-return]
    start = time.monotonic()
    commit = machine.describe()["commit"]  # before: the sources may change while this runs

    def say(line: str) -> None:
        print(f"seed {seed}, {time.monotonic() - start:5.0f} s: {line}", flush=True)

    result = {"commit": commit, **experiment(splits, plan, seed, say)}
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
    """How much a method is above another: mean and deviation of the differences, and each."""
    runs = [part[experiment]["scores"] for part in document["seeds"]]
    texts = []
    for name, title in zip(NAMES, HEADER[1:], strict=True):
        values = [100 * (run[one][name] - run[other][name]) for run in runs]
        each = ", ".join(f"{value:+.2f}" for value in values)
        texts.append(f"{title} {_spread(values, sign=True)} ({each})")
    return f"{one} against {other}, seed by seed: {'; '.join(texts)}"


def _spread(values: Sequence[float], sign: bool = False) -> str:
    mean = f"{statistics.mean(values):{'+' if sign else ''}.2f}"
    return f"{mean} ± {statistics.stdev(values):.2f}" if len(values) > 1 else mean


def _commits(document: report.Document) -> str:
    """Names the commits of both experiments, which need not have run together."""
    found = {
        name: ", ".join(dict.fromkeys(str(part[name]["commit"]) for part in document["seeds"]))
        for name in EXPERIMENTS
    }
    if len(set(found.values())) == 1:
        return f"commit {found['supervised']}"
    return "; ".join(f"{name} at commit {commits}" for name, commits in found.items())


CLAIMS = (
    ("supervised", "CRF as RNN, trained longer", "preset CRF, trained longer"),
    ("supervised", "CRF as RNN, trained longer", "fitted CRF, trained longer"),
    ("supervised", "CRF as RNN, end to end", "preset CRF, trained longer"),
    ("supervised", "CRF as RNN, end to end", "preset CRF, end to end"),
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
        f"`python -m benchmarks training`, {about['date'][:10]}, {_commits(document)}, "
        f"{about['cpu']}, one thread. Percent on the {counts['test']} test pictures, mean ± "
        f"standard deviation over seeds {seeds}. Pictures at half size, 160 x 107. "
        "Trimap: pixels within 2 of a border between labels.",
        "",
        f"A small network, {network['epochs']} epochs on {counts['train']} pictures from scratch. "
        f"Fitted: `search_crf` on {plan['fitted_on']} validation pictures. Trained longer: "
        f"{more['epochs']} more, in which a `CRFasRNN` that starts from the preset learns on "
        "the network's scores and leaves the network as it would be without. End to end: as many "
        "epochs at the same rate on the same crops, and the network also learns from "
        f"{100 * plan['share']:g} % of the gradient that comes back through the layer. "
        "CRFs run 10 iterations, the layer 5 in training. "
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
