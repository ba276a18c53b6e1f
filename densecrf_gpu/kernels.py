"""Pairwise terms of a dense CRF: a Gaussian kernel over features, times a label compatibility.

Sign convention. A number w is an attraction: the message ``w F(Q)`` is added to the logits, so
that near and alike pixels take the same label. A vector holds such a weight for each class. A
matrix is a penalty, ``mu[l, l']`` for labels l and l' side by side: ``mu @ F(Q)`` is subtracted,
and ``w * (1 - identity)`` is the same as the number w. pydensecrf's numbers and matrices mean the
same (it symmetrises matrices); its vectors have the opposite sign.

A weight that is a tensor and requires grad receives its gradient, exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from . import ops
from .cache import spatial_lattice
from .checks import (
    check_choice,
    check_finite,
    check_sigmas,
    expand_sigmas,
    values_at_hand,
)
from .inputs import Guide
from .lattice import check_features
from .ops import LatticeData
from .registration import records_gradients

Weight: TypeAlias = float | Sequence[float] | Sequence[Sequence[float]] | np.ndarray | Tensor


@dataclass(frozen=True, eq=False)
class GaussianKernel:
    """Smoothness kernel ``exp(-|p_i - p_j|^2 / 2 sxy^2)`` over positions p.

    Attributes:
        sxy: bandwidth in pixels; a tuple gives one per axis, x first.
        weight: number, ``[C]`` or ``[C, C]``; the module says in which sense.
        normalization: ``"none"``, ``"before"``, ``"after"`` or ``"symmetric"``.
    """

    sxy: float | tuple[float, ...]
    weight: Weight
    normalization: str = "symmetric"

    def __post_init__(self) -> None:
        check_sigmas("sxy", self.sxy)
        check_choice("normalization", self.normalization, ops.NORMALIZATIONS)

    def check(
        self, batch: int, size: tuple[int, ...], guide: Guide | None, device: torch.device
    ) -> None:
        """Raises ValueError if the kernel does not fit an image of ``size``."""
        expand_sigmas("sxy", self.sxy, len(size))

    def lattice(
        self,
        size: tuple[int, ...],
        guide: Guide | None,
        dtype: torch.dtype,
        device: torch.device,
        max_vertices: int | None = None,
    ) -> LatticeData:
        """Returns the lattice of positions, which is shared through a cache."""
        sigmas = expand_sigmas("sxy", self.sxy, len(size))
        return spatial_lattice(size, sigmas, dtype, device, max_vertices == ops.EXACT)


@dataclass(frozen=True, eq=False)
class BilateralKernel:
    """Appearance kernel ``exp(-|p_i - p_j|^2 / 2 sxy^2 - |c_i - c_j|^2 / 2 srgb^2)``.

    Attributes:
        sxy: bandwidth of positions p in pixels; a tuple gives one per axis, x first.
        srgb: bandwidth of colours c in the image's own units; a tuple gives one per channel.
        weight: number, ``[C]`` or ``[C, C]``; the module says in which sense.
        normalization: ``"none"``, ``"before"``, ``"after"`` or ``"symmetric"``.
        image_range: the value of full intensity in the image. If given, ``srgb`` counts in units
            of 0..255 and is scaled by ``image_range / 255``. If None, a float image that seems to
            need 1.0 is refused.
    """

    sxy: float | tuple[float, ...]
    srgb: float | tuple[float, ...]
    weight: Weight
    normalization: str = "symmetric"
    image_range: float | None = None

    def __post_init__(self) -> None:
        check_sigmas("sxy", self.sxy)
        check_sigmas("srgb", self.srgb)
        check_choice("normalization", self.normalization, ops.NORMALIZATIONS)
        if self.image_range is not None:
            check_sigmas("image_range", self.image_range)

    def check(
        self, batch: int, size: tuple[int, ...], guide: Guide | None, device: torch.device
    ) -> None:
        """Raises ValueError if the kernel does not fit an image, or the image's range not srgb."""
        expand_sigmas("sxy", self.sxy, len(size))
        if guide is None:
            raise ValueError("expected an image for the bilateral kernel, found None")
        sigmas = expand_sigmas("srgb", self.srgb, guide.pixels.shape[1])
        if self.image_range is None and guide.peak is not None:
            _check_range(guide.peak, min(sigmas))

    def lattice(
        self,
        size: tuple[int, ...],
        guide: Guide | None,
        dtype: torch.dtype,
        device: torch.device,
        max_vertices: int | None = None,
    ) -> LatticeData:
        """Builds the lattices of positions and colours."""
        assert guide is not None
        scale = 1.0 if self.image_range is None else self.image_range / 255
        srgb = expand_sigmas("srgb", self.srgb, guide.pixels.shape[1])
        return ops.build_image_lattice(
            guide.pixels,
            size,
            expand_sigmas("sxy", self.sxy, len(size)),
            [sigma * scale for sigma in srgb],
            max_vertices,
        )


