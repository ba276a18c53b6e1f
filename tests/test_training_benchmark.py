"""The training benchmark: its scores, its scribbles, and that it runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from pictures import SHARED

from benchmarks.__main__ import main
from benchmarks.training.data import VOID, Picture, crop_batch, scribbles
from benchmarks.training.evaluation import evaluate, trimap
from benchmarks.training.run import gains, rows

NEEDED = pytest.mark.skipif(not (SHARED / "msrc").exists(), reason="no MSRC-21 here")


def test_the_trimap_is_two_pixels_to_each_side_of_a_border_between_known_labels() -> None:
    labels = torch.zeros(6, 12, dtype=torch.long)
    labels[:, 6:] = 1
    assert trimap(labels).all(0).nonzero().flatten().tolist() == [4, 5, 6, 7]
    labels[:, 6:] = VOID
    assert not trimap(labels).any()


def test_scribbles_lie_inside_their_regions() -> None:
    labels = torch.zeros(40, 60, dtype=torch.long)
    labels[:, 30:] = 2
    labels[:10] = VOID
    drawn = scribbles(labels)
    known = drawn != VOID
    assert torch.equal(drawn[known], labels[known])
    assert set(drawn[known].tolist()) == {0, 2}
    assert 0 < known.float().mean() < 0.1
    assert not known[:, 28:32].any()


def test_crops_know_what_lies_beyond_the_picture() -> None:
    picture = Picture(
        "p", torch.full((3, 20, 30), 100, dtype=torch.uint8), torch.ones(20, 30).long()
    )
    images, labels = crop_batch([picture] * 8, 48, torch.Generator().manual_seed(0))
    assert images.shape == (8, 3, 48, 48)
    assert images.dtype == torch.uint8
    assert set(labels.unique().tolist()) == {1, VOID}


def test_scores_are_those_of_what_a_method_says() -> None:
    labels = torch.zeros(8, 8, dtype=torch.long)
    labels[:, 4:] = 1
    picture = Picture("p", torch.zeros(3, 8, 8, dtype=torch.uint8), labels)
    network = torch.nn.Conv2d(3, 2, 1)
    methods = {
        "right": lambda logits, image: labels[None],
        "all 0": lambda logits, image: torch.zeros(1, 8, 8, dtype=torch.long),
    }
    found = evaluate(network, methods, [picture], 2)
    assert vars(found["right"]) == {"accuracy": 1, "miou": 1, "trimap_miou": 1}
    assert vars(found["all 0"]) == {"accuracy": 0.5, "miou": 0.25, "trimap_miou": 0.25}


def test_tables_have_mean_and_deviation_over_the_seeds() -> None:
    def seed(a: float, b: float) -> dict[str, object]:
        names = ("accuracy", "miou", "trimap_miou")
        values = {"one": a, "other": b}
        return {"x": {"scores": {m: dict.fromkeys(names, v) for m, v in values.items()}}}

    document = {"seeds": [seed(0.5, 0.4), seed(0.7, 0.5)]}
    assert rows(document, "x")[0] == ("one", *["60.00 ± 14.14"] * 3)
    assert "accuracy +15.00 ± 7.07 (+10.00, +20.00); " in gains(document, "x", "one", "other")


@NEEDED
@pytest.mark.slow
def test_a_quick_run_writes_tables_and_keeps_its_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DENSECRF_SHARED_DATA", str(SHARED))
    threads = torch.get_num_threads()
    command = ["training", "--quick", "--output", str(tmp_path)]
    try:
        assert main(command) == 0
        first = capsys.readouterr().out
        assert main(command) == 0  # the seed is kept: nothing is trained
        again = capsys.readouterr().out
    finally:
        torch.set_num_threads(threads)
    assert "seed 0," in first
    assert "seed 0," not in again
    (path,) = tmp_path.glob("training-cpu-*-quick.json")
    document = json.loads(path.read_text())
    assert set(document["seeds"][0]["supervised"]["scores"]) > {"network", "CRF as RNN, end to end"}
    assert "| CRF as RNN, end to end |" in path.with_suffix(".md").read_text()
