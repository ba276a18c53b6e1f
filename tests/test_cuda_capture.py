"""Counting the nodes of a captured graph, with a driver made up: no GPU is needed."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
from cuda_capture import NODES, node_kinds

HANDLE = 77


class Graph:
    """A captured graph as torch hands it out."""

    def raw_cuda_graph(self) -> int:
        return HANDLE


class Driver:
    """The driver's calls for a graph whose nodes are numbered from 1 and of the kinds given."""

    def __init__(self, kinds: list[int], status: int = 0) -> None:
        self.kinds = kinds
        self.status = status

    def cuGraphGetNodes(self, graph: ctypes.c_void_p, nodes: Any, count: Any) -> int:  # noqa: N802
        assert graph.value == HANDLE
        if nodes is None:
            count._obj.value = len(self.kinds)
        else:
            assert count._obj.value == len(self.kinds)
            for place in range(len(self.kinds)):
                nodes[place] = place + 1
        return self.status

    def cuGraphNodeGetType(self, node: ctypes.c_void_p, kind: Any) -> int:  # noqa: N802
        assert node.value is not None
        kind._obj.value = self.kinds[node.value - 1]
        return 0


def test_every_node_of_a_graph_is_counted_by_its_kind() -> None:
    kinds = node_kinds(Driver([0, 2, 0, 1, 5]), Graph())  # type: ignore[arg-type]
    assert [NODES.get(kind) for kind in kinds] == [
        "launches",
        "memsets",
        "launches",
        "copies",
        None,
    ]


def test_a_driver_that_fails_is_no_empty_graph() -> None:
    with pytest.raises(RuntimeError, match="found error 400"):
        node_kinds(Driver([0], status=400), Graph())  # type: ignore[arg-type]
