"""What is kept between calls: spatial lattices (they depend on a size alone) and work memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from . import ops
from .cuda_layout import most_vertices
from .ops import LatticeData


class CacheInfo(NamedTuple):
    """State of the cache of spatial lattices, and the work memory kept for the next call."""

    hits: int
    misses: int
    entries: int
    bytes: int
    max_entries: int
    max_bytes: int
    workspace_bytes: int


class SpatialKey(NamedTuple):
    """Everything that a spatial lattice depends on, bit for bit."""

    size: tuple[int, ...]  # array order
    sigmas: tuple[float, ...]  # x first
    dtype: torch.dtype
    device: torch.device
    threads: int  # the order of vertices, and so of sums, may follow the thread count
    stream: int = 0  # on CUDA: another one might use a lattice before it is built


class LatticeCache:
    """Keeps the lattices used last, within a number of entries and of bytes; safe to share."""

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._entries: OrderedDict[SpatialKey, LatticeData] = OrderedDict()
        self._bytes = self._hits = self._misses = 0

    def get(self, key: SpatialKey, build: Callable[[], LatticeData]) -> LatticeData:
        """Returns the lattice of ``key``, built by ``build()`` if it is not here.

        The lock is not held while building: threads that miss together build the same lattice
        twice, and all return the one that was stored first.
        """
        with self._lock:
            lattice = self._entries.get(key)
            if lattice is not None:
                self._entries.move_to_end(key)
                self._hits += 1
                return lattice
            self._misses += 1
        lattice = build()
        size = _bytes(lattice)
        if size > self._max_bytes:
            return lattice
        with self._lock:
            if key in self._entries:
                return self._entries[key]
            self._entries[key] = lattice
            self._bytes += size
            while self._bytes > self._max_bytes or len(self._entries) > self._max_entries:
                _, oldest = self._entries.popitem(last=False)
                self._bytes -= _bytes(oldest)
        return lattice

    def clear(self) -> None:
        """Drops all lattices and resets the counters."""
        with self._lock:
            self._entries.clear()
            self._bytes = self._hits = self._misses = 0

    def info(self) -> CacheInfo:
        """Returns the counters and limits of this moment."""
        with self._lock:
            return CacheInfo(
                self._hits,
                self._misses,
                len(self._entries),
                self._bytes,
                self._max_entries,
                self._max_bytes,
                ops.workspace_bytes(),
            )


def _bytes(lattice: LatticeData) -> int:
    return lattice.points.numel() + lattice.vertices.numel()


# 32 sizes of 500 x 375 take some 150 MB; one of 2048 x 1024 takes 50 MB, on CUDA 115 MB.
_cache = LatticeCache(max_entries=32, max_bytes=256 << 20)


def clear_cache() -> None:
    """Frees the cached spatial lattices, whose counters start anew, and idle work memory."""
    _cache.clear()
    ops.clear_workspaces()


def cache_info() -> CacheInfo:
    """Returns hits, misses, entries and bytes of the cache of spatial lattices, and its limits."""
    return _cache.info()


def set_workspace_limit(limit: int) -> None:
    """Bounds the work memory that stays allocated between calls.

    Fresh memory costs a call more time than its arithmetic, so what a call needed is kept for the
    next, up to 1 GiB unless this says otherwise.

    Args:
        limit: in bytes; 0 keeps nothing.

    Raises:
        TypeError: ``limit`` is no int.
        ValueError: ``limit`` is negative.
    """
    if not isinstance(limit, int) or isinstance(limit, bool):
        raise TypeError(f"limit must be an int, got {type(limit).__name__}")
    if limit < 0:
        raise ValueError(f"limit must be at least 0, got {limit}")
    ops.set_workspace_limit(limit)


def spatial_lattice(
    size: tuple[int, ...],
    sigmas: tuple[float, ...],
    dtype: torch.dtype,
    device: torch.device,
    exact: bool = False,
) -> LatticeData:
    """Returns the lattice of positions ``(x/sx, y/sy[, z/sz])``, from the cache where it can.

    Args:
        size: in array order, ``(H, W)`` or ``(D, H, W)``.
        sigmas: in pixels, x first.
        dtype: float32 or float64.
        device: where the lattice is to be.
        exact: one that is built takes the memory it needs, at the price of a wait for the device.
    """
    bound = ops.EXACT if exact else None
    if bound is None and not torch.compiler.is_compiling():
        bound = most_vertices(size, sigmas)

    def build() -> LatticeData:
        # A tensor born in inference mode could not be used by autograd later.
        with torch.inference_mode(False), torch.no_grad():
            if device.type == "cpu" and dtype == torch.float32:
                return ops.build_image_lattice(None, size, sigmas, [])
            positions = position_features(size, sigmas, dtype, device)[None]
            return ops.build_lattice(positions, size, bound)

    if torch.compiler.is_compiling():
        return build()
    stream = 0
    if device.type == "cuda":
        if torch.cuda.is_current_stream_capturing():
            return build()  # a graph outlives the cache, and its memory must not be in the cache
        stream = torch.cuda.current_stream(device).cuda_stream
    key = SpatialKey(size, sigmas, dtype, device, torch.get_num_threads(), stream)
    return _cache.get(key, build)


def position_features(
    size: tuple[int, ...], sigmas: tuple[float, ...], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Returns the positions of all pixels in raster order, ``[N, len(size)]``, x first."""
    axes = [torch.arange(extent, dtype=dtype, device=device) for extent in size]
    grids = torch.meshgrid(*axes, indexing="ij")
    # By a number torch on CUDA multiplies with its inverse, which rounds otherwise than the CPU.
    divisors = [torch.full((), sigma, dtype=dtype, device=device) for sigma in sigmas]
    return torch.stack(
        [grid.reshape(-1) / sigma for grid, sigma in zip(reversed(grids), divisors, strict=True)],
        dim=1,
    )
