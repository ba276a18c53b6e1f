"""What the pages and the help say about ``deeplab`` is what it takes, and has."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch

from deeplab.cli.parser import build_parser
from deeplab.registry import MODELS, build

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
