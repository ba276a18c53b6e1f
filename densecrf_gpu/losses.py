"""CRF energies as differentiable losses: rloss's DenseCRF loss, relaxed Potts, mean field's own.

Gradients are exact: ``d/dS S^T K S = (K + K^T) S`` with the true adjoint of the lattice, which is
not symmetric. They flow to probabilities, logits and the weights of kernels; an image that requires
grad is refused.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import ops
from .backends import require_backend
from .checks import check_finite, check_probabilities, check_sigmas
from .inputs import Guide, check_image_values, compute_dtype, lattice_pixels
from .kernels import BilateralKernel, Kernel, apply_compatibility, build_terms
from .ops import LatticeData


class DenseCRFLoss(nn.Module):
    """The regularised loss of Tang et al. (ECCV 2018) for weak supervision, as rloss defines it.

    ``-weight / B sum_b sum_c S_bc^T A_b S_bc``, with A the lattice kernel over positions and
    colours, not normalised, and S the probabilities inside the region of interest. Up to a constant
    it is twice the relaxed Potts energy. As it sums over pairs of pixels, weights are tiny and
    belong to one image size: 2e-9 goes with crops of 513 x 513.

    Args:
        weight: factor of the loss.
        sigma_rgb: bandwidth of colours in the image's own units; a tuple gives one per channel.
        sigma_xy: bandwidth of positions, in pixels of the full size.
        scale_factor: image, probabilities and region are reduced by it first.
        image_range: the value of full intensity in the image. If given, ``sigma_rgb`` counts in
            units of 0..255 and is scaled by ``image_range / 255``.

    Raises:
        ValueError: a bandwidth or the factor is out of its range.
    """

    def __init__(
        self,
        weight: float = 2e-9,
        sigma_rgb: float | tuple[float, ...] = 15.0,
        sigma_xy: float = 100.0,
        scale_factor: float = 0.5,
        image_range: float | None = None,
    ) -> None:
        super().__init__()
        if not 0 < scale_factor <= 1:
            raise ValueError(f"expected scale_factor in (0, 1], found {scale_factor}")
        check_sigmas("sigma_xy", sigma_xy)
        check_sigmas("sigma_rgb", sigma_rgb)
        self.weight = weight
        self.sigma_rgb = sigma_rgb
        self.sigma_xy = sigma_xy
        self.scale_factor = scale_factor
        self.image_range = image_range

    def forward(self, probabilities: Tensor, image: Tensor, roi: Tensor | None = None) -> Tensor:
        """Returns the loss, a scalar; gradients flow to the probabilities.

        Args:
            probabilities: ``[B, C, H, W]`` of a softmax; float16 and bfloat16 are computed in
                float32.
            image: ``[B, channels, H, W]`` or ``[1, channels, H, W]``, uint8 or floating.
            roi: ``[B, H, W]``, 1 or True where pixels count, 0 where they are padding or to be
                ignored; None where all count.

        Raises:
            TypeError: an argument is of another type or dtype.
            ValueError: shapes, devices or ranges do not fit.
            RuntimeError: the image requires grad.
        """
        _check_scores("probabilities", probabilities, 2, batched=True)
        _check_image(image, probabilities, "DenseCRFLoss")
        check_probabilities("probabilities", probabilities)
        dtype = compute_dtype(probabilities.dtype)
        s = self._reduce(probabilities.to(dtype), "bilinear")  # [B, C, h, w]
        if roi is not None:
            s = s * self._reduce(self._region(roi, probabilities, dtype), "nearest")
        pixels = self._reduce(image, "nearest")
        guide = Guide(lattice_pixels(pixels, dtype), check_image_values("image", image))
        size = tuple(s.shape[2:])
        sxy = self.sigma_xy * self.scale_factor
        kernel = BilateralKernel(sxy, self.sigma_rgb, 1.0, "none", self.image_range)
        kernel.check(s.shape[0], size, guide, s.device)
        lattice = kernel.lattice(size, guide, dtype, s.device)
        rows = s.flatten(2).transpose(1, 2).contiguous()  # [B, N, C]
        affinity = (rows * ops.lattice_filter(lattice, rows, "none", False)).sum()
        return affinity * (-self.weight / s.shape[0])

    def extra_repr(self) -> str:
        """Shows the arguments in the module's repr."""
        return (
            f"weight={self.weight}, sigma_rgb={self.sigma_rgb}, sigma_xy={self.sigma_xy}, "
            f"scale_factor={self.scale_factor}"
        )

    def _reduce(self, maps: Tensor, mode: str) -> Tensor:
        if self.scale_factor == 1:
            return maps
        align = False if mode == "bilinear" else None
        return F.interpolate(maps, scale_factor=self.scale_factor, mode=mode, align_corners=align)

    @staticmethod
    def _region(roi: Tensor, probabilities: Tensor, dtype: torch.dtype) -> Tensor:
        batch, _, *size = probabilities.shape
        if not isinstance(roi, Tensor):
            raise TypeError(f"expected roi to be a torch.Tensor, found {type(roi).__name__}")
        if list(roi.shape) != [batch, *size] or roi.device != probabilities.device:
            raise ValueError(
                f"expected roi of shape {[batch, *size]} on {probabilities.device}, "
                f"found {list(roi.shape)} on {roi.device}"
            )
        return roi.to(dtype)[:, None]  # [B, 1, H, W]


