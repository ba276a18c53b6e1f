"""Mean field as a layer whose parameters learn: CRF as RNN (Zheng et al., ICCV 2015)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from densecrf_gpu import ops
from densecrf_gpu.backends import require_backend
from densecrf_gpu.checks import check_choice, check_count, check_damping, check_finite
from densecrf_gpu.inputs import Guide, compute_dtype, prepare_image, prepare_scores
from densecrf_gpu.kernels import BilateralKernel, GaussianKernel, Kernel
from densecrf_gpu.mean_field_ops import mean_field_train
from densecrf_gpu.params import CRFParams
from densecrf_gpu.unrolled import differentiable_term, unrolled_mean_field

from .bandwidths import ImageKernel, bandwidth_vector, split_bandwidths, with_bandwidths
from .compatibility import COMPATIBILITIES, WEIGHTS, combine, initial_weights, potts

OUTPUTS = ("logits", "probabilities")


class CRFasRNN(nn.Module):
    """Mean-field iterations as the last layer of a network; Zheng et al., ICCV 2015.

    An iteration is ``Q = softmax(logits - sum_k mu diag(w_k) F_k(Q))``, with a weight ``w_k`` for
    every kernel, or for every kernel and class, and one compatibility ``mu``. At first ``mu`` is
    that of Potts and the layer computes what ``crf_refine`` does with the same kernels: bit for bit
    with ``compatibility="potts"``, and up to rounding otherwise.

    Gradients are exact. They flow to the logits, to all parameters, and to an image that requires
    grad. Autograd keeps Q before every iteration, 4 bytes a pixel, class and iteration in float32
    (8 in float64). Once bandwidths or an image learn, mean field is put together from filter calls
    instead of running in one operator, which takes several times as long and as much memory.

    State dict:
        weights: ``[T, K]`` or ``[T, K, C]``, T = 1 unless ``per_iteration``, K kernels.
        compatibility: ``[T, C, C]``, penalties ``mu[l, l']``; absent with ``"potts"``.
        bandwidths: ``[n]``, where the bandwidths start, of one kernel after the other, positions (x
            first) and then colours; absent unless ``learn_bandwidths``.
        log_scales: ``[n]``, the logarithms of the factors by which they moved since; likewise.

    Args:
        num_classes: C, at least 2.
        iterations: of mean field in training.
        kernels: ``GaussianKernel`` and ``BilateralKernel``, whose weights, a number or ``[C]``,
            are where learning starts; ``CRFParams.pydensecrf().kernels()`` by default.
        eval_iterations: in evaluation mode; None for as many as in training.
        weights: ``"class"`` for a weight of every kernel and class, ``"kernel"`` for one of every
            kernel.
        compatibility: ``"full"`` learns all of mu, ``"symmetric"`` its symmetric part, ``"potts"``
            keeps it.
        zero_diagonal: keeps the diagonal of mu at 0.
        learn_bandwidths: makes the bandwidths parameters, positive by their logarithms. In more
            than three dimensions the lattice's filter jumps here and there as they move (see
            ``ops.lattice_filter_grad_features``): give them small learning rates.
        per_iteration: gives every iteration weights and a compatibility of its own; iterations
            beyond those of training share the last.
        damping: the part of the old marginals that stays in an iteration, in [0, 1).
        recompute: keeps nothing of the iterations, but runs them again in backward.
        output: ``"logits"``, the logarithms of the marginals, or ``"probabilities"``.

    Raises:
        TypeError: an argument is of another type.
        ValueError: an argument is out of its range, or a kernel's weight is a matrix.
    """

    compatibility: nn.Parameter | None
    log_scales: nn.Parameter | None
    bandwidths: Tensor

    def __init__(
        self,
        num_classes: int,
        iterations: int = 5,
        *,
        kernels: Sequence[ImageKernel | Kernel] | None = None,
        eval_iterations: int | None = 10,
        weights: str = "class",
        compatibility: str = "full",
        zero_diagonal: bool = False,
        learn_bandwidths: bool = False,
        per_iteration: bool = False,
        damping: float = 0.0,
        recompute: bool = False,
        output: str = "logits",
    ) -> None:
        super().__init__()
        self.num_classes = check_count("num_classes", num_classes, least=2)
        self.iterations = check_count("iterations", iterations, least=1)
        if eval_iterations is None:
            eval_iterations = iterations
        self.eval_iterations = check_count("eval_iterations", eval_iterations, least=1)
        self.damping = check_damping(damping)
        self.recompute = recompute
        for name, value, choices in (
            ("weights", weights, WEIGHTS),
            ("compatibility", compatibility, COMPATIBILITIES),
            ("output", output, OUTPUTS),
        ):
            check_choice(name, value, choices)
        self.output = output
        self.form = compatibility
        self.zero_diagonal = zero_diagonal
        self._kernels = _check_kernels(kernels)

        sets = self.iterations if per_iteration else 1
        rows = [initial_weights(kernel, num_classes, weights) for kernel in self._kernels]
        self.weights = nn.Parameter(
            torch.stack(rows).expand(sets, *(-1,) * (rows[0].dim() + 1)).clone()
        )
        matrix = None
        if compatibility != "potts":
            matrix = nn.Parameter(potts(num_classes).expand(sets, -1, -1).clone())
        self.register_parameter("compatibility", matrix)
        scales = None
        if learn_bandwidths:
            bandwidths = bandwidth_vector(self._kernels)
            self.register_buffer("bandwidths", bandwidths)
            scales = nn.Parameter(torch.zeros(len(bandwidths)))
        self.register_parameter("log_scales", scales)

    @classmethod
    def from_params(
        cls,
        params: CRFParams,
        num_classes: int,
        iterations: int = 5,
        *,
        normalization: str = "symmetric",
        image_range: float | None = None,
        **options: Any,
    ) -> CRFasRNN:
        """Returns a layer that starts as ``crf_refine`` with ``params``; both kernels take part.

        Args:
            params: where learning starts.
            num_classes: C.
            iterations: of mean field in training.
            normalization: of both kernels.
            image_range: the value of full intensity in the images, see ``crf_refine``.
            options: further arguments of the constructor.
        """
        kernels: list[ImageKernel] = [
            GaussianKernel(params.gaussian_sxy, params.gaussian_weight, normalization),
            BilateralKernel(
                params.bilateral_sxy,
                params.bilateral_srgb,
                params.bilateral_weight,
                normalization,
                image_range,
            ),
        ]
        return cls(num_classes, iterations, kernels=kernels, **options)

    def forward(self, logits: Tensor, image: Tensor) -> Tensor:
        """Refines logits.

        Args:
            logits: ``[C, h, w]`` or ``[B, C, h, w]``; enlarged bilinearly with
                ``align_corners=False`` where the image is larger.
            image: ``[channels, H, W]``, shared by the batch, or ``[B, channels, H, W]``; uint8 or
                floating, in the units of the kernels' ``srgb``: not normalised for the network,
                or with kernels of an ``image_range``.

        Returns:
            ``[C, H, W]`` or ``[B, C, H, W]``, of the dtype of ``logits``; computed in float32, also
            under autocast, or in float64.

        Raises:
            TypeError: an argument is of another type or dtype.
            ValueError: shapes or devices do not fit, or an entry is not finite.
            RuntimeError: the tensors are on a device without a backend.
        """
        if not isinstance(logits, Tensor):
            raise TypeError(f"expected logits to be a torch.Tensor, found {type(logits).__name__}")
        prepare_scores("logits", logits)
        if logits.shape[-3] != self.num_classes:
            raise ValueError(
                f"expected logits of {self.num_classes} classes, found {logits.shape[-3]}"
            )
        require_backend(logits.device)
        check_finite("logits", logits)
        batch = logits.shape[0] if logits.dim() == 4 else None
        small = (logits.shape[-2], logits.shape[-1])
        dtype = compute_dtype(logits.dtype)
        with torch.autocast(logits.device.type, enabled=False):
            guide = prepare_image(image, "CHW", small, batch, logits.device, dtype, resizable=True)
            size = (guide.pixels.shape[2], guide.pixels.shape[3])
            unary = logits.to(dtype).reshape(-1, *logits.shape[-3:])  # [B, C, h, w]
            if size != small:
                unary = F.interpolate(unary, size=size, mode="bilinear", align_corners=False)
            result = self._mean_field(unary.flatten(2), guide, size)
        lead = [] if batch is None else [batch]
        return result.reshape(*lead, self.num_classes, *size).to(logits.dtype)

    def to_kernels(self, iteration: int | None = None) -> list[Kernel]:
        """Returns kernels for ``DenseCRF`` that compute what this layer does.

        Args:
            iteration: whose parameters to take, needed if every iteration has its own.

        Raises:
            ValueError: every iteration has its own, and none is named.
        """
        sets = self.weights.shape[0]
        if iteration is None and sets > 1:
            raise ValueError(f"expected the iteration to take, of {sets}, found None")
        with torch.no_grad():
            weights = self._compatibilities(iteration or 0)
            kernels = self._numeric_kernels()
            return [
                replace(kernel, weight=weight[0].item() if weight.numel() == 1 else weight.clone())
                for kernel, weight in zip(kernels, weights, strict=True)
            ]

    def to_params(self) -> CRFParams:
        """Returns the five numbers of a layer that has no more than these.

        Raises:
            ValueError: it has other kernels than one Gaussian and one bilateral, weights that
                differ between classes or iterations, or a compatibility that is not Potts.
        """
        by_type = {type(kernel): index for index, kernel in enumerate(self._kernels)}
        if len(self._kernels) != 2 or len(by_type) != 2:
            raise ValueError("expected one Gaussian and one bilateral kernel, found others")
        weights = self.weights.detach().transpose(0, 1).flatten(1).double()  # [K, numbers]
        if (weights != weights[:, :1]).any():
            raise ValueError(
                "expected weights that are equal for all classes and iterations, found others"
            )
        matrix = self.compatibility
        if matrix is not None and (matrix.detach() - potts(len(matrix[0])).to(matrix)).any():
            raise ValueError("expected the compatibility of Potts, found another")
        kernels = self._numeric_kernels()
        gaussian, bilateral = (kernels[by_type[t]] for t in (GaussianKernel, BilateralKernel))
        assert isinstance(bilateral, BilateralKernel)
        return CRFParams(
            gaussian_sxy=gaussian.sxy,
            gaussian_weight=weights[by_type[GaussianKernel], 0].item(),
            bilateral_sxy=bilateral.sxy,
            bilateral_srgb=bilateral.srgb,
            bilateral_weight=weights[by_type[BilateralKernel], 0].item(),
        )

    def extra_repr(self) -> str:
        """Shows the arguments in the module's repr."""
        names = [f"{type(kernel).__name__}({_bandwidths(kernel)})" for kernel in self._kernels]
        parts = [
            str(self.num_classes),
            f"iterations={self.iterations}",
            f"eval_iterations={self.eval_iterations}",
            f"kernels=[{', '.join(names)}]",
            f"weights={'class' if self.weights.dim() == 3 else 'kernel'}",
            f"compatibility={self.form}",
        ]
        flags = {
            "zero_diagonal": self.zero_diagonal,
            "learn_bandwidths": self.log_scales is not None,
            "per_iteration": self.weights.shape[0] > 1,
            "recompute": self.recompute,
        }
        parts += [name for name, on in flags.items() if on]
        if self.damping:
            parts.append(f"damping={self.damping:g}")
        return ", ".join(parts)

    def _mean_field(self, unary: Tensor, guide: Guide, size: tuple[int, int]) -> Tensor:
        """Chooses the operator, or filter calls where features learn. [B, C, N] to [B, C, N]."""
        iterations = self.iterations if self.training else self.eval_iterations
        sets = range(min(iterations, self.weights.shape[0]))
        compatibilities = [c.to(unary) for t in sets for c in self._compatibilities(t)]
        if self.weights.shape[0] > 1:  # iterations beyond the last set share that
            last = compatibilities[-len(self._kernels) :]
            compatibilities += last * (iterations - len(sets))
        learned = self.log_scales is not None or guide.pixels.requires_grad
        if learned and torch.is_grad_enabled():
            return self._unrolled(unary, guide, size, compatibilities, iterations)
        kernels = self._numeric_kernels()
        for kernel in kernels:
            kernel.check(unary.shape[0], size, guide, unary.device)
        lattices = [kernel.lattice(size, guide, unary.dtype, unary.device) for kernel in kernels]
        points, vertices = [list(part) for part in zip(*lattices, strict=True)]
        normalizations = [kernel.normalization for kernel in kernels]

        def run(unary: Tensor, *compatibilities: Tensor) -> Tensor:
            if len(compatibilities) != len(points):  # the operator for inference has one set alone
                return mean_field_train(
                    unary,
                    points,
                    vertices,
                    compatibilities,
                    normalizations,
                    iterations,
                    self.damping,
                    self.output,
                )[0]
            return ops.mean_field(
                unary,
                points,
                vertices,
                compatibilities,
                normalizations,
                iterations,
                self.damping,
                0.0,
                self.output,
            )

        if self.recompute and torch.is_grad_enabled():
            result: Tensor = recomputed(
                run, unary, *compatibilities, use_reentrant=False, preserve_rng_state=False
            )
            return result
        return run(unary, *compatibilities)

    def _unrolled(
        self,
        unary: Tensor,
        guide: Guide,
        size: tuple[int, int],
        compatibilities: Sequence[Tensor],
        iterations: int,
    ) -> Tensor:
        terms = []
        sigmas: list[list[Tensor] | None] = [None] * len(self._kernels)
        if self.log_scales is not None:
            moved = self.bandwidths.to(unary) * self.log_scales.to(unary).exp()
            sigmas = [*split_bandwidths(self._kernels, moved)]
        for kernel, learned in zip(self._kernels, sigmas, strict=True):
            kernel.check(unary.shape[0], size, guide, unary.device)
            terms.append(differentiable_term(kernel, learned, guide, size, unary))
        return unrolled_mean_field(
            unary, terms, compatibilities, iterations, self.damping, self.output, self.recompute
        )

    def _compatibilities(self, iteration: int) -> list[Tensor]:
        """Returns what the operator takes for every kernel: [1], [C] or [C, C]."""
        matrix = None if self.compatibility is None else self.compatibility[iteration]
        return combine(self.weights[iteration], matrix, self.form, self.zero_diagonal)

    def _numeric_kernels(self) -> list[ImageKernel]:
        if self.log_scales is None:
            return self._kernels
        moved = self.bandwidths.double() * self.log_scales.detach().double().exp()
        return with_bandwidths(self._kernels, moved)


def _check_kernels(kernels: Sequence[ImageKernel | Kernel] | None) -> list[ImageKernel]:
    kernels = CRFParams.pydensecrf().kernels() if kernels is None else kernels
    checked: list[ImageKernel] = []
    for kernel in kernels:
        if not isinstance(kernel, GaussianKernel | BilateralKernel):
            raise TypeError(
                "expected kernels of type GaussianKernel or BilateralKernel, "
                f"found {type(kernel).__name__}"
            )
        checked.append(kernel)
    if not checked:
        raise ValueError("expected at least one kernel, found none")
    return checked


def _bandwidths(kernel: ImageKernel) -> str:
    text = f"sxy={kernel.sxy}"
    return text if isinstance(kernel, GaussianKernel) else f"{text}, srgb={kernel.srgb}"
