"""mean_field against the reference iteration on the reference lattice."""

from __future__ import annotations

import functools

import pytest
import torch
from operators import Lattice, image_lattices, infer, ops
from problems import (
    NORMALIZATIONS,
    assert_near,
    generator,
    random_image,
    random_logits,
    random_points,
)
from torch import Tensor

from densecrf_gpu import reference

HEIGHT, WIDTH = 13, 18
PIXELS = HEIGHT * WIDTH


@functools.cache
def reference_lattices(batch: int, dtype: torch.dtype) -> list[list[reference.Lattice]]:
    image = random_image(HEIGHT, WIDTH, batch=batch)
    return [
        reference.build_lattice(spatial_features(dtype)),
        reference.build_image_lattice(as_dtype(image, dtype), (HEIGHT, WIDTH), (20, 20), (13,) * 3),
    ]


def as_dtype(image: Tensor, dtype: torch.dtype) -> Tensor:
    return image.double() if dtype == torch.float64 else image


def spatial_features(dtype: torch.dtype) -> Tensor:
    return reference.image_features(None, (HEIGHT, WIDTH), (3, 3)).to(dtype)


@functools.cache
def lattices(batch: int, dtype: torch.dtype, device: torch.device) -> list[Lattice]:
    image = as_dtype(random_image(HEIGHT, WIDTH, batch=batch), dtype).to(device)
    return [
        ops.build_lattice(spatial_features(dtype).to(device), [HEIGHT, WIDTH]),
        image_lattices(image, 20.0, 13.0)[1],
    ]


def expected(
    logits: Tensor,
    compatibilities: list[Tensor],
    normalization: str = "symmetric",
    iterations: int = 10,
    damping: float = 0.0,
    tolerance: float = 0.0,
    output: str = "probabilities",
) -> Tensor:
    filters = []
    for per_image in reference_lattices(logits.shape[0], logits.dtype):

        def kernel(
            values: Tensor, image: int, per_image: list[reference.Lattice] = per_image
        ) -> Tensor:
            lattice = per_image[image if len(per_image) > 1 else 0]
            return reference.lattice_filter([lattice], values, normalization)

        filters.append(kernel)
    return reference.mean_field(
        logits, filters, compatibilities, iterations, damping, tolerance, output
    )


def compatibility(kind: str, classes: int, dtype: torch.dtype) -> list[Tensor]:
    """Weights of the spatial and the bilateral kernel."""
    g = generator(7)
    if kind == "Potts":
        return [torch.tensor([3.0], dtype=dtype), torch.tensor([5.0], dtype=dtype)]
    if kind == "per class":
        return [(4 * torch.rand(classes, generator=g)).to(dtype) for _ in range(2)]
    if kind == "repulsive":
        return [torch.tensor([-0.5], dtype=dtype), torch.tensor([-1.0], dtype=dtype)]
    if kind == "mixed":
        return [
            torch.tensor([3.0], dtype=dtype),
            (2 * torch.rand(classes, classes, generator=g)).to(dtype),
        ]
    return [(3 * torch.rand(classes, classes, generator=g)).to(dtype) for _ in range(2)]


#: After some iterations rounding errors have grown by the slope of softmax.
def limit(dtype: torch.dtype, iterations: int) -> float:
    return (1e-5 if iterations <= 1 else 2e-4) if dtype == torch.float32 else 1e-10


@pytest.mark.parametrize("iterations", [0, 1, 10])
@pytest.mark.parametrize("kind", ["Potts", "per class", "matrix", "mixed", "repulsive"])
def test_every_compatibility_matches_the_reference(
    device: torch.device, dtype: torch.dtype, kind: str, iterations: int
) -> None:
    logits, weights = random_logits(4, PIXELS, 2, dtype), compatibility(kind, 4, dtype)
    q = infer(
        logits.to(device),
        lattices(2, dtype, device),
        [w.to(device) for w in weights],
        iterations=iterations,
    )
    assert_near(q, expected(logits, weights, iterations=iterations), limit(dtype, iterations))


@pytest.mark.parametrize("iterations", [1, 10])
@pytest.mark.parametrize("kind", ["Potts", "per class", "matrix"])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_every_normalization_matches_the_reference(
    device: torch.device, dtype: torch.dtype, normalization: str, kind: str, iterations: int
) -> None:
    logits, weights = random_logits(3, PIXELS, 1, dtype), compatibility(kind, 3, dtype)
    if normalization == "none":  # sums over many pixels
        weights = [w / 50 for w in weights]
    q = infer(
        logits.to(device),
        lattices(1, dtype, device),
        [w.to(device) for w in weights],
        normalization,
        iterations,
    )
    wanted = expected(logits, weights, normalization, iterations)
    assert_near(q, wanted, limit(dtype, iterations))


