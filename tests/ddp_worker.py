"""One process of tests/test_ddp.py: a network with the layer under DistributedDataParallel.

    torchrun --nproc_per_node 2 tests/ddp_worker.py OUT.pt

Rank 0 writes the gradients and the parameters after two steps. Started alone it takes the whole
batch.
"""

from __future__ import annotations

import os
import sys

import torch
import torch.distributed as dist
import torch.nn.functional as F
from problems import random_image
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from densecrf_gpu import BilateralKernel, GaussianKernel
from densecrf_gpu.layers import CRFasRNN

C, H, W, BATCH = 3, 10, 12, 4


class Network(nn.Module):
    """A convolution, then the layer with everything that learns."""

    def __init__(self, learn_bandwidths: bool) -> None:
        super().__init__()
        kernels = [GaussianKernel(2.1, 1.5), BilateralKernel(5.3, 33.0, 2.0)]
        self.head = nn.Conv2d(3, C, 3, padding=1)
        self.crf = CRFasRNN(C, 3, kernels=kernels, learn_bandwidths=learn_bandwidths)

    def forward(self, image: Tensor) -> Tensor:
        return self.crf(self.head(image.to(self.head.weight.dtype) / 255), image)


def train(learn_bandwidths: bool, rank: int, world: int) -> dict[str, Tensor]:
    """Two steps of SGD; the gradients of the first and the parameters after both."""
    torch.manual_seed(0)
    network = Network(learn_bandwidths).double()
    wrapped = DistributedDataParallel(network) if world > 1 else network
    image = random_image(H, W, batch=BATCH)[rank::world]
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(C, (BATCH, H, W), generator=generator)[rank::world]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    result = {}
    for _ in range(2):
        optimizer.zero_grad()
        F.nll_loss(wrapped(image), labels).backward()
        for name, parameter in network.named_parameters():
            result.setdefault(f"grad {name}", parameter.grad.clone())
        optimizer.step()
    return result | {name: p.detach().clone() for name, p in network.named_parameters()}


def main(path: str) -> None:
    world = int(os.environ.get("WORLD_SIZE", "1"))
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo")
    rank = dist.get_rank() if world > 1 else 0
    results = {f"bandwidths={learn}": train(learn, rank, world) for learn in (False, True)}
    if rank == 0:
        torch.save(results, path)
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
