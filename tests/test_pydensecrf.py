"""The same answer as pydensecrf2 1.1, from stored results and, where it is installed, live."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from operators import Case, image_lattices, infer, ops, stored_cases
from pictures import BUNDLED, PHOTOGRAPHS, blobs, crop, load
from problems import NORMALIZATIONS
from torch import Tensor

from densecrf_gpu import reference

BANDWIDTHS = ((80, 13), (67, 3), (49, 4))
WEIGHTS = (3.0, 10.0)  # spatial, bilateral


def check(q: Tensor, expected: Tensor, iterations: int) -> None:
    """After one iteration element by element; after ten, bistable pixels have had time to part."""
    difference = (q.cpu().double() - expected.double()).abs()
    if iterations == 1:
        assert difference.max() < 1e-5
    else:
        assert difference.mean() < 1e-6
        assert (q.cpu().argmax(0) == expected.argmax(0)).double().mean() >= 0.9999


@pytest.mark.parametrize("iterations", [1, 10])
@pytest.mark.parametrize("name", [name for name in stored_cases() if name != "odd_size"])
def test_stored_results_are_reproduced(device: torch.device, name: str, iterations: int) -> None:
    case = stored_cases()[name]
    q = infer(
        case.logits.to(device),
        image_lattices(case.image.to(device), case.sxy, case.srgb),
        [weight.to(device) for weight in case.compatibilities],
        case.mode,
        iterations,
    )
    check(q[0], case.q[iterations], iterations)


@pytest.mark.parametrize("iterations", [1, 10])
def test_phantom_vertices_explain_a_stored_size_that_is_no_multiple_of_four(
    device: torch.device, iterations: int
) -> None:
    case = stored_cases()["odd_size"]
    check(with_phantoms(case, device, iterations), case.q[iterations], iterations)


def with_phantoms(case: Case, device: torch.device, iterations: int) -> Tensor:
    """Mean field on lattices that hold pydensecrf's padding too.

    It fills N up to a multiple of four with points whose features are zero. Their vertices exist,
    and the blur passes through them, but no value comes from there. [L, N]
    """
    n = case.logits.shape[2]
    padding = torch.zeros(1, -n % 4, 1)
    size = case.image.shape[2:]
    sigmas = ([float(case.sxy)] * 2, [float(case.srgb)] * 3)  # type: ignore[arg-type]
    filters = []
    for features in (
        reference.image_features(None, size, (3, 3)),
        reference.image_features(case.image, size, *sigmas),
    ):
        padded = torch.cat([features, padding.expand(-1, -1, features.shape[2])], dim=1)
        lattice = ops.build_lattice(padded.to(device))

        def kernel(values: Tensor, lattice: tuple[Tensor, Tensor] = lattice) -> Tensor:
            zeros = torch.zeros(-n % 4, values.shape[1], device=device)
            whole = torch.cat([values, zeros])[None]
            return ops.lattice_filter(*lattice, whole, "none", False)[0, :n]

        def normalized(values: Tensor, image: int, kernel: Any = kernel) -> Tensor:
            return reference.normalized_filter(kernel, kernel, values[0], case.mode)[None]

        filters.append(normalized)
    weights = [weight.to(device) for weight in case.compatibilities]
    return reference.mean_field(case.logits.to(device), filters, weights, iterations)[0]


def pydensecrf_q(
    image: Tensor, logits: Tensor, sxy: int, srgb: int, mode: str, weights: tuple[float, ...]
) -> dict[int, Tensor]:
    """Q [L, N] of pydensecrf after one and after ten iterations."""
    dcrf = pytest.importorskip("pydensecrf.densecrf", reason="pydensecrf2 is not installed")
    names = {
        "none": "NO_NORMALIZATION",
        "before": "NORMALIZE_BEFORE",
        "after": "NORMALIZE_AFTER",
        "symmetric": "NORMALIZE_SYMMETRIC",
    }
    normalization = getattr(dcrf.NormalizationType, names[mode])
    _, labels, height, width = logits.shape
    crf = dcrf.DenseCRF2D(width, height, labels)
    crf.setUnaryEnergy(np.ascontiguousarray(-logits.reshape(labels, -1).numpy()))
    crf.addPairwiseGaussian(sxy=3, compat=weights[0], normalization=normalization)
    pixels = np.ascontiguousarray(image[0].permute(1, 2, 0).numpy())
    crf.addPairwiseBilateral(
        sxy=sxy, srgb=srgb, rgbim=pixels, compat=weights[1], normalization=normalization
    )
    found = {}
    q, first, second = crf.startInference()
    for iteration in range(1, 11):
        crf.stepInference(q, first, second)
        if iteration in (1, 10):
            found[iteration] = torch.from_numpy(np.array(q))
    return found


def photograph(name: str) -> Tensor:
    if not PHOTOGRAPHS[name].exists():
        pytest.skip(f"{name} is not in the shared data folder")
    return load(name)


def compare(
    device: torch.device, image: Tensor, labels: int, sxy: int, srgb: int, mode: str
) -> None:
    """Runs both on one image and compares Q after one and ten iterations."""
    if image.shape[2] * image.shape[3] % 4:
        image[:, :, 0, 0] = 0  # its simplex is the one of the padding: no phantom vertices
    logits = blobs(image, labels)
    lattices = image_lattices(image.to(device), float(sxy), float(srgb))
    weights = WEIGHTS
    if mode == "none":  # messages as large as in the other modes, and rounding errors too
        ones = torch.ones(1, logits[0, 0].numel(), 1, device=device)
        mass = [float(ops.lattice_filter(*x, ones, "none", False).max()) for x in lattices]
        weights = (WEIGHTS[0] / mass[0], WEIGHTS[1] / mass[1])
    expected = pydensecrf_q(image, logits, sxy, srgb, mode, weights)
    for iterations, theirs in expected.items():
        ours = infer(
            logits.flatten(2).to(device),
            lattices,
            [torch.tensor([weight], device=device) for weight in weights],
            mode,
            iterations,
        )
        check(ours[0], theirs, iterations)


@pytest.mark.parametrize("labels", [2, 21, 60])
@pytest.mark.parametrize("mode", NORMALIZATIONS)
@pytest.mark.parametrize(("sxy", "srgb"), BANDWIDTHS)
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_crops_of_photographs_agree(
    device: torch.device, name: str, sxy: int, srgb: int, mode: str, labels: int
) -> None:
    compare(device, crop(photograph(name), 56, 72), labels, sxy, srgb, mode)


@pytest.mark.parametrize("shape", [(55, 71), (55, 73), (1, 401), (37, 1), (3, 5), (1, 1)])
@pytest.mark.parametrize("name", BUNDLED)
def test_odd_sizes_agree_when_the_first_pixel_is_black(
    device: torch.device, name: str, shape: tuple[int, int]
) -> None:
    compare(device, crop(photograph(name), *shape), 5, 67, 3, "symmetric")


@pytest.mark.slow
@pytest.mark.parametrize("labels", [2, 21, 60])
@pytest.mark.parametrize("mode", NORMALIZATIONS)
@pytest.mark.parametrize(("sxy", "srgb"), BANDWIDTHS)
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_whole_photographs_agree(
    device: torch.device, name: str, sxy: int, srgb: int, mode: str, labels: int
) -> None:
    compare(device, crop(photograph(name), 375, 499), labels, sxy, srgb, mode)
