"""``densecrf fit``: what it writes and says, how it resumes, what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from fitting import held_out
from PIL import Image

from densecrf_gpu import CRFParams
from densecrf_gpu.cli import main
from densecrf_gpu.fit import learn_crf, search_crf

FIT = ["fit", "images", "--logits", "logits", "--truth", "masks", "--no-progress"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("images", "logits", "masks"):
        (tmp_path / name).mkdir()
    for index, sample in enumerate(held_out(2)):
        pixels = sample.image.permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(tmp_path / "images" / f"{index}.png")
        np.save(tmp_path / "logits" / f"{index}.npy", sample.logits.numpy())
        mask = Image.fromarray(sample.labels.numpy().astype(np.uint8))
        mask.save(tmp_path / "masks" / f"{index}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_search_writes_what_refine_reads(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*FIT, "-o", "crf.json", "--rounds", "0", "--iterations", "3"]) == 0
    shown = capsys.readouterr().out
    result = search_crf(held_out(2), grid="deeplab_v2", rounds=0, iterations=3)
    assert CRFParams.load("crf.json") == result.params
    for name, scores in (
        ("no CRF", result.unary),
        ("before", result.before),
        ("after", result.after),
    ):
        line = re.search(rf"^{name} +([\d.]+) % +([\d.]+) %$", shown, re.M)
        assert line
        assert line.groups() == (f"{100 * scores.miou:.2f}", f"{100 * scores.accuracy:.2f}")
    refine = ["refine", "images", "--logits", "logits", "-o", "out", "--preset", "crf.json"]
    assert main([*refine, "-q"]) == 0


def test_it_learns_by_gradient() -> None:
    arguments = ["--method", "gradient", "--steps", "2", "--objective", "iou", "-q"]
    assert main([*FIT, "-o", "crf.json", *arguments]) == 0
    expected = learn_crf(held_out(2), objective="iou", steps=2, iterations=10)
    assert CRFParams.load("crf.json") == expected.params


def test_the_same_command_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    command = [*FIT, "-o", "crf.json", "--rounds", "0", "--iterations", "2", "-q"]
    assert main(command) == 0
    first = Path("crf.json").read_text()
    Path("crf.json").unlink()
    journal = Path("crf.journal.jsonl").read_text()
    assert len(journal.splitlines()) == 1 + 1 + 128  # header, start, grid

    def never(*_: object) -> None:
        raise AssertionError("nothing was left to do")

    monkeypatch.setattr("densecrf_gpu.fit.search._try_weights", never)
    assert main(command) == 0
    assert Path("crf.json").read_text() == first


def test_it_starts_from_a_file_and_options() -> None:
    CRFParams.deeplab_v1().save("start.json")
    options = ["--preset", "start.json", "--gaussian-sxy", "2", "--method", "gradient"]
    assert main([*FIT, "-o", "crf.json", *options, "--steps", "0", "-q"]) == 0
    found = json.loads(Path("crf.json").read_text())
    assert found == {
        "gaussian_sxy": 2.0,
        "gaussian_weight": 3.0,
        "bilateral_sxy": 50.0,
        "bilateral_srgb": 10.0,
        "bilateral_weight": 5.0,
    }


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (["-o", "crf.txt"], 2, "expected -o of .json"),
        (["-o", "crf.json", "--preset", "none.json"], 2, "--preset none.json"),
        (["-o", "crf.json", "--preset", "none"], 2, "or a .json file; found none"),
        (["-o", "crf.json", "--truth", "0.png"], 2, "--truth is one file"),
        (["-o", "crf.json", "--logits", "masks"], 1, "masks has no 0"),
    ],
)
def test_what_makes_no_sense_is_refused(
    change: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*FIT, *change]) == code
    assert message in capsys.readouterr().err
    assert not Path("crf.json").exists()


def test_labels_of_another_size_name_the_sample(capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("L", (5, 5)).save("masks/1.png")
    assert main([*FIT, "-o", "crf.json"]) == 1
    assert "sample 1: expected labels of shape [19, 24]" in capsys.readouterr().err