def relaxed_potts_energy(
    probabilities: Tensor,
    kernels: Sequence[Kernel],
    image: Tensor | None = None,
    *,
    spatial_dims: int = 2,
) -> Tensor:
    """Returns the Potts energy of soft labels, every pair of pixels counted once.

    ``1/2 sum_k w_k sum_{l != l'} S_l^T F_k S_l'``: for one-hot S the weighted number of pairs whose
    labels differ, which is what ``DenseCRF.energy`` says of the pairwise terms up to a constant.

    Args:
        probabilities: ``[C, *size]`` or ``[B, C, *size]``.
        kernels: any number, each with a number as weight, filters normalised as they say.
        image: what bilateral kernels compare: ``[channels, *size]``, shared by the batch, or
            ``[B, channels, *size]``; uint8 or floating.
        spatial_dims: number of axes of ``size``: 1 for points, 2 for images, 3 for volumes.

    Returns:
        ``[B]`` or, without batch axis, ``[]``; float64 if ``probabilities`` is, else float32.

    Raises:
        TypeError: an argument is of another type or dtype.
        ValueError: shapes, devices or ranges do not fit, or a weight is not a number.
        RuntimeError: the image requires grad.
    """
    batched = _check_scores("probabilities", probabilities, spatial_dims)
    check_probabilities("probabilities", probabilities)
    s = probabilities if batched else probabilities[None]
    terms = _terms("relaxed_potts_energy", s, kernels, image)
    rows = s.flatten(2).to(compute_dtype(s.dtype)).transpose(1, 2).contiguous()  # [B, N, C]
    energy = rows.new_zeros(rows.shape[0])
    for points, vertices, compatibility, normalization in zip(*terms, strict=True):
        if compatibility.numel() != 1:
            raise ValueError(
                f"expected kernels whose weight is a number, found {list(compatibility.shape)}"
            )
        message = ops.lattice_filter(LatticeData(points, vertices), rows, normalization, False)
        others = message.sum(dim=2, keepdim=True) - message  # of all labels l' != l
        energy = energy + 0.5 * compatibility * (rows * others).sum(dim=(1, 2))
    return energy if batched else energy[0]


