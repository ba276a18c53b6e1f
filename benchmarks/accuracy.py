"""How far the lattice is from the exact Gaussian: ``python -m benchmarks.accuracy``.

Writes the table of docs/accuracy.md, between its markers; ``--print`` shows it only. The exact
kernel is an N x N matrix, so the picture is small: the bundled photograph at 64 x 48.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from densecrf_gpu import PermutohedralLattice, reference

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "accuracy.md"
BEGIN, END = "<!-- accuracy: begin -->", "<!-- accuracy: end -->"

WIDTH, HEIGHT = 64, 48
LABELS = 5
ITERATIONS = 5
SPATIAL_WEIGHT, WEIGHT = 3.0, 10.0
MODES = ("none", "symmetric", "after")


@dataclass(frozen=True)
class Setting:
    """A kernel over the picture: its name, dimensions and bandwidths."""

    channels: str  # "", "grey" or "rgb"
    sxy: float
    schannel: float = 0.0

    @property
    def features(self) -> Tensor:
        """[1, N, d] float64."""
        if not self.channels:
            return reference.image_features(None, (HEIGHT, WIDTH), (self.sxy, self.sxy)).double()
        image = picture(self.channels).double()
        sigmas = [self.schannel] * image.shape[1]
        return reference.image_features(image, (HEIGHT, WIDTH), (self.sxy, self.sxy), sigmas)

    @property
    def kernel(self) -> str:
        """What the kernel sees, with its bandwidths."""
        if not self.channels:
            return f"position {self.sxy:g}"
        return f"position {self.sxy:g}, {self.channels} {self.schannel:g}"


SETTINGS = (
    Setting("", 1.0),
    Setting("", 3.0),
    Setting("", 10.0),
    Setting("grey", 20.0, 13.0),
    Setting("grey", 20.0, 30.0),
    Setting("rgb", 20.0, 3.0),
    Setting("rgb", 20.0, 13.0),
    Setting("rgb", 20.0, 30.0),
    Setting("rgb", 80.0, 13.0),
)


@dataclass(frozen=True)
class Result:
    """Errors of one setting: of the filter by mode, and of the mean field ("symmetric")."""

    dimensions: int
    vertices: float  # per point
    filter_error: dict[str, float]  # relative, root mean square
    mean_dq: float
    labels: float  # share that agree


def picture(channels: str) -> Tensor:
    """The bundled photograph, uint8 [1, ch, 48, 64]."""
    with Image.open(ROOT / "densecrf_gpu" / "data" / "astronaut.jpg") as photograph:
        small = photograph.convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.BOX)
        pixels = np.array(small if channels == "rgb" else small.convert("L"))
    return torch.from_numpy(pixels).reshape(1, HEIGHT, WIDTH, -1).permute(0, 3, 1, 2)


def logits() -> Tensor:
    """Scores of a coarse, uncertain network: [1, L, N] float64."""
    g = torch.Generator().manual_seed(0)
    coarse = 2 * torch.randn(1, LABELS, HEIGHT // 8, WIDTH // 8, generator=g, dtype=torch.float64)
    smooth = torch.nn.functional.interpolate(coarse, size=(HEIGHT, WIDTH), mode="bilinear")
    noise = torch.randn(smooth.shape, generator=g, dtype=torch.float64)
    return (smooth + noise).flatten(2)


def _exact(kernel: Tensor, values: Tensor, mode: str) -> Tensor:
    """Values [N, C] filtered by an exact kernel [N, N]."""
    return reference.normalized_filter(kernel.matmul, kernel.T.matmul, values, mode)


def measure(setting: Setting) -> Result:
    """Compares filter and mean field on the lattice with the exact ones, in float64."""
    features, scores = setting.features, logits()
    lattice = PermutohedralLattice(features[0])
    kernel = reference.exact_kernel(features[0])  # [N, N]
    q = scores[0].softmax(dim=0).T  # [N, L]
    filter_error = {}
    for mode in MODES:
        exact = _exact(kernel, q, mode)
        filter_error[mode] = float((lattice.filter(q, mode) - exact).norm() / exact.norm())

    # The mean field has a spatial term too; it is exact on both sides, to single out the other.
    positions = reference.image_features(None, (HEIGHT, WIDTH), (3, 3)).double()
    spatial = reference.exact_kernel(positions[0])
    weights = [torch.tensor([w], dtype=torch.float64) for w in (SPATIAL_WEIGHT, WEIGHT)]

    def mean_field(bilateral: reference.Filter) -> Tensor:
        filters = [lambda values, _: _exact(spatial, values[0], "symmetric")[None], bilateral]
        return reference.mean_field(scores, filters, weights, ITERATIONS)

    by_kernel = [
        mean_field(lambda values, _: _exact(kernel, values[0], "symmetric")[None]),
        mean_field(lambda values, _: lattice.filter(values, "symmetric")),
    ]
    agree = by_kernel[0].argmax(dim=1) == by_kernel[1].argmax(dim=1)
    vertices = lattice.num_vertices
    assert isinstance(vertices, int)
    return Result(
        dimensions=features.shape[2],
        vertices=vertices / features.shape[1],
        filter_error=filter_error,
        mean_dq=float((by_kernel[0] - by_kernel[1]).abs().mean()),
        labels=float(agree.double().mean()),
    )


def table() -> str:
    """All settings as a Markdown table."""
    lines = [
        "| d | kernel | vertices per pixel | filter error, none | symmetric | after "
        "| mean abs dQ | labels equal |",
        "|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for setting in SETTINGS:
        result = measure(setting)
        errors = " | ".join(f"{100 * result.filter_error[mode]:.1f} %" for mode in MODES)
        lines.append(
            f"| {result.dimensions} | {setting.kernel} | {result.vertices:.2f} | {errors} "
            f"| {result.mean_dq:.4f} | {100 * result.labels:.1f} % |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Write or print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("--print", action="store_true", help="show the table, write nothing")
    arguments = parser.parse_args(argv)
    rows = table()
    if arguments.print:
        print(rows)
        return 0
    before, rest = DOCUMENT.read_text().split(BEGIN)
    _, after = rest.split(END)
    DOCUMENT.write_text(f"{before}{BEGIN}\n{rows}\n{END}{after}")
    print(f"wrote {DOCUMENT.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
