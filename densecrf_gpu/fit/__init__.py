"""Parameters of the CRF that suit a network and a data set, found on images with labels."""

from .fit import fit_crf
from .gradient import OBJECTIVES, learn_crf
from .samples import Sample
from .scores import Scores
from .search import GRIDS, FitResult, evaluate_crf, search_crf

__all__ = [
    "GRIDS",
    "OBJECTIVES",
    "FitResult",
    "Sample",
    "Scores",
    "evaluate_crf",
    "fit_crf",
    "learn_crf",
    "search_crf",
]