def mean_field_energy(
    q: Tensor,
    logits: Tensor,
    kernels: Sequence[Kernel],
    image: Tensor | None = None,
    *,
    spatial_dims: int = 2,
) -> Tensor:
    """Returns the variational free energy that mean field minimises: KL(Q || P) - log Z.

    ``sum Q log Q - sum Q logits + 1/2 sum_k sum Q C_k F_k(Q)``. Where compatibilities and filters
    are symmetric, the fixed points of mean field are its stationary points. It counts every pair
    of pixels once; pydensecrf's ``klDivergence``, and so ``DenseCRF.kl_divergence``, counts it
    twice.

    Args:
        q: marginals, ``[C, *size]`` or ``[B, C, *size]``.
        logits: of the shape, dtype and device of ``q``.
        kernels: any number, with weights of any kind.
        image: what bilateral kernels compare: ``[channels, *size]``, shared by the batch, or
            ``[B, channels, *size]``; uint8 or floating.
        spatial_dims: number of axes of ``size``: 1 for points, 2 for images, 3 for volumes.

    Returns:
        ``[B]`` or, without batch axis, ``[]``; float64 if ``q`` is, else float32.

    Raises:
        TypeError: an argument is of another type or dtype.
        ValueError: shapes, devices or ranges do not fit.
        RuntimeError: the image requires grad.
    """
    batched = _check_scores("q", q, spatial_dims)
    _check_scores("logits", logits, spatial_dims)
    if logits.shape != q.shape or logits.device != q.device:
        raise ValueError(
            f"expected logits of shape {list(q.shape)} on {q.device}, "
            f"found {list(logits.shape)} on {logits.device}"
        )
    check_probabilities("q", q)
    check_finite("logits", logits)
    marginals = q if batched else q[None]
    terms = _terms("mean_field_energy", marginals, kernels, image)
    dtype = compute_dtype(q.dtype)
    marginals = marginals.flatten(2).to(dtype)  # [B, C, N]
    unary = logits.reshape(marginals.shape).to(dtype)
    rows = marginals.transpose(1, 2).contiguous()  # [B, N, C]
    # xlogy(0, 0) = 0, but its derivative there is infinite: the floor is the least normal number.
    log_q = marginals.clamp_min(torch.finfo(dtype).tiny).log()
    energy = marginals * (log_q - unary)
    for points, vertices, compatibility, normalization in zip(*terms, strict=True):
        message = ops.lattice_filter(LatticeData(points, vertices), rows, normalization, False)
        penalty = apply_compatibility(message.transpose(1, 2), compatibility)
        energy = energy + 0.5 * marginals * penalty
    sums = energy.sum(dim=(1, 2))
    return sums if batched else sums[0]


def _terms(
    caller: str, scores: Tensor, kernels: Sequence[Kernel], image: Tensor | None
) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[str]]:
    """Builds the lattices of kernels for scores [B, C, *size]."""
    dtype = compute_dtype(scores.dtype)
    guide = None
    if image is not None:
        pixels = image if image.dim() == scores.dim() else image[None]
        _check_image(pixels, scores, caller)
        guide = Guide(lattice_pixels(pixels, dtype), check_image_values("image", pixels))
    require_backend(scores.device)
    return build_terms(kernels, tuple(scores.shape), guide, dtype, scores.device)


def _check_scores(name: str, scores: Tensor, spatial_dims: int, batched: bool = False) -> bool:
    """Checks kind and shape; tells whether there is a batch axis."""
    if spatial_dims not in (1, 2, 3):
        raise ValueError(f"expected spatial_dims to be 1, 2 or 3, found {spatial_dims!r}")
    if not isinstance(scores, Tensor):
        raise TypeError(f"expected {name} to be a torch.Tensor, found {type(scores).__name__}")
    if not scores.is_floating_point():
        raise TypeError(f"expected {name} of a floating dtype, found {scores.dtype}")
    axes = scores.dim() - spatial_dims
    if axes not in ((2,) if batched else (1, 2)) or scores.numel() == 0:
        shapes = "[B, C, *size]" if batched else "[C, *size] or [B, C, *size]"
        raise ValueError(
            f"expected {name} of shape {shapes} with {spatial_dims} axes of size, none of them 0, "
            f"found {list(scores.shape)}"
        )
    require_backend(scores.device)
    return axes == 2


def _check_image(image: Tensor, scores: Tensor, caller: str) -> None:
    """Checks an image [B or 1, channels, *size] against scores [B, C, *size]."""
    batch, _, *size = scores.shape
    if not isinstance(image, Tensor):
        raise TypeError(f"expected image to be a torch.Tensor, found {type(image).__name__}")
    if image.dtype == torch.bool or image.is_complex():
        raise TypeError(f"expected image of dtype uint8 or floating, found {image.dtype}")
    fits = image.dim() == scores.dim() and list(image.shape[2:]) == size and image.shape[1] > 0
    if not fits or image.shape[0] not in (1, batch):
        raise ValueError(
            f"expected image of shape [{batch}, channels, *{size}] or [1, channels, *{size}], "
            f"found {list(image.shape)}"
        )
    if image.device != scores.device:
        raise ValueError(f"expected image on {scores.device}, found {image.device}")
    ops.refuse_gradients(caller, image)
