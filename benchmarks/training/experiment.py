"""One seed of both experiments: full supervision with CRFs, scribbles with a CRF loss."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from densecrf_gpu import CRFParams, DenseCRFLoss, crf_refine
from densecrf_gpu.fit import Sample, search_crf
from densecrf_gpu.layers import CRFasRNN

from .data import VOID, Picture, scribbles, to_network
from .evaluation import Method, Result, evaluate
from .loops import Schedule, cross_entropy, train
from .network import SmallNetwork

CLASSES = 21
#: pydensecrf's values, bandwidths of positions halved as the pictures are.
PRESET = replace(CRFParams.pydensecrf(), gaussian_sxy=1.5, bilateral_sxy=40)
#: What the search on the validation split tries first; one finer round follows.
GRID = {
    "bilateral_weight": (2.0, 5.0, 10.0),
    "bilateral_sxy": (12.0, 25.0, 40.0),
    "bilateral_srgb": (5.0, 10.0, 20.0),
}


@dataclass(frozen=True)
class Plan:
    """Sizes of the experiment.

    Attributes:
        network: training of the network alone.
        more: the phase after it, in which the CRF layer learns.
        layer_rates: learning rates of the layer's weights and of its compatibility.
        share: of the layer's gradient that reaches the network where both train end to end.
        fitted_on: pictures of the validation split for the search.
        scribbles: training of the network from scribbles alone.
        loss_weight: of ``DenseCRFLoss`` on crops of the size of ``scribbles``.
        limit: pictures of each split; None for all.
    """

    network: Schedule
    more: Schedule
    layer_rates: tuple[float, float]
    share: float
    fitted_on: int
    scribbles: Schedule
    loss_weight: float
    limit: int | None


FULL = Plan(
    network=Schedule(epochs=16, rate=4e-3),
    more=Schedule(epochs=5, rate=3e-4),
    layer_rates=(0.05, 0.01),
    share=0.1,
    fitted_on=20,
    scribbles=Schedule(epochs=10, rate=4e-3),
    loss_weight=2e-6,
    limit=None,
)
#: Shows that everything runs, and nothing else.
QUICK = Plan(
    network=Schedule(epochs=1, rate=4e-3, batch=2, crop=64),
    more=Schedule(epochs=1, rate=3e-4, batch=2, crop=64),
    layer_rates=FULL.layer_rates,
    share=FULL.share,
    fitted_on=2,
    scribbles=Schedule(epochs=1, rate=4e-3, batch=2, crop=64),
    loss_weight=FULL.loss_weight,
    limit=4,
)


@dataclass(frozen=True)
class Splits:
    """The pictures of the three splits."""

    train: list[Picture]
    val: list[Picture]
    test: list[Picture]


def supervised(splits: Splits, plan: Plan, seed: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Trains the network, then on beside the layer and through it; scores on the test split."""
    torch.manual_seed(seed)
    network = SmallNetwork(CLASSES)
    seconds = train(network, splits.train, plan.network, cross_entropy, seed)
    say(f"network trained in {seconds:.0f} s")
    fitted, trials = _fit(network, splits.val, plan)
    say(f"fitted: {fitted}")
    scores = evaluate(network, _methods(fitted), splits.test, CLASSES)

    weights: dict[str, list[float]] = {}
    for name, share in (("trained longer", 0.0), ("end to end", plan.share)):
        one = copy.deepcopy(network)
        layer, seconds = _with_layer(one, splits.train, plan, share, seed + 1000)
        methods = _methods(fitted) | {"CRF as RNN": _through(layer)}
        again = evaluate(one, methods, splits.test, CLASSES)
        scores |= {f"{method}, {name}": result for method, result in again.items()}
        weights[name] = layer.weights[0].mean(dim=1).tolist()
        say(f"{name} in {seconds:.0f} s")
    return {
        "seed": seed,
        "fitted": asdict(fitted),
        "trials": trials,
        "layer_weights": weights,
        "scores": {name: asdict(result) for name, result in scores.items()},
    }


