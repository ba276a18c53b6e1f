"""The permutohedral lattice: built once from features, filters many times."""

from __future__ import annotations

import torch
from torch import Tensor

from . import ops
from .backends import require_backend
from .checks import check_choice, check_finite, check_max_vertices
from .ops import LatticeData
from .registration import records_gradients

_HALF = (torch.float16, torch.bfloat16)


class PermutohedralLattice:
    """Gaussian filter over points of any dimension, by splat, blur and slice (Adams et al. 2010).

    The kernel between two points is approximately ``exp(-|f_i - f_j|^2 / 2)``: features are to
    be divided by their bandwidths. All conventions (order of the axes, taps, scale) are those of
    pydensecrf. Features are not changed, and not kept unless they are to receive a gradient: the
    exact derivative of what the lattice computes, as long as no point leaves its simplex (see
    ``ops.lattice_filter_grad_features``). So bandwidths learn that features were divided by.

    Args:
        features: ``[N, d]`` or ``[B, N, d]``, float32 or float64; float16 and bfloat16 are
            converted to float32. N = 0 is allowed, and filters to an empty result.
        max_vertices: the most vertices one lattice may have, which bounds its memory on CUDA; a
            lattice with more filters to NaN, and ``num_vertices`` raises ValueError. None for as
            many as there could be, (d+1) N; ``"exact"`` for as many as there are, which makes the
            host wait for the GPU once. The CPU always takes what is needed.

    Raises:
        TypeError: ``features`` is not a floating tensor, or ``max_vertices`` no integer.
        ValueError: ``features`` has another number of axes, d = 0, or an entry that is not finite;
            ``max_vertices`` is not positive.
        RuntimeError: it is on a device without a backend.
    """

    def __init__(self, features: Tensor, max_vertices: int | str | None = None) -> None:
        bound = check_max_vertices(max_vertices)
        features = check_features("features", features)
        require_backend(features.device)
        check_finite("features", features)
        self._batched = features.dim() == 3
        batch = features if self._batched else features[None]  # [B, N, d]
        self._features = batch if records_gradients(batch) else None
        self._shape: torch.Size = features.shape if self._batched else features[None].shape
        self._dtype = features.dtype
        self._device = features.device
        self._data: LatticeData | None = None
        if self._shape.numel() > 0:
            self._data = ops.build_lattice(batch.detach(), max_vertices=bound)
        self._max_vertices = bound
        self._num_vertices: tuple[int, ...] | None = None

    @property
    def num_points(self) -> int:
        """Number of points N of each lattice."""
        return self._shape[1]

    @property
    def num_vertices(self) -> int | tuple[int, ...]:
        """Number of vertices in use: an int for features ``[N, d]``, else one for each lattice.

        On CUDA the host waits for the lattice to be built.

        Raises:
            ValueError: there are more than ``max_vertices``, or features on CUDA are not finite or
                span too many bandwidths for their dtype.
        """
        if self._num_vertices is None:
            if self._data is None:
                self._num_vertices = (0,) * self._shape[0]
            else:
                sizes = ops.lattice_sizes(self._data.vertices).tolist()
                self._check_sizes(sizes)
                self._num_vertices = tuple(sizes)
        return self._num_vertices if self._batched else self._num_vertices[0]

    def _check_sizes(self, sizes: list[int]) -> None:
        """Says why a lattice on CUDA must not be used; see ``ops.lattice_sizes``."""
        if -1 in sizes:
            raise ValueError(
                "expected finite features that span few enough bandwidths for "
                f"{self._dtype}, found others: use larger bandwidths or float64"
            )
        if min(sizes) < 0:
            raise ValueError(
                f"expected at most max_vertices={self._max_vertices} vertices in each lattice, "
                f"found {max(-1 - size for size in sizes)}: raise max_vertices"
            )

    def filter(
        self, values: Tensor, normalization: str | None = None, adjoint: bool = False
    ) -> Tensor:
        """Filters values over the points of the lattice.

        Gradients flow to the values and to the features, exactly; those of the values can be
        differentiated again.

        Args:
            values: ``[..., N, C]`` for features ``[N, d]``, ``[B, N, C]`` for features
                ``[B, N, d]``; of the features' dtype, or float16 or bfloat16, which are filtered
                in float32.
            normalization: with n the filtered ones: None or ``"none"`` is the kernel K itself,
                ``"before"`` K/n, ``"after"`` (1/n)K, which keeps constants, ``"symmetric"``
                n^-1/2 K n^-1/2.
            adjoint: applies the transposed filter, exactly.

        Returns:
            A new tensor of the shape and dtype of ``values``.

        Raises:
            TypeError: the dtype of ``values`` is another.
            ValueError: its shape or device does not fit the lattice, or an entry is not finite.
        """
        normalization = "none" if normalization is None else normalization
        check_choice("normalization", normalization, ops.NORMALIZATIONS)
        self._check_values(values)
        if values.numel() == 0:
            return torch.empty_like(values)
        batch = self._shape[0] if self._batched else -1
        flat = values.to(self._dtype).reshape(batch, *values.shape[-2:])  # [B, N, C]
        assert self._data is not None  # N > 0, since values are not empty
        filtered = ops.lattice_filter(self._data, flat, normalization, adjoint, self._features)
        return filtered.reshape(values.shape).to(values.dtype)

    def _check_values(self, values: Tensor) -> None:
        if not isinstance(values, Tensor):
            raise TypeError(f"expected values to be a torch.Tensor, found {type(values).__name__}")
        half = values.dtype in _HALF and self._dtype == torch.float32
        if values.dtype != self._dtype and not half:
            raise TypeError(f"expected values of dtype {self._dtype}, found {values.dtype}")
        if values.device != self._device:
            raise ValueError(f"expected values on {self._device}, found {values.device}")
        batch, points, _ = self._shape
        if self._batched:
            fits = values.dim() == 3 and values.shape[:2] == (batch, points)
            expected = f"[{batch}, {points}, C]"
        else:
            fits = values.dim() >= 2 and values.shape[-2] == points
            expected = f"[..., {points}, C]"
        if not fits:
            raise ValueError(f"expected values of shape {expected}, found {list(values.shape)}")
        check_finite("values", values)


def permutohedral_filter(
    values: Tensor, features: Tensor, normalization: str | None = None, adjoint: bool = False
) -> Tensor:
    """Filters values with a Gaussian over features, through a lattice that is used once.

    The same as ``PermutohedralLattice(features).filter(values, normalization, adjoint)``, whose
    shapes, dtypes, modes, errors and gradients apply.
    """
    return PermutohedralLattice(features).filter(values, normalization, adjoint)


def check_features(name: str, features: Tensor) -> Tensor:
    """Checks shape and type of features ``[N, d]`` or ``[B, N, d]``; float32 or float64 back."""
    if not isinstance(features, Tensor):
        raise TypeError(f"expected {name} to be a torch.Tensor, found {type(features).__name__}")
    if features.dtype in _HALF:
        features = features.float()
    if features.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"expected {name} of a floating dtype, found {features.dtype}")
    if features.dim() not in (2, 3) or features.shape[-1] == 0:
        raise ValueError(
            f"expected {name} of shape [N, d] or [B, N, d] with d >= 1, "
            f"found {list(features.shape)}"
        )
    return features
