"""Learning parameters by gradient: objectives, resuming, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fitting import held_out

from densecrf_gpu import CRFParams, crf_refine
from densecrf_gpu.fit import OBJECTIVES, Sample, fit_crf, learn_crf, search_crf
from densecrf_gpu.fit import gradient as gradient_module

START = CRFParams(
    gaussian_sxy=2.1, gaussian_weight=1, bilateral_sxy=8, bilateral_srgb=90, bilateral_weight=1
)


def objective_by_hand(samples: list[Sample], params: CRFParams, objective: str) -> float:
    total = 0.0
    for logits, image, labels in samples:
        q = crf_refine(logits, image, params, iterations=5)
        known = labels != 255
        if objective == "log_likelihood":
            total += q.gather(0, labels.clamp(max=2)[None])[0][known].log().mean().item()
            continue
        truth = labels[known]
        shares = []
        for c in truth.unique():
            inside = (truth == c).float()
            overlap = (q[c][known] * inside).sum()
            shares.append((overlap / ((q[c][known] + inside).sum() - overlap)).item())
        total += sum(shares) / len(shares)
    return total / len(samples)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_objective_is_its_definition(objective: str) -> None:
    samples = held_out(2)
    log_q = [crf_refine(s.logits, s.image, START, iterations=5, output="logits") for s in samples]
    found = [
        gradient_module._objective(one, s.labels, objective, 255).item()
        for one, s in zip(log_q, samples, strict=True)
    ]
    assert sum(found) / 2 == pytest.approx(objective_by_hand(samples, START, objective), rel=1e-5)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_learning_improves_the_objective_and_the_scores(objective: str) -> None:
    samples = held_out()
    result = learn_crf(samples, start=START, objective=objective, steps=8)
    before, after = (
        objective_by_hand(samples, params, objective) for params in (START, result.params)
    )
    assert after > before + 0.01
    assert result.after.miou > result.before.miou
    assert result.params.bilateral_srgb != START.bilateral_srgb


def test_bandwidths_may_be_kept() -> None:
    result = learn_crf(held_out(2), start=START, bandwidths=False, steps=3)
    kept = ("gaussian_sxy", "bilateral_sxy", "bilateral_srgb")
    assert [getattr(result.params, n) for n in kept] == [getattr(START, n) for n in kept]
    assert result.params.bilateral_weight != START.bilateral_weight


def test_interrupted_learning_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = held_out(2)
    whole = learn_crf(samples, start=START, steps=5)
    path = tmp_path / "fit.pt"
    learn_crf(samples, start=START, steps=2, checkpoint=path)
    assert learn_crf(samples, start=START, steps=5, checkpoint=path) == whole

    def never(*_: object) -> float:
        raise AssertionError("nothing was left to do")

    monkeypatch.setattr(gradient_module, "_loss", never)
    assert learn_crf(samples, start=START, steps=5, checkpoint=path) == whole


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "fit.pt"
    learn_crf(held_out(1), start=START, steps=1, checkpoint=path)
    with pytest.raises(ValueError, match="checkpoint of other objective:"):
        learn_crf(held_out(1), start=START, steps=1, checkpoint=path, objective="iou")
    with pytest.raises(ValueError, match="checkpoint of other data, start:"):
        learn_crf(held_out(2), start=replace(START, gaussian_weight=2), checkpoint=path)


def test_images_without_a_known_pixel_are_no_trouble() -> None:
    samples = held_out(2)
    samples[0] = samples[0]._replace(labels=torch.full_like(samples[0].labels, 255))
    result = learn_crf(samples, start=START, steps=2)
    assert result.after.accuracy > 0


def test_one_door_leads_to_both_ways() -> None:
    samples, grid = held_out(1), {"bilateral_weight": (1, 4)}
    assert fit_crf(samples, "search", start=START, grid=grid) == search_crf(
        samples, start=START, grid=grid
    )
    assert fit_crf(samples, "gradient", start=START, steps=1) == learn_crf(
        samples, start=START, steps=1
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "genetic"}, "method to be one of"),
        ({"method": "gradient", "objective": "f1"}, "objective to be one of"),
        ({"method": "gradient", "steps": -1}, "steps"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_crf(held_out(1), **options)