def _with_layer(
    network: nn.Module, pictures: list[Picture], plan: Plan, share: float, seed: int
) -> tuple[CRFasRNN, float]:
    """Trains a network, in place, and a layer on its scores that starts from the preset.

    The network learns from its own cross-entropy and from ``share`` of the gradient that comes
    back through the layer; with 0 it becomes what it becomes without a layer.

    Returns:
        the layer, in evaluation mode, and the seconds of CPU time.
    """
    layer = CRFasRNN.from_params(PRESET, CLASSES).train()
    assert layer.compatibility is not None
    rates = zip((layer.weights, layer.compatibility), plan.layer_rates, strict=True)

    def loss(logits: Tensor, image: Tensor, labels: Tensor) -> Tensor:
        seen = logits.detach() + share * (logits - logits.detach())
        refined = F.nll_loss(layer(seen, image), labels, ignore_index=VOID)
        return cross_entropy(logits, image, labels) + refined

    seconds = train(network, pictures, plan.more, loss, seed, list(rates))
    layer.eval()
    return layer, seconds


def weakly_supervised(
    splits: Splits, plan: Plan, seed: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Trains from scribbles, then on with and without ``DenseCRFLoss``; scores on the test split.

    Both go on from the same network, for as long, on the same crops.
    """
    drawn = [replace(picture, labels=scribbles(picture.labels)) for picture in splits.train]
    torch.manual_seed(seed)
    network = SmallNetwork(CLASSES)
    train(network, drawn, plan.scribbles, cross_entropy, seed)
    say("trained from scribbles")
    # sigmas of rloss; that of positions in the proportion of these pictures to its 513 pixels
    crf_loss = DenseCRFLoss(plan.loss_weight, 15.0, 100.0 * 160 / 513)

    def with_crf(logits: Tensor, image: Tensor, labels: Tensor) -> Tensor:
        partial = cross_entropy(logits, image, labels)
        regular: Tensor = crf_loss(logits.softmax(dim=1), image)
        return partial + regular

    scores: dict[str, Result] = {}
    for name, loss in (("partial cross-entropy", cross_entropy), ("with DenseCRFLoss", with_crf)):
        one = copy.deepcopy(network)
        train(one, drawn, plan.more, loss, seed + 1000)
        methods: dict[str, Method] = {
            name: _arg_max,
            f"{name}, then the preset CRF": _refine(PRESET),
        }
        scores |= evaluate(one, methods, splits.test, CLASSES)
        say(name)
    labelled = sum((picture.labels != VOID).sum().item() for picture in drawn)
    return {
        "seed": seed,
        "labelled": labelled / sum(picture.labels.numel() for picture in drawn),
        "scores": {name: asdict(result) for name, result in scores.items()},
    }


@torch.no_grad()
def _fit(network: nn.Module, pictures: list[Picture], plan: Plan) -> tuple[CRFParams, int]:
    network.eval()
    chosen = pictures[:: max(1, len(pictures) // plan.fitted_on)][: plan.fitted_on]
    samples = [
        Sample(network(to_network(picture.image[None]))[0], picture.image, picture.labels)
        for picture in chosen
    ]
    result = search_crf(samples, start=PRESET, grid=GRID, rounds=1, metric="accuracy")
    return result.params, result.trials


def _methods(fitted: CRFParams) -> dict[str, Method]:
    return {
        "network": _arg_max,
        "preset CRF": _refine(PRESET),
        "fitted CRF": _refine(fitted),
    }


def _arg_max(logits: Tensor, image: Tensor) -> Tensor:
    return logits.argmax(dim=1)


def _through(layer: CRFasRNN) -> Method:
    def refine(logits: Tensor, image: Tensor) -> Tensor:
        return layer(logits, image).argmax(dim=1)  # type: ignore[no-any-return]

    return refine


def _refine(params: CRFParams) -> Method:
    def refine(logits: Tensor, image: Tensor) -> Tensor:
        return crf_refine(logits, image, params, output="labels")

    return refine
