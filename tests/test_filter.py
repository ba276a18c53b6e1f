"""lattice_filter and the builders against the reference lattice."""

from __future__ import annotations

import functools

import pytest
import torch
from operators import filter_points, infer, ops
from problems import (
    NORMALIZATIONS,
    assert_near,
    random_image,
    random_logits,
    random_points,
    random_values,
)
from torch import Tensor

from densecrf_gpu import reference

DIMENSIONS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12)
CHANNELS = (1, 2, 3, 5, 8, 21, 32, 33, 60, 150)
POINTS = 157  # no multiple of any vector or block


@functools.cache
def lattice(d: int, dtype: torch.dtype, batch: int = 1) -> list[reference.Lattice]:
    return reference.build_lattice(random_points(POINTS, d, batch, dtype))


@pytest.mark.parametrize("d", DIMENSIONS)
def test_vertices_are_those_of_the_reference(
    device: torch.device, dtype: torch.dtype, d: int
) -> None:
    points = random_points(POINTS, d, 2, dtype)
    _, vertices = ops.build_lattice(points.to(device))
    sizes = ops.lattice_sizes(vertices)
    assert sizes.tolist() == reference.lattice_sizes(lattice(d, dtype, 2)).tolist()


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("d", DIMENSIONS)
def test_filter_matches_the_reference_in_every_dimension(
    device: torch.device, dtype: torch.dtype, d: int, normalization: str, adjoint: bool
) -> None:
    points, values = random_points(POINTS, d, 1, dtype), random_values(POINTS, 5, 1, dtype)
    out = filter_points(points.to(device), values.to(device), normalization, adjoint)
    expected = reference.lattice_filter(lattice(d, dtype), values, normalization, adjoint)
    assert_near(out, expected)


@pytest.mark.parametrize("normalization", ["none", "symmetric"])
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("d", [2, 5, 10])
def test_filter_matches_the_reference_for_every_number_of_channels(
    device: torch.device, dtype: torch.dtype, d: int, channels: int, normalization: str
) -> None:
    points, values = random_points(POINTS, d, 1, dtype), random_values(POINTS, channels, 1, dtype)
    out = filter_points(points.to(device), values.to(device), normalization)
    assert_near(out, reference.lattice_filter(lattice(d, dtype), values, normalization))


@pytest.mark.parametrize("d", [2, 5])
def test_each_lattice_of_a_batch_serves_its_own_values(
    device: torch.device, dtype: torch.dtype, d: int
) -> None:
    points, values = random_points(POINTS, d, 3, dtype), random_values(POINTS, 6, 3, dtype)
    out = filter_points(points.to(device), values.to(device), "after")
    assert_near(out, reference.lattice_filter(lattice(d, dtype, 3), values, "after"))


def test_one_lattice_serves_a_whole_batch(device: torch.device, dtype: torch.dtype) -> None:
    points, values = random_points(POINTS, 3, 1, dtype), random_values(POINTS, 6, 4, dtype)
    out = filter_points(points.to(device), values.to(device), "symmetric")
    assert_near(out, reference.lattice_filter(lattice(3, dtype), values, "symmetric"))


def test_strided_features_and_values_are_read_as_they_are(
    device: torch.device, dtype: torch.dtype
) -> None:
    points = random_points(2 * POINTS, 3, 1, dtype)[:, ::2].to(device)
    values = random_values(5, POINTS, 1, dtype).transpose(1, 2).to(device)
    out = filter_points(points, values, "after")
    torch.testing.assert_close(
        out, filter_points(points.contiguous(), values.contiguous(), "after"), rtol=0, atol=0
    )


@pytest.mark.parametrize("offset", [1, 3])
def test_tensors_may_begin_anywhere_in_memory(
    device: torch.device, dtype: torch.dtype, offset: int
) -> None:
    """Contiguous, but not on a boundary of vectors."""

    def moved(tensor: Tensor) -> Tensor:
        storage = tensor.new_zeros(offset + tensor.numel())
        storage[offset:] = tensor.flatten()
        return storage[offset:].view(tensor.shape)

    points = random_points(POINTS, 3, 1, dtype).to(device)
    values = random_values(POINTS, 16, 1, dtype).to(device)
    logits = random_logits(16, POINTS, 1, dtype).to(device)
    expected = filter_points(points, values, "after")
    assert torch.equal(filter_points(moved(points), moved(values), "after"), expected)
    weights = torch.rand(16, 16, device=device).to(dtype)
    lattice = [ops.build_lattice(points)]
    assert torch.equal(
        infer(moved(logits), lattice, [moved(weights)]), infer(logits, lattice, [weights])
    )


