"""The stand-in for pydensecrf gives what pydensecrf gives, name by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from problems import random_image, random_logits

from densecrf_gpu import compat

H, W, L = 13, 16, 4
U = np.ascontiguousarray(-random_logits(L, H * W)[0].numpy())
RGB = np.ascontiguousarray(random_image(H, W)[0].permute(1, 2, 0).numpy())
MODES = ["NO_NORMALIZATION", "NORMALIZE_BEFORE", "NORMALIZE_AFTER", "NORMALIZE_SYMMETRIC"]


def peers() -> list[Any]:
    return [compat, pytest.importorskip("pydensecrf.densecrf")]


def agree(found: Any, expected: Any, atol: float = 1e-4) -> None:
    np.testing.assert_allclose(np.array(found), np.array(expected), rtol=0, atol=atol)


def image_crf(module: Any, weight: Any = 10, mode: str = MODES[-1]) -> Any:
    normalization = getattr(module.NormalizationType, mode)
    crf = module.DenseCRF2D(W, H, L)
    crf.setUnaryEnergy(U)
    crf.addPairwiseGaussian(sxy=(2, 3), compat=3, normalization=normalization)
    crf.addPairwiseBilateral(
        sxy=(40, 50), srgb=13, rgbim=RGB, compat=weight, normalization=normalization
    )
    return crf


@pytest.mark.parametrize("mode", MODES)
def test_inference_agrees_in_every_normalisation(mode: str) -> None:
    ours, theirs = (image_crf(module, mode=mode).inference(5) for module in peers())
    agree(ours, theirs)


@pytest.mark.parametrize(
    "weight",
    [
        3.0,
        np.arange(1, L + 1, dtype=np.float32),
        -np.arange(1, L + 1, dtype=np.float32),
        np.arange(L * L, dtype=np.float32).reshape(L, L) / 4,
        3 * (1 - np.eye(L, dtype=np.float32)),
    ],
    ids=["number", "vector", "negative vector", "asymmetric matrix", "potts matrix"],
)
def test_compatibility_of_any_form_has_the_same_sign(weight: Any) -> None:
    ours, theirs = (image_crf(module, weight).inference(3) for module in peers())
    agree(ours, theirs)


def test_steps_change_the_marginals_in_place() -> None:
    ours, theirs = (image_crf(module) for module in peers())
    q, a, b = ours.startInference()
    p, c, d = theirs.startInference()
    for _ in range(3):
        agree(q, p)
        assert ours.klDivergence(q) == pytest.approx(theirs.klDivergence(p), rel=1e-5)
        assert ours.stepInference(q, a, b) is None
        theirs.stepInference(p, c, d)


def test_crf_over_features_agrees() -> None:
    results = []
    for module in peers():
        crf = module.DenseCRF(H * W, L)
        crf.setUnaryEnergy(U)
        crf.addPairwiseEnergy(compat.create_pairwise_gaussian((2, 3), (H, W)), compat=3)
        features = compat.create_pairwise_bilateral((20, 30), (13, 13, 13), RGB, chdim=2)
        crf.addPairwiseEnergy(features, compat=10)
        results.append(crf.inference(5))
    agree(*results)


def test_logistic_unaries_agree() -> None:
    weights = np.linspace(-1, 1, L * 3, dtype=np.float32).reshape(L, 3)
    f = np.ascontiguousarray(RGB.reshape(-1, 3).T.astype(np.float32) / 255)
    results = []
    for module in peers():
        crf = module.DenseCRF(H * W, L)
        crf.setUnary(module.LogisticUnary(weights, f))
        results.append(crf.inference(0))
    agree(*results, atol=1e-6)


def test_two_images_may_be_compared_at_once() -> None:
    results = []
    for module in peers():
        crf = image_crf(module)
        crf.addPairwiseBilateral(sxy=9, srgb=5, rgbim=RGB[::-1].copy(), compat=2)
        results.append(crf.inference(3))
    agree(*results)


def test_unary_functions_return_the_same_numbers() -> None:
    utils = pytest.importorskip("pydensecrf.utils")
    labels = np.arange(H * W).reshape(H, W) % (L + 1)
    p = np.exp(-U) / np.exp(-U).sum(0)
    pairs = [
        (m.unary_from_labels(labels, L, 0.7), m.unary_from_labels(labels, L + 1, 0.7, False),
         m.unary_from_softmax(p), m.unary_from_softmax(p, scale=0.5, clip=None))
        for m in (compat, utils)
    ]  # fmt: skip
    for ours, theirs in zip(*pairs, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def test_feature_functions_return_the_same_numbers() -> None:
    utils = pytest.importorskip("pydensecrf.utils")
    for name, arguments in [
        ("create_pairwise_gaussian", ((2.5, 3), (H, W))),
        ("create_pairwise_gaussian", ((2.5, 3, 4), (3, H, W))),
        ("create_pairwise_bilateral", ((20, 30), (13, 14, 15), RGB, 2)),
        ("create_pairwise_bilateral", ((20, 30), 13, RGB[..., 0])),
    ]:
        ours, theirs = (getattr(m, name)(*arguments) for m in (compat, utils))
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("old", ["compute_unary", "softmax_to_unary"])
def test_deprecated_names_warn(old: str) -> None:
    arguments = {"compute_unary": (np.ones((2, 2), int), 3), "softmax_to_unary": (np.ones((2, 3)),)}
    with pytest.warns(DeprecationWarning, match="is now unary_from"):
        getattr(compat, old)(*arguments[old])


def test_enumerators_are_exported_in_both_forms() -> None:
    assert compat.NORMALIZE_SYMMETRIC is compat.NormalizationType.NORMALIZE_SYMMETRIC
    assert compat.FULL_KERNEL is compat.KernelType.FULL_KERNEL


def test_public_names_of_pydensecrf_exist() -> None:
    for peer in (
        pytest.importorskip("pydensecrf.densecrf"),
        pytest.importorskip("pydensecrf.utils"),
    ):
        for name in vars(peer):
            public = getattr(peer, name)
            if not name.startswith("_") and getattr(public, "__module__", "").startswith(
                "pydensecrf"
            ):
                assert hasattr(compat, name), name


@pytest.mark.parametrize(
    "wrong",
    [
        lambda crf: crf.setUnaryEnergy(U.T),
        lambda crf: crf.setUnaryEnergy(U[0]),
        lambda crf: crf.addPairwiseGaussian(3, np.zeros(L + 1)),
        lambda crf: crf.addPairwiseGaussian(3, np.zeros((L, L, L))),
        lambda crf: crf.addPairwiseGaussian((3, 3, 3), 3),
        lambda crf: crf.addPairwiseBilateral(80, 13, RGB[1:], 10),
        lambda crf: crf.addPairwiseBilateral(80, 13, RGB.astype(np.float32), 10),
        lambda crf: crf.addPairwiseEnergy(np.zeros((2, 7)), 3),
    ],
)
def test_arguments_that_do_not_fit_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"expected|broadcast"):
        wrong(compat.DenseCRF2D(W, H, L))
