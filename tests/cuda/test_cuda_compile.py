"""torch.compile takes the calls in whole, without a break in the graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from cuda_scenes import PARAMS, image, logits
from torch import Tensor

from densecrf_gpu import DenseCRF


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def refined(scores: Tensor, picture: Tensor) -> Tensor:
    crf = DenseCRF(2 * scores, PARAMS.kernels(), picture)
    return crf.inference(3) + 1


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_refinement_is_that_of_the_call(backend: str) -> None:
    compiled: Callable[..., Tensor] = torch.compile(refined, fullgraph=True, backend=backend)
    scores, picture = logits(), image()
    torch.testing.assert_close(
        compiled(scores, picture), refined(scores, picture), rtol=0, atol=1e-6
    )
