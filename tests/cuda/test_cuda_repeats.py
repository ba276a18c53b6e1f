"""The same bits every time, whatever stood in memory, alone or in a batch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from cuda_scenes import CALLS, CLASSES, CUDA, HEIGHT, WIDTH, image, logits, refine
from torch import Tensor

CALLS_IN_A_ROW = 1000
WARM_UP = 3


@pytest.fixture
def _deterministic_algorithms() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_a_thousand_calls_give_one_result_in_flat_memory(call) -> None:
    prepared = call()
    expected = prepared()
    for _ in range(WARM_UP):
        prepared()
    torch.cuda.synchronize()
    allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    differing = torch.zeros((), dtype=torch.long, device=CUDA)
    for _ in range(CALLS_IN_A_ROW):
        differing += (prepared() != expected).any()
    assert differing.item() == 0
    del differing
    assert torch.cuda.memory_allocated() <= allocated
    assert torch.cuda.memory_reserved() <= reserved + (2 << 20)  # the counter's own block


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_what_stood_in_memory_before_does_not_show(call) -> None:
    prepared = call()
    expected = prepared()
    for fill in (0, 255, 127):
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        dirt = [torch.full((16 << 20,), fill, dtype=torch.uint8, device=CUDA) for _ in range(16)]
        del dirt
        assert torch.equal(prepared(), expected)


@pytest.mark.usefixtures("_deterministic_algorithms")
def test_deterministic_algorithms_change_nothing() -> None:
    scores, picture = logits(), image()
    result = refine(scores, picture)
    torch.use_deterministic_algorithms(False)
    assert torch.equal(refine(scores, picture), result)


def unequal_images() -> Tensor:
    """Noise, one colour, flat patches, two halves."""
    g = torch.Generator().manual_seed(0)
    noise = torch.randint(256, (3, HEIGHT, WIDTH), generator=g, dtype=torch.uint8)
    constant = torch.full_like(noise, 90)
    halves = constant.clone()
    halves[:, :, WIDTH // 2 :] = 200
    return torch.stack([noise, constant, image(1)[0].cpu(), halves]).to(CUDA)


@pytest.mark.parametrize("as_float", [False, True])
@pytest.mark.parametrize("output", ["probabilities", "labels"])
def test_a_batch_gives_the_bits_of_its_images(output: str, as_float: bool) -> None:
    pictures, scores = unequal_images(), logits(4)
    pictures = pictures.float() if as_float else pictures
    whole = refine(scores, pictures, output=output)
    for which in range(len(pictures)):
        alone = refine(scores[which], pictures[which], output=output)
        assert torch.equal(whole[which], alone)


def test_the_order_of_a_batch_does_not_matter() -> None:
    pictures, scores = unequal_images(), logits(4)
    order = [2, 0, 3, 1]
    assert torch.equal(refine(scores, pictures)[order], refine(scores[order], pictures[order]))


def test_strides_of_the_inputs_do_not_matter() -> None:
    scores, picture = logits(), image()
    last = torch.channels_last
    assert torch.equal(
        refine(scores.to(memory_format=last), picture.to(memory_format=last)),
        refine(scores, picture),
    )
    assert scores.shape[1] == CLASSES
