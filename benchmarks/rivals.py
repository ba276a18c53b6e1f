"""The implementations under measurement, each one function of the same signature.

Each takes a case whose inputs are ready and does the whole of what its user has to do, from scores
to the answer: lattices, normalisation, all iterations, arg max, and every allocation.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from densecrf_gpu import CRFParams, clear_cache, crf_refine, ops

from .cases import Case

Output = Literal["labels", "probabilities"]
Implementation = Callable[[Case, Output], torch.Tensor]

OURS = "densecrf_gpu"
TRAINING = "densecrf_gpu, training step"
RIVAL = "pydensecrf2"


def run_densecrf_gpu(case: Case, output: Output) -> torch.Tensor:
    """`crf_refine` from logits to labels [H, W] or probabilities [C, H, W]."""
    params = CRFParams(
        gaussian_sxy=case.params.gaussian_sxy,
        gaussian_weight=case.params.gaussian_weight,
        bilateral_sxy=case.params.bilateral_sxy,
        bilateral_srgb=case.params.bilateral_srgb,
        bilateral_weight=case.params.bilateral_weight,
    )
    return crf_refine(case.logits, case.image, params, iterations=case.iterations, output=output)


def run_pydensecrf2(case: Case, output: Output) -> torch.Tensor:
    """The same answer as a user of pydensecrf gets it, its energies -log P given ready-made."""
    densecrf = importlib.import_module("pydensecrf.densecrf")
    size, params = case.size, case.params
    crf = densecrf.DenseCRF2D(size.width, size.height, size.classes)
    crf.setUnaryEnergy(case.energies)
    crf.addPairwiseGaussian(sxy=params.gaussian_sxy, compat=params.gaussian_weight)
    crf.addPairwiseBilateral(
        sxy=params.bilateral_sxy,
        srgb=params.bilateral_srgb,
        rgbim=case.image.numpy(),
        compat=params.bilateral_weight,
    )
    q = np.asarray(crf.inference(case.iterations))  # [C, N]
    if output == "labels":
        return torch.from_numpy(q.argmax(0)).view(size.height, size.width)
    return torch.from_numpy(q).view(size.classes, size.height, size.width)


def run_training_step(case: Case, output: Output) -> torch.Tensor:
    """Forward and backward of `crf_refine`: the gradient of the logits, [C, H, W]."""
    logits = case.logits.detach().requires_grad_()
    result = run_densecrf_gpu(replace(case, logits=logits), output)
    (gradient,) = torch.autograd.grad(result.square().sum(), logits)
    return gradient


IMPLEMENTATIONS: dict[str, Implementation] = {
    OURS: run_densecrf_gpu,
    TRAINING: run_training_step,
    RIVAL: run_pydensecrf2,
}


def forget_spatial_lattices() -> None:
    """Empty the cache of spatial lattices that `crf_refine` keeps between calls."""
    clear_cache()


def vertex_counts(case: Case) -> dict[str, int]:
    """Vertices in use of both lattices of a case."""
    size, params = case.size, case.params
    shape = [size.height, size.width]
    image = case.image.permute(2, 0, 1)[None]  # [1, 3, H, W]
    _, bilateral = ops.build_image_lattice(
        image, shape, [params.bilateral_sxy] * 2, [params.bilateral_srgb] * 3
    )
    _, spatial = ops.build_image_lattice(None, shape, [params.gaussian_sxy] * 2, [])
    return {
        "bilateral": int(ops.lattice_sizes(bilateral)),
        "spatial": int(ops.lattice_sizes(spatial)),
    }