@pytest.mark.parametrize("classes", [1, 2, 3, 5, 8, 15, 16, 17, 21, 32, 33, 60, 150])
@pytest.mark.parametrize("kind", ["Potts", "matrix"])
def test_any_number_of_classes_matches_the_reference(
    device: torch.device, dtype: torch.dtype, kind: str, classes: int
) -> None:
    logits, weights = random_logits(classes, PIXELS, 1, dtype), compatibility(kind, classes, dtype)
    q = infer(
        logits.to(device), lattices(1, dtype, device), [w.to(device) for w in weights], iterations=2
    )
    assert_near(q, expected(logits, weights, iterations=2), limit(dtype, 2))


@pytest.mark.parametrize("damping", [0.1, 0.5, 0.9])
def test_damping_keeps_a_share_of_the_old_q(
    device: torch.device, dtype: torch.dtype, damping: float
) -> None:
    logits, weights = random_logits(4, PIXELS, 2, dtype), compatibility("Potts", 4, dtype)
    args = {"iterations": 4, "damping": damping}
    q = infer(
        logits.to(device), lattices(2, dtype, device), [w.to(device) for w in weights], **args
    )
    assert_near(q, expected(logits, weights, **args), limit(dtype, 4))


@pytest.mark.parametrize("tolerance", [0.5, 0.05, 1e-3])
def test_each_image_stops_at_its_own_iteration(
    device: torch.device, dtype: torch.dtype, tolerance: float
) -> None:
    logits = random_logits(4, PIXELS, 3, dtype)
    logits[1] *= 20  # settles at once
    logits[2] *= 0.1  # slowly
    weights = compatibility("Potts", 4, dtype)
    args = {"iterations": 30, "tolerance": tolerance}
    q = infer(
        logits.to(device), lattices(3, dtype, device), [w.to(device) for w in weights], **args
    )
    assert_near(q, expected(logits, weights, **args), limit(dtype, 10))


@pytest.mark.parametrize("tolerance", [0.0, -1.0])
def test_tolerance_that_is_not_positive_never_stops(
    device: torch.device, dtype: torch.dtype, tolerance: float
) -> None:
    logits, weights = random_logits(3, PIXELS, 1, dtype), compatibility("Potts", 3, dtype)
    weights = [w.to(device) for w in weights]
    some, all_lattices = logits.to(device), lattices(1, dtype, device)
    q = infer(some, all_lattices, weights, iterations=12, tolerance=tolerance)
    assert torch.equal(q, infer(some, all_lattices, weights, iterations=12))


@pytest.mark.parametrize("damping", [0.0, 0.4])
@pytest.mark.parametrize("iterations", [0, 1, 3])
@pytest.mark.parametrize("output", ["probabilities", "logits", "labels"])
def test_every_output_matches_the_reference(
    device: torch.device, dtype: torch.dtype, output: str, iterations: int, damping: float
) -> None:
    logits, weights = random_logits(5, PIXELS, 2, dtype), compatibility("Potts", 5, dtype)
    args = {"iterations": iterations, "damping": damping, "output": output}
    out = infer(
        logits.to(device), lattices(2, dtype, device), [w.to(device) for w in weights], **args
    )
    wanted = expected(logits, weights, **args)
    assert out.dtype == wanted.dtype
    if output == "labels":
        assert torch.equal(out.cpu(), wanted)
    else:
        assert_near(out, wanted, limit(dtype, 3))


def test_labels_are_the_first_of_equal_maxima(device: torch.device, dtype: torch.dtype) -> None:
    logits = torch.zeros(1, 4, PIXELS, dtype=dtype, device=device)
    logits[:, 0] = -1
    for iterations in (0, 2):
        labels = infer(
            logits,
            lattices(1, dtype, device),
            [torch.ones(1, dtype=dtype, device=device)] * 2,
            iterations=iterations,
            output="labels",
        )
        assert (labels == 1).all()


def test_extreme_logits_stay_finite(device: torch.device, dtype: torch.dtype) -> None:
    logits = random_logits(4, PIXELS, 1, dtype) * 1e4
    weights = [torch.tensor([1e3], dtype=dtype)] * 2
    for output in ("probabilities", "logits"):
        out = infer(
            logits.to(device),
            lattices(1, dtype, device),
            [w.to(device) for w in weights],
            output=output,
        )
        assert out.isfinite().all()
    q = infer(logits.to(device), lattices(1, dtype, device), [w.to(device) for w in weights])
    torch.testing.assert_close(q.sum(1), torch.ones_like(q[:, 0]))


