"""The dense CRF with its mean field open to the user, step by step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import ops
from .backends import require_backend
from .checks import (
    check_choice,
    check_count,
    check_damping,
    check_finite,
    check_labels,
    check_max_vertices,
    check_tolerance,
)
from .inputs import Guide, check_image_values, compute_dtype, lattice_pixels
from .kernels import FeatureKernel, Kernel, apply_compatibility, check_kernels, terms_of
from .mean_field_ops import refuse_tolerance
from .ops import LatticeData
from .registration import records_gradients
from .unrolled import FilterTerm, unrolled_mean_field

# The floor that pydensecrf's klDivergence sets under Q before the logarithm.
_LOG_FLOOR = 1e-20


class DenseCRF:
    """A fully connected CRF over the pixels of images, the voxels of volumes or loose points.

    The energy of a labelling x is ``sum_i -logits[x_i, i]`` plus the terms of the kernels; see
    ``densecrf_gpu.kernels`` for the sign of their weights. The lattices are built once, here.
    Marginals Q that go in and out have the shape, dtype and device of the logits. float16 and
    bfloat16 are computed in float32, and so is everything under autocast.

    Gradients flow, exactly, to the logits, to marginals that are passed in, to the weights of
    kernels that are tensors, and to the features of a ``FeatureKernel``; the last through an
    inference that autograd records filter by filter, which takes more time and memory.

    Args:
        logits: ``[C, *size]`` or ``[B, C, *size]``, scores or log-probabilities; the negative of
            pydensecrf's unary energies.
        kernels: any number of ``GaussianKernel``, ``BilateralKernel`` and ``FeatureKernel``.
        image: what bilateral kernels compare: ``[channels, *size]``, shared by the batch, or
            ``[B, channels, *size]``; uint8 or floating.
        spatial_dims: number of axes of ``size``: 1 for points, 2 for images, 3 for volumes.
        max_vertices: the most vertices that the lattice of an image may have, which bounds the
            memory on CUDA; where there are more, results are NaN and labels -1. None for as many as
            there could be; ``"exact"`` for as many as there are, which makes the host wait for the
            GPU. The CPU always takes what is needed.

    Raises:
        TypeError: an argument is of another type or dtype.
        ValueError: shapes or devices do not fit, an entry is not finite, or a float image seems to
            span [0, 1] with bandwidths made for 0..255. Values on a GPU are not looked at: there
            NaN and infinity come out as NaN.
        RuntimeError: the image requires grad, or a tensor is on a device without a backend.
    """

    def __init__(
        self,
        logits: Tensor,
        kernels: Sequence[Kernel],
        image: Tensor | None = None,
        *,
        spatial_dims: int = 2,
        max_vertices: int | str | None = None,
    ) -> None:
        bound = check_max_vertices(max_vertices)
        if spatial_dims not in (1, 2, 3):
            raise ValueError(f"expected spatial_dims to be 1, 2 or 3, found {spatial_dims!r}")
        self._check_logits(logits, spatial_dims)
        self._batched = logits.dim() == spatial_dims + 2
        self._shape = logits.shape
        self._dtype = logits.dtype
        batched = logits if self._batched else logits[None]  # [B, C, *size]
        dtype = compute_dtype(logits.dtype)
        require_backend(logits.device)
        guide = None if image is None else self._guide(image, batched, dtype)
        check_finite("logits", logits)
        shape = tuple(batched.shape)
        used = check_kernels(kernels, shape, guide, dtype, logits.device)
        self._terms = terms_of(used, shape, guide, dtype, logits.device, bound)
        self._features = [_learnable_features(kernel, dtype) for kernel, _ in used]
        self._logits = batched.flatten(2).to(dtype)  # [B, C, N]
        if torch.compiler.is_compiling() or self._logits.data_ptr() == logits.data_ptr():
            self._logits = self._logits.clone()  # the caller may write to his

    @staticmethod
    def _check_logits(logits: Tensor, spatial_dims: int) -> None:
        if not isinstance(logits, Tensor):
            raise TypeError(f"expected logits to be a torch.Tensor, found {type(logits).__name__}")
        if not logits.is_floating_point():
            raise TypeError(f"expected logits of a floating dtype, found {logits.dtype}")
        if logits.dim() - spatial_dims not in (1, 2) or logits.numel() == 0:
            raise ValueError(
                f"expected logits of shape [C, *size] or [B, C, *size] with {spatial_dims} axes of "
                f"size, none of them 0, found {list(logits.shape)}"
            )

    @staticmethod
    def _guide(image: Tensor, logits: Tensor, dtype: torch.dtype) -> Guide:
        batch, _, *size = logits.shape
        if not isinstance(image, Tensor):
            raise TypeError(f"expected image to be a torch.Tensor, found {type(image).__name__}")
        if image.dtype == torch.bool or image.is_complex():
            raise TypeError(f"expected image of dtype uint8 or floating, found {image.dtype}")
        guide = image if image.dim() == logits.dim() else image[None]
        if guide.dim() != logits.dim() or list(guide.shape[2:]) != size or guide.shape[1] == 0:
            raise ValueError(
                f"expected image of shape [channels, *{size}] or [{batch}, channels, *{size}], "
                f"found {list(image.shape)}"
            )
        if guide.shape[0] not in (1, batch):
            raise ValueError(f"expected image of batch 1 or {batch}, found {guide.shape[0]}")
        if image.device != logits.device:
            raise ValueError(f"expected image on {logits.device}, found {image.device}")
        ops.refuse_gradients("DenseCRF in its image", image)
        return Guide(lattice_pixels(guide, dtype), check_image_values("image", image))

    def start(self) -> Tensor:
        """Returns the marginals before any message, ``softmax(logits)``."""
        return self._public(self._logits.softmax(dim=1))

    def step(self, q: Tensor, damping: float = 0.0) -> Tensor:
        """Returns the marginals one mean-field iteration after ``q``.

        Args:
            q: marginals, of the shape and dtype of the logits; not changed.
            damping: the part of ``q`` that stays, in [0, 1).
        """
        damping = check_damping(damping)
        q = self._marginals(q)
        updated = (self._logits - self._pairwise(q)).softmax(dim=1)
        return self._public(torch.lerp(updated, q, damping) if damping else updated)

    def inference(
        self,
        iterations: int = 10,
        *,
        damping: float = 0.0,
        tolerance: float | None = None,
        output: str = "probabilities",
    ) -> Tensor:
        """Runs mean field from :meth:`start`, in one call of the compiled operator.

        Where autograd records, the marginals before every iteration are kept for backward.

        Args:
            iterations: at most this many.
            damping: the part of the old marginals that stays, in [0, 1).
            tolerance: stops once no marginal moved by as much; None for never, as gradients
                demand.
            output: ``"probabilities"``, their logarithms ``"logits"``, or ``"labels"``.

        Returns:
            Shape and dtype of the logits; for labels int64 ``[*size]`` or ``[B, *size]``, which
            carry no gradient.

        Raises:
            RuntimeError: there is a tolerance where gradients are recorded.
        """
        check_choice("output", output, ops.OUTPUTS)
        iterations = check_count("iterations", iterations)
        damping, stop = check_damping(damping), check_tolerance(tolerance)
        features = [f for f in self._features if f is not None]
        if output != "labels" and records_gradients(*features):
            refuse_tolerance(stop)
            result = self._unrolled(iterations, damping, output)
        else:
            result = ops.mean_field(self._logits, *self._terms, iterations, damping, stop, output)
        return self._public_labels(result) if output == "labels" else self._public(result)

    def kl_divergence(self, q: Tensor) -> Tensor:
        """Returns the objective that pydensecrf's ``klDivergence`` reports for marginals ``q``.

        It is ``sum Q log Q - sum Q logits + sum_k sum Q C_k F_k(Q)``: up to a constant, the
        divergence of Q from a CRF in which every pair of pixels counts twice, (i, j) and (j, i).

        Args:
            q: marginals, of the shape and dtype of the logits.

        Returns:
            float64, ``[B]`` or, without batch axis, ``[]``.
        """
        q = self._marginals(q)
        terms = q * (q.clamp_min(_LOG_FLOOR).log() - self._logits + self._pairwise(q))
        return self._per_image(terms)

    def energy(self, labels: Tensor) -> Tensor:
        """Returns the energy of a labelling, every pair of pixels counted once.

        It is ``sum_i -logits[x_i, i] + 1/2 sum_k sum_i (C_k F_k(x))[x_i, i]`` with x one-hot, the
        filters normalised as in inference, and half of every pixel's term with itself included.
        pydensecrf's C++ has both sums, ``unaryEnergy`` and ``pairwiseEnergy``, but returns the
        second with the opposite sign.

        Args:
            labels: int, ``[*size]`` or ``[B, *size]``.

        Returns:
            float64, ``[B]`` or, without batch axis, ``[]``.
        """
        if not isinstance(labels, Tensor) or labels.is_floating_point():
            found = getattr(labels, "dtype", type(labels).__name__)
            raise TypeError(f"expected labels to be an integer tensor, found {found}")
        expected = self._label_shape()
        if labels.shape != expected:
            raise ValueError(
                f"expected labels of shape {list(expected)}, found {list(labels.shape)}"
            )
        if labels.device != self._logits.device:
            raise ValueError(f"expected labels on {self._logits.device}, found {labels.device}")
        classes = self._logits.shape[1]
        check_labels("labels", labels, classes)
        index = labels.long().reshape(self._logits.shape[0], 1, -1)  # [B, 1, N]
        every = torch.arange(classes, device=labels.device)[:, None]
        x = (index == every).to(self._logits.dtype)  # one-hot [B, C, N]
        return self._per_image(x * (0.5 * self._pairwise(x) - self._logits))

    def map(self, q: Tensor) -> Tensor:
        """Returns the label of the largest marginal, int64 ``[*size]`` or ``[B, *size]``."""
        return self._public_labels(self._marginals(q).argmax(dim=1))

    def _pairwise(self, q: Tensor) -> Tensor:
        """Returns ``sum_k C_k F_k(Q)``, [B, C, N]."""
        total = torch.zeros_like(q)
        rows = q.transpose(1, 2).contiguous()  # [B, N, C]
        for term, compatibility in zip(self._filters(), self._terms.compatibilities, strict=True):
            total += apply_compatibility(term.filter(rows).transpose(1, 2), compatibility)
        return total

    def _unrolled(self, iterations: int, damping: float, output: str) -> Tensor:
        compatibilities = self._terms.compatibilities
        with torch.autocast(self._logits.device.type, enabled=False):
            return unrolled_mean_field(
                self._logits, self._filters(), compatibilities, iterations, damping, output, False
            )

    def _filters(self) -> list[FilterTerm]:
        points, vertices, _, normalizations = self._terms
        return [
            FilterTerm(LatticeData(p, v), features, mode)
            for p, v, mode, features in zip(
                points, vertices, normalizations, self._features, strict=True
            )
        ]

    def _marginals(self, q: Tensor) -> Tensor:
        if not isinstance(q, Tensor):
            raise TypeError(f"expected q to be a torch.Tensor, found {type(q).__name__}")
        if q.dtype != self._dtype:
            raise TypeError(f"expected q of dtype {self._dtype}, found {q.dtype}")
        if q.shape != self._shape or q.device != self._logits.device:
            raise ValueError(
                f"expected q of shape {list(self._shape)} on {self._logits.device}, "
                f"found {list(q.shape)} on {q.device}"
            )
        check_finite("q", q)
        return q.reshape(self._logits.shape).to(self._logits.dtype)

    def _label_shape(self) -> torch.Size:
        class_dim = 1 if self._batched else 0
        return torch.Size([*self._shape[:class_dim], *self._shape[class_dim + 1 :]])

    def _public(self, q: Tensor) -> Tensor:
        return q.reshape(self._shape).to(self._dtype)

    def _public_labels(self, labels: Tensor) -> Tensor:
        return labels.reshape(self._label_shape())

    def _per_image(self, terms: Tensor) -> Tensor:
        sums = terms.sum(dim=(1, 2), dtype=torch.float64)
        return sums if self._batched else sums[0]


def _learnable_features(kernel: Kernel, dtype: torch.dtype) -> Tensor | None:
    """The features of a kernel, [B or 1, N, d], if they are to receive a gradient."""
    if isinstance(kernel, FeatureKernel) and records_gradients(kernel.features):
        return kernel.batch(dtype)
    return None