# Images scaled to [0, 1] or [-1, 1] or normalised to unit variance stay within this.
_NORMALIZED_PEAK = 3.0


def _check_range(peak: float, sigma: float) -> None:
    """Refuses bandwidths made for 0..255 on images made for networks: all colours would agree."""
    if sigma >= 1 and sigma >= peak and peak <= _NORMALIZED_PEAK:
        raise ValueError(
            f"image is float within [-{peak:g}, {peak:g}], but srgb = {sigma:g} is meant for "
            f"colours of 0..255: if the image spans [0, 1], pass image_range=1.0 (srgb then counts "
            f"in 0..255), or srgb = {sigma:g} / 255, or image * 255; if its values do reach 255, "
            f"pass image_range=255.0"
        )


@dataclass(frozen=True, eq=False)
class FeatureKernel:
    """Kernel ``exp(-|f_i - f_j|^2 / 2)`` over arbitrary features f: depth, time, embeddings.

    Attributes:
        features: ``[N, d]`` or ``[B, N, d]``, divided by their bandwidths; points in the raster
            order of the logits. They are converted to the dtype of the inference.
        weight: number, ``[C]`` or ``[C, C]``; the module says in which sense.
        normalization: ``"none"``, ``"before"``, ``"after"`` or ``"symmetric"``.
    """

    features: Tensor
    weight: Weight
    normalization: str = "symmetric"

    def __post_init__(self) -> None:
        check_features("features", self.features)
        check_finite("features", self.features)
        check_choice("normalization", self.normalization, ops.NORMALIZATIONS)

    def check(
        self, batch: int, size: tuple[int, ...], guide: Guide | None, device: torch.device
    ) -> None:
        """Raises ValueError if the features are of other points or on another device."""
        points = torch.Size(size).numel()
        shape = self.features.shape
        if shape[-2] != points or (len(shape) == 3 and shape[0] not in (1, batch)):
            raise ValueError(
                f"expected features of shape [{points}, d] or [{batch}, {points}, d], "
                f"found {list(shape)}"
            )
        if self.features.device != device:
            raise ValueError(f"expected features on {device}, found {self.features.device}")

    def lattice(
        self,
        size: tuple[int, ...],
        guide: Guide | None,
        dtype: torch.dtype,
        device: torch.device,
        max_vertices: int | None = None,
    ) -> LatticeData:
        """Builds the lattices of the features."""
        return ops.build_lattice(self.batch(dtype).detach(), size, max_vertices)

    def batch(self, dtype: torch.dtype) -> Tensor:
        """Returns the features as the lattice takes them, ``[B or 1, N, d]``."""
        features = self.features if self.features.dim() == 3 else self.features[None]
        return features.to(dtype)


Kernel: TypeAlias = GaussianKernel | BilateralKernel | FeatureKernel


class PairwiseTerms(NamedTuple):
    """The kernels of a CRF as the mean-field operator takes them, one entry each."""

    points: list[Tensor]
    vertices: list[Tensor]
    compatibilities: list[Tensor]  # [1], [C] or [C, C]
    normalizations: list[str]


def build_terms(
    kernels: Sequence[Kernel],
    shape: tuple[int, ...],
    guide: Guide | None,
    dtype: torch.dtype,
    device: torch.device,
    max_vertices: int | None = None,
) -> PairwiseTerms:
    """Checks all kernels, then builds their lattices; kernels of weight 0 are left out.

    Gradients can flow to the weights, not to the features of kernels: those are refused where
    they would have to be recorded.

    Args:
        kernels: any number.
        shape: ``(B, C, *size)`` of the logits.
        guide: the image, for bilateral kernels.
        dtype: float32 or float64.
        device: of the logits.
        max_vertices: of each lattice that depends on data, see ``ops.build_lattice``.
    """
    used = check_kernels(kernels, shape, guide, dtype, device)
    for kernel, _ in used:
        if isinstance(kernel, FeatureKernel):
            ops.refuse_gradients("FeatureKernel", kernel.features)
    return terms_of(used, shape, guide, dtype, device, max_vertices)