@pytest.mark.parametrize("iterations", [0, 3])
@pytest.mark.parametrize("way", [{}, {"tolerance": 1e-9}, {"damping": 0.25}])
def test_logarithms_of_vanishing_probabilities_are_finite_and_right(
    device: torch.device, dtype: torch.dtype, way: dict[str, float], iterations: int
) -> None:
    """exp(-300) is no float32, but its logarithm is."""
    logits = random_logits(4, PIXELS, 1, dtype) * 100
    weights = compatibility("Potts", 4, dtype)
    args = {"iterations": iterations, "output": "logits"} | way
    out = infer(
        logits.to(device), lattices(1, dtype, device), [w.to(device) for w in weights], **args
    )
    assert_near(out, expected(logits, weights, **args), limit(dtype, 3))


@pytest.mark.parametrize("classes", [3, 4, 5, 21, 33])
@pytest.mark.parametrize("strength", [10.0, 1e4, 1e7])
def test_penalties_for_every_label_leave_a_distribution(
    device: torch.device, dtype: torch.dtype, strength: float, classes: int
) -> None:
    """All scores fall together, however far, and only differences count."""
    logits = random_logits(classes, PIXELS, 1, dtype).to(device)
    matrix = torch.full((classes, classes), strength, dtype=dtype, device=device)
    for normalization in ("none", "symmetric"):
        q = infer(logits, lattices(1, dtype, device), [matrix] * 2, normalization, 1)
        torch.testing.assert_close(q.sum(1), torch.ones_like(q[:, 0]))


@pytest.mark.parametrize("classes", [3, 5, 17])
@pytest.mark.parametrize("strength", [1.0, 1e3, 1e5])
def test_strong_potts_is_the_same_as_a_weight_and_as_a_matrix(
    device: torch.device, dtype: torch.dtype, strength: float, classes: int
) -> None:
    logits = random_logits(classes, PIXELS, 1, dtype).to(device)
    weight = torch.tensor([strength], dtype=dtype, device=device)
    matrix = strength * (1 - torch.eye(classes, dtype=dtype, device=device))
    some = lattices(1, dtype, device)
    by_weight = infer(logits, some, [weight] * 2, iterations=1)
    by_matrix = infer(logits, some, [matrix] * 2, iterations=1)
    # Rounding of large scores decides where two labels are near.
    assert (by_weight - by_matrix).abs().mean() < 0.01


def test_an_asymmetric_matrix_penalises_rows_by_columns(
    device: torch.device, dtype: torch.dtype
) -> None:
    """Only label 1 pays, and only for neighbours of label 0."""
    logits = torch.zeros(1, 3, PIXELS, dtype=dtype)
    matrix = torch.zeros(3, 3, dtype=dtype)
    matrix[1, 0] = 2.0
    weights = [torch.zeros(1, dtype=dtype), matrix]
    q = infer(
        logits.to(device),
        lattices(1, dtype, device),
        [w.to(device) for w in weights],
        iterations=1,
    )
    assert (q[:, 1] < q[:, 0]).all()
    assert_near(q[:, 0], q[:, 2])
    assert_near(q, expected(logits, weights, iterations=1), limit(dtype, 1))


@pytest.mark.parametrize("kernels", [0, 1, 3])
def test_any_number_of_kernels(device: torch.device, dtype: torch.dtype, kernels: int) -> None:
    logits = random_logits(4, 60, 2, dtype)
    points = [random_points(60, d, 2, dtype, seed=d) for d in (1, 4, 9)][:kernels]
    weights = [torch.tensor([float(k + 1)], dtype=dtype) for k in range(kernels)]
    q = infer(
        logits.to(device),
        [ops.build_lattice(p.to(device)) for p in points],
        [w.to(device) for w in weights],
        iterations=3,
    )
    filters = [
        lambda v, i, p=p: reference.lattice_filter(
            reference.build_lattice(p[i, None]), v, "symmetric"
        )
        for p in points
    ]
    assert_near(q, reference.mean_field(logits, filters, weights, 3), limit(dtype, 3))


def test_strided_logits_give_the_same_bits(device: torch.device, dtype: torch.dtype) -> None:
    """[B, C, H, W] of channels-last images reaches the operator as a strided [B, C, N]."""
    logits = random_logits(5, PIXELS, 2, dtype).to(device)
    strided = logits.transpose(1, 2).contiguous().transpose(1, 2)
    weights = [w.to(device) for w in compatibility("Potts", 5, dtype)]
    some = lattices(2, dtype, device)
    assert torch.equal(infer(strided, some, weights), infer(logits, some, weights))
    every_other = torch.stack([logits, -logits], dim=-1).flatten(2)[..., ::2]
    assert torch.equal(infer(every_other, some, weights), infer(logits, some, weights))
