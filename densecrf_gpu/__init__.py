"""Fully connected CRFs for PyTorch: mean-field inference on the permutohedral lattice."""

from __future__ import annotations

from . import backends as _backends  # noqa: F401  (first: it says what to do if nothing is built)
from .cache import CacheInfo, cache_info, clear_cache, set_workspace_limit
from .crf import DenseCRF
from .info import build_info
from .kernels import BilateralKernel, FeatureKernel, GaussianKernel
from .lattice import PermutohedralLattice, permutohedral_filter
from .losses import DenseCRFLoss, mean_field_energy, relaxed_potts_energy
from .params import CRFParams
from .refine import crf_refine
from .unary import logits_from_labels, logits_from_probabilities

__version__ = "0.1.0"

__all__ = [
    "BilateralKernel",
    "CRFParams",
    "CacheInfo",
    "DenseCRF",
    "DenseCRFLoss",
    "FeatureKernel",
    "GaussianKernel",
    "PermutohedralLattice",
    "__version__",
    "build_info",
    "cache_info",
    "clear_cache",
    "crf_refine",
    "logits_from_labels",
    "logits_from_probabilities",
    "mean_field_energy",
    "permutohedral_filter",
    "relaxed_potts_energy",
    "set_workspace_limit",
]
