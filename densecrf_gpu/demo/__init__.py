"""The demonstration: a photograph, coarse logits, and what the CRF makes of them."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from densecrf_gpu import clear_cache, crf_refine
from densecrf_gpu.cli.arrays import replacing
from densecrf_gpu.info import build_info
from densecrf_gpu.params import CRFParams

from .figure import draw_figure
from .scene import CLASSES, NOISE, SEED, STRIDE, coarse_logits, intersection_over_union, load_scene

PRESET = "deeplab_v2_vgg"
ITERATIONS = 10
REPEATS = 3  # the fastest counts: others may be using the machine


def run_demo(output: Path, threads: int | None = None) -> int:
    """Refines the bundled photograph, prints the scores and draws them to ``output``, a PNG."""
    if threads:
        torch.set_num_threads(threads)
    scene = load_scene()
    logits = coarse_logits(scene.labels)
    params = CRFParams.presets()[PRESET]

    def refine(iterations: int) -> NDArray[np.int64]:
        return crf_refine(logits, scene.image, params, iterations=iterations, output="labels")

    coarse = refine(0)  # no iteration: the logits, enlarged
    times = []
    for _ in range(REPEATS):
        clear_cache()
        start = time.perf_counter()
        refined = refine(ITERATIONS)
        times.append(time.perf_counter() - start)
    seconds = min(times)

    before = intersection_over_union(coarse, scene.labels)
    after = intersection_over_union(refined, scene.labels)
    cpu = f"{build_info()['num_threads']} CPU threads"
    figure = draw_figure(scene, coarse, refined, before, after, f"{ITERATIONS} iterations")
    with replacing(output) as file:
        figure.save(file, format="PNG", optimize=True)

    height, width = scene.labels.shape
    size = " x ".join(map(str, logits.shape[1:]))
    print(f"photograph   {width} x {height}, {len(CLASSES)} classes, ground truth drawn by hand")
    print(f"input        logits {size}: the ground truth at stride {STRIDE} with Gaussian noise")
    print(f"             (standard deviation {NOISE}, seed {SEED}), as from a coarse network")
    print(f"parameters   {PRESET}, {ITERATIONS} iterations")
    print(f"device       {cpu}, {build_info()['cpu_isa']}")
    print(f"time         {seconds:.2f} s, lattices included (the fastest of {REPEATS})")
    print(f"\n{'IoU':<13}{'coarse':>8}{'refined':>9}")
    for name, low, high in zip(CLASSES, before, after, strict=True):
        print(f"{name:<13}{low:>8.1%}{high:>9.1%}")
    print(f"{'mean':<13}{before.mean():>8.1%}{after.mean():>9.1%}")
    print(f"\nwrote {output}")
    return 0