def check_kernels(
    kernels: Sequence[Kernel],
    shape: tuple[int, ...],
    guide: Guide | None,
    dtype: torch.dtype,
    device: torch.device,
) -> list[tuple[Kernel, Tensor]]:
    """Returns the kernels with their compatibilities, but for those of a fixed weight 0."""
    batch, classes, *size = shape
    used: list[tuple[Kernel, Tensor]] = []
    for kernel in kernels:
        if not isinstance(kernel, GaussianKernel | BilateralKernel | FeatureKernel):
            raise TypeError(
                "expected kernels of type GaussianKernel, BilateralKernel or FeatureKernel, "
                f"found {type(kernel).__name__}"
            )
        compatibility = _placed_compatibility(kernel.weight, classes, dtype, device)
        if compatibility is not None:
            kernel.check(batch, tuple(size), guide, device)
            used.append((kernel, compatibility))
    return used


def terms_of(
    used: Sequence[tuple[Kernel, Tensor]],
    shape: tuple[int, ...],
    guide: Guide | None,
    dtype: torch.dtype,
    device: torch.device,
    max_vertices: int | None = None,
) -> PairwiseTerms:
    """Builds the lattices of what :func:`check_kernels` returned."""
    terms = PairwiseTerms([], [], [], [])
    for kernel, compatibility in used:
        lattice = kernel.lattice(tuple(shape[2:]), guide, dtype, device, max_vertices)
        terms.points.append(lattice.points)
        terms.vertices.append(lattice.vertices)
        terms.compatibilities.append(compatibility)
        terms.normalizations.append(kernel.normalization)
    return terms


def _placed_compatibility(
    weight: Weight, classes: int, dtype: torch.dtype, device: torch.device
) -> Tensor | None:
    """Returns a weight as :func:`compatibility_tensor` does, on ``device``; None for a fixed 0."""
    if isinstance(weight, int | float) and not torch.compiler.is_compiling():
        # The usual case: tensors to check a number with would cost more than a small image does.
        limits = torch.finfo(dtype)
        if weight == 0:
            return None
        if limits.tiny <= abs(weight) <= limits.max:
            return torch.full((1,), weight, dtype=dtype, device=device)
    compatibility = compatibility_tensor(weight, classes, dtype)
    is_variable = not values_at_hand(compatibility) or records_gradients(compatibility)
    if not is_variable and not compatibility.count_nonzero():
        return None
    return to_device(compatibility, device)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Moves a few numbers to a device without waiting for it: a copy from pageable memory would.

    Raises:
        RuntimeError: several numbers would have to be copied in the capture of a CUDA graph, whose
            replays would read them where they no longer are.
    """
    if tensor.device.type != "cpu" or device.type != "cuda" or torch.compiler.is_compiling():
        return tensor.to(device)
    if tensor.numel() == 1 and not records_gradients(tensor):
        # A number: no copy, so that it can be captured in a CUDA graph.
        return torch.full(tensor.shape, tensor.item(), dtype=tensor.dtype, device=device)
    if torch.cuda.is_current_stream_capturing():
        raise RuntimeError(
            f"expected a weight of shape {list(tensor.shape)} on {device} in the capture of a CUDA "
            "graph, found it on the CPU: make it a tensor there before the capture"
        )
    return tensor.pin_memory().to(device, non_blocking=True)


def compatibility_tensor(weight: Weight, classes: int, dtype: torch.dtype) -> Tensor:
    """Returns a weight as ``[1]``, ``[C]`` or ``[C, C]``, on the device where its numbers are.

    Gradients flow to a tensor.

    Raises:
        ValueError: it has another shape, or an entry that is not finite.
    """
    tensor = torch.as_tensor(weight, dtype=dtype)
    if tensor.dim() > 0 and tensor.shape not in ((classes,), (classes, classes)):
        raise ValueError(
            f"expected weight to be a number, [{classes}] or [{classes}, {classes}], "
            f"found shape {list(tensor.shape)}"
        )
    check_finite("weight", tensor)
    return tensor.reshape(1) if tensor.dim() == 0 else tensor.contiguous()


def apply_compatibility(message: Tensor, compatibility: Tensor) -> Tensor:
    """Returns what a message F(Q) ``[B, C, N]`` adds to the energy of each label."""
    if compatibility.dim() == 2:
        with torch.autocast(message.device.type, enabled=False):
            return compatibility @ message
    return -compatibility[:, None] * message
