"""The filters and the mean field in plain torch, slow and readable: the operators' specification.

    lattice      the permutohedral lattice step by step: embed, splat, blur, slice
    exact        the Gaussian the lattice approximates, as an N x N matrix
    mean_field   the mean-field iteration on top of either filter

Nothing here calls a compiled operator. Every function takes any device, float32 or float64 and a
batch, and is differentiable in the values as far as torch is.

Sources:
    [Adams 2010] A. Adams, J. Baek, A. Davis. Fast High-Dimensional Filtering Using the
        Permutohedral Lattice. Eurographics 2010.
    [KK 2011] P. Kraehenbuehl, V. Koltun. Efficient Inference in Fully Connected CRFs with
        Gaussian Edge Potentials. NIPS 2011.
    [KK 2013] P. Kraehenbuehl, V. Koltun. Parameter Learning and Convergent Inference for Dense
        Random Fields. ICML 2013.
"""

from densecrf_gpu.reference.exact import exact_filter, exact_kernel
from densecrf_gpu.reference.lattice import (
    Embedding,
    Lattice,
    build_image_lattice,
    build_lattice,
    embed,
    image_features,
    lattice_filter,
    lattice_sizes,
)
from densecrf_gpu.reference.mean_field import Filter, mean_field
from densecrf_gpu.reference.normalization import NORMALIZATIONS, normalized_filter

__all__ = [
    "NORMALIZATIONS",
    "Embedding",
    "Filter",
    "Lattice",
    "build_image_lattice",
    "build_lattice",
    "embed",
    "exact_filter",
    "exact_kernel",
    "image_features",
    "lattice_filter",
    "lattice_sizes",
    "mean_field",
    "normalized_filter",
]
