"""The search of DeepLab: a coarse grid on a held-out set, then finer ones around the best."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor

from densecrf_gpu import ops
from densecrf_gpu.checks import check_choice, check_count
from densecrf_gpu.kernels import BilateralKernel, GaussianKernel, Kernel, build_terms
from densecrf_gpu.params import CRFParams

from .journal import Journal
from .progress import Progress
from .samples import Fingerprint, Prepared, Sample, check_samples, prepare
from .scores import METRICS, Scores, confusion_matrix

Grid = Mapping[str, Sequence[float]]

#: The coarse grids of the papers, the Gaussian kernel fixed: Chen et al., ICLR 2015 and TPAMI 2018.
GRIDS: dict[str, Grid] = {
    "deeplab_v1": {
        "bilateral_weight": (5, 6, 7, 8, 9, 10),
        "bilateral_sxy": (50, 60, 70, 80, 90, 100),
        "bilateral_srgb": (3, 4, 5, 6, 7, 8, 9, 10),
    },
    "deeplab_v2": {
        "bilateral_weight": (3, 4, 5, 6),
        "bilateral_sxy": (30, 40, 50, 60, 70, 80, 90, 100),
        "bilateral_srgb": (3, 4, 5, 6),
    },
}


@dataclass(frozen=True)
class FitResult:
    """What was found on a held-out set.

    Attributes:
        params: the best of all.
        unary: scores of the logits alone, without a CRF.
        before: scores of the parameters it started from.
        after: scores of ``params``.
        trials: how many parameters were tried, or how often a gradient was evaluated.
    """

    params: CRFParams
    unary: Scores
    before: Scores
    after: Scores
    trials: int


@dataclass(frozen=True)
class _Setting:
    """How every trial runs."""

    iterations: int
    normalization: str
    ignore_index: int | None
    image_range: float | None
    classes: int


def search_crf(
    samples: Sequence[Sample],
    *,
    start: CRFParams | None = None,
    grid: str | Grid = "deeplab_v2",
    rounds: int = 2,
    metric: str = "miou",
    iterations: int = 10,
    normalization: str = "symmetric",
    ignore_index: int | None = 255,
    image_range: float | None = None,
    journal: str | Path | None = None,
    progress: bool = False,
) -> FitResult:
    """Searches parameters coarse to fine, as DeepLab does (Chen et al., ICLR 2015, section 4.2).

    First all combinations of the grid, then ``rounds`` grids of three values a parameter around the
    best so far, each with half the step of the one before. Where the best lies on the rim, one of
    the three lies beyond. Nothing depends on chance. Every lattice serves all weights of its
    bandwidths.

    Args:
        samples: a held-out set, in memory or loaded when indexed; each is read once for every pair
            of bandwidths.
        start: what the parameters outside the grid keep, and what the result is compared with;
            ``CRFParams.pydensecrf()`` by default.
        grid: values to try by the name of the parameter in ``CRFParams``, or a name from ``GRIDS``.
        rounds: finer grids after the first.
        metric: what is to be best, ``"miou"`` or ``"accuracy"``.
        iterations: of mean field.
        normalization: of both kernels.
        ignore_index: the label of unknown pixels, which do not count; None if there are none.
        image_range: the value of full intensity in the images, see ``crf_refine``.
        journal: a file that keeps every trial, so that an interrupted search goes on where it was.
        progress: draws a bar on stderr; needs tqdm.

    Raises:
        TypeError: an argument or sample is of another type or dtype.
        ValueError: a sample does not fit, a name or number is out of range, or the journal is of
            another search.
        RuntimeError: a bar is wanted without tqdm, or a device has no backend.
    """
    start = CRFParams.pydensecrf() if start is None else start
    values = _check_grid(grid, start)
    check_choice("metric", metric, METRICS)
    check_choice("normalization", normalization, ops.NORMALIZATIONS)
    rounds = check_count("rounds", rounds)
    classes = check_samples(samples)
    iterations = check_count("iterations", iterations)
    setting = _Setting(iterations, normalization, ignore_index, image_range, classes)
    unary, fingerprint = _survey(samples, setting)
    about = {
        "data": fingerprint,
        "iterations": iterations,
        "normalization": normalization,
        "ignore_index": ignore_index,
        "image_range": image_range,
    }
    kept = Journal(None if journal is None else Path(journal), about)

    def score(params: CRFParams) -> float:
        found = kept.find(params)
        assert found is not None
        return float(getattr(found, metric))

    with Progress(progress, "image") as bar:
        best = start
        tried: dict[CRFParams, None] = {}
        for number in range(rounds + 1):
            if number:
                values = {name: _finer(values[name], getattr(best, name)) for name in values}
            candidates = [start] if number == 0 else []
            candidates += [replace(start, **point) for point in _points(values)]
            _try_all(candidates, samples, setting, kept, bar)
            tried.update(dict.fromkeys(candidates))
            best = max(tried, key=score)  # the first of equals
            bar.say(f"best {metric} {100 * score(best):.2f} %")
    before, after = kept.find(start), kept.find(best)
    assert before is not None
    assert after is not None
    return FitResult(best, unary, before, after, len(tried))


def evaluate_crf(
    samples: Sequence[Sample],
    params: CRFParams | None,
    *,
    iterations: int = 10,
    normalization: str = "symmetric",
    ignore_index: int | None = 255,
    image_range: float | None = None,
    progress: bool = False,
) -> Scores:
    """Returns the scores of one set of parameters; of the logits alone if ``params`` is None.

    Arguments and errors are those of :func:`search_crf`.
    """
    check_choice("normalization", normalization, ops.NORMALIZATIONS)
    iterations = check_count("iterations", iterations)
    classes = check_samples(samples)
    setting = _Setting(iterations, normalization, ignore_index, image_range, classes)
    if params is None:
        return _survey(samples, setting)[0]
    kept = Journal(None, {})
    with Progress(progress, "image") as bar:
        _try_all([params], samples, setting, kept, bar)
    found = kept.find(params)
    assert found is not None
    return found


def _check_grid(grid: str | Grid, start: CRFParams) -> dict[str, tuple[float, ...]]:
    if isinstance(grid, str):
        check_choice("grid", grid, tuple(GRIDS))
        grid = GRIDS[grid]
    names = [field.name for field in fields(CRFParams)]
    checked = {}
    for name, values in grid.items():
        check_choice("the names of grid", name, names)
        if len(values) == 0:
            raise ValueError(f"expected values to try for {name}, found none")
        checked[name] = tuple(sorted({float(value) for value in values}))
        for value in checked[name]:
            replace(start, **{name: value})  # checks it
    if not checked:
        raise ValueError("expected a grid with at least one parameter, found none")
    return checked


def _points(values: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
    combinations = itertools.product(*values.values())
    return [dict(zip(values, point, strict=True)) for point in combinations]


def _finer(values: Sequence[float], best: float | tuple[float, ...]) -> tuple[float, ...]:
    """Returns three values around the best: half a step to each side, beyond the rim if there."""
    if len(values) == 1:
        return tuple(values)
    middle = min(values, key=lambda value: abs(value - _mean(best)))
    index = values.index(middle)
    below = middle - values[index - 1] if index > 0 else values[1] - middle
    above = values[index + 1] - middle if index + 1 < len(values) else middle - values[-2]
    # Downwards at most halfway to zero, which bandwidths must not reach.
    lower = max(middle - below / 2, middle / 2) if middle > 0 else middle - below / 2
    return (lower, middle, middle + above / 2)


def _mean(value: float | tuple[float, ...]) -> float:
    return sum(value) / len(value) if isinstance(value, tuple) else value


def _survey(samples: Sequence[Sample], setting: _Setting) -> tuple[Scores, str]:
    """Checks all samples; returns the scores of their logits, and a fingerprint."""
    fingerprint = Fingerprint()
    confusion = torch.zeros(setting.classes, setting.classes, dtype=torch.int64)
    for index in range(len(samples)):
        sample = samples[index]
        prepared = _prepared(sample, index, setting)
        fingerprint.add(sample)
        confusion += _confusion(prepared.unary.argmax(dim=1), prepared, setting)
    return Scores.of(confusion), fingerprint.hexdigest()


def _prepared(sample: Sample, index: int, setting: _Setting) -> Prepared:
    prepared = prepare(sample, index, setting.ignore_index)
    found = prepared.unary.shape[1]
    if found != setting.classes:
        raise ValueError(f"sample {index}: expected {setting.classes} classes, found {found}")
    return prepared


def _confusion(predicted: Tensor, prepared: Prepared, setting: _Setting) -> Tensor:
    return confusion_matrix(predicted, prepared.labels, setting.classes, setting.ignore_index)


def _try_all(
    candidates: Sequence[CRFParams],
    samples: Sequence[Sample],
    setting: _Setting,
    kept: Journal,
    bar: Progress,
) -> None:
    """Scores the candidates that have not been tried; those of equal bandwidths together."""
    groups: dict[tuple[object, ...], dict[CRFParams, None]] = {}
    for params in candidates:
        if kept.find(params) is None:
            bandwidths = (params.gaussian_sxy, params.bilateral_sxy, params.bilateral_srgb)
            groups.setdefault(bandwidths, {})[params] = None
    bar.expect(sum(map(len, groups.values())) * len(samples))
    for group in groups.values():
        for params, scores in _try_weights(list(group), samples, setting, bar).items():
            kept.add(params, scores)


@torch.no_grad()
def _try_weights(
    group: Sequence[CRFParams], samples: Sequence[Sample], setting: _Setting, bar: Progress
) -> dict[CRFParams, Scores]:
    """Scores candidates that differ in their weights alone."""
    first = group[0]
    # Weights that are not 0, so that both lattices are built; those of the trials replace them.
    kernels: list[Kernel] = [
        GaussianKernel(first.gaussian_sxy, 1.0, setting.normalization),
        BilateralKernel(
            first.bilateral_sxy,
            first.bilateral_srgb,
            1.0,
            setting.normalization,
            setting.image_range,
        ),
    ]
    totals = [torch.zeros(setting.classes, setting.classes, dtype=torch.int64) for _ in group]
    for index in range(len(samples)):
        prepared = _prepared(samples[index], index, setting)
        unary = prepared.unary
        shape = (1, setting.classes, *prepared.size)
        terms = build_terms(kernels, shape, prepared.guide, unary.dtype, unary.device)
        for total, params in zip(totals, group, strict=True):
            used = terms._replace(
                compatibilities=[
                    unary.new_tensor([params.gaussian_weight]),
                    unary.new_tensor([params.bilateral_weight]),
                ]
            )
            labels = ops.mean_field(unary, *used, setting.iterations, 0.0, 0.0, "labels")
            total += _confusion(labels, prepared, setting)
            bar.advance()
    return {params: Scores.of(total) for params, total in zip(group, totals, strict=True)}
