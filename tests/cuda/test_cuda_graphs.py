"""Calls can be captured in a CUDA graph, and replayed on other contents."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from cuda_scenes import CALLS, CLASSES, CUDA, image, logits, refine
from torch import Tensor

from densecrf_gpu import DenseCRF, GaussianKernel, clear_cache


def capture(call: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()
    return graph, result


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_a_replay_gives_the_bits_of_the_call(call) -> None:
    prepared = call()
    expected = prepared()
    graph, result = capture(prepared)
    for _ in range(3):
        result.zero_()
        graph.replay()
        assert torch.equal(result, expected)


def test_a_replay_follows_the_contents_of_its_inputs() -> None:
    scores, picture = logits(), image()
    graph, result = capture(lambda: refine(scores, picture, output="labels"))
    for seed in (5, 6, 7):
        picture.copy_(image(seed=seed))
        scores.copy_(logits().roll(seed, 1))
        graph.replay()
        expected = refine(scores, picture, output="labels")
        assert torch.equal(result, expected)


def test_a_graph_needs_nothing_of_what_is_freed_after_capture() -> None:
    scores, picture = logits(), image()
    expected = refine(scores, picture)
    graph, result = capture(lambda: refine(scores, picture))
    clear_cache()
    torch.cuda.empty_cache()
    dirt = [torch.full((1 << 20,), float("nan"), device=CUDA) for _ in range(64)]
    graph.replay()
    assert torch.equal(result, expected)
    del dirt


def test_a_capture_leaves_no_lattice_of_the_graph_in_the_cache() -> None:
    scores, picture = logits(), image()
    expected = refine(scores, picture)
    clear_cache()
    graph, _ = capture(lambda: refine(scores, picture))
    del graph
    torch.cuda.empty_cache()
    dirt = [torch.full((1 << 20,), float("nan"), device=CUDA) for _ in range(64)]
    assert torch.equal(refine(scores, picture), expected)
    del dirt


@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty")
def test_weights_on_the_host_are_refused_in_a_capture_and_taken_outside() -> None:
    scores = logits()
    weights = torch.linspace(1, 2, CLASSES)

    def infer(weight: Tensor) -> Tensor:
        return DenseCRF(scores, [GaussianKernel(3, weight)]).inference(3)

    with pytest.raises(RuntimeError, match="in the capture of a CUDA graph"):
        capture(lambda: infer(weights))
    there = weights.to(CUDA)
    graph, result = capture(lambda: infer(there))
    graph.replay()
    assert torch.equal(result, infer(weights))
