"""Gradients of the filter with respect to its values: the adjoint filter, bit for bit."""

from __future__ import annotations

import pytest
import torch

from densecrf_gpu import PermutohedralLattice, permutohedral_filter
from densecrf_gpu.ops import NORMALIZATIONS


def points(device: torch.device, batch: tuple[int, ...] = (), d: int = 3) -> torch.Tensor:
    return torch.rand(*batch, 9, d, dtype=torch.float64).mul(2).to(device)


def values(device: torch.device, batch: tuple[int, ...] = ()) -> torch.Tensor:
    return torch.randn(*batch, 9, 2, dtype=torch.float64).to(device).requires_grad_()


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("d", [1, 2, 5])
def test_gradient_of_the_values_is_exact(
    device: torch.device, normalization: str, adjoint: bool, d: int
) -> None:
    lattice = PermutohedralLattice(points(device, d=d))
    assert torch.autograd.gradcheck(
        lambda v: lattice.filter(v, normalization, adjoint), values(device)
    )


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_gradient_can_be_differentiated_again(device: torch.device, normalization: str) -> None:
    lattice = PermutohedralLattice(points(device, (2,)))
    # The filter is linear: squared, its second derivative is not zero.
    assert torch.autograd.gradgradcheck(
        lambda v: lattice.filter(v, normalization).square(), values(device, (2,))
    )


def test_gradient_is_the_adjoint_filter_bit_for_bit(device: torch.device) -> None:
    lattice, some = PermutohedralLattice(points(device)), values(device)
    direction = torch.randn_like(some)
    lattice.filter(some, "after").backward(direction)
    assert torch.equal(some.grad, lattice.filter(direction, "after", adjoint=True))


def test_gradient_of_half_precision_values_comes_in_half_precision(device: torch.device) -> None:
    some = values(device).detach().half().requires_grad_()
    permutohedral_filter(some, points(device).float(), "after").sum().backward()
    assert some.grad is not None
    assert some.grad.dtype == torch.float16


def test_filter_passes_opcheck_with_gradients(device: torch.device) -> None:
    lattice = torch.ops.densecrf_gpu.build_lattice.default(points(device, (1,)))
    arguments = (*lattice, values(device, (1,)), "symmetric", False)
    torch.library.opcheck(torch.ops.densecrf_gpu.lattice_filter.default, arguments)
