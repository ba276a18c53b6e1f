"""Parameters of the CRF that suit a network and a data set, found on images with labels."""

from .samples import Sample
from .scores import Scores
from .search import GRIDS, SearchResult, evaluate_crf, search_crf

__all__ = ["GRIDS", "Sample", "Scores", "SearchResult", "evaluate_crf", "search_crf"]
