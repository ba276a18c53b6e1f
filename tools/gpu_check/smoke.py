"""A few calls on a device beside the CPU's answers: ``smoke.py cuda``; the first to run there."""

from __future__ import annotations

import sys

import torch

from densecrf_gpu import PermutohedralLattice, build_info, crf_refine

HEIGHT, WIDTH, CLASSES, BATCH = 120, 161, 21, 2
MOST_DQ = 1e-5  # after one iteration
LEAST_EQUAL = 0.9999  # of the labels after ten


def picture() -> torch.Tensor:
    """A smooth image with noise, uint8 [B, 3, H, W]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(BATCH, 3, 9, 12, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(HEIGHT, WIDTH), mode="bicubic")
    noise = torch.randn(smooth.shape, generator=generator)
    return (255 * smooth + 4 * noise).clamp(0, 255).to(torch.uint8)


def scores() -> torch.Tensor:
    """Logits as of a coarse network, float32 [B, C, H, W]."""
    generator = torch.Generator().manual_seed(1)
    coarse = 2 * torch.randn(BATCH, CLASSES, 15, 20, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=(HEIGHT, WIDTH), mode="bilinear")


def main(device: str) -> int:
    """0 if all answers agree; says what does not."""
    print(build_info())
    image, logits = picture(), scores()
    faults = []

    points = torch.randn(4000, 5, generator=torch.Generator().manual_seed(2))
    values = torch.rand(4000, 7, generator=torch.Generator().manual_seed(3))
    expected = PermutohedralLattice(points).filter(values, "symmetric")
    lattice = PermutohedralLattice(points.to(device))
    difference = (lattice.filter(values.to(device), "symmetric").cpu() - expected).abs().max()
    print(f"filter: max difference {difference:.2e}, {lattice.num_vertices} vertices")
    if not difference < MOST_DQ:
        faults.append(f"filter differs by {difference:.2e}")

    one = crf_refine(logits.to(device), image.to(device), iterations=1).cpu()
    difference = (one - crf_refine(logits, image, iterations=1)).abs().max()
    print(f"one iteration: max |dQ| {difference:.2e}")
    if not difference < MOST_DQ:
        faults.append(f"max |dQ| {difference:.2e} after one iteration")

    ten = crf_refine(logits.to(device), image.to(device), output="labels").cpu()
    equal = (ten == crf_refine(logits, image, output="labels")).double().mean()
    print(f"ten iterations: {100 * equal:.4f} % of labels equal")
    if not equal >= LEAST_EQUAL:
        faults.append(f"{100 * equal:.4f} % of labels equal after ten iterations")

    print("; ".join(faults) or f"{device} agrees with the CPU")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
