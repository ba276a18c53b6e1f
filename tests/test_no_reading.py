"""What a GPU must not be asked for: with values out of sight, no call looks at one.

A GPU is not needed to see it. The tensors are on the CPU, the package is told that their values are
not at hand, as on CUDA, and every ATen operator that hands a value to the host is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from problems import random_image, random_logits, random_points, random_values
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from densecrf_gpu import (
    CRFParams,
    DenseCRF,
    FeatureKernel,
    PermutohedralLattice,
    checks,
    crf_refine,
    inputs,
    kernels,
)

H, W, C = 14, 17, 4
READING = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "unique", "masked_select")


class RefuseReading(TorchDispatchMode):
    """Fails where an operator's result depends on values: on CUDA the host would wait."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        assert not name.startswith(READING), f"{name} makes the host wait for the device"
        return func(*args, **(kwargs or {}))


@pytest.fixture
def _out_of_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (checks, inputs, kernels):
        monkeypatch.setattr(module, "values_at_hand", lambda tensor: False)


def logits(dtype: torch.dtype = torch.float32) -> Tensor:
    return random_logits(C, H * W, 2, dtype).reshape(2, C, H, W)


def refine(**options: Any) -> Callable[[], Tensor]:
    def call() -> Tensor:
        return crf_refine(logits(), random_image(H, W, batch=2), **options)

    return call


def refine_half_size() -> Tensor:
    image = random_image(H, W, batch=2).float()
    return crf_refine(logits()[..., ::2, ::2].bfloat16(), image, output="logits")


def refine_probabilities() -> Tensor:
    return crf_refine(logits().softmax(1), random_image(H, W)[0], input="probabilities")


def refine_labels() -> Tensor:
    labels = logits().argmax(1)
    return crf_refine(labels, random_image(H, W)[0], input="labels", num_classes=C, output="labels")


def step_by_step() -> Tensor:
    features = FeatureKernel(random_points(H * W, 3)[0], torch.eye(C))
    crf = DenseCRF(logits(), [*CRFParams.pydensecrf().kernels(), features], random_image(H, W))
    q = crf.step(crf.start(), damping=0.1)
    return crf.kl_divergence(q) + crf.energy(crf.map(q))


def filter_values() -> Tensor:
    return PermutohedralLattice(random_points(60, 3)).filter(random_values(60, 5), "symmetric")


CALLS = {
    "labels": refine(output="labels"),
    "tolerance": refine(tolerance=1e-3, damping=0.2),
    "half": refine_half_size,
    "probabilities": refine_probabilities,
    "label map": refine_labels,
    "steps": step_by_step,
    "filter": filter_values,
}


@pytest.mark.usefixtures("_out_of_sight")
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_nothing_is_read_back_where_values_are_out_of_sight(call: Callable[[], Tensor]) -> None:
    expected = call()
    with RefuseReading():
        result = call()
    assert torch.equal(result, expected)


def test_on_the_cpu_values_are_read() -> None:
    with pytest.raises(AssertionError, match="_local_scalar_dense"), RefuseReading():
        refine(output="labels")()


@pytest.mark.usefixtures("_out_of_sight")
def test_a_label_out_of_range_that_nobody_looked_at_is_unknown() -> None:
    labels = logits().argmax(1)
    wild, unknown = labels.clone(), labels.clone()
    wild[0, 2, 3], wild[1, 0, 0] = C, -7
    unknown[0, 2, 3] = unknown[1, 0, 0] = 255
    results = [
        crf_refine(given, random_image(H, W)[0], input="labels", num_classes=C)
        for given in (wild, unknown)
    ]
    assert torch.equal(*results)


def test_numbers_that_a_graph_would_have_to_copy_are_refused_in_its_capture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match=rf"a weight of shape \[{C}\] on cuda in the capture"):
        kernels.to_device(torch.ones(C), torch.device("cuda"))
