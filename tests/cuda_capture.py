"""What a call asks of the device, counted in a captured CUDA graph: needs no profiler."""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

# CUgraphNodeType of the driver; any other node is counted as "others".
NODES = {0: "launches", 1: "copies", 2: "memsets"}


def captured_work(call: Callable[[], Tensor]) -> Counter[str]:
    """Counts the launches, copies and memsets of a call in the capture of a CUDA graph.

    A capture takes no spatial lattice from the cache: its build is counted with the rest.
    """
    graph = torch.cuda.CUDAGraph(keep_graph=True)
    with torch.cuda.graph(graph):
        result = call()
    found = Counter(
        NODES.get(kind, "others") for kind in node_kinds(ctypes.CDLL("libcuda.so.1"), graph)
    )
    del result
    return found


def node_kinds(driver: ctypes.CDLL, graph: torch.cuda.CUDAGraph) -> list[int]:
    """The kind of every node of a captured graph, by the driver's own account."""
    handle = ctypes.c_void_p(graph.raw_cuda_graph())
    count = ctypes.c_size_t()
    _require_success(driver.cuGraphGetNodes(handle, None, ctypes.byref(count)))
    nodes = (ctypes.c_void_p * count.value)()
    _require_success(driver.cuGraphGetNodes(handle, nodes, ctypes.byref(count)))
    kinds = []
    for node in nodes:
        kind = ctypes.c_int()
        _require_success(driver.cuGraphNodeGetType(ctypes.c_void_p(node), ctypes.byref(kind)))
        kinds.append(kind.value)
    return kinds


def _require_success(status: int) -> None:
    if status:
        raise RuntimeError(f"expected success of the CUDA driver, found error {status}")
