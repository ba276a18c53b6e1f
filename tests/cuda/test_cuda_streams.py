"""Calls run on the current stream of their tensors' device, and do not disturb other streams."""

from __future__ import annotations

import threading

import pytest
import torch
from cuda_scenes import CUDA, image, logits, refine
from torch import Tensor

from densecrf_gpu import clear_cache

HALF_A_SECOND = 1_000_000_000  # clock cycles
ROUNDS = 20


def test_two_streams_at_once_give_what_each_gives_alone() -> None:
    problems = [(logits(), image(seed=3)), (logits().flip(1), image(seed=4))]
    expected = [refine(*problem) for problem in problems]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in problems]
    results: list[list[Tensor]] = [[], []]
    for _ in range(ROUNDS):
        for which, (stream, problem) in enumerate(zip(streams, problems, strict=True)):
            with torch.cuda.stream(stream):
                results[which].append(refine(*problem))
    torch.cuda.synchronize()
    for found, wanted in zip(results, expected, strict=True):
        assert all(torch.equal(result, wanted) for result in found)


def test_work_goes_to_the_current_stream_alone() -> None:
    problem = logits(), image()
    refine(*problem)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        refine(*problem)
        torch.cuda.synchronize()
        torch.cuda._sleep(HALF_A_SECOND)
        refine(*problem)
    assert not stream.query()
    assert torch.cuda.default_stream().query()


def test_a_spatial_lattice_under_construction_is_no_other_streams() -> None:
    """It would be used before it is there: its own stream still sleeps."""
    problem = logits(), image()
    expected = refine(*problem)
    clear_cache()
    torch.cuda.synchronize()
    sleeping, awake = torch.cuda.Stream(), torch.cuda.Stream()
    with torch.cuda.stream(sleeping):
        torch.cuda._sleep(HALF_A_SECOND)
        late = refine(*problem)
    with torch.cuda.stream(awake):
        early = refine(*problem)
    torch.cuda.synchronize()
    assert torch.equal(early, expected)
    assert torch.equal(late, expected)


def test_threads_with_streams_of_their_own_do_not_disturb_each_other() -> None:
    problems = [(logits(), image(seed=seed)) for seed in range(4)]
    expected = [refine(*problem) for problem in problems]
    torch.cuda.synchronize()
    wrong: list[int] = []

    def work(which: int) -> None:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(ROUNDS):
                result = refine(*problems[which])
                stream.synchronize()
                if not torch.equal(result, expected[which]):
                    wrong.append(which)

    threads = [threading.Thread(target=work, args=(which,)) for which in range(len(problems))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU at most")
def test_tensors_on_another_gpu_than_the_current_one_are_refined_there() -> None:
    problem = logits(), image()
    expected = refine(*problem).cpu()
    other = torch.device("cuda", 1)
    with torch.cuda.device(0):
        result = refine(*(tensor.to(other) for tensor in problem))
    assert result.device == other
    assert torch.equal(result.cpu(), expected)
    assert CUDA.index is None
