"""What holds for every filter, whatever the points: searched by hypothesis, and at the extremes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from operators import assert_has_no_lattice, filter_points, infer, ops
from problems import (
    NORMALIZATIONS,
    assert_near,
    generator,
    random_logits,
    random_points,
    random_values,
)
from torch import Tensor

from densecrf_gpu import reference

searched = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@st.composite
def points(draw: st.DrawFn) -> Tensor:
    """[1, N, d] float64: one to seventy points, alone, in clumps or all in one place."""
    n, d = draw(st.integers(1, 70)), draw(st.integers(1, 9))
    spread = draw(st.sampled_from([0.0, 0.01, 0.3, 1.0, 10.0, 1000.0]))
    features = spread * random_points(n, d, dtype=torch.float64, seed=draw(st.integers(0, 999)))
    return features.round() if draw(st.booleans()) else features


normalizations = st.sampled_from(NORMALIZATIONS)


@searched
@given(points())
def test_filter_after_preserves_constants(device: torch.device, features: Tensor) -> None:
    ones = torch.full((1, features.shape[1], 2), 3.5, dtype=torch.float64)
    assert_near(filter_points(features.to(device), ones.to(device), "after"), ones)


@searched
@given(points(), normalizations, st.booleans())
def test_filter_is_linear(
    device: torch.device, features: Tensor, normalization: str, adjoint: bool
) -> None:
    features = features.to(device)
    x = random_values(features.shape[1], 3, dtype=torch.float64, seed=5).to(device)
    y = random_values(features.shape[1], 3, dtype=torch.float64, seed=6).to(device)
    whole = filter_points(features, 2 * x - 3 * y, normalization, adjoint)
    parts = 2 * filter_points(features, x, normalization, adjoint) - 3 * filter_points(
        features, y, normalization, adjoint
    )
    torch.testing.assert_close(whole, parts, rtol=1e-11, atol=1e-11 * float(parts.abs().max()))


@searched
@given(points(), normalizations)
def test_adjoint_is_the_transpose(
    device: torch.device, features: Tensor, normalization: str
) -> None:
    """<A x, y> = <x, A^T y> to 1e-12 of sum |A x| |y|."""
    features = features.to(device)
    x = random_values(features.shape[1], 4, dtype=torch.float64, seed=5).to(device)
    y = random_values(features.shape[1], 4, dtype=torch.float64, seed=6).to(device)
    forward = filter_points(features, x, normalization) * y
    backward = filter_points(features, y, normalization, adjoint=True) * x
    scale = max(float(forward.abs().sum()), float(backward.abs().sum()))
    assert abs(float(forward.sum() - backward.sum())) <= 1e-12 * scale


@searched
@given(points(), normalizations, st.integers(0, 999))
def test_permuted_points_give_permuted_results(
    device: torch.device, features: Tensor, normalization: str, seed: int
) -> None:
    features = features.to(device)
    n = features.shape[1]
    values = random_values(n, 3, dtype=torch.float64).to(device)
    order = torch.randperm(n, generator=generator(seed)).to(device)
    out = filter_points(features, values, normalization)
    permuted = filter_points(features[:, order], values[:, order], normalization)
    assert_near(permuted, out[:, order], 1e-12)


@searched
@given(points(), normalizations, st.booleans())
def test_filter_matches_the_reference(
    device: torch.device, features: Tensor, normalization: str, adjoint: bool
) -> None:
    for dtype in (torch.float32, torch.float64):
        typed = features.to(dtype)
        values = random_values(features.shape[1], 3, dtype=dtype)
        out = filter_points(typed.to(device), values.to(device), normalization, adjoint)
        lattice = reference.build_lattice(typed)
        assert_near(out, reference.lattice_filter(lattice, values, normalization, adjoint))


@searched
@given(points())
def test_filter_keeps_the_sign_of_values(device: torch.device, features: Tensor) -> None:
    """The kernel has no negative entry, up to the rounding of barycentric weights."""
    values = torch.eye(features.shape[1], dtype=torch.float64)[None].to(device)
    assert filter_points(features.to(device), values).min() >= -1e-12


@searched
@given(st.integers(1, 4), st.integers(1, 40), st.integers(1, 6), st.integers(0, 999))
def test_filter_of_a_batch_is_the_loop_to_the_bit(
    device: torch.device, dtype: torch.dtype, batch: int, n: int, d: int, seed: int
) -> None:
    features = random_points(n, d, batch, dtype, seed).to(device)
    values = random_values(n, 5, batch, dtype).to(device)
    whole = filter_points(features, values, "symmetric")
    for b in range(batch):
        single = filter_points(features[b, None], values[b, None], "symmetric")
        assert torch.equal(whole[b], single[0])


@searched
@given(st.integers(1, 4), st.integers(1, 200), st.sampled_from([1, 2, 5, 21]), st.booleans())
def test_mean_field_of_a_batch_is_the_loop_to_the_bit(
    device: torch.device, dtype: torch.dtype, batch: int, n: int, classes: int, shared: bool
) -> None:
    features = random_points(n, 3, 1 if shared else batch, dtype).to(device)
    logits = random_logits(classes, n, batch, dtype).to(device)
    weights = [torch.tensor([3.0], dtype=dtype, device=device)]
    whole = infer(logits, [ops.build_lattice(features)], weights, iterations=3)
    for b in range(batch):
        own = features if shared else features[b, None]
        single = infer(logits[b, None], [ops.build_lattice(own)], weights, iterations=3)
        assert torch.equal(whole[b], single[0])


@pytest.mark.parametrize("d", [1, 2, 5, 9])
def test_one_point_alone_answers_by_its_own_weights(
    device: torch.device, dtype: torch.dtype, d: int
) -> None:
    features, values = random_points(1, d, dtype=dtype), random_values(1, 3, dtype=dtype)
    for normalization in NORMALIZATIONS:
        out = filter_points(features.to(device), values.to(device), normalization)
        lattice = reference.build_lattice(features)
        assert_near(out, reference.lattice_filter(lattice, values, normalization))
        if normalization != "none":
            assert_near(out, values)


@pytest.mark.parametrize("n", [2, 63, 64, 65, 1000])
def test_identical_points_all_receive_the_mean(
    device: torch.device, dtype: torch.dtype, n: int
) -> None:
    features = random_points(1, 5, dtype=dtype).expand(1, n, 5).to(device)
    values = random_values(n, 4, dtype=dtype).to(device)
    _, vertices = ops.build_lattice(features)
    assert ops.lattice_sizes(vertices).tolist() == [6]
    for normalization in ("before", "after", "symmetric"):
        out = filter_points(features, values, normalization)
        mean = values.mean(1, keepdim=True).expand_as(out)
        limit = 1e-12 if dtype == torch.float64 else 1e-5
        assert (out - mean).abs().max() <= limit * values.abs().max()


def test_one_class_is_certain(device: torch.device, dtype: torch.dtype) -> None:
    features, logits = random_points(40, 2, dtype=dtype), random_logits(1, 40, dtype=dtype)
    weights = [torch.tensor([3.0], dtype=dtype, device=device)]
    q = infer(logits.to(device), [ops.build_lattice(features.to(device))], weights)
    torch.testing.assert_close(q, torch.ones_like(q), rtol=0, atol=2 * torch.finfo(dtype).eps)


def test_a_line_of_pixels_is_a_chain_of_neighbours(
    device: torch.device, dtype: torch.dtype
) -> None:
    """Thousands of vertices in a row along one axis."""
    features = torch.linspace(0, 3000, 4000, dtype=dtype)[None, :, None]
    values = random_values(4000, 2, dtype=dtype)
    out = filter_points(features.to(device), values.to(device), "symmetric")
    lattice = reference.build_lattice(features)
    assert_near(out, reference.lattice_filter(lattice, values, "symmetric"))


@pytest.mark.parametrize(("sxy", "srgb"), [(1.0, 0.1), (0.25, 0.1), (3.0, 0.01)])
def test_keys_of_very_wide_range_match_the_reference(
    device: torch.device, dtype: torch.dtype, sxy: float, srgb: float
) -> None:
    """Pixels from all over a 4096 x 4096 image: with these bandwidths keys need over 63 bits."""
    g = generator(0)
    corners = torch.tensor([0, 1, 2, 4093, 4094, 4095])
    near = torch.cartesian_prod(corners, corners)
    xy = torch.cat([near, torch.randint(0, 4096, (200, 2), generator=g)])
    rgb = torch.randint(0, 256, (len(xy), 3), generator=g)
    rgb[::3] = rgb[::3] // 128 * 255
    features = torch.cat([xy.to(dtype) / sxy, rgb.to(dtype) / srgb], dim=1)[None]
    values = random_values(len(xy), 3, dtype=dtype)
    _, vertices = ops.build_lattice(features.to(device))
    lattice = reference.build_lattice(features)
    assert ops.lattice_sizes(vertices).tolist() == [len(lattice[0])]
    out = filter_points(features.to(device), values.to(device))
    assert_near(out, reference.lattice_filter(lattice, values))


@pytest.mark.parametrize("spread", [0.1, 1.0, 300.0])
@pytest.mark.parametrize("d", [13, 20])
def test_many_dimensions_need_wide_keys_and_match_the_reference(
    device: torch.device, dtype: torch.dtype, d: int, spread: float
) -> None:
    features = spread * random_points(40, d, dtype=dtype)
    values = random_values(40, 3, dtype=dtype)
    lattice = reference.build_lattice(features)
    _, vertices = ops.build_lattice(features.to(device))
    assert ops.lattice_sizes(vertices).tolist() == [len(lattice[0])]
    out = filter_points(features.to(device), values.to(device), "after")
    assert_near(out, reference.lattice_filter(lattice, values, "after"))


@pytest.mark.parametrize("shift", [0.0, 1e3, -1e4, 2e4])
def test_points_far_from_the_origin_match_the_reference(
    device: torch.device, dtype: torch.dtype, shift: float
) -> None:
    features = random_points(100, 3, dtype=dtype) + shift
    values = random_values(100, 3, dtype=dtype)
    out = filter_points(features.to(device), values.to(device), "symmetric")
    lattice = reference.build_lattice(features)
    assert_near(out, reference.lattice_filter(lattice, values, "symmetric"))


def resolved(d: int, dtype: torch.dtype) -> float:
    """A feature whose lattice coordinates, at most 4 (d+1) times as large, are exact enough."""
    return (2.0**17 if dtype == torch.float32 else 2.0**46) / (4 * (d + 1))


def stretched(d: int, dtype: torch.dtype, largest: float) -> Tensor:
    """Points that reach as far as ``largest``. [1, 50, d]"""
    features = random_points(50, d, dtype=torch.float64)
    return (features / features.abs().max() * largest).to(dtype)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.9])
@pytest.mark.parametrize("d", [1, 2, 5, 12])
def test_huge_features_are_right_as_far_as_the_dtype_resolves_them(
    device: torch.device, dtype: torch.dtype, d: int, share: float
) -> None:
    features = stretched(d, dtype, share * resolved(d, dtype))
    values = random_values(50, 2, dtype=dtype)
    out = filter_points(features.to(device), values.to(device), "after")
    lattice = reference.build_lattice(features)
    assert_near(out, reference.lattice_filter(lattice, values, "after"))


@pytest.mark.parametrize("power", [100.0, 1e4, 1e8, 1e16, 1e30])
@pytest.mark.parametrize("d", [1, 2, 5, 12])
def test_features_that_the_dtype_does_not_resolve_are_refused(
    device: torch.device, dtype: torch.dtype, d: int, power: float
) -> None:
    largest = min(power * resolved(d, dtype), 0.99 * torch.finfo(dtype).max)
    features = stretched(d, dtype, largest).to(device)
    assert_has_no_lattice(lambda: ops.build_lattice(features), device, "bandwidths")
