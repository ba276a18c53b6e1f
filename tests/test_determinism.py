"""The same bits from run to run; the number of threads changes rounding at most."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from operators import filter_points, image_lattices, infer, ops
from problems import assert_near, random_image, random_logits, random_points, random_values
from torch import Tensor

HEIGHT, WIDTH = 120, 161


@pytest.fixture(autouse=True)
def _restore_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def refine(device: torch.device, dtype: torch.dtype, batch: int = 1) -> Tensor:
    """Lattices and ten iterations on an image large enough to be shared among threads."""
    image = random_image(HEIGHT, WIDTH, batch=batch)
    image = image.double() if dtype == torch.float64 else image
    spatial, bilateral = image_lattices(image.to(device), 60.0, 5.0)
    if dtype == torch.float64:
        grid = torch.cartesian_prod(torch.arange(HEIGHT), torch.arange(WIDTH)).double()
        spatial = ops.build_lattice(grid[None].to(device) / 3, [HEIGHT, WIDTH])
    logits = random_logits(5, HEIGHT * WIDTH, batch, dtype).to(device)
    weights = [torch.tensor([w], dtype=dtype, device=device) for w in (3.0, 10.0)]
    return infer(logits, [spatial, bilateral], weights, iterations=5)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_inference_repeats_to_the_bit(
    device: torch.device, dtype: torch.dtype, threads: int
) -> None:
    torch.set_num_threads(threads)
    first = refine(device, dtype, batch=2)
    for _ in range(3):
        assert torch.equal(refine(device, dtype, batch=2), first)


@pytest.mark.parametrize("normalization", ["none", "symmetric"])
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("d", [1, 3, 5, 9])
def test_filter_repeats_to_the_bit(
    device: torch.device, dtype: torch.dtype, d: int, threads: int, normalization: str
) -> None:
    torch.set_num_threads(threads)
    points = random_points(6000, d, 2, dtype).to(device)
    values = random_values(6000, 7, 2, dtype).to(device)
    first = filter_points(points, values, normalization)
    for _ in range(3):
        assert torch.equal(filter_points(points, values, normalization), first)


@pytest.mark.parametrize("d", [2, 5, 9])
def test_number_of_threads_changes_rounding_only(
    device: torch.device, dtype: torch.dtype, d: int
) -> None:
    points = random_points(6000, d, dtype=dtype).to(device)
    values = random_values(6000, 7, dtype=dtype).to(device)
    results, sizes = [], []
    for threads in (1, 2, 3, 8):
        torch.set_num_threads(threads)
        results.append(filter_points(points, values, "symmetric"))
        sizes.append(ops.lattice_sizes(ops.build_lattice(points)[1]).tolist())
    for other in results[1:]:
        assert_near(other, results[0])
    assert all(size == sizes[0] for size in sizes)


def test_a_lattice_serves_any_number_of_threads(device: torch.device, dtype: torch.dtype) -> None:
    """Built with one thread, used with three, and the other way round."""
    points = random_points(6000, 4, dtype=dtype).to(device)
    values = random_values(6000, 3, dtype=dtype).to(device)
    results = []
    for building, filtering in ((1, 3), (3, 1), (2, 8)):
        torch.set_num_threads(building)
        lattice = ops.build_lattice(points)
        torch.set_num_threads(filtering)
        results.append(ops.lattice_filter(*lattice, values, "after", False))
    for other in results[1:]:
        assert_near(other, results[0])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("n", "d"), [(1, 1), (40, 3), (6000, 5), (300, 12)])
def test_a_lattice_is_the_same_bytes_every_time(
    device: torch.device, dtype: torch.dtype, n: int, d: int, threads: int
) -> None:
    """No byte of it is left as the memory happened to be."""
    torch.set_num_threads(threads)
    features = random_points(n, d, 2, dtype).to(device)
    points, vertices = ops.build_lattice(features)
    for fill in (0, 255):
        dirt = [torch.full_like(vertices, fill) for _ in range(8)]
        del dirt
        again = ops.build_lattice(features)
        assert torch.equal(again[0], points)
        assert torch.equal(again[1], vertices)


def test_a_lattice_is_not_changed_by_use(device: torch.device) -> None:
    points, vertices = ops.build_lattice(random_points(500, 3).to(device))
    before = points.clone(), vertices.clone()
    values = random_values(500, 3).to(device)
    for normalization in ("none", "before", "after", "symmetric"):
        ops.lattice_filter(points, vertices, values, normalization, True)
    infer(random_logits(3, 500).to(device), [(points, vertices)], [torch.ones(1, device=device)])
    assert torch.equal(points, before[0])
    assert torch.equal(vertices, before[1])


def test_a_lattice_may_be_moved_in_memory(device: torch.device) -> None:
    points, vertices = ops.build_lattice(random_points(500, 3, 2).to(device))
    values = random_values(500, 3, 2).to(device)
    expected = ops.lattice_filter(points, vertices, values, "after", False)
    copies = points.clone(), vertices.clone()
    del points, vertices
    assert torch.equal(ops.lattice_filter(*copies, values, "after", False), expected)


@pytest.mark.parametrize("using", [1, 2, 5])
@pytest.mark.parametrize("building", [(1, 1), (1, 3), (3, 2), (4, 1)])
def test_lattices_built_with_different_threads_work_together(
    device: torch.device, dtype: torch.dtype, building: tuple[int, int], using: int
) -> None:
    results = []
    logits = random_logits(5, 6000, dtype=dtype).to(device)
    weights = [torch.tensor([w], dtype=dtype, device=device) for w in (3.0, 10.0)]
    for counts in ((1, 1), building):
        lattices = []
        for d, threads in zip((2, 5), counts, strict=True):
            torch.set_num_threads(threads)
            lattices.append(ops.build_lattice(random_points(6000, d, dtype=dtype).to(device)))
        torch.set_num_threads(using)
        results.append(infer(logits, lattices, weights, iterations=2))
    assert_near(results[1], results[0], 2e-5 if dtype == torch.float32 else None)


@pytest.mark.parametrize("chosen", [0, 1, 2])
def test_one_lattice_of_a_batch_can_be_built_again_alone(
    device: torch.device, dtype: torch.dtype, chosen: int
) -> None:
    points = random_points(3000, 5, 3, dtype).to(device)
    values = random_values(3000, 4, 3, dtype).to(device)
    whole = filter_points(points, values, "symmetric")
    alone = filter_points(points[chosen, None], values[chosen, None], "symmetric")
    assert torch.equal(whole[chosen], alone[0])


def test_logits_and_weights_are_left_as_they_were(device: torch.device) -> None:
    logits, weight = random_logits(4, 500).to(device), torch.eye(4, device=device)
    before = logits.clone(), weight.clone()
    lattice = ops.build_lattice(random_points(500, 3).to(device))
    infer(logits, [lattice], [weight])
    assert torch.equal(logits, before[0])
    assert torch.equal(weight, before[1])


PROBE = """
import sys, torch
from operators import filter_points, infer, ops
from problems import random_logits, random_points, random_values
found = {"isa": ops.cpu_isa()}
for dtype in (torch.float32, torch.float64):
    for d in (1, 2, 5, 9):
        points = random_points(700, d, dtype=dtype)
        lattice = ops.build_lattice(points)
        found[dtype, d, "size"] = ops.lattice_sizes(lattice[1])
        for c in (1, 3, 7, 21, 40):
            values, logits = random_values(700, c, dtype=dtype), random_logits(c, 700, dtype=dtype)
            found[dtype, d, c, "filter"] = filter_points(points, values, "after")
            weights = [torch.tensor([4.0], dtype=dtype)]
            found[dtype, d, c, "q"] = infer(logits, [lattice], weights, iterations=2)
            weights = [torch.eye(c, dtype=dtype)]
            found[dtype, d, c, "matrix"] = infer(logits, [lattice], weights, "before", 2)
torch.save(found, sys.argv[1])
"""


def test_instruction_sets_differ_by_rounding_only(tmp_path: Path) -> None:
    """Each is asked for in a process of its own; one that the processor lacks is left out."""
    found = {}
    for isa in ("baseline", "avx2", "avx512"):
        file = tmp_path / isa
        environment = os.environ | {
            "DENSECRF_ISA": isa,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
        run = subprocess.run(
            [sys.executable, "-c", PROBE, str(file)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode == 0:
            found[isa] = torch.load(file)
            assert found[isa].pop("isa") == isa
        else:
            assert isa != "baseline", run.stderr
            assert isa in run.stderr
    for isa, results in found.items():
        for key, expected in found["baseline"].items():
            if isinstance(key, tuple) and key[-1] == "size":
                assert torch.equal(results[key], expected), (isa, key)
            else:
                relative = 1e-4 if expected.dtype == torch.float32 else 1e-12
                assert_near(results[key], expected, relative)
