"""From logits to labels the host never waits for the device."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from cuda_scenes import CALLS, CUDA, image, logits, refine

SECOND = 2_000_000_000  # clock cycles: about a second of any GPU


@pytest.fixture
def _synchronisation_is_an_error() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode(before)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_no_call_synchronises(call, request: pytest.FixtureRequest) -> None:
    prepared = call()
    request.getfixturevalue("_synchronisation_is_an_error")
    prepared()
    prepared()


@pytest.mark.usefixtures("_synchronisation_is_an_error")
def test_the_mode_would_find_a_synchronisation() -> None:
    with pytest.raises(RuntimeError, match="synchroniz"):
        torch.ones(1, device=CUDA).item()


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_a_call_returns_before_the_device_has_begun(call) -> None:
    prepared = call()
    prepared()  # memory from the driver comes with a synchronisation: torch keeps it
    torch.cuda.synchronize()
    torch.cuda._sleep(SECOND)
    prepared()
    assert not torch.cuda.current_stream().query()


def test_values_that_are_not_finite_come_out_as_nan_and_stay_in_their_image() -> None:
    scores = logits()
    clean = refine(scores, image())
    scores[1, 2, 3, 4] = float("nan")
    result = refine(scores, image())
    assert result[1].isnan().any()
    assert torch.equal(result[0], clean[0])


def test_a_label_out_of_range_is_unknown() -> None:
    labels = logits().argmax(1)
    wild, unknown = labels.clone(), labels.clone()
    wild[0, 2, 3], wild[1, 0, 0] = 1000, -7
    unknown[0, 2, 3] = unknown[1, 0, 0] = 255
    options = {"input": "labels", "num_classes": 21}
    assert torch.equal(refine(wild, image(), **options), refine(unknown, image(), **options))
