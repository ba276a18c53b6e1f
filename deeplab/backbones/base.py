"""What the heads expect of a backbone, and the arithmetic of output strides."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

from torch import Tensor, nn

T = TypeVar("T")


class Levels(NamedTuple, Generic[T]):
    """One thing per level of a backbone: its maps, or how many channels they have."""

    low: T  # stride 4, for the decoder of v3+
    mid: T  # before the last stage, for an auxiliary classifier
    high: T  # the last map, at the output stride


class Stage(NamedTuple):
    """How a stage is run at some output stride."""

    stride: int  # what remains of the stage's own stride
    entry_rate: int  # the rate its input asks for
    rate: int  # the rate its output asks for


def atrous_plan(strides: Sequence[int], output_stride: int) -> list[Stage]:
    """Replaces strides by rates once ``output_stride`` is reached (v3, section 3.1).

    A stage that loses stride s leaves the map s times as dense, so that everything behind it must
    sample s times as sparsely.

    Args:
        strides: of the stages of the plain network, from the image on, powers of two.
        output_stride: wanted size of the input over that of the last map; at least 4, that of the
            low-level features.

    Returns:
        One entry per stage.

    Raises:
        ValueError: the strides cannot give that output stride.
    """
    total = math.prod(strides)
    possible = [4 << i for i in range(total.bit_length()) if 4 << i <= total]
    if output_stride not in possible:
        raise ValueError(f"expected output_stride to be one of {possible}, found {output_stride}")
    plan: list[Stage] = []
    reached, rate = 1, 1
    for stride in strides:
        entry = rate
        if reached * stride <= output_stride:
            reached *= stride
            plan.append(Stage(stride, entry, rate))
        else:
            rate *= stride
            plan.append(Stage(1, entry, rate))
    return plan


class Backbone(nn.Module, ABC):
    """A feature extractor whose output stride can be changed without changing its weights."""

    channels: Levels[int]
    smallest: int = 1  # side in pixels of the smallest image it takes

    @abstractmethod
    def set_output_stride(self, output_stride: int) -> None:
        """Sets strides and rates of all convolutions; raises ValueError where it cannot."""

    def completed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The plain network's weights, and with them those of stages that start as its copies."""
        return dict(state)

    @abstractmethod
    def forward(self, images: Tensor) -> Levels[Tensor]:
        """``[B, 3, H, W]`` to three maps."""
