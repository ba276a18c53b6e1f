"""torch.library.opcheck on every operator: schema, fake kernel, autograd and tracing."""

from __future__ import annotations

import pytest
import torch
from operators import ops
from problems import random_image, random_logits, random_points, random_values

SAMPLES = ("contiguous", "strided", "batch", "float64")


def dtype_of(sample: str) -> torch.dtype:
    return torch.float64 if sample == "float64" else torch.float32


def features(sample: str, device: torch.device) -> torch.Tensor:
    n = 80 if sample == "strided" else 40
    points = random_points(n, 3, 3 if sample == "batch" else 1, dtype_of(sample)).to(device)
    return points[:, ::2] if sample == "strided" else points


@pytest.mark.parametrize("sample", SAMPLES)
def test_build_lattice_passes_opcheck(device: torch.device, sample: str) -> None:
    torch.library.opcheck(ops.build_lattice.default, (features(sample, device),))


@pytest.mark.parametrize("sample", ["uint8", "float32", "float64", "strided", "batch", "none"])
def test_build_image_lattice_passes_opcheck(device: torch.device, sample: str) -> None:
    image = random_image(8, 9, batch=3 if sample == "batch" else 1).to(device)
    if sample == "strided":
        image = image.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    if sample.startswith("float"):
        image = image.to(getattr(torch, sample))
    if sample == "none":
        arguments = (None, [8, 9], [3.0, 3.0], [])
    else:
        arguments = (image, [8, 9], [20.0, 20.0], [13.0] * 3)
    torch.library.opcheck(ops.build_image_lattice.default, arguments)


@pytest.mark.parametrize("batch", [1, 3])
def test_lattice_sizes_passes_opcheck(device: torch.device, batch: int) -> None:
    _, vertices = ops.build_lattice(random_points(40, 3, batch).to(device))
    torch.library.opcheck(ops.lattice_sizes.default, (vertices,))


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("normalization", ["none", "symmetric"])
@pytest.mark.parametrize("sample", SAMPLES)
def test_lattice_filter_passes_opcheck(
    device: torch.device, sample: str, normalization: str, adjoint: bool
) -> None:
    points, vertices = ops.build_lattice(features(sample, device))
    batch = 3 if sample == "batch" else 1
    values = random_values(40, 4, batch, dtype_of(sample)).to(device)
    if sample == "strided":
        values = values.transpose(1, 2).contiguous().transpose(1, 2)
    arguments = (points, vertices, values, normalization, adjoint)
    torch.library.opcheck(ops.lattice_filter.default, arguments)


@pytest.mark.parametrize("output", ["probabilities", "logits", "labels"])
@pytest.mark.parametrize("sample", SAMPLES)
def test_mean_field_passes_opcheck(device: torch.device, sample: str, output: str) -> None:
    dtype = dtype_of(sample)
    points, vertices = ops.build_lattice(features(sample, device))
    logits = random_logits(4, 40, 3 if sample == "batch" else 1, dtype).to(device)
    if sample == "strided":
        logits = logits.transpose(1, 2).contiguous().transpose(1, 2)
    weights = [torch.ones(1, dtype=dtype, device=device), torch.eye(4, dtype=dtype, device=device)]
    arguments = (
        logits, [points] * 2, [vertices] * 2, weights, ["symmetric", "after"], 2, 0.1, 0.0, output
    )  # fmt: skip
    torch.library.opcheck(ops.mean_field.default, arguments)


def test_cpu_isa_is_one_of_the_three_builds() -> None:
    assert ops.cpu_isa() in ("avx512", "avx2", "baseline")
