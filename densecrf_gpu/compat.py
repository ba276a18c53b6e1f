"""The names, shapes and signs of pydensecrf, on the operators of this package.

A program that uses pydensecrf runs with its imports replaced::

    import densecrf_gpu.compat as dcrf
    from densecrf_gpu.compat import unary_from_labels, unary_from_softmax

Unaries are energies, features stand in rows ``[d, N]``, matrices are ``[labels, N]``, and vectors
and matrices of compatibility are penalties that are symmetrised, all as there. Matrices come back
as NumPy arrays, which ``np.array(Q)`` accepts. Any number of threads, torch's, takes part.
"""
# ruff: noqa: N802  (the names are pydensecrf's)

from __future__ import annotations

import enum
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from .crf import DenseCRF as _DenseCRF
from .kernels import FeatureKernel, GaussianKernel, Kernel

Matrix = npt.NDArray[np.float32]


class KernelType(enum.IntEnum):
    """Which parameters of a kernel pydensecrf could learn; inference does not depend on it."""

    CONST_KERNEL = 0
    DIAG_KERNEL = 1
    FULL_KERNEL = 2


class NormalizationType(enum.IntEnum):
    """The four normalisations of a kernel."""

    NO_NORMALIZATION = 0
    NORMALIZE_BEFORE = 1
    NORMALIZE_AFTER = 2
    NORMALIZE_SYMMETRIC = 3


# Builds of pydensecrf differ in which form they export, so both are here.
CONST_KERNEL, DIAG_KERNEL, FULL_KERNEL = KernelType
NO_NORMALIZATION, NORMALIZE_BEFORE, NORMALIZE_AFTER, NORMALIZE_SYMMETRIC = NormalizationType

_NORMALIZATIONS = ("none", "before", "after", "symmetric")


class Unary:
    """Energies of every label at every variable, ``[labels, N]``."""

    def __init__(self, energy: Any) -> None:
        self.energy = _matrix("unary energies", energy)


class ConstUnary(Unary):
    """Energies as given."""


class LogisticUnary(Unary):
    """Energies ``L @ f`` of weights L ``[labels, features]`` and features f ``[features, N]``."""

    def __init__(self, L: Any, f: Any) -> None:
        super().__init__(_matrix("L", L) @ _matrix("f", f))


