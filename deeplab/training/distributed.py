"""The processes that train together, as ``torchrun`` starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from .settings import SettingsError

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process among its peers, and its device."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, in place."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def agreed(self, here: bool) -> bool:
        """Whether it is so in any process."""
        if self.world == 1:
            return here
        return bool(self.sum(torch.tensor(float(here), device=self.device)) > 0)

    def gather(self, value: T) -> list[T]:
        """What every process has, in the order of their ranks."""
        found: list[Any] = [value] * self.world
        if self.world > 1:
            dist.all_gather_object(found, value)
        return found


class Noticed:
    """Numbers on the device, to be read on the host without waiting for what was asked since."""

    def __init__(self, values: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        self._values = values
        if values.device.type == "cuda":
            self._values = values.to("cpu", non_blocking=True)  # to pinned memory
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def read(self) -> list[float]:
        """The numbers, once they are there."""
        if self._event is not None:
            self._event.synchronize()
        found: list[float] = self._values.tolist()
        return found


@contextmanager
def processes(device: str | None = None) -> Iterator[Processes]:
    """Joins the processes that ``torchrun`` started, each on a device of its own.

    NCCL between GPUs, gloo between CPUs. Without ``torchrun`` there is this process alone.

    Args:
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``; None for a GPU where there is one.

    Raises:
        SettingsError: the device is not there, or none to train on.
    """
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(kind)
    except RuntimeError as error:
        raise SettingsError(f"expected a device as cpu or cuda:1, found {kind!r}") from error
    if chosen.type not in ("cpu", "cuda"):
        raise SettingsError(f"expected a device as cpu or cuda:1, found {kind!r}")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise SettingsError(f"found no CUDA device, asked for {kind!r}")
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Processes(chosen)
        return
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Processes(chosen, dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
