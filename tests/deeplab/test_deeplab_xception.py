"""The modified aligned Xception-65 of v3+ (section 3.2, figure 4), written down once more."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from families import Weights
from torch import Tensor

import deeplab

EPS = 1e-3


def convolved(w: Weights, n: str, x: Tensor, out: int, k: int = 1, s: int = 1) -> Tensor:
    return w.bn(n + ".bn", w.conv(n + ".conv", x, out, k, s=s), EPS)


def separable(
    w: Weights, n: str, x: Tensor, out: int, *, s: int = 1, r: int = 1, relus: bool = False
) -> Tensor:
    """Depthwise 3×3 and pointwise 1×1, each behind it a normalisation and, in the tail, a ReLU."""
    x = w.conv(n + ".depthwise.conv", x, x.shape[1], 3, s=s, r=r, groups=x.shape[1])
    x = w.bn(n + ".depthwise.bn", x, EPS)
    x = convolved(w, n + ".pointwise", x.relu() if relus else x, out)
    return x.relu() if relus else x


def block(
    w: Weights, n: str, x: Tensor, outs: Sequence[int], *, s: int = 1, r: int = 1
) -> tuple[Tensor, Tensor]:
    """What a block gives, and the map before its third convolution, which strides."""
    second = x
    for i in (0, 1):
        second = separable(w, f"{n}.convs.{i}", second.relu(), outs[i], r=r)
    third = separable(w, f"{n}.convs.2", second.relu(), outs[2], s=s, r=r)
    changes = outs[2] != x.shape[1]
    return third + (convolved(w, n + ".shortcut", x, outs[2], s=s) if changes else x), second


# At output stride 16 the stride of the exit block becomes rate 2 behind it. At 8 that of the third
# entry block does, and then the exit's makes it 4.
STRIDES = {32: (2, 2), 16: (2, 1), 8: (1, 1)}  # of the third entry block and the exit block
RATES = {32: (1, 1), 16: (1, 2), 8: (2, 4)}  # of middle and exit block, and of the tail


def xception65(
    w: Weights, images: Tensor, output_stride: int, multi_grid: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """The decoder's low-level features, the end of the middle flow, and the last map."""
    (entry, exit_), (inner, last) = STRIDES[output_stride], RATES[output_stride]
    x = convolved(w, "stem.0", images, 32, 3, 2).relu()
    x = convolved(w, "stem.1", x, 64, 3).relu()
    x, _ = block(w, "blocks.0", x, [128] * 3, s=2)
    x, low = block(w, "blocks.1", x, [256] * 3, s=2)
    x, _ = block(w, "blocks.2", x, [728] * 3, s=entry)
    for i in range(16):
        x, _ = block(w, f"blocks.{3 + i}", x, [728] * 3, r=inner)
    middle = x
    x, _ = block(w, "blocks.19", x, [728, 1024, 1024], s=exit_, r=inner)
    for i, (out, grid) in enumerate(zip((1536, 1536, 2048), multi_grid, strict=True)):
        x = separable(w, f"tail.{i}", x, out, r=last * grid, relus=True)
    return low, middle, x


@pytest.mark.parametrize(
    ("output_stride", "multi_grid"), [(16, (1, 1, 1)), (8, (1, 1, 1)), (16, (1, 2, 3))]
)
def test_xception65_is_the_papers(output_stride: int, multi_grid: tuple[int, ...]) -> None:
    weights, images = Weights(), torch.randn(1, 3, 34, 65, dtype=torch.float64)
    expected = xception65(weights, images, output_stride, multi_grid)
    with torch.device("meta"):
        backbone = deeplab.build(
            "deeplabv3plus_xception65", output_stride=output_stride, multi_grid=multi_grid
        ).backbone
    backbone.load_state_dict(weights.state, assign=True)
    with torch.no_grad():
        levels = backbone.eval()(images)
    for found, wanted in zip(levels, expected, strict=True):
        limit = 1e-9 * wanted.std().item()
        torch.testing.assert_close(found, wanted, rtol=0, atol=limit)
