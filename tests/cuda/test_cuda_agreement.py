"""The GPU's answers are the CPU's: the same vertices, the same sums up to their order."""

from __future__ import annotations

import pytest
import torch
from cuda_scenes import CUDA, PARAMS, refine
from pictures import PHOTOGRAPHS, blobs, crop, load
from problems import random_image, random_logits
from torch import Tensor

from densecrf_gpu import CRFParams, PermutohedralLattice, crf_refine, reference

MOST_DQ = 1e-5  # after one iteration
LEAST_EQUAL = 0.9999  # of the labels after ten
PRESETS = {
    "80/13": CRFParams.pydensecrf(),
    "67/3": CRFParams.deeplab_v2_resnet101(),
    "49/5": CRFParams.deeplab_v2_vgg(),
}


def both(scores: Tensor, picture: Tensor, params: CRFParams, **options) -> tuple[Tensor, Tensor]:
    on_gpu = crf_refine(scores.to(CUDA), picture.to(CUDA), params, **options)
    return on_gpu.cpu(), crf_refine(scores, picture, params, **options)


def photograph(name: str) -> Tensor:
    if not PHOTOGRAPHS[name].is_file():
        pytest.skip(f"there is no {PHOTOGRAPHS[name].name}")
    return crop(load(name), 240, 320)


@pytest.mark.parametrize("params", PRESETS.values(), ids=PRESETS.keys())
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_photographs_are_refined_as_on_the_cpu(name: str, params: CRFParams) -> None:
    picture = photograph(name)
    scores = blobs(picture, 21)
    gpu, cpu = both(scores, picture, params, iterations=1)
    assert (gpu - cpu).abs().max() < MOST_DQ
    gpu, cpu = both(scores, picture, params, iterations=10, output="labels")
    assert (gpu == cpu).double().mean() >= LEAST_EQUAL


@pytest.mark.parametrize("classes", [1, 2, 3, 21, 32, 33, 150])
def test_any_number_of_classes_is_refined_as_on_the_cpu(classes: int, dtype: torch.dtype) -> None:
    height, width = 37, 50
    picture = random_image(height, width)
    scores = random_logits(classes, height * width, 1, dtype).reshape(1, classes, height, width)
    gpu, cpu = both(scores, picture, PARAMS, iterations=1)
    assert (gpu - cpu).abs().max() < (MOST_DQ if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (16, 16), (17, 33)])
@pytest.mark.parametrize("kind", ["noise", "constant"])
def test_hard_images_are_refined_as_on_the_cpu(size: tuple[int, int], kind: str) -> None:
    g = torch.Generator().manual_seed(0)
    picture = torch.randint(256, (1, 3, *size), generator=g, dtype=torch.uint8)
    picture = torch.full_like(picture, 7) if kind == "constant" else picture
    scores = random_logits(5, size[0] * size[1]).reshape(1, 5, *size)
    gpu, cpu = both(scores, picture, PARAMS, iterations=1)
    assert (gpu - cpu).abs().max() < MOST_DQ


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    picture = random_image(37, 50).to(CUDA)
    scores = random_logits(7, 37 * 50).reshape(1, 7, 37, 50).to(CUDA, dtype)
    result = refine(scores, picture)
    assert result.dtype == dtype
    assert torch.equal(result, refine(scores.float(), picture).to(dtype))


@pytest.mark.parametrize("as_float", [False, True])
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_lattices_of_photographs_have_the_cpus_vertices(
    name: str, as_float: bool, dtype: torch.dtype
) -> None:
    picture = photograph(name).to(dtype) if as_float else photograph(name)
    size = (picture.shape[2], picture.shape[3])
    features = reference.image_features(picture.to(dtype), size, (49.0, 49.0), [5.0] * 3)
    features = features.to(dtype)
    on_cpu, on_gpu = PermutohedralLattice(features), PermutohedralLattice(features.to(CUDA))
    assert on_gpu.num_vertices == on_cpu.num_vertices
