"""What processes that torchrun started together say to each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from .options import Shard


@contextmanager
def process_group(shard: Shard, device: str) -> Iterator[None]:
    """torch.distributed for the length of a block, where torchrun started several processes."""
    if shard.size == 1:
        yield
        return
    import torch
    import torch.distributed as dist

    if device == "cuda":
        torch.cuda.set_device(shard.local_rank)
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


class Together:
    """Processes that work apart and leave together.

    torchrun ends all processes when one leaves with an error: one that has done its share, some of
    it in vain, must wait for the others.
    """

    def __init__(self) -> None:
        import torch.distributed as dist

        self._several = dist.is_torchelastic_launched() and Shard.from_environment().size > 1
        if self._several:
            dist.init_process_group("gloo", timeout=timedelta(days=365))

    def sums(self, *numbers: int) -> list[int]:
        """The sums of the numbers of all processes, once all are here."""
        if not self._several:
            return list(numbers)
        import torch
        import torch.distributed as dist

        totals = torch.tensor(numbers)
        dist.all_reduce(totals)
        dist.destroy_process_group()
        found: list[int] = totals.tolist()
        return found
