"""The coarse-to-fine search: scores, trials, the journal, what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fitting import held_out

from densecrf_gpu import CRFParams, crf_refine
from densecrf_gpu.fit import GRIDS, Sample, Scores, evaluate_crf, search_crf
from densecrf_gpu.fit import search as search_module
from densecrf_gpu.fit.scores import confusion_matrix

START = CRFParams(
    gaussian_sxy=2, gaussian_weight=1, bilateral_sxy=60, bilateral_srgb=100, bilateral_weight=20
)
GRID = {"bilateral_weight": (1, 4), "bilateral_srgb": (10, 30), "bilateral_sxy": (10,)}


def scores_by_hand(params: CRFParams | None, samples: list[Sample]) -> Scores:
    """From crf_refine, counting one class after the other."""
    pairs = []
    for logits, image, labels in samples:
        found = logits if params is None else crf_refine(logits, image, params)
        known = labels != 255
        pairs.append(torch.stack([found.argmax(0)[known], labels[known]]))
    predicted, truth = torch.cat(pairs, dim=1)
    iou = [
        ((predicted == c) & (truth == c)).sum().item()
        / ((predicted == c) | (truth == c)).sum().item()
        for c in range(3)
    ]
    return Scores(sum(iou) / 3, (predicted == truth).double().mean().item(), tuple(iou))


@pytest.mark.parametrize("params", [None, START, CRFParams.pydensecrf()])
def test_scores_are_those_of_crf_refine(params: CRFParams | None) -> None:
    samples = held_out()
    found, expected = evaluate_crf(samples, params), scores_by_hand(params, samples)
    assert found.miou == pytest.approx(expected.miou, abs=1e-12)
    assert found.accuracy == pytest.approx(expected.accuracy, abs=1e-12)
    assert found.iou == pytest.approx(expected.iou, abs=1e-12)


def test_the_search_finds_the_best_of_its_grid() -> None:
    samples = held_out()
    result = search_crf(samples, start=START, grid=GRID, rounds=0)
    all_of_them = [
        replace(START, bilateral_weight=w, bilateral_srgb=c, bilateral_sxy=10)
        for w in (1.0, 4.0)
        for c in (10.0, 30.0)
    ]
    scores = {params: evaluate_crf(samples, params).miou for params in [START, *all_of_them]}
    assert result.after.miou == max(scores.values())
    assert scores[result.params] == result.after.miou
    assert result.before.miou == scores[START]
    assert result.unary == evaluate_crf(samples, None)
    assert result.trials == 5
    assert result.after.miou > result.before.miou


def test_finer_rounds_never_lose() -> None:
    samples = held_out()
    results = [search_crf(samples, start=START, grid=GRID, rounds=n).after.miou for n in range(3)]
    assert results == sorted(results)


def test_a_finer_grid_halves_the_step_and_goes_beyond_the_rim() -> None:
    finer = search_module._finer
    assert finer((3, 5, 9), 5) == (4, 5, 7)
    assert finer((3, 5, 9), 9) == (7, 9, 11)
    assert finer((3, 5, 9), 3) == (2, 3, 4)
    assert finer((1, 9), 1) == (0.5, 1, 5)  # bandwidths stay positive
    assert finer((7,), 7) == (7,)


def test_the_metric_may_be_accuracy() -> None:
    samples = held_out()
    by_accuracy = search_crf(samples, start=START, grid=GRID, metric="accuracy")
    by_iou = search_crf(samples, start=START, grid=GRID)
    assert by_accuracy.after.accuracy >= by_iou.after.accuracy
    assert by_iou.after.miou >= by_accuracy.after.miou


def test_smaller_logits_are_enlarged_as_crf_refine_does() -> None:
    logits, image, labels = held_out(1)[0]
    samples = [Sample(logits[:, ::2, ::2], image, labels)]
    expected = scores_by_hand(START, samples)
    assert evaluate_crf(samples, START).miou == pytest.approx(expected.miou, abs=1e-12)


def test_an_interrupted_search_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples, journal = held_out(), tmp_path / "journal.jsonl"
    whole = search_crf(samples, start=START, grid=GRID)
    original = search_module._try_weights
    calls = []

    def interrupted(*arguments):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(search_module, "_try_weights", interrupted)
    with pytest.raises(KeyboardInterrupt):
        search_crf(samples, start=START, grid=GRID, journal=journal)
    kept = len(journal.read_text().splitlines()) - 1
    assert kept > 0
    with journal.open("a") as file:
        file.write('{"params": {"gauss')  # as if the power had gone

    counted = []
    monkeypatch.setattr(
        search_module, "_try_weights", lambda g, *a: counted.extend(g) or original(g, *a)
    )
    assert search_crf(samples, start=START, grid=GRID, journal=journal) == whole
    assert len(counted) == whole.trials - kept
    counted.clear()
    assert search_crf(samples, start=START, grid=GRID, journal=journal) == whole
    assert not counted


@pytest.mark.parametrize("change", ["data", "iterations"])
def test_the_journal_of_another_search_is_refused(tmp_path: Path, change: str) -> None:
    journal = tmp_path / "journal.jsonl"
    search_crf(held_out(), start=START, grid=GRID, rounds=0, journal=journal)
    samples = held_out(seed=1) if change == "data" else held_out()
    iterations = 7 if change == "iterations" else 10
    with pytest.raises(ValueError, match=f"a search with other {change}:"):
        search_crf(samples, grid=GRID, iterations=iterations, journal=journal)


def test_a_file_that_is_no_journal_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("do not touch\n")
    with pytest.raises(ValueError, match="is not the journal of a search"):
        search_crf(held_out(), grid=GRID, journal=path)
    assert path.read_text() == "do not touch\n"


def test_classes_that_occur_nowhere_do_not_count() -> None:
    confusion = torch.tensor([[3, 1, 0], [0, 4, 0], [0, 0, 0]])
    scores = Scores.of(confusion)
    assert scores.iou[:2] == (3 / 4, 4 / 5)
    assert math.isnan(scores.iou[2])
    assert scores.miou == pytest.approx((3 / 4 + 4 / 5) / 2)
    assert scores.accuracy == 7 / 8


def test_the_confusion_matrix_has_labels_in_rows(device: torch.device) -> None:
    labels = torch.tensor([0, 0, 1, 255], device=device)
    predicted = torch.tensor([0, 1, 1, 0], device=device)
    counts = confusion_matrix(predicted, labels, 2, 255)
    assert counts.tolist() == [[1, 1], [0, 1]]


@pytest.mark.parametrize("name", GRIDS)
def test_the_grids_of_the_papers_are_valid(name: str) -> None:
    for parameter, values in GRIDS[name].items():
        for value in values:
            replace(START, **{parameter: value})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": []}, "at least one sample"),
        ({"grid": {"sxy": (1,)}}, "names of grid"),
        ({"grid": {"bilateral_sxy": ()}}, "values to try"),
        ({"grid": {"bilateral_sxy": (0, 5)}}, "bilateral_sxy to be positive"),
        ({"grid": "pascal"}, "grid to be one of"),
        ({"metric": "f1"}, "metric to be one of"),
        ({"rounds": -1}, "rounds"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        search_crf(**({"samples": held_out(1), "grid": GRID} | arguments))


def test_errors_name_the_sample() -> None:
    samples = held_out(2)
    samples[1] = samples[1]._replace(labels=samples[1].labels + 3)
    with pytest.raises(ValueError, match=r"sample 1: expected labels to hold"):
        search_crf(samples, grid=GRID)
    samples[1] = held_out(2, classes=4)[1]
    with pytest.raises(ValueError, match="sample 1: expected 3 classes, found 4"):
        search_crf(samples, grid=GRID)


def test_parameters_survive_a_file(tmp_path: Path) -> None:
    params = replace(START, bilateral_srgb=(3.5, 4.0, 5.0))
    params.save(tmp_path / "crf.json")
    assert CRFParams.load(tmp_path / "crf.json") == params


@pytest.mark.parametrize(
    "text", ["{", "[1]", "{}", json.dumps({"gaussian_sxy": 1}), '{"a": 1, "b": 2}']
)
def test_a_file_without_parameters_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "crf.json").write_text(text)
    with pytest.raises(ValueError, match="does not hold parameters"):
        CRFParams.load(tmp_path / "crf.json")
