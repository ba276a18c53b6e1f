"""Learning the CRF's parameters by gradients through mean field: Krähenbühl, Koltun, ICML 2013."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from densecrf_gpu import ops
from densecrf_gpu.checks import check_choice, check_count
from densecrf_gpu.layers import CRFasRNN
from densecrf_gpu.params import CRFParams

from .progress import Progress
from .samples import Fingerprint, Sample, check_samples, prepare
from .search import FitResult, evaluate_crf

OBJECTIVES = ("log_likelihood", "iou")


def learn_crf(
    samples: Sequence[Sample],
    *,
    start: CRFParams | None = None,
    objective: str = "log_likelihood",
    bandwidths: bool = True,
    steps: int = 20,
    iterations: int = 5,
    normalization: str = "symmetric",
    ignore_index: int | None = 255,
    image_range: float | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = False,
) -> FitResult:
    """Learns weights and bandwidths with L-BFGS on all samples at once (torch.optim.LBFGS).

    Objectives are those of Krähenbühl and Koltun (ICML 2013): the mean log-marginal of the right
    labels, or the IoU with marginals in place of labels, the mean over the classes of an image and
    over images. The filter jumps here and there as bandwidths move, so the last step need not be
    the best one: the best parameters that were met are returned, never worse in the objective than
    the start.

    Args:
        samples: a held-out set; each is read once an evaluation.
        start: where learning starts; ``CRFParams.pydensecrf()`` by default.
        objective: ``"log_likelihood"`` or ``"iou"``.
        bandwidths: whether they are learned as well as the weights.
        steps: of L-BFGS, at most; it also stops where the gradient vanishes.
        iterations: of mean field.
        normalization: of both kernels.
        ignore_index: the label of unknown pixels, which do not count; None if there are none.
        image_range: the value of full intensity in the images, see ``crf_refine``.
        checkpoint: a file that keeps every step, so that interrupted learning goes on where it was.
        progress: draws a bar on stderr; needs tqdm.

    Raises:
        TypeError: an argument or sample is of another type or dtype.
        ValueError: a sample does not fit, an argument is out of range, or the checkpoint is of
            other data or settings.
        RuntimeError: a bar is wanted without tqdm, or a device has no backend.
    """
    start = CRFParams.pydensecrf() if start is None else start
    check_choice("objective", objective, OBJECTIVES)
    check_choice("normalization", normalization, ops.NORMALIZATIONS)
    steps = check_count("steps", steps)
    classes = check_samples(samples)
    fingerprint = Fingerprint()
    for index in range(len(samples)):
        prepare(samples[index], index, ignore_index)
        fingerprint.add(samples[index])
    layer = CRFasRNN.from_params(
        start,
        classes,
        iterations,
        normalization=normalization,
        image_range=image_range,
        weights="kernel",
        compatibility="potts",
        learn_bandwidths=bandwidths,
    ).to(samples[0][0].device)
    about = {
        "data": fingerprint.hexdigest(),
        "start": repr(start),
        "objective": objective,
        "bandwidths": bandwidths,
        "iterations": iterations,
        "normalization": normalization,
        "ignore_index": ignore_index,
        "image_range": image_range,
    }
    with Progress(progress, "image") as bar:

        def loss() -> float:
            return _loss(layer, samples, objective, ignore_index, bar)

        learner = _Learner(layer, loss, None if checkpoint is None else Path(checkpoint), about)
        learner.run(steps, lambda best: bar.say(f"best {objective} {best:.5f}"))
    layer.load_state_dict(learner.best)
    common: dict[str, Any] = {
        "iterations": iterations,
        "normalization": normalization,
        "ignore_index": ignore_index,
        "image_range": image_range,
    }
    params = layer.to_params()
    return FitResult(
        params,
        evaluate_crf(samples, None, **common),
        evaluate_crf(samples, start, **common),
        evaluate_crf(samples, params, **common),
        learner.evaluations,
    )


class _Learner:
    """L-BFGS, one step after the other, with the best state and a checkpoint after each."""

    def __init__(
        self,
        layer: CRFasRNN,
        loss: Callable[[], float],
        path: Path | None,
        about: dict[str, Any],
    ) -> None:
        self._layer, self._loss, self._path, self._about = layer, loss, path, about
        self._optimizer = torch.optim.LBFGS(
            layer.parameters(), max_iter=1, max_eval=12, line_search_fn="strong_wolfe"
        )
        self._step = 0
        self._lowest = float("inf")
        self.best = self._state()
        self.evaluations = 0
        if path is not None and path.exists():
            self._resume(path)

    def run(self, steps: int, say: Callable[[float], None]) -> None:
        """Does the steps that are left."""
        while self._step < steps:
            before = self._state()
            self._optimizer.step(self._evaluate)  # type: ignore[no-untyped-call]
            self._step += 1
            say(-self._lowest)
            self._save()
            after = self._state()
            if all(torch.equal(before[name], after[name]) for name in before):
                return  # no step along the line helps

    def _evaluate(self) -> float:
        self._optimizer.zero_grad()
        value = self._loss()
        self.evaluations += 1
        if value < self._lowest:
            self._lowest, self.best = value, self._state()
        return value

    def _state(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self._layer.state_dict().items()}

    def _save(self) -> None:
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_name(self._path.name + ".part")
        state = {
            "about": self._about,
            "step": self._step,
            "evaluations": self.evaluations,
            "lowest": self._lowest,
            "best": self.best,
            "layer": self._state(),
            "optimizer": self._optimizer.state_dict(),
        }
        torch.save(state, part)
        part.replace(self._path)

    def _resume(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        found = state.get("about") if isinstance(state, dict) else None
        if found != self._about:
            names = [
                n
                for n in self._about
                if not isinstance(found, dict) or found.get(n) != self._about[n]
            ]
            raise ValueError(
                f"{path} is the checkpoint of other {', '.join(names)}: name another file, or "
                "remove it"
            )
        self._layer.load_state_dict(state["layer"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._step, self.evaluations = state["step"], state["evaluations"]
        self._lowest, self.best = state["lowest"], state["best"]


def _loss(
    layer: CRFasRNN,
    samples: Sequence[Sample],
    objective: str,
    ignore_index: int | None,
    bar: Progress,
) -> float:
    """Returns minus the objective, the mean over samples, and leaves its gradient behind."""
    bar.expect(len(samples))
    total = 0.0
    for index in range(len(samples)):
        logits, image, labels = samples[index]
        log_q = layer(logits.detach(), image)  # [C, H, W]
        loss = -_objective(log_q, labels.to(log_q.device), objective, ignore_index) / len(samples)
        if loss.requires_grad:  # else no pixel of the sample is known
            loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
        bar.advance()
    return total


def _objective(log_q: Tensor, labels: Tensor, objective: str, ignore_index: int | None) -> Tensor:
    flat, truth = log_q.flatten(1), labels.reshape(-1).long()  # [C, N], [N]
    if ignore_index is not None:
        known = truth != ignore_index
        flat, truth = flat[:, known], truth[known]
    if len(truth) == 0:
        return log_q.new_zeros(())
    right = flat.gather(0, truth[None])[0]  # log Q of the right label, [N]
    if objective == "log_likelihood":
        return right.mean()
    counts = torch.bincount(truth, minlength=len(flat)).to(flat)
    intersection = torch.zeros_like(counts).index_add(0, truth, right.exp())
    union = flat.exp().sum(dim=1) + counts - intersection
    occurring = counts > 0
    return (intersection[occurring] / union[occurring]).mean()
