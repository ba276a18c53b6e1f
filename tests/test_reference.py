"""The reference itself: the lattice's geometry, its kernel, and pydensecrf's stored results."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from operators import per_axis, stored_cases
from problems import NORMALIZATIONS, assert_near, random_logits, random_points, random_values

from densecrf_gpu import reference

DTYPES = (torch.float32, torch.float64)


@pytest.mark.parametrize("d", [1, 2, 3, 5, 8, 12])
def test_weights_are_barycentric(d: int) -> None:
    weights = reference.embed(random_points(500, d, dtype=torch.float64)[0]).weights
    assert weights.min() >= -1e-14
    torch.testing.assert_close(weights.sum(1), torch.ones(500, dtype=torch.float64))


@pytest.mark.parametrize("d", [1, 2, 3, 5, 8, 12])
def test_vertices_are_lattice_points_of_every_remainder(d: int) -> None:
    keys = reference.embed(random_points(500, d)[0]).keys
    assert (keys.sum(-1) == 0).all()
    remainder = keys.remainder(d + 1)
    assert (remainder == torch.arange(d + 1)[None, :, None]).all()


@pytest.mark.parametrize("d", [1, 2, 3, 5, 8])
def test_weighted_vertices_give_back_the_elevated_point(d: int) -> None:
    points = random_points(100, d, dtype=torch.float64)[0]
    found = reference.embed(points)
    center = (found.weights[:, :, None] * found.keys).sum(1)  # [N, d+1]
    # The elevation is an isometry up to its scale: compare distances.
    scale = (d + 1) * (2 / 3) ** 0.5
    distance = partial(torch.cdist, compute_mode="donot_use_mm_for_euclid_dist")
    torch.testing.assert_close(distance(center, center), scale * distance(points, points))


def test_coincident_points_see_only_the_vertices_that_exist() -> None:
    """Ten points on a vertex: (1 + 1/8) alpha each, as one of the two closed paths is missing."""
    points = torch.zeros(11, 2)
    points[10] = 100.0
    lattice = reference.build_lattice(points[None])
    out = reference.lattice_filter(lattice, torch.ones(1, 11, 1), "none")[0, :, 0]
    torch.testing.assert_close(out[:10], torch.full((10,), 9.0))
    assert out[10] == pytest.approx(0.61, abs=0.01)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_a_vertex_of_a_complete_lattice_answers_itself_with_one(d: int) -> None:
    grid = torch.cartesian_prod(*[torch.linspace(-4, 4, 41 if d < 3 else 33)] * d).reshape(-1, d)
    points = torch.cat([torch.zeros(1, d), grid])
    values = torch.zeros(1, len(points), 1)
    values[0, 0] = 1
    out = reference.lattice_filter(reference.build_lattice(points[None]), values, "none")
    assert out[0, 0, 0] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("d", [1, 3, 6])
def test_adjoint_is_the_transpose(d: int, normalization: str) -> None:
    points = random_points(60, d, dtype=torch.float64)
    lattice = reference.build_lattice(points)
    identity = torch.eye(60, dtype=torch.float64)[None]
    forward = reference.lattice_filter(lattice, identity, normalization)
    backward = reference.lattice_filter(lattice, identity, normalization, adjoint=True)
    assert_near(backward, forward.transpose(1, 2), 1e-14)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_exact_filter_is_the_written_formula(normalization: str) -> None:
    points = random_points(20, 3, dtype=torch.float64)
    values = random_values(20, 2, dtype=torch.float64)
    out = reference.exact_filter(points, values, normalization)
    kernel = torch.tensor(
        [[(-((p - q) ** 2).sum() / 2).exp() for q in points[0]] for p in points[0]]
    ).double()
    mass = kernel.sum(1)
    left = {"after": 1 / mass, "symmetric": mass**-0.5}.get(normalization, torch.ones_like(mass))
    right = {"before": 1 / mass, "symmetric": mass**-0.5}.get(normalization, torch.ones_like(mass))
    assert_near(out, (left[:, None] * kernel * right @ values[0])[None], 1e-6)


def test_potts_is_the_matrix_that_spares_equal_labels() -> None:
    points, logits = random_points(50, 2), random_logits(4, 50)

    def after(values: torch.Tensor, image: int) -> torch.Tensor:
        return reference.exact_filter(points, values, "after")

    by_weight = reference.mean_field(logits, [after], [torch.tensor([3.0])])
    by_class = reference.mean_field(logits, [after], [torch.full((4,), 3.0)])
    by_matrix = reference.mean_field(logits, [after], [3.0 * (1 - torch.eye(4))])
    assert_near(by_class, by_weight, 1e-6)
    assert_near(by_matrix, by_weight, 1e-5)


def test_damped_logits_are_the_logarithm_of_damped_probabilities() -> None:
    points, logits = random_points(50, 2), random_logits(4, 50)

    def after(values: torch.Tensor, image: int) -> torch.Tensor:
        return reference.exact_filter(points, values, "after")

    q = reference.mean_field(logits, [after], [torch.tensor([3.0])], damping=0.3)
    log_q = reference.mean_field(
        logits, [after], [torch.tensor([3.0])], damping=0.3, output="logits"
    )
    assert_near(log_q.exp(), q, 1e-6)


@pytest.mark.parametrize("name", [n for n in stored_cases() if n != "odd_size"])
def test_reference_reproduces_pydensecrf(name: str) -> None:
    case = stored_cases()[name]
    size = case.image.shape[2:]
    lattices = [
        reference.build_image_lattice(None, size, (3, 3)),
        reference.build_image_lattice(
            case.image, size, per_axis(case.sxy, 2), per_axis(case.srgb, 3)
        ),
    ]
    filters = [
        lambda v, _, lattice=lattice: reference.lattice_filter(lattice, v, case.mode)
        for lattice in lattices
    ]
    for iterations, limit in ((1, 1e-5), (10, 1e-4)):
        q = reference.mean_field(case.logits, filters, case.compatibilities, iterations)[0]
        assert (q - case.q[iterations]).abs().max() < limit
        assert (q - case.q[iterations]).abs().mean() < 1e-6