class DenseCRF:
    """A CRF over loose variables; see pydensecrf's README."""

    def __init__(self, nvar: int, nlabels: int) -> None:
        self._nvar = nvar
        self._nlabels = nlabels
        self._size: tuple[int, ...] = (nvar,)
        self._energy: Matrix = np.zeros((nlabels, nvar), dtype=np.float32)
        self._kernels: list[Kernel] = []
        self._built: _DenseCRF | None = None

    def addPairwiseEnergy(
        self,
        features: Any,
        compat: Any,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Adds a Gaussian over features ``[d, N]``, divided by their bandwidths."""
        rows = _matrix("features", features)
        if rows.shape[1] != self._nvar:
            raise ValueError(f"expected features [d, {self._nvar}], found {list(rows.shape)}")
        points = torch.from_numpy(np.ascontiguousarray(rows.T))
        self._add(
            FeatureKernel(points, _weight(compat, self._nlabels), _mode(kernel, normalization))
        )

    def setUnary(self, u: Unary) -> None:
        """Sets the unary energies."""
        expected = (self._nlabels, self._nvar)
        if u.energy.shape != expected:
            raise ValueError(f"expected unaries {list(expected)}, found {list(u.energy.shape)}")
        self._energy = u.energy
        self._built = None

    def setUnaryEnergy(self, u: Any, f: Any = None) -> None:
        """Sets the unary energies to u ``[labels, N]``, or with f to ``u @ f``."""
        self.setUnary(ConstUnary(u) if f is None else LogisticUnary(u, f))

    def inference(self, niter: int) -> Matrix:
        """Returns the marginals ``[labels, N]`` after ``niter`` iterations."""
        return self._to_matrix(self._crf().inference(niter))

    def startInference(self) -> tuple[Matrix, Matrix, Matrix]:
        """Returns the marginals before any iteration, and two matrices for stepInference."""
        q = self._to_matrix(self._crf().start())
        return q, np.empty_like(q), np.empty_like(q)

    def stepInference(self, Q: Matrix, tmp1: Matrix, tmp2: Matrix) -> None:
        """Replaces Q by the marginals one iteration later; the others are not used."""
        Q[...] = self._to_matrix(self._crf().step(self._from_matrix(Q)))

    def klDivergence(self, Q: Any) -> float:
        """Returns the objective of mean field, up to a constant."""
        return self._crf().kl_divergence(self._from_matrix(_matrix("Q", Q))).item()

    def _add(self, kernel: Kernel) -> None:
        self._kernels.append(kernel)
        self._built = None

    def _crf(self) -> _DenseCRF:
        if self._built is None:
            logits = self._from_matrix(-self._energy)
            self._built = _DenseCRF(logits, self._kernels, spatial_dims=len(self._size))
        return self._built

    def _to_matrix(self, q: torch.Tensor) -> Matrix:
        return q.reshape(self._nlabels, -1).numpy()

    def _from_matrix(self, matrix: Matrix) -> torch.Tensor:
        return torch.from_numpy(matrix).reshape(self._nlabels, *self._size)


class DenseCRF2D(DenseCRF):
    """A CRF over the pixels of an image; the width comes first."""

    def __init__(self, w: int, h: int, nlabels: int) -> None:
        super().__init__(w * h, nlabels)
        self._size = (h, w)

    def addPairwiseGaussian(
        self,
        sxy: float | Sequence[float],
        compat: Any,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Adds a Gaussian over positions; ``sxy`` is a number or (sx, sy)."""
        weight = _weight(compat, self._nlabels)
        self._add(GaussianKernel(_per_feature(sxy, 2), weight, _mode(kernel, normalization)))

    def addPairwiseBilateral(
        self,
        sxy: float | Sequence[float],
        srgb: float | Sequence[float],
        rgbim: Any,
        compat: Any,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Adds a Gaussian over positions and colours of an image, uint8 ``[h, w, 3]``."""
        h, w = self._size
        image = np.asarray(rgbim)
        if image.shape != (h, w, 3):
            raise ValueError(f"expected an image [{h}, {w}, 3], found {list(image.shape)}")
        if image.dtype != np.uint8:
            raise ValueError(f"expected an image of uint8, found {image.dtype}")
        planes = [np.tile(np.arange(w), h), np.repeat(np.arange(h), w), *image.reshape(-1, 3).T]
        sigmas = (*_per_feature(sxy, 2), *_per_feature(srgb, 3))
        features = [
            p.astype(np.float32) / np.float32(s) for p, s in zip(planes, sigmas, strict=True)
        ]
        self.addPairwiseEnergy(np.stack(features), compat, kernel, normalization)


def unary_from_labels(
    labels: npt.ArrayLike, n_labels: int, gt_prob: float, zero_unsure: bool = True
) -> Matrix:
    """Returns energies ``[n_labels, N]`` that trust a label map to the degree ``gt_prob``.

    With ``zero_unsure`` label 0 marks unknown pixels, and ``n_labels`` does not count it.
    """
    if not 0 < gt_prob < 1:
        raise ValueError(f"expected gt_prob in (0, 1), found {gt_prob}")
    flat = np.asarray(labels).reshape(-1).astype(np.int64)
    low = 1 if zero_unsure else 0
    known = (flat >= low) & (flat < n_labels + low)
    if not (known | (zero_unsure & (flat == 0))).all():
        raise ValueError(
            f"expected labels in [0, {n_labels + low}), found {flat.min()} to {flat.max()}"
        )
    energy = np.full(
        (n_labels, flat.size), -np.log((1 - gt_prob) / max(n_labels - 1, 1)), dtype=np.float32
    )
    (where,) = known.nonzero()
    energy[flat[where] - low, where] = -np.log(gt_prob)
    energy[:, ~known] = -np.log(1 / n_labels)
    return energy


def unary_from_softmax(
    sm: npt.ArrayLike, scale: float | None = None, clip: float | None = 1e-5
) -> Matrix:
    """Returns energies ``[C, N]`` of probabilities ``[C, ...]``, mixed by scale, then clipped."""
    p = np.asarray(sm)
    if scale is not None:
        if not 0 < scale <= 1:
            raise ValueError(f"expected scale in (0, 1], found {scale}")
        p = scale * p + (1 - scale) * np.full((1,) * p.ndim, 1 / p.shape[0])  # in float64
    if clip is not None:
        p = np.clip(p, clip, 1.0)
    energy: Matrix = -np.log(p).reshape(p.shape[0], -1).astype(np.float32)
    return energy


def compute_unary(labels: npt.ArrayLike, M: int, GT_PROB: float = 0.5) -> Matrix:
    """Deprecated name of unary_from_labels."""
    warnings.warn("compute_unary is now unary_from_labels", DeprecationWarning, stacklevel=2)
    return unary_from_labels(labels, M, GT_PROB)


def softmax_to_unary(sm: npt.ArrayLike, GT_PROB: float = 1) -> Matrix:
    """Deprecated name of unary_from_softmax, without clipping."""
    warnings.warn("softmax_to_unary is now unary_from_softmax", DeprecationWarning, stacklevel=2)
    return unary_from_softmax(sm, None if GT_PROB == 1 else GT_PROB, clip=None)


def create_pairwise_gaussian(sdims: Sequence[float], shape: Sequence[int]) -> Matrix:
    """Returns features ``[len(shape), N]`` of positions, in the order of the axes of the array."""
    mesh = np.indices(shape, dtype=np.float32)
    return np.stack([axis / np.float32(s) for axis, s in zip(mesh, sdims, strict=True)]).reshape(
        len(sdims), -1
    )


def create_pairwise_bilateral(
    sdims: Sequence[float], schan: float | Sequence[float], img: npt.ArrayLike, chdim: int = -1
) -> Matrix:
    """Returns features of positions, then channels; ``chdim=-1`` stands for no channels."""
    image = np.asarray(img)
    planes = image[None] if chdim == -1 else np.moveaxis(image, chdim, 0)
    sigmas = _per_feature(schan, planes.shape[0])
    colours = [p.astype(np.float32) / np.float32(s) for p, s in zip(planes, sigmas, strict=True)]
    positions = create_pairwise_gaussian(sdims, planes.shape[1:])
    return np.concatenate([positions, np.stack(colours).reshape(len(colours), -1)])


def _matrix(name: str, value: Any) -> Matrix:
    matrix = np.ascontiguousarray(value, dtype=np.float32)
    if matrix.ndim != 2:
        raise ValueError(f"expected {name} to be a matrix, found shape {list(matrix.shape)}")
    return matrix


def _weight(compat: Any, nlabels: int) -> float | Matrix:
    """Turns pydensecrf's compatibility into a weight of this package."""
    array = np.asarray(compat, dtype=np.float32)
    if array.ndim > 2 or (array.ndim and set(array.shape) != {nlabels}):
        raise ValueError(
            f"expected compat to be a number, [{nlabels}] or [{nlabels}, {nlabels}], "
            f"found shape {list(array.shape)}"
        )
    if array.ndim == 0:
        return float(array)
    return -array if array.ndim == 1 else (array + array.T) / 2


def _mode(kernel: int, normalization: int) -> str:
    KernelType(kernel)
    return _NORMALIZATIONS[NormalizationType(normalization)]


def _per_feature(sigmas: float | Sequence[float], count: int) -> tuple[float, ...]:
    values = np.broadcast_to(np.asarray(sigmas, dtype=np.float64), (count,))
    return tuple(float(value) for value in values)
