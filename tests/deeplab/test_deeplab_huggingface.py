"""Hugging Face's conventions: outputs that go in, networks that run."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from deeplab.huggingface import HuggingFaceNetwork, post_process_semantic_segmentation
from deeplab.segmenter import CRF, Segmenter
from densecrf_gpu import CRFParams

SIZES = [(40, 30), (25, 60)]


def outputs() -> SimpleNamespace:
    return SimpleNamespace(logits=torch.randn(2, 4, 10, 8, generator=torch.Generator()))


def test_maps_are_the_enlarged_logits_largest() -> None:
    found = post_process_semantic_segmentation(outputs(), SIZES)
    for index, size in enumerate(SIZES):
        logits = outputs().logits[index : index + 1]
        enlarged = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        assert torch.equal(found[index], enlarged[0].argmax(0))


def test_without_sizes_maps_have_the_logits_size() -> None:
    found = post_process_semantic_segmentation(outputs().logits)
    assert torch.equal(torch.stack(found), outputs().logits.argmax(1))


def test_scores_come_along_where_they_are_asked_for() -> None:
    """As transformers gives them: by attribute and by name."""
    plain = post_process_semantic_segmentation(outputs(), SIZES)
    found = post_process_semantic_segmentation(outputs(), SIZES, return_segmentation_scores=True)
    for index, size in enumerate(SIZES):
        enlarged = F.interpolate(outputs().logits[index : index + 1], size=size, mode="bilinear")
        assert torch.equal(found[index]["segmentation_scores"], enlarged[0])
        assert torch.equal(found[index].segmentation, plain[index])


def test_the_scores_of_a_crf_are_its_probabilities() -> None:
    images = [torch.randint(256, (3, *size), dtype=torch.uint8) for size in SIZES]
    crf = CRF(params=CRFParams.pydensecrf())
    plain = post_process_semantic_segmentation(outputs(), images=images, crf=crf)
    found = post_process_semantic_segmentation(
        outputs(), return_segmentation_scores=True, images=images, crf=crf
    )
    for one, labels in zip(found, plain, strict=True):
        assert torch.equal(one.segmentation, labels)
        torch.testing.assert_close(one.segmentation_scores.sum(0), torch.ones(labels.shape))


def test_pictures_may_be_pillows_and_arrays_and_sizes_a_tensor() -> None:
    images = [torch.randint(256, (3, *size), dtype=torch.uint8) for size in SIZES]
    arrays = [image.permute(1, 2, 0).numpy() for image in images]
    crf = CRF(params=CRFParams.pydensecrf())
    wanted = post_process_semantic_segmentation(outputs(), images=images, crf=crf)
    for others in (arrays, [Image.fromarray(array) for array in arrays]):
        found = post_process_semantic_segmentation(
            outputs(), torch.tensor(SIZES), images=others, crf=crf
        )
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    with pytest.raises(TypeError, match=r"images of Pillow, or arrays uint8 .* 'float64 \[5, 5\]'"):
        post_process_semantic_segmentation(outputs(), images=[np.zeros((5, 5))] * 2)


def test_a_crf_refines_each_picture_at_its_own_size() -> None:
    g = torch.Generator().manual_seed(0)
    images = [torch.randint(256, (3, *size), generator=g, dtype=torch.uint8) for size in SIZES]
    crf = CRF(params=CRFParams.pydensecrf())
    found = post_process_semantic_segmentation(outputs(), images=images, crf=crf)
    for index, size in enumerate(SIZES):
        logits = outputs().logits[index : index + 1]
        enlarged = F.interpolate(logits, size=size, mode="bilinear", align_corners=False)
        assert torch.equal(found[index], crf(enlarged, images[index][None])[0])


def test_what_does_not_fit_is_refused() -> None:
    crf = CRF(params=CRFParams.pydensecrf())
    with pytest.raises(ValueError, match="expected images for the CRF"):
        post_process_semantic_segmentation(outputs(), SIZES, crf=crf)
    with pytest.raises(ValueError, match="expected 2 target sizes, one each, found 1"):
        post_process_semantic_segmentation(outputs(), SIZES[:1])
    images = [torch.zeros(3, 5, 5, dtype=torch.uint8)] * 2
    with pytest.raises(ValueError, match="image 0 of 40×30 pixels as its target size"):
        post_process_semantic_segmentation(outputs(), SIZES, images=images, crf=crf)
    with pytest.raises(ValueError, match=r"logits \[B, C, h, w\], found \[4, 10, 8\]"):
        post_process_semantic_segmentation(outputs().logits[0])


@pytest.mark.slow
def test_a_segformer_of_transformers_runs_and_agrees_with_its_processor() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[4, 2],
        hidden_sizes=[8, 16],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=16,
        num_labels=5,
    )
    model = transformers.SegformerForSemanticSegmentation(config).eval()
    images = torch.randint(256, (1, 3, 64, 48), dtype=torch.uint8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = (images / 255 - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        output = model(pixel_values=pixels)
    labels = Segmenter(HuggingFaceNetwork(model)).labels(images)[0]
    (ours,) = post_process_semantic_segmentation(output, [(64, 48)])
    assert torch.equal(labels, ours)
    processor = transformers.SegformerImageProcessorPil()
    (theirs,) = processor.post_process_semantic_segmentation(output, [(64, 48)])
    assert torch.equal(ours, theirs)
