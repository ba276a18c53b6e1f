"""What compute-sanitizer watches: every kernel once, on problems of a few thousand threads."""

from __future__ import annotations

import torch

from densecrf_gpu import (
    BilateralKernel,
    DenseCRF,
    FeatureKernel,
    GaussianKernel,
    PermutohedralLattice,
    crf_refine,
)
from densecrf_gpu.kernels import Kernel

HEIGHT, WIDTH = 19, 37  # tiles at the border


def main() -> None:
    """Makes the calls; the tool judges them."""
    generator = torch.Generator(device="cuda").manual_seed(0)
    image = torch.randint(
        256, (2, 3, HEIGHT, WIDTH), dtype=torch.uint8, device="cuda", generator=generator
    )
    for classes in (2, 21, 40):
        shape = (2, classes, HEIGHT, WIDTH)
        logits = torch.randn(shape, device="cuda", generator=generator)
        crf_refine(logits, image, iterations=2, output="labels")
        crf_refine(logits, image.float(), iterations=2, tolerance=1e-3, damping=0.1)
    logits = torch.randn(2, 5, HEIGHT, WIDTH, device="cuda", generator=generator)
    features = torch.randn(HEIGHT * WIDTH, 4, device="cuda", generator=generator)
    kernels: list[Kernel] = [
        GaussianKernel(3, 3),
        BilateralKernel(20, 13, torch.eye(5)),
        FeatureKernel(features, torch.rand(5), "after"),
    ]
    DenseCRF(logits.double(), kernels, image).inference(2)
    for dtype in (torch.float32, torch.float64):
        lattice = PermutohedralLattice(features.to(dtype))
        values = torch.rand(HEIGHT * WIDTH, 35, device="cuda", generator=generator).to(dtype)
        values.requires_grad_()
        for normalization in ("none", "before", "after", "symmetric"):
            torch.autograd.grad(lattice.filter(values, normalization).sum(), values)
    torch.cuda.synchronize()
    print("sanitized: all calls made")


if __name__ == "__main__":
    main()
