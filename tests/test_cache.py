"""The cache of spatial lattices: what shares an entry, its bounds, its threads."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from densecrf_gpu import (
    CRFParams,
    cache_info,
    clear_cache,
    crf_refine,
    reference,
    set_workspace_limit,
)
from densecrf_gpu.cache import LatticeCache, SpatialKey, spatial_lattice
from densecrf_gpu.ops import LatticeData, lattice_sizes

CPU = torch.device("cpu")


def key(height: int) -> SpatialKey:
    return SpatialKey((height, 5), (3.0, 3.0), torch.float32, CPU, 1)


def lattice(size: int) -> LatticeData:
    return LatticeData(
        torch.zeros(1, size - 8, dtype=torch.uint8), torch.zeros(8, dtype=torch.uint8)
    )


def test_second_call_of_a_size_finds_the_lattice() -> None:
    first = spatial_lattice((9, 7), (3.0, 3.0), torch.float32, CPU)
    second = spatial_lattice((9, 7), (3.0, 3.0), torch.float32, CPU)
    assert first.points is second.points
    assert cache_info()[:3] == (1, 1, 1)


@pytest.mark.parametrize(
    ("size", "sigmas", "dtype"),
    [
        ((7, 9), (3.0, 3.0), torch.float32),
        ((9, 7), (3.0, 2.0), torch.float32),
        ((9, 7), (3.0, 3.0), torch.float64),
    ],
)
def test_other_size_bandwidth_or_dtype_is_another_lattice(
    size: tuple[int, ...], sigmas: tuple[float, ...], dtype: torch.dtype
) -> None:
    spatial_lattice((9, 7), (3.0, 3.0), torch.float32, CPU)
    spatial_lattice(size, sigmas, dtype, CPU)
    assert cache_info().entries == 2


def test_other_number_of_threads_is_another_lattice() -> None:
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            spatial_lattice((9, 7), (3.0, 3.0), torch.float32, CPU)
        assert cache_info().entries == 2
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("size", [(9, 7), (5, 6, 4)])
def test_spatial_lattice_has_the_vertices_of_the_reference(
    device: torch.device, dtype: torch.dtype, size: tuple[int, ...]
) -> None:
    sigmas = (2.0, 3.0, 1.5)[: len(size)]
    built = spatial_lattice(size, sigmas, dtype, device)
    (expected,) = reference.build_image_lattice(None, size, sigmas)
    assert lattice_sizes(built.vertices).tolist() == [len(expected)]


def test_cache_forgets_the_oldest_entry_beyond_its_number() -> None:
    cache = LatticeCache(max_entries=2, max_bytes=1000)
    for height in (1, 2, 3):
        cache.get(key(height), lambda: lattice(100))
    assert cache.info().entries == 2
    cache.get(key(2), lambda: pytest.fail("forgotten"))
    cache.get(key(1), lambda: lattice(100))
    assert cache.info().misses == 4


def test_use_keeps_an_entry_young() -> None:
    cache = LatticeCache(max_entries=2, max_bytes=1000)
    for height in (1, 2, 1, 3):
        cache.get(key(height), lambda: lattice(100))
    cache.get(key(1), lambda: pytest.fail("forgotten"))


def test_cache_forgets_entries_beyond_its_bytes() -> None:
    cache = LatticeCache(max_entries=10, max_bytes=250)
    for height in (1, 2, 3):
        cache.get(key(height), lambda: lattice(100))
    assert (cache.info().entries, cache.info().bytes) == (2, 200)


def test_lattice_larger_than_the_cache_is_returned_and_not_kept() -> None:
    cache = LatticeCache(max_entries=10, max_bytes=250)
    cache.get(key(1), lambda: lattice(100))
    assert cache.get(key(2), lambda: lattice(300)).points.numel() == 292
    assert (cache.info().entries, cache.info().bytes) == (1, 100)


def test_failed_build_leaves_no_trace() -> None:
    cache = LatticeCache(max_entries=10, max_bytes=250)

    def fail() -> LatticeData:
        raise MemoryError

    with pytest.raises(MemoryError):
        cache.get(key(1), fail)
    assert cache.info().entries == 0
    assert cache.get(key(1), lambda: lattice(100)).points.numel() == 92


def test_clear_cache_frees_everything() -> None:
    spatial_lattice((9, 7), (3.0, 3.0), torch.float32, CPU)
    clear_cache()
    assert cache_info()[:4] == (0, 0, 0, 0)


def test_threads_that_miss_together_get_the_same_lattice() -> None:
    cache = LatticeCache(max_entries=10, max_bytes=1000)
    together = threading.Barrier(4)

    def build() -> LatticeData:
        together.wait(timeout=30)
        return lattice(100)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: cache.get(key(1), build), range(4)))
    assert all(entry is found[0] for entry in found)
    assert (cache.info().entries, cache.info().bytes) == (1, 100)


def test_many_threads_of_many_sizes_stay_within_the_bounds() -> None:
    cache = LatticeCache(max_entries=3, max_bytes=250)

    def use(i: int) -> int:
        return cache.get(key(i % 7), lambda: lattice(50 + 10 * (i % 7))).points.numel() - 42

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(use, range(400))) == [10 * (i % 7) for i in range(400)]
    info = cache.info()
    assert info.entries <= 3
    assert info.bytes <= 250
    assert info.hits + info.misses == 400


def test_threads_refine_as_one_thread_does() -> None:
    logits = [torch.randn(3, 20 + i % 3, 17) for i in range(12)]
    image = [torch.randint(256, (3, 20 + i % 3, 17), dtype=torch.uint8) for i in range(12)]
    params = CRFParams.pydensecrf()
    expected = [crf_refine(u, x, params) for u, x in zip(logits, image, strict=True)]
    clear_cache()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda u, x: crf_refine(u, x, params), logits, image))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_lattice_cached_in_inference_mode_is_an_ordinary_tensor() -> None:
    with torch.inference_mode():
        built = spatial_lattice((9, 7), (3.0, 3.0), torch.float32, CPU)
    assert not built.points.is_inference()


def test_work_memory_is_kept_within_its_limit_and_freed_on_demand() -> None:
    logits, image = torch.zeros(3, 64, 64), torch.zeros(3, 64, 64, dtype=torch.uint8)
    clear_cache()
    assert cache_info().workspace_bytes == 0
    crf_refine(logits, image)
    assert cache_info().workspace_bytes > 0
    clear_cache()
    assert cache_info().workspace_bytes == 0
    try:
        set_workspace_limit(0)
        crf_refine(logits, image)
        assert cache_info().workspace_bytes == 0
    finally:
        set_workspace_limit(1 << 30)


@pytest.mark.parametrize(
    ("limit", "error"), [(-1, ValueError), (1.5, TypeError), (True, TypeError)]
)
def test_a_limit_that_is_no_number_of_bytes_is_refused(
    limit: object, error: type[Exception]
) -> None:
    with pytest.raises(error, match="limit must be"):
        set_workspace_limit(limit)  # type: ignore[arg-type]
