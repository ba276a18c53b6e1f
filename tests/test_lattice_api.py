"""PermutohedralLattice and permutohedral_filter: shapes, dtypes and what is refused."""

from __future__ import annotations

import pytest
import torch
from problems import NORMALIZATIONS, assert_near, random_points, random_values

from densecrf_gpu import PermutohedralLattice, permutohedral_filter, reference

N, D, C = 60, 3, 4


def points(dtype: torch.dtype = torch.float32, batch: int = 1) -> torch.Tensor:
    return random_points(N, D, batch, dtype)


def values(dtype: torch.dtype = torch.float32, batch: int = 1) -> torch.Tensor:
    return random_values(N, C, batch, dtype)


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("normalization", [None, *NORMALIZATIONS])
def test_filter_is_that_of_the_reference(
    device: torch.device, dtype: torch.dtype, normalization: str | None, adjoint: bool
) -> None:
    f, v = points(dtype, 2), values(dtype, 2)
    lattice = PermutohedralLattice(f.to(device))
    expected = reference.lattice_filter(
        reference.build_lattice(f), v, normalization or "none", adjoint
    )
    assert_near(lattice.filter(v.to(device), normalization, adjoint).cpu(), expected)


def test_lattice_without_batch_filters_without_batch(device: torch.device) -> None:
    f, v = points()[0].to(device), values()[0].to(device)
    out = PermutohedralLattice(f).filter(v, "symmetric")
    batched = PermutohedralLattice(f[None]).filter(v[None], "symmetric")
    assert torch.equal(out, batched[0])


def test_one_lattice_filters_values_of_any_leading_axes(device: torch.device) -> None:
    lattice = PermutohedralLattice(points()[0].to(device))
    v = random_values(N, C, 6).reshape(2, 3, N, C).to(device)
    out = lattice.filter(v, "after")
    assert out.shape == v.shape
    assert torch.equal(out[1, 2], lattice.filter(v[1, 2], "after"))


def test_free_function_is_a_lattice_used_once(device: torch.device) -> None:
    f, v = points().to(device), values().to(device)
    expected = PermutohedralLattice(f).filter(v, "before", True)
    assert torch.equal(permutohedral_filter(v, f, "before", adjoint=True), expected)


def test_number_of_vertices_is_an_int_or_one_int_per_lattice(device: torch.device) -> None:
    f = points(batch=2)
    expected = tuple(len(lattice) for lattice in reference.build_lattice(f))
    assert PermutohedralLattice(f.to(device)).num_vertices == expected
    assert PermutohedralLattice(f[1].to(device)).num_vertices == expected[1]


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_values_are_filtered_in_float32(device: torch.device, half: torch.dtype) -> None:
    lattice = PermutohedralLattice(points().to(device))
    v = values().to(device, half)
    out = lattice.filter(v)
    assert out.dtype == half
    assert torch.equal(out, lattice.filter(v.float()).to(half))


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_features_make_a_float32_lattice(half: torch.dtype) -> None:
    f = points().to(half)
    assert torch.equal(permutohedral_filter(values(), f), permutohedral_filter(values(), f.float()))


def test_strided_values_give_the_same_result() -> None:
    lattice = PermutohedralLattice(points())
    strided = values().transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(lattice.filter(strided), lattice.filter(values()))


def test_no_points_filter_to_an_empty_result() -> None:
    lattice = PermutohedralLattice(torch.zeros(0, 3))
    assert lattice.num_vertices == 0
    assert lattice.filter(torch.zeros(0, 5)).shape == (0, 5)
    assert PermutohedralLattice(torch.zeros(2, 0, 3)).num_vertices == (0, 0)


def test_no_channels_filter_to_an_empty_result() -> None:
    assert PermutohedralLattice(points()[0]).filter(torch.zeros(N, 0)).shape == (N, 0)


def test_caller_may_overwrite_the_features() -> None:
    f = points()
    lattice = PermutohedralLattice(f)
    before = lattice.filter(values())
    f.zero_()
    assert torch.equal(lattice.filter(values()), before)


def test_filter_compiles_into_one_graph() -> None:
    def double(v: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
        return 2 * permutohedral_filter(v, f, "symmetric")

    compiled = torch.compile(double, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(values(), points()), double(values(), points()))


@pytest.mark.parametrize("shape", [(N,), (N, 0), (1, 2, N, D)])
def test_features_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=rf"d >= 1, found \[{shape[0]}"):
        PermutohedralLattice(torch.zeros(shape))


def test_integer_features_are_refused() -> None:
    with pytest.raises(TypeError, match=r"floating dtype, found torch\.int64"):
        PermutohedralLattice(torch.zeros(N, D, dtype=torch.long))


def test_features_that_are_no_tensor_are_refused() -> None:
    with pytest.raises(TypeError, match=r"torch\.Tensor, found list"):
        PermutohedralLattice([[0.0]])  # type: ignore[arg-type]


def test_features_that_are_not_finite_are_refused_with_the_index() -> None:
    f = points()
    f[0, 7, 2] = float("nan")
    with pytest.raises(ValueError, match=r"features\[0, 7, 2\] = nan"):
        PermutohedralLattice(f)


def test_values_that_are_not_finite_are_refused_with_the_index() -> None:
    v = values()
    v[0, 7, 2] = float("inf")
    with pytest.raises(ValueError, match=r"values\[0, 7, 2\] = inf"):
        PermutohedralLattice(points()).filter(v)


@pytest.mark.parametrize(
    ("batch", "shape", "expected"),
    [
        (2, (N, C), rf"\[2, {N}, C\]"),
        (2, (3, N, C), rf"\[2, {N}, C\]"),
        (2, (2, C, N), rf"\[2, {N}, C\]"),
        (None, (C, N), rf"\[\.\.\., {N}, C\]"),
        (None, (N,), rf"\[\.\.\., {N}, C\]"),
    ],
)
def test_values_of_another_shape_are_refused_with_both_shapes(
    batch: int | None, shape: tuple[int, ...], expected: str
) -> None:
    lattice = PermutohedralLattice(points()[0] if batch is None else points(batch=batch))
    with pytest.raises(ValueError, match=rf"of shape {expected}, found \[{shape[0]}"):
        lattice.filter(torch.zeros(shape))


@pytest.mark.parametrize(
    ("of_lattice", "of_values"),
    [
        (torch.float32, torch.float64),
        (torch.float64, torch.float32),
        (torch.float64, torch.float16),
        (torch.float32, torch.int32),
    ],
)
def test_values_of_another_dtype_are_refused(
    of_lattice: torch.dtype, of_values: torch.dtype
) -> None:
    with pytest.raises(TypeError, match=f"dtype {of_lattice}, found {of_values}"):
        PermutohedralLattice(points(of_lattice)).filter(values().to(of_values))


def test_values_on_another_device_are_refused() -> None:
    with pytest.raises(ValueError, match="values on cpu, found meta"):
        PermutohedralLattice(points()).filter(values().to("meta"))


def test_unknown_normalization_is_refused() -> None:
    with pytest.raises(ValueError, match=r'"symmetric", found .both.'):
        PermutohedralLattice(points()).filter(values(), "both")


def test_tensors_that_require_grad_are_accepted_without_grad_mode() -> None:
    with torch.no_grad():
        out = permutohedral_filter(values().requires_grad_(), points().requires_grad_())
    assert torch.equal(out, permutohedral_filter(values(), points()))
