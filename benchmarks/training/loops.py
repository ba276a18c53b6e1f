"""Training of the network: alone, through the CRF layer, from scribbles with a CRF loss."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .data import VOID, Picture, crop_batch, to_network

#: logits [B, C, h, w], image uint8 [B, 3, h, w], labels [B, h, w] -> loss
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a phase trains."""

    epochs: int
    rate: float
    batch: int = 8
    crop: int = 112


def cross_entropy(logits: Tensor, image: Tensor, labels: Tensor) -> Tensor:
    """The mean over known pixels."""
    return F.cross_entropy(logits, labels, ignore_index=VOID)


def train(
    network: nn.Module,
    pictures: list[Picture],
    schedule: Schedule,
    loss: Loss,
    seed: int,
    extra: Sequence[tuple[nn.Parameter, float]] = (),
) -> float:
    """Trains with AdamW, the rate rising and falling once; returns the seconds of CPU time.

    Args:
        network: changed in place.
        pictures: the training split.
        schedule: of this phase.
        loss: of a batch of crops.
        seed: of order and crops.
        extra: further parameters, each with a rate of its own.
    """
    start = time.process_time()
    generator = torch.Generator().manual_seed(seed)
    groups: list[dict[str, Any]] = [{"params": list(network.parameters()), "lr": schedule.rate}]
    groups += [{"params": [one], "lr": rate, "weight_decay": 0.0} for one, rate in extra]
    optimizer = torch.optim.AdamW(groups, weight_decay=1e-3)
    steps = schedule.epochs * (len(pictures) // schedule.batch)
    rates = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [group["lr"] for group in groups], total_steps=steps, pct_start=0.2
    )
    network.train()
    for _ in range(schedule.epochs):
        order = torch.randperm(len(pictures), generator=generator).tolist()
        for first in range(0, len(order) - schedule.batch + 1, schedule.batch):
            chosen = [pictures[i] for i in order[first : first + schedule.batch]]
            image, labels = crop_batch(chosen, schedule.crop, generator)
            value = loss(network(to_network(image)), image, labels)
            optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            rates.step()
    return time.process_time() - start
