"""A call that finds no memory says so as torch does, and leaves everything as it was."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch
from cuda_scenes import CUDA, image, logits, refine
from problems import random_points

from densecrf_gpu import PermutohedralLattice, clear_cache


@pytest.fixture
def _little_memory() -> Iterator[None]:
    """What is in use, and 64 MiB."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(CUDA).total_memory
    fraction = (torch.cuda.memory_reserved() + (64 << 20)) / total
    torch.cuda.set_per_process_memory_fraction(fraction)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def test_a_refinement_without_memory_raises_and_leaves_the_state_intact(
    request: pytest.FixtureRequest,
) -> None:
    size = (600, 800)
    large, small = (logits(1, size=size), image(1, size=size)), (logits(), image())
    expected = refine(*small)
    clear_cache()
    request.getfixturevalue("_little_memory")
    before = torch.cuda.memory_allocated()
    with pytest.raises(torch.cuda.OutOfMemoryError, match="out of memory"):
        refine(*large)
    torch.cuda.synchronize()
    clear_cache()
    gc.collect()  # the error's traceback holds the tensors of the call that failed
    assert torch.cuda.memory_allocated() == before
    assert torch.equal(refine(*small), expected)


def test_a_lattice_without_memory_raises(request: pytest.FixtureRequest) -> None:
    points = random_points(1_000_000, 5).to(CUDA)
    request.getfixturevalue("_little_memory")
    with pytest.raises(torch.cuda.OutOfMemoryError, match="out of memory"):
        PermutohedralLattice(points)
