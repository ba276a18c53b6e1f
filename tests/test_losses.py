"""The losses: their definitions written out, their gradients, what they refuse."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from problems import assert_near, random_image, random_logits
from torch import Tensor

from densecrf_gpu import (
    BilateralKernel,
    DenseCRF,
    DenseCRFLoss,
    GaussianKernel,
    logits_from_probabilities,
    mean_field_energy,
    reference,
    relaxed_potts_energy,
)
from densecrf_gpu.ops import NORMALIZATIONS

H, W = 9, 12
KERNELS = [GaussianKernel(2.0, 3.0), BilateralKernel(5.0, 20.0, 4.0)]


def soft(classes: int = 3, batch: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
    return random_logits(classes, H * W, batch, dtype).softmax(1).reshape(batch, classes, H, W)


def rloss(s: Tensor, image: Tensor, roi: Tensor, sigma_rgb: float, sigma_xy: float) -> Tensor:
    """-sum_k S_k^T A S_k / B at scale factor 1/2, one class and image at a time."""
    image = F.interpolate(image.to(s.dtype), scale_factor=0.5)
    s = F.interpolate(s, scale_factor=0.5, mode="bilinear", align_corners=False)
    s = s * F.interpolate(roi[:, None].to(s.dtype), scale_factor=0.5)
    total = torch.zeros((), dtype=s.dtype)
    for b, one in enumerate(s):
        size = one.shape[1:]
        features = reference.image_features(
            image[b : b + 1], size, (sigma_xy / 2,) * 2, (sigma_rgb,) * 3
        )
        for values in one.flatten(1):
            lattice = reference.build_lattice(features)
            filtered = reference.lattice_filter(lattice, values[None, :, None], "none")
            total -= values @ filtered[0, :, 0]
    return total / len(s)


def test_the_loss_is_the_one_rloss_defines(device: torch.device, dtype: torch.dtype) -> None:
    s, image = soft(dtype=dtype), random_image(H, W, batch=2)
    roi = (torch.rand(2, H, W) > 0.3).to(dtype)
    expected = 2e-3 * rloss(s, image, roi, 15.0, 6.0)
    loss = DenseCRFLoss(2e-3, sigma_rgb=15.0, sigma_xy=6.0)
    actual = loss(s.to(device), image.to(device), roi.to(device))
    assert_near(actual, expected)


def test_the_loss_of_a_batch_is_the_mean_of_its_images(device: torch.device) -> None:
    s, image = soft().to(device), random_image(H, W, batch=2).to(device)
    loss = DenseCRFLoss(1.0, sigma_xy=6.0)
    singles = [loss(s[b : b + 1], image[b : b + 1]) for b in range(2)]
    assert_near(loss(s, image), torch.stack(singles).mean())


def test_one_image_serves_a_batch(device: torch.device) -> None:
    s, image = soft().to(device), random_image(H, W).to(device)
    loss = DenseCRFLoss(1.0, sigma_xy=6.0)
    assert_near(loss(s, image), loss(s, image.expand(2, -1, -1, -1)))


@pytest.mark.parametrize("scale_factor", [1.0, 0.5])
def test_the_gradient_of_the_loss_is_exact(device: torch.device, scale_factor: float) -> None:
    image = random_image(6, 7).to(device)
    roi = torch.rand(1, 6, 7, device=device) > 0.3
    loss = DenseCRFLoss(0.1, sigma_xy=3.0, scale_factor=scale_factor)
    s = (0.2 + 0.6 * torch.rand(1, 2, 6, 7, dtype=torch.float64)).to(device).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: loss(s, image, roi), s)


def test_pixels_outside_the_region_neither_count_nor_learn(device: torch.device) -> None:
    s, image = soft().to(device).requires_grad_(), random_image(H, W, batch=2).to(device)
    roi = torch.ones(2, H, W, dtype=torch.bool, device=device)
    roi[:, :, W // 2 :] = False
    loss = DenseCRFLoss(1.0, sigma_xy=6.0, scale_factor=1.0)
    other = torch.where(roi[:, None], s, torch.full_like(s, 1 / 3))
    assert torch.equal(loss(s, image, roi), loss(other, image, roi))
    (grad,) = torch.autograd.grad(loss(s, image, roi), s)
    assert not grad[..., W // 2 :].any()
    assert grad[..., : W // 2].all()


def test_an_image_in_the_unit_interval_is_told_by_its_range(device: torch.device) -> None:
    s, image = soft(dtype=torch.float32).to(device), random_image(H, W, batch=2).to(device)
    bytes_ = DenseCRFLoss(1.0, sigma_xy=6.0)
    unit = DenseCRFLoss(1.0, sigma_xy=6.0, image_range=1.0)
    assert_near(unit(s, image / 255), bytes_(s, image), 1e-3)


def test_an_image_in_the_unit_interval_without_its_range_is_refused() -> None:
    s, image = soft(dtype=torch.float32), random_image(H, W, batch=2)
    with pytest.raises(ValueError, match="image_range"):
        DenseCRFLoss(1.0, sigma_xy=6.0)(s, image / 255)


def test_half_precision_is_computed_in_float32(device: torch.device) -> None:
    s, image = soft(dtype=torch.float32).to(device), random_image(H, W, batch=2).to(device)
    loss = DenseCRFLoss(1.0, sigma_xy=6.0)
    half = loss(s.bfloat16(), image)
    assert half.dtype == torch.float32
    assert_near(half, loss(s.bfloat16().float(), image))


def test_potts_energy_of_hard_labels_is_that_of_the_crf(device: torch.device) -> None:
    image = random_image(H, W).to(device)
    logits = torch.zeros(1, 3, H, W, dtype=torch.float64, device=device)
    crf = DenseCRF(logits, KERNELS, image)
    labels = torch.randint(3, (2, 1, H, W), device=device)
    one_hot = [F.one_hot(x, 3).permute(0, 3, 1, 2).double() for x in labels]
    ours = [relaxed_potts_energy(x, KERNELS, image) for x in one_hot]
    # differences of sums that are hundreds of times as large
    assert_near(ours[0] - ours[1], crf.energy(labels[0]) - crf.energy(labels[1]), 1e-11)
    assert (ours[0] > 0).all()


def test_equal_hard_labels_have_no_potts_energy(device: torch.device) -> None:
    same = torch.zeros(2, 3, H, W, dtype=torch.float64, device=device)
    same[:, 1] = 1
    energy = relaxed_potts_energy(same, KERNELS, random_image(H, W, batch=2).to(device))
    assert torch.equal(energy, torch.zeros_like(energy))


def test_the_dense_crf_loss_is_twice_the_potts_energy_up_to_a_constant(
    device: torch.device,
) -> None:
    image = random_image(H, W, batch=2).to(device)
    kernels = [BilateralKernel(6.0, 15.0, 1.0, "none")]
    loss = DenseCRFLoss(1.0, sigma_xy=6.0, scale_factor=1.0)
    s, t = soft().to(device), soft().flip(1).roll(1, 3).to(device)
    difference = relaxed_potts_energy(s, kernels, image) - relaxed_potts_energy(t, kernels, image)
    assert_near(loss(s, image) - loss(t, image), 2 * difference.mean(), 1e-10)


def test_gradient_of_the_potts_energy_is_exact(device: torch.device) -> None:
    image = random_image(5, 6).to(device)
    s = torch.rand(2, 3, 5, 6, dtype=torch.float64).to(device).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: relaxed_potts_energy(s, KERNELS, image), s)


def test_potts_energy_refuses_matrices(device: torch.device) -> None:
    kernel = GaussianKernel(2.0, torch.eye(3))
    with pytest.raises(ValueError, match=r"a number, found \[3, 3\]"):
        relaxed_potts_energy(soft().to(device), [kernel])


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_gradient_of_the_mean_field_energy_is_exact(
    device: torch.device, normalization: str
) -> None:
    image = random_image(5, 6).to(device)
    vector = torch.rand(3, dtype=torch.float64)
    matrix = torch.rand(3, 3, dtype=torch.float64)
    kernels = [
        GaussianKernel(2.0, vector, normalization),
        BilateralKernel(5.0, 20.0, matrix, normalization),
    ]
    logits = random_logits(3, 30, 1, torch.float64).reshape(1, 3, 5, 6).to(device).requires_grad_()
    q = logits.detach().roll(1, 1).softmax(1).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda q, logits: mean_field_energy(q, logits, kernels, image), (q, logits)
    )


def test_mean_field_lowers_its_energy(device: torch.device) -> None:
    image = random_image(H, W, batch=2).to(device)
    logits = random_logits(3, H * W, 2, torch.float64).reshape(2, 3, H, W).to(device)
    crf = DenseCRF(logits, KERNELS, image)
    start = mean_field_energy(crf.start(), logits, KERNELS, image)
    end = mean_field_energy(crf.inference(20, damping=0.5), logits, KERNELS, image)
    assert (end < start).all()


def test_without_kernels_softmax_has_the_least_energy(device: torch.device) -> None:
    logits = random_logits(3, H * W, 1, torch.float64).reshape(3, H, W).to(device)
    least = mean_field_energy(logits.softmax(0), logits, [])
    assert_near(least, -logits.logsumexp(0).sum())  # - log Z
    assert mean_field_energy((0.9 * logits).softmax(0), logits, []) > least


def test_energy_of_a_certain_pixel_is_finite(device: torch.device) -> None:
    q = torch.zeros(2, H, W, device=device)
    q[0] = 1
    q.requires_grad_()
    energy = mean_field_energy(q, torch.zeros_like(q), [])
    (grad,) = torch.autograd.grad(energy, q)
    assert energy == 0
    assert torch.isfinite(grad).all()


def test_probabilities_that_become_logits_learn() -> None:
    p = (0.1 + 0.8 * torch.rand(2, 3, 4, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: logits_from_probabilities(p, scale=0.9), p)
    before = p.detach().clone()
    logits_from_probabilities(p.detach())
    assert torch.equal(p, before)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.zeros(2, 3, H, W).int(), random_image(H, W)), TypeError, "floating"),
        ((torch.zeros(3, H, W), random_image(H, W)), ValueError, r"\[B, C, \*size\]"),
        ((soft(), random_image(H, W, batch=3)), ValueError, r"found \[3, 3, 9, 12\]"),
        ((soft(), random_image(W, H)), ValueError, r"expected image of shape \[2, channels"),
        ((soft() * 3, random_image(H, W)), ValueError, "probabilities in"),
        ((soft(), random_image(H, W), torch.ones(2, W, H)), ValueError, "expected roi of shape"),
    ],
)
def test_what_does_not_fit_is_refused(
    arguments: tuple[Tensor, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        DenseCRFLoss()(*arguments)


def test_an_image_that_requires_grad_is_refused() -> None:
    image = random_image(H, W).float().requires_grad_()
    with pytest.raises(RuntimeError, match="DenseCRFLoss"):
        DenseCRFLoss()(soft(), image)


@pytest.mark.parametrize(
    "wrong", [{"scale_factor": 0.0}, {"scale_factor": 1.5}, {"sigma_xy": 0.0}, {"sigma_rgb": -1.0}]
)
def test_settings_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        DenseCRFLoss(**wrong)
