"""The operators among Python's threads and torch's: CPU only."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from operators import filter_points, image_lattices, infer, ops
from problems import random_image, random_logits, random_points, random_values
from torch import Tensor

CPU = torch.device("cpu")
HEIGHT, WIDTH = 90, 121


@pytest.fixture(autouse=True)
def _restore_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def refine(seed: int, iterations: int = 5) -> Tensor:
    lattices = image_lattices(random_image(HEIGHT, WIDTH, seed=seed), 60.0, 5.0)
    logits = random_logits(5, HEIGHT * WIDTH, seed=seed)
    weights = [torch.tensor([3.0]), torch.tensor([10.0])]
    return infer(logits, lattices, weights, iterations=iterations)


@pytest.mark.parametrize("threads", [1, 2])
def test_callers_in_parallel_get_the_bits_of_callers_in_turn(threads: int) -> None:
    torch.set_num_threads(threads)
    expected = [refine(seed) for seed in range(8)]

    def call(seed: int) -> Tensor:
        torch.set_num_threads(threads)  # a setting of each thread under OpenMP
        return refine(seed)

    with ThreadPoolExecutor(max_workers=4) as pool:
        for _ in range(3):
            found = list(pool.map(call, range(8)))
            for own, other in zip(found, expected, strict=True):
                assert torch.equal(own, other)


def test_one_lattice_serves_callers_in_parallel() -> None:
    lattice = ops.build_lattice(random_points(4000, 5))
    values = [random_values(4000, 6, seed=seed) for seed in range(8)]
    expected = [ops.lattice_filter(*lattice, v, "symmetric", False) for v in values]
    threads = torch.get_num_threads()

    def call(v: Tensor) -> Tensor:
        torch.set_num_threads(threads)
        result: Tensor = ops.lattice_filter(*lattice, v, "symmetric", False)
        return result

    with ThreadPoolExecutor(max_workers=4) as pool:
        for own, other in zip(pool.map(call, values), expected, strict=True):
            assert torch.equal(own, other)


def processor_seconds(threads: int) -> tuple[float, float]:
    """Seconds of this thread and of the whole process that one inference takes."""
    torch.set_num_threads(threads)
    refine(0)  # start the pool
    own, everyone = time.thread_time(), time.process_time()
    for _ in range(3):
        refine(0, iterations=20)
    return time.thread_time() - own, time.process_time() - everyone


def test_one_thread_means_the_calling_thread_alone() -> None:
    own, everyone = processor_seconds(1)
    assert everyone - own < 0.1 * everyone


def test_two_threads_share_the_work() -> None:
    own, everyone = processor_seconds(2)
    assert own < 0.8 * everyone


def test_other_python_threads_run_meanwhile() -> None:
    """With the GIL held, a thread that wakes every millisecond would not get a single turn."""
    torch.set_num_threads(1)
    wake, turns = threading.Event(), []

    def count() -> None:
        while not wake.wait(0.001):
            turns.append(time.monotonic())

    lattices = image_lattices(random_image(HEIGHT, WIDTH), 60.0, 5.0)
    logits = random_logits(21, HEIGHT * WIDTH)
    weights = [torch.tensor([3.0]), torch.tensor([10.0])]
    counter = threading.Thread(target=count)
    counter.start()
    try:
        began = time.monotonic()
        infer(logits, lattices, weights, iterations=100)
        ended = time.monotonic()
    finally:
        wake.set()
        counter.join()
    assert sum(began < turn < ended for turn in turns) > 5


def test_errors_in_one_thread_leave_others_alone() -> None:
    expected = refine(0)
    threads = torch.get_num_threads()
    good, bad = [], []

    def call(index: int) -> None:
        torch.set_num_threads(threads)
        if index % 2:
            with pytest.raises(ValueError, match="NaN"):
                ops.build_lattice(torch.full((1, 5000, 3), float("nan")))
            bad.append(index)
        else:
            good.append(refine(0))

    with ThreadPoolExecutor(max_workers=4) as pool:
        list(pool.map(call, range(8)))
    assert len(bad) == 4
    assert all(torch.equal(q, expected) for q in good)


def test_operators_work_in_inference_mode() -> None:
    points, values = random_points(100, 3), random_values(100, 2)
    expected = filter_points(points, values)
    with torch.inference_mode():
        assert torch.equal(filter_points(points, values), expected)
        lattice = ops.build_lattice(points)
    assert torch.equal(ops.lattice_filter(*lattice, values, "none", False), expected)