def test_inputs_are_left_as_they_were(device: torch.device, dtype: torch.dtype) -> None:
    points = random_points(POINTS, 4, 1, dtype).to(device)
    values = random_values(POINTS, 3, 1, dtype).to(device)
    before = points.clone(), values.clone()
    filter_points(points, values, "symmetric")
    assert torch.equal(points, before[0])
    assert torch.equal(values, before[1])


@pytest.mark.parametrize("seed", range(8))
def test_points_on_simplex_borders_fall_on_the_side_of_the_reference(
    device: torch.device, dtype: torch.dtype, seed: int
) -> None:
    """Integer pixels over integer bandwidths hit ties of every kind."""
    size, sigmas = (23, 31), [(1.0, 2.0), (3.0, 3.0), (5.0, 1.5), (7.0, 0.5)][seed % 4]
    points = reference.image_features(None, size, sigmas).to(dtype)
    if seed >= 4:
        color = random_image(*size, seed=seed).flatten(2).transpose(1, 2)
        points = torch.cat([points, (color // 16).to(dtype)], dim=-1)
    _, vertices = ops.build_lattice(points.to(device))
    expected = reference.build_lattice(points)
    assert ops.lattice_sizes(vertices).tolist() == [len(expected[0])]
    values = random_values(size[0] * size[1], 3, 1, dtype)
    out = filter_points(points.to(device), values.to(device), "after")
    assert_near(out, reference.lattice_filter(expected, values, "after"))


def image_of(kind: str) -> tuple[Tensor | None, tuple[int, ...], list[float], list[float]]:
    """Image, spatial size, spatial and channel bandwidths."""
    color = random_image(17, 22, batch=2)
    cases: dict[str, tuple[Tensor | None, tuple[int, ...], list[float], list[float]]] = {
        "uint8": (color, (17, 22), [20.0, 20.0], [13.0] * 3),
        "height-width-channels": (
            color.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
            (17, 22),
            [20.0, 20.0],
            [5.0] * 3,
        ),
        "every other row": (color[:, :, ::2, 1:], (9, 21), [20.0, 20.0], [5.0] * 3),
        "expanded": (color[:1].expand(3, -1, -1, -1), (17, 22), [20.0, 20.0], [5.0] * 3),
        "float32": (color.float() / 255, (17, 22), [20.0, 20.0], [0.05] * 3),
        "float64": (color.double() / 255, (17, 22), [20.0, 20.0], [0.05] * 3),
        "grey": (color[:, :1], (17, 22), [20.0, 20.0], [13.0]),
        "four channels": (random_image(17, 22, 4), (17, 22), [20.0, 20.0], [9.0, 8.0, 7.0, 6.0]),
        "nine channels": (random_image(7, 9, 9), (7, 9), [20.0, 20.0], [13.0] * 9),
        "anisotropic": (color, (17, 22), [30.0, 4.0], [20.0, 3.0, 8.0]),
        "volume": (
            random_image(6, 35).reshape(1, 3, 6, 5, 7),
            (6, 5, 7),
            [4.0, 3.0, 2.0],
            [13.0] * 3,
        ),
        "positions": (None, (17, 22), [3.0, 3.0], []),
        "positions in a volume": (None, (4, 5, 6), [3.0, 2.0, 1.0], []),
        "line": (None, (40,), [3.0], []),
        "one pixel": (color[:, :, :1, :1], (1, 1), [3.0, 3.0], [5.0] * 3),
        "one row": (color[:, :, :1], (1, 22), [3.0, 3.0], [5.0] * 3),
        "one column": (color[:, :, :, :1], (17, 1), [3.0, 3.0], [5.0] * 3),
    }
    return cases[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "uint8", "height-width-channels", "every other row", "expanded", "float32", "float64",
        "grey", "four channels", "nine channels", "anisotropic", "volume", "positions",
        "positions in a volume", "line", "one pixel", "one row", "one column",
    ],
)  # fmt: skip
def test_image_lattice_is_the_lattice_of_its_features_to_the_bit(
    device: torch.device, kind: str
) -> None:
    image, size, spatial, channel = image_of(kind)
    features = reference.image_features(image, size, spatial, channel).to(device)
    values = random_values(features.shape[1], 4, features.shape[0], features.dtype).to(device)
    image = None if image is None else image.to(device)
    points, vertices = ops.build_image_lattice(image, list(size), spatial, channel)
    points, vertices = points.to(device), vertices.to(device)
    out = ops.lattice_filter(points, vertices, values, "symmetric", False)
    assert torch.equal(out, filter_points(features, values, "symmetric"))
    expected = reference.build_lattice(features.cpu())
    sizes = ops.lattice_sizes(vertices)
    assert sizes.dtype == torch.int64
    assert sizes.tolist() == reference.lattice_sizes(expected).tolist()
    assert_near(out, reference.lattice_filter(expected, values.cpu(), "symmetric"))
