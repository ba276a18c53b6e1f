"""One door to both ways of fitting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from densecrf_gpu.checks import check_choice

from .gradient import learn_crf
from .samples import Sample
from .search import FitResult, search_crf

METHODS = ("search", "gradient")


def fit_crf(samples: Sequence[Sample], method: str = "search", **options: Any) -> FitResult:
    """Fits the parameters of the CRF to a network and a data set.

    Args:
        samples: a held-out set: logits of the network, images, labels.
        method: ``"search"`` for :func:`search_crf`, which looks at what counts, IoU or accuracy;
            ``"gradient"`` for :func:`learn_crf`, which needs fewer evaluations.
        options: arguments of that function.

    Raises:
        TypeError: an argument or sample is of another type or dtype.
        ValueError: a sample does not fit, or an argument is out of range.
    """
    check_choice("method", method, METHODS)
    return search_crf(samples, **options) if method == "search" else learn_crf(samples, **options)
