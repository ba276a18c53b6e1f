"""A small held-out set for the tests of fitting: noisy logits of pictures with two regions."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from densecrf_gpu.fit import Sample


def held_out(
    count: int = 3, classes: int = 3, dtype: torch.dtype = torch.float32, seed: int = 0
) -> list[Sample]:
    """Images of a slanted edge whose sides differ in colour, logits that are noisy and coarse."""
    g = torch.Generator().manual_seed(seed)
    samples = []
    for index in range(count):
        h, w = 18 + index, 24
        y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        labels = (x + (index + 1) * y // 2 > w * 0.6).long() + (y > h - 5).long()
        colors = torch.tensor([[60, 70, 80], [150, 120, 90], [90, 200, 150]])[labels]
        noise = 5 * torch.randn(h, w, 3, generator=g)
        image = (colors + noise).clamp(0, 255).to(torch.uint8).permute(2, 0, 1)
        scores = 2.0 * F.one_hot(labels, classes).permute(2, 0, 1).to(dtype)
        coarse = F.avg_pool2d(scores[None], 4, ceil_mode=True)
        logits = F.interpolate(coarse, size=(h, w), mode="bilinear")[0]
        logits = logits + 0.7 * torch.randn(logits.shape, generator=g, dtype=dtype)
        labels[0, :4] = 255
        samples.append(Sample(logits, image.contiguous(), labels))
    return samples
