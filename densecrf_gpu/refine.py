"""One call from a network's output to its refinement."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import ops
from .backends import require_backend
from .checks import (
    check_choice,
    check_count,
    check_damping,
    check_finite,
    check_max_vertices,
    check_probabilities,
    check_tolerance,
)
from .inputs import as_tensor, compute_dtype, is_array, prepare_image, prepare_scores
from .kernels import build_terms
from .mean_field_ops import refuse_tolerance
from .params import CRFParams
from .registration import records_gradients
from .unary import CLIP, check_label_map, label_logits, probability_logits

if TYPE_CHECKING:
    from PIL import Image

INPUTS = ("logits", "probabilities", "labels")

Array = TypeVar("Array", Tensor, np.ndarray)


def crf_refine(
    logits: Array,
    image: Tensor | np.ndarray | Image.Image,
    params: CRFParams | None = None,
    *,
    iterations: int = 10,
    input: str = "logits",
    output: str = "probabilities",
    normalization: str = "symmetric",
    damping: float = 0.0,
    tolerance: float | None = None,
    num_classes: int | None = None,
    ignore_index: int | None = 255,
    gt_prob: float = 0.7,
    image_layout: str = "auto",
    image_range: float | None = None,
    max_vertices: int | str | None = None,
) -> Array:
    """Refines a segmentation with a fully connected CRF (Krähenbühl and Koltun, NIPS 2011).

    Gradients flow to the logits or probabilities, exactly, unless ``output="labels"``; for
    learnable weights see ``DenseCRF`` and ``CRFasRNN``. Nothing is changed in place. The result
    comes as ``logits`` came:
    tensor or array, device, with or without batch axis, and dtype if that is floating; float16
    and bfloat16 are computed in float32. Errors speak of logits whatever ``input`` says they are.

    Args:
        logits: ``[C, h, w]`` or ``[B, C, h, w]``, scores or log-probabilities. Where (h, w) is
            smaller than the image it is enlarged bilinearly with ``align_corners=False``.
        image: uint8 or floating, of any number of channels: ``[channels, H, W]``,
            ``[H, W, channels]`` or ``[H, W]``, shared by the batch, or a batch of B of these;
            or a PIL image. It sets the size of the result.
        params: bandwidths and weights, ``CRFParams.pydensecrf()`` by default.
        iterations: of mean field, at most.
        input: ``"logits"``; ``"probabilities"``, of which the logarithm is taken above 1e-5 as
            pydensecrf does, after enlarging; or ``"labels"``, an integer map ``[H, W]`` or
            ``[B, H, W]`` of the image's size, see ``logits_from_labels``.
        output: ``"probabilities"``, their logarithms ``"logits"``, or int64 ``"labels"`` without
            class axis.
        normalization: of both kernels: ``"symmetric"`` (pydensecrf's default), ``"before"``,
            ``"after"`` or ``"none"``.
        damping: the part of the old marginals that stays in an iteration, in [0, 1).
        tolerance: stops once no marginal moved by as much in an iteration; None for never, as
            gradients demand.
        num_classes: required for labels; otherwise checked if given.
        ignore_index: the label of unknown pixels, None if there are none.
        gt_prob: how far labels are trusted, in (0, 1).
        image_layout: ``"CHW"``, ``"HWC"`` or ``"HW"`` without counting the batch axis, or
            ``"auto"``: the only layout that gives the image the size of ``logits`` or, failing
            all, a size nowhere smaller; an error if two do, as for a batch of grey images, which
            could be one image of B channels.
        image_range: the value of full intensity in the image. If given, ``bilateral_srgb`` counts
            in units of 0..255 and is scaled by ``image_range / 255``: 1.0 for images in [0, 1]. If
            None it counts in the image's own units, and a float image is refused where all values
            are within 3 and none exceeds ``bilateral_srgb >= 1``, since that bandwidth must be
            meant for 0..255; a picture as dark as that passes with 255.0.
        max_vertices: the most vertices that the bilateral lattice of an image may have, or
            ``"exact"``; bounds the memory on CUDA, see ``DenseCRF``.

    Returns:
        ``[C, H, W]``, ``[B, C, H, W]``, or without C for labels.

    Raises:
        TypeError: an argument is of another type or dtype.
        ValueError: shapes, devices or ranges do not fit, the layout is ambiguous, or an entry is
            not finite. Values on a GPU are not looked at, as that would wait for it: there NaN
            and infinity come out as NaN, and a label out of range counts as unknown.
        RuntimeError: the image requires grad, there is a tolerance where gradients are recorded,
            or a tensor is on a device without a backend.
    """
    check_choice("input", input, INPUTS)
    check_choice("output", output, ops.OUTPUTS)
    check_choice("normalization", normalization, ops.NORMALIZATIONS)
    iterations = check_count("iterations", iterations)
    damping = check_damping(damping)
    stop = check_tolerance(tolerance)
    bound = check_max_vertices(max_vertices)
    params = CRFParams.pydensecrf() if params is None else params
    if not isinstance(params, CRFParams):
        raise TypeError(f"expected params to be CRFParams, found {type(params).__name__}")

    scores = as_tensor("logits", logits, label_map=input == "labels")
    if input == "labels":
        classes = _check_labels(scores, num_classes, ignore_index, gt_prob)
    else:
        classes = _check_scores(scores, num_classes)
    image_dim = 2 if input == "labels" else 3
    batch = scores.shape[0] if scores.dim() > image_dim else None
    dtype = torch.float32 if input == "labels" else scores.dtype
    records = output != "labels" and records_gradients(scores)
    if records:
        refuse_tolerance(stop)
    if output != "labels" and isinstance(image, Tensor):
        ops.refuse_gradients("crf_refine in its image", image)
    require_backend(scores.device)

    with torch.no_grad():
        guide = prepare_image(
            image,
            image_layout,
            (scores.shape[-2], scores.shape[-1]),
            batch,
            scores.device,
            compute_dtype(dtype),
            resizable=input != "labels",
        )
        if input == "logits":
            check_finite("logits", scores)
        elif input == "probabilities":
            check_probabilities("logits", scores)
        h, w = guide.pixels.shape[2:]
        kernels = params.kernels(normalization, image_range)
        shape = (batch or 1, classes, h, w)
        terms = build_terms(kernels, shape, guide, compute_dtype(dtype), scores.device, bound)
    with torch.set_grad_enabled(records):
        if input == "labels":
            unary = label_logits(scores, classes, gt_prob)
        else:
            unary = _enlarge(scores.to(compute_dtype(dtype)), (h, w))
        if input == "probabilities":
            unary = probability_logits(unary, CLIP)
        unary = unary.reshape(batch or 1, classes, h * w)
        result = ops.mean_field(unary, *terms, iterations, damping, stop, output)
        lead = [] if batch is None else [batch]
        if output == "labels":
            result = result.reshape(*lead, h, w)
        else:
            result = result.reshape(*lead, classes, h, w).to(dtype)
    return cast(Array, result.numpy() if is_array(logits) else result)


def _check_scores(scores: Tensor, num_classes: int | None) -> int:
    prepare_scores("logits", scores)
    classes = int(scores.shape[-3])
    if num_classes is not None and num_classes != classes:
        raise ValueError(f"expected logits of {num_classes} classes, found {classes}")
    return classes


def _check_labels(
    labels: Tensor, num_classes: int | None, ignore_index: int | None, gt_prob: float
) -> int:
    if num_classes is None:
        raise ValueError('expected num_classes with input="labels", found None')
    num_classes = check_count("num_classes", num_classes, least=2)
    if not 0 < gt_prob < 1:
        raise ValueError(f"expected gt_prob in (0, 1), found {gt_prob}")
    check_label_map("logits", labels, num_classes, ignore_index)
    return num_classes


def _enlarge(scores: Tensor, size: tuple[int, int]) -> Tensor:
    if scores.shape[-2:] == size:
        return scores
    batched = scores if scores.dim() == 4 else scores[None]
    return F.interpolate(batched, size=size, mode="bilinear", align_corners=False)
