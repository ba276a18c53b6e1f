"""Gradients of the filter with respect to its features: exact derivatives of what it computes."""

from __future__ import annotations

import pytest
import torch
from operators import ops
from problems import assert_near, random_points, random_values
from torch import Tensor

from densecrf_gpu import reference
from densecrf_gpu.ops import NORMALIZATIONS, LatticeData, lattice_filter


def filter_features(
    features: Tensor, values: Tensor, normalization: str, adjoint: bool = False
) -> Tensor:
    lattice = LatticeData(*ops.build_lattice(features.detach()))
    return lattice_filter(lattice, values, normalization, adjoint, features)


def problem(
    device: torch.device, d: int, batch: int = 1, n: int = 13, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    features = 1.5 * torch.rand(batch, n, d, dtype=torch.float64)
    values = random_values(n, 3, batch, dtype).to(device)
    return features.to(device, dtype).requires_grad_(), values.requires_grad_()


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("d", [1, 2, 3, 4, 5, 6])
def test_gradient_of_the_features_is_exact(
    device: torch.device, d: int, normalization: str, adjoint: bool
) -> None:
    assert torch.autograd.gradcheck(
        lambda f, v: filter_features(f, v, normalization, adjoint), problem(device, d)
    )


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_lattice_shared_by_a_batch_gets_the_sum_of_the_gradients(
    device: torch.device, normalization: str
) -> None:
    features, _ = problem(device, 3)
    values = random_values(13, 2, 3, torch.float64).to(device).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda f, v: filter_features(f, v, normalization), (features, values)
    )


@pytest.mark.parametrize("channels", [1, 4, 5, 16, 17, 40, 70])
@pytest.mark.parametrize("normalization", ["none", "after", "symmetric"])
def test_gradient_of_the_features_equals_autograd_through_the_reference(
    device: torch.device, dtype: torch.dtype, normalization: str, channels: int
) -> None:
    # More points than a band of a thread holds at least, so that bands meet.
    n = 9000 if channels == 17 else 300
    features = random_points(n, 3, 1, dtype).to(device).requires_grad_()
    values = random_values(n, channels, 1, dtype).to(device)
    direction = random_values(n, channels, 1, dtype, seed=5).to(device)
    filtered = filter_features(features, values, normalization)
    (found,) = torch.autograd.grad(filtered, features, direction)
    wide = features.detach().cpu().double().requires_grad_()
    slow = reference.lattice_filter(
        reference.build_lattice(wide), values.cpu().double(), normalization
    )
    (expected,) = torch.autograd.grad(slow, wide, direction.cpu().double())
    assert_near(found.cpu().double(), expected, 2e-4 if dtype == torch.float32 else 1e-10)


def test_gradient_of_the_features_is_the_same_bit_for_bit_every_time(device: torch.device) -> None:
    features, values = problem(device, 5, n=9000, dtype=torch.float32)
    first, second = (
        torch.autograd.grad(filter_features(features, values, "symmetric").square().sum(), features)
        for _ in range(2)
    )
    assert torch.equal(first[0], second[0])


def test_gradient_of_strided_features_is_that_of_contiguous_ones(device: torch.device) -> None:
    features, values = problem(device, 3, n=26)
    some = values[:, ::2].detach()
    grads = []
    for given in (features.detach()[:, ::2], features.detach()[:, ::2].contiguous()):
        given.requires_grad_()
        grads += torch.autograd.grad(filter_features(given, some, "after").sum(), given)
    assert torch.equal(*grads)


def test_gradient_of_the_values_can_be_differentiated_by_the_features(
    device: torch.device,
) -> None:
    def gradient_of_values(features: Tensor) -> Tensor:
        values = torch.ones(1, 13, 2, dtype=torch.float64, device=device, requires_grad=True)
        filtered = filter_features(features, values, "symmetric")
        direction = torch.linspace(-1, 1, 26, dtype=torch.float64, device=device).reshape(1, 13, 2)
        (grad,) = torch.autograd.grad(filtered, values, direction, create_graph=True)
        return grad

    assert torch.autograd.gradcheck(gradient_of_values, problem(device, 3)[0])


def test_second_derivative_of_the_features_is_refused(device: torch.device) -> None:
    features, values = problem(device, 2)
    loss = filter_features(features, values, "after").square().sum()
    (grad,) = torch.autograd.grad(loss, features, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        grad.sum().backward()


def test_features_that_are_not_those_of_the_lattice_are_refused(device: torch.device) -> None:
    features, values = problem(device, 2)
    lattice = LatticeData(*ops.build_lattice(features.detach()))
    filtered = lattice_filter(lattice, values, "after", False, features + 0.25)
    with pytest.raises(RuntimeError, match="not those the lattice was built from"):
        filtered.sum().backward()


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_feature_gradient_passes_opcheck(device: torch.device, batch: int, adjoint: bool) -> None:
    features, values = problem(device, 3, batch)
    features, values = features.detach(), values.detach()
    lattice = ops.build_lattice(features)
    arguments = (*lattice, features, values, values + 1, "symmetric", adjoint)
    torch.library.opcheck(ops.lattice_filter_grad_features.default, arguments)


def test_filter_passes_opcheck_with_gradients_of_the_features(device: torch.device) -> None:
    features, values = problem(device, 3)
    lattice = ops.build_lattice(features.detach())
    arguments = (*lattice, values, "after", False, features)
    torch.library.opcheck(ops.lattice_filter.default, arguments)


BAD_GRADIENTS = {
    "values of two axes": lambda f, v: (f, v[0], v[0]),
    "grad of another shape": lambda f, v: (f, v, v[:, :, :2]),
    "grad of another dtype": lambda f, v: (f, v, v.float()),
    "features of another dtype": lambda f, v: (f.float(), v, v),
    "features of other points": lambda f, v: (f[:, :-1], v, v),
    "features of another dimension": lambda f, v: (f[:, :, :1], v, v),
    "features of another batch": lambda f, v: (f.expand(2, -1, -1), v, v),
}


@pytest.mark.parametrize("kind", BAD_GRADIENTS)
def test_feature_gradient_refuses(device: torch.device, kind: str) -> None:
    features, values = (t.detach() for t in problem(device, 2))
    lattice = ops.build_lattice(features)
    with pytest.raises((ValueError, RuntimeError), match=r"must (be|have)"):
        ops.lattice_filter_grad_features(
            *lattice, *BAD_GRADIENTS[kind](features, values), "none", False
        )
