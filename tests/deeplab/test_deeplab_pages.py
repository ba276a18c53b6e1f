"""What the pages and the help say about ``deeplab`` is what it takes, and has."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from deeplab.cli.parser import build_parser
from deeplab.data.classes import CAMVID
from deeplab.labelling import labelling_beside
from deeplab.registry import MODELS, build
from deeplab.weights import packaged_weights

ROOT = Path(__file__).resolve().parents[2]
PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
_COMMAND = r"^ {2,4}(?:torchrun .*?-m )?(deeplab (?:demo|eval|models|predict|train|tune-crf)\b.*)$"


def commands(text: str) -> list[str]:
    """Indented lines that call the command, continued ones joined, comments left out."""
    joined = re.sub(r" *\\\n *", " ", text)
    found = re.findall(_COMMAND, joined, re.M)
    return [re.split(r"  +", line)[0] for line in found if "..." not in line]


@pytest.mark.parametrize("page", PAGES)
def test_commands_of_the_pages_are_understood(page: str) -> None:
    for command in commands((ROOT / page).read_text()):
        assert build_parser().parse_args(shlex.split(command)[1:]).run, command


@pytest.mark.parametrize("name", ["", "eval", "predict", "train", "tune-crf"])
def test_examples_of_the_help_are_understood(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args([*name.split(), "--help"])
    examples = commands(capsys.readouterr().out)
    assert len(examples) >= 3
    for command in examples:
        assert build_parser().parse_args(shlex.split(command)[1:]).run, command


def _scores(split: str) -> dict[str, Any]:
    path = ROOT / "benchmarks" / "results" / f"deeplab-camvid-{split}.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _pair(split: str, field: str, *more: str) -> tuple[str, str]:
    """A score of the network and with the CRF, in percent as the pages write it."""
    values = []
    for way in ("network", "crf"):
        value: Any = _scores(split)[way][field]
        for key in more:
            value = value[key]
        values.append(f"{100 * value:.2f}")
    return values[0], values[1]


def _gain(split: str, field: str, *more: str) -> float:
    before, after = (float(value) for value in _pair(split, field, *more))
    return after - before


def _plain(path: str) -> str:
    """A page in one line, without emphasis."""
    return " ".join((ROOT / path).read_text().replace("**", "").split())


def test_the_scores_of_the_page_are_those_of_the_benchmark() -> None:
    page = _plain("docs/deeplab.md")
    for name, keys in (
        ("mean IoU", ("mean_iou",)),
        ("pixel accuracy", ("pixel_accuracy",)),
        ("mean IoU within 1 pixel of an outline", ("trimap_mean_iou", "1")),
    ):
        cells = [cell for split in ("val", "test") for cell in _pair(split, *keys)]
        assert f"| {name} | {' | '.join(cells)} |" in page
    mean, pixels = _gain("test", "mean_iou"), _gain("test", "pixel_accuracy")
    assert f"on the whole test set {mean:.1f}, of all classes, and {pixels:.1f}" in page
    gain = {name: _gain("test", "iou", name) for name in _scores("test")["crf"]["iou"]}
    assert f"buildings gain {gain['building']:.1f} points of IoU and cars {gain['car']:.1f}" in page
    lost = [f"{-gain[name]:.1f}" for name in ("pole", "sign", "pavement")]
    assert f"signs lose {lost[0]} and {lost[1]}, pavements {lost[2]}" in page


def test_the_scores_of_the_card_are_those_of_the_benchmark() -> None:
    card = _plain("deeplab/weights/README.md")
    for split, row in (("val", "validation, 101 pictures"), ("test", "test, 233 pictures")):
        cells = (*_pair(split, "mean_iou"), *_pair(split, "pixel_accuracy"))
        assert f"| {row} | {' | '.join(cells)} |" in card
        assert f"{row.split()[-2]} pictures" == f"{_scores(split)['images']} pictures"
    for name in CAMVID:
        cells = [
            f"{100 * _scores(split)[way]['iou'][name]:.1f}"
            for split in ("val", "test")
            for way in ("network", "crf")
        ]
        assert f"| {name} | {' | '.join(cells)} |" in card
    near, far = (
        [_gain(split, "trimap_mean_iou", width) for split in ("val", "test")]
        for width in ("1", "32")
    )
    assert f"gains {near[0]:.2f} points of mean IoU on validation and {near[1]:.2f} on the" in card
    assert f"within 32 pixels {far[0]:.2f} and {far[1]:.2f}" in card


def test_the_readme_says_what_the_benchmark_found() -> None:
    page = _plain("README.md")
    found = [f"{float(cell):.1f} %" for s in ("val", "test") for cell in _pair(s, "mean_iou")]
    assert (
        f"mean IoU {found[0]} on the validation set and {found[1]} with the CRF, {found[2]} and "
        f"{found[3]} on the test set" in page
    )


def test_the_crf_of_the_card_and_of_the_benchmark_comes_with_the_weights() -> None:
    crf = labelling_beside(packaged_weights(), 11).crf
    assert crf is not None
    for split in ("val", "test"):
        used = _scores(split)["settings"]
        assert used["weights"] == packaged_weights().name
        assert {**asdict(crf), "iterations": 10} == used["crf"]
    values = (crf.bilateral_sxy, crf.bilateral_srgb, crf.bilateral_weight)
    shown = ", ".join(f"{value:g}" for value in values)
    assert f"| {shown}: searched, what `--crf` uses |" in _plain("deeplab/weights/README.md")


def test_the_table_of_networks_has_their_parameters() -> None:
    text = (ROOT / "docs" / "deeplab.md").read_text()
    rows = dict(re.findall(r"^\| `(deeplabv\w+)` \| ([\d.]+) M ", text, re.M))
    assert set(MODELS) - set(rows) == {
        "deeplabv3_cascade_resnet50",
        "deeplabv3_cascade_resnet101",
    }
    for name, shown in rows.items():
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in build(name).parameters())
        assert f"{count / 1e6:.2f}" == shown, name
