"""Which samples a step trains on: a function of seed, step and process, and of nothing else."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler

from deeplab.data import Sample, SegmentationDataset


class Steps(Sampler[list[tuple[int, int]]]):
    """The batches of one process, from some step on, each a list of index and seed.

    All samples are shuffled anew for every pass over them; passes follow each other without a gap,
    in the middle of a batch if need be. The processes share the batch of one process between them:
    their number does not change what is trained on.

    Args:
        samples: how many there are.
        seed: of order and augmentation.
        batch_size: of all processes together.
        first: the first batch.
        last: the first batch that is not drawn any more.
        rank: of this process.
        world: number of processes; divides the batch size.
    """

    def __init__(
        self,
        samples: int,
        *,
        seed: int,
        batch_size: int,
        first: int,
        last: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if batch_size % world:
            raise ValueError(f"expected a batch size that {world} divides, found {batch_size}")
        self.samples, self.seed, self.batch_size = samples, seed, batch_size
        self.first, self.last, self.rank, self.world = first, last, rank, world
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        share = self.batch_size // self.world
        for batch in range(self.first, self.last):
            start = batch * self.batch_size + self.rank * share
            yield [self._draw(start + i) for i in range(share)]

    def _draw(self, position: int) -> tuple[int, int]:
        epoch, place = divmod(position, self.samples)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng((self.seed, epoch)).permutation(self.samples)
        index = int(self._order[place])
        return index, seed_of(self.seed, epoch, index)


def seed_of(*parts: int) -> int:
    """A seed from several numbers, by NumPy's ``SeedSequence``: other numbers, other seeds."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


class _Drawn(Dataset[tuple[Sample, int]]):
    """A data set that is asked for index and seed and gives the seed along."""

    def __init__(self, dataset: SegmentationDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, draw: tuple[int, int]) -> tuple[Sample, int]:
        index, seed = draw
        return self.dataset[index], seed


def _leave_signals_to_the_trainer(worker: int) -> None:
    """Terminals, schedulers and torchrun interrupt the readers too.

    The trainer needs them to its last iteration, and ends them itself: a reader that finds it gone
    leaves.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _as_list(batch: Sequence[tuple[Sample, int]]) -> list[tuple[Sample, int]]:
    return list(batch)  # pictures of many sizes: nothing to stack yet


def loader(
    dataset: SegmentationDataset, steps: Steps, workers: int, pin_memory: bool
) -> DataLoader[tuple[Sample, int]]:
    """Reads the samples of ``steps``, each with the seed of its augmentation."""
    return DataLoader(
        _Drawn(dataset),
        batch_sampler=steps,
        num_workers=workers,
        collate_fn=_as_list,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        worker_init_fn=_leave_signals_to_the_trainer,
    )
