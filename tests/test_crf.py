"""DenseCRF step by step, its objective and its energy, against pydensecrf and by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from problems import NORMALIZATIONS, random_image, random_logits, random_points
from torch import Tensor

from densecrf_gpu import BilateralKernel, CRFParams, DenseCRF, FeatureKernel, GaussianKernel

H, W, C = 14, 17, 4
KERNELS = CRFParams.pydensecrf().kernels()


def logits(batch: int | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    shape = (C, H, W) if batch is None else (batch, C, H, W)
    return random_logits(C, H * W, batch or 1, dtype).reshape(shape)


def image(batch: int = 1) -> Tensor:
    return random_image(H, W, batch=batch)


def pydensecrf(u: Tensor, x: Tensor, weight: Any = 10.0, normalization: str = "symmetric") -> Any:
    """The CRF of KERNELS in pydensecrf, its bilateral weight and normalisation replaced."""
    densecrf = pytest.importorskip("pydensecrf.densecrf")
    modes = {
        "none": densecrf.NormalizationType.NO_NORMALIZATION,
        "before": densecrf.NormalizationType.NORMALIZE_BEFORE,
        "after": densecrf.NormalizationType.NORMALIZE_AFTER,
        "symmetric": densecrf.NormalizationType.NORMALIZE_SYMMETRIC,
    }
    mode = modes[normalization]
    crf = densecrf.DenseCRF2D(W, H, C)
    crf.setUnaryEnergy(np.ascontiguousarray(-u.reshape(C, -1).numpy()))
    crf.addPairwiseGaussian(sxy=3, compat=3, normalization=mode)
    rgb = np.ascontiguousarray(x[0].permute(1, 2, 0).numpy())
    crf.addPairwiseBilateral(sxy=80, srgb=13, rgbim=rgb, compat=weight, normalization=mode)
    return crf


def near(actual: Tensor, expected: Any, atol: float) -> None:
    torch.testing.assert_close(actual.cpu(), torch.as_tensor(np.array(expected)), rtol=0, atol=atol)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_steps_follow_those_of_pydensecrf(device: torch.device, normalization: str) -> None:
    kernels = CRFParams.pydensecrf().kernels(normalization)
    crf = DenseCRF(logits().to(device), kernels, image().to(device))
    peer = pydensecrf(logits(), image(), normalization=normalization)
    q = crf.start()
    peer_q, a, b = peer.startInference()
    for _ in range(3):
        near(q.reshape(C, -1), peer_q, 1e-4)
        q = crf.step(q)
        peer.stepInference(peer_q, a, b)


def test_objective_is_that_of_pydensecrf(device: torch.device) -> None:
    crf = DenseCRF(logits().to(device), KERNELS, image().to(device))
    peer = pydensecrf(logits(), image())
    q = crf.start()
    peer_q, a, b = peer.startInference()
    for _ in range(3):
        expected = pytest.approx(peer.klDivergence(peer_q), rel=1e-5)
        assert crf.kl_divergence(q).item() == expected
        q = crf.step(q)
        peer.stepInference(peer_q, a, b)


def test_matrix_is_the_penalty_of_pydensecrf() -> None:
    mu = torch.rand(C, C)
    mu = mu + mu.T
    kernels = [GaussianKernel(3, 3), BilateralKernel(80, 13, mu)]
    crf = DenseCRF(logits(), kernels, image())
    near(
        crf.inference(5).reshape(C, -1),
        pydensecrf(logits(), image(), mu.numpy()).inference(5),
        1e-4,
    )


def test_vector_has_the_opposite_sign_of_pydensecrf() -> None:
    w = torch.tensor([1.0, 2.0, 5.0, 10.0])
    kernels = [GaussianKernel(3, 3), BilateralKernel(80, 13, w)]
    crf = DenseCRF(logits(), kernels, image())
    near(
        crf.inference(5).reshape(C, -1),
        pydensecrf(logits(), image(), (-w).numpy()).inference(5),
        1e-4,
    )


@pytest.mark.parametrize(
    "weight",
    [
        [5.0] * C,
        (5 * (1 - torch.eye(C))).tolist(),
        -5 * torch.eye(C),
        5 * np.ones(C),
        torch.tensor(5.0),
    ],
    ids=["vector", "potts matrix", "attraction matrix", "array", "scalar tensor"],
)
def test_spellings_of_the_same_weight_agree(weight: Any) -> None:
    def run(w: Any) -> Tensor:
        return DenseCRF(logits(), [BilateralKernel(20, 13, w)], image()).inference(5)

    torch.testing.assert_close(run(weight), run(5.0), rtol=0, atol=1e-5)


@pytest.mark.parametrize("damping", [0.0, 0.3])
@pytest.mark.parametrize("batch", [None, 2])
def test_steps_are_the_iterations_of_inference(
    device: torch.device, dtype: torch.dtype, batch: int | None, damping: float
) -> None:
    crf = DenseCRF(logits(batch, dtype).to(device), KERNELS, image(batch or 1).to(device))
    q = crf.start()
    for _ in range(4):
        q = crf.step(q, damping)
    atol = 1e-4 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(crf.inference(4, damping=damping), q, rtol=0, atol=atol)


def test_no_iterations_are_the_start() -> None:
    crf = DenseCRF(logits(), KERNELS, image())
    torch.testing.assert_close(crf.inference(0), crf.start(), rtol=0, atol=1e-6)


def test_no_kernels_are_a_softmax() -> None:
    crf = DenseCRF(logits(), [])
    torch.testing.assert_close(crf.inference(3), logits().softmax(0), rtol=0, atol=1e-6)


def test_kernel_of_weight_zero_changes_nothing() -> None:
    crf = DenseCRF(logits(), [*KERNELS, GaussianKernel(7, 0)], image())
    assert torch.equal(crf.inference(3), DenseCRF(logits(), KERNELS, image()).inference(3))


def test_tolerance_stops_at_the_iteration_that_moved_less() -> None:
    crf = DenseCRF(logits(), KERNELS, image())
    stopped = crf.inference(50, tolerance=0.05)
    q, moved, count = crf.start(), 1.0, 0
    while moved >= 0.05:
        new = crf.step(q)
        q, moved, count = new, (new - q).abs().max().item(), count + 1
    assert 1 < count < 50
    torch.testing.assert_close(stopped, q, rtol=0, atol=1e-4)


def test_outputs_are_three_views_of_the_same_marginals() -> None:
    crf = DenseCRF(logits(2), KERNELS, image(2))
    q = crf.inference(5)
    torch.testing.assert_close(crf.inference(5, output="logits").exp(), q, rtol=0, atol=1e-5)
    labels = crf.inference(5, output="labels")
    assert labels.dtype == torch.int64
    assert torch.equal(labels, q.argmax(1))
    assert torch.equal(crf.map(q), labels)


def test_batch_equals_each_image_alone() -> None:
    u, x = logits(2), image(2)
    q = DenseCRF(u, KERNELS, x).inference(5)
    for i in range(2):
        assert torch.equal(q[i], DenseCRF(u[i], KERNELS, x[i]).inference(5))


def test_one_image_serves_a_batch() -> None:
    q = DenseCRF(logits(2), KERNELS, image()[0]).inference(5)
    expected = DenseCRF(logits(2), KERNELS, image().expand(2, -1, -1, -1)).inference(5)
    assert torch.equal(q, expected)


def test_image_of_any_number_of_channels_is_compared() -> None:
    x = random_image(H, W, channels=6)
    crf = DenseCRF(logits(), [BilateralKernel(30, (13, 13, 13, 20, 20, 20), 5)], x)
    assert crf.inference(3).shape == (C, H, W)


def test_volume_is_its_points_with_positions_x_first() -> None:
    u = torch.randn(C, 4, 5, 6)
    q = DenseCRF(u, [GaussianKernel((3, 2, 1), 3)], spatial_dims=3).inference(3)
    z, y, x = torch.meshgrid(
        *(torch.arange(n, dtype=torch.float32) for n in (4, 5, 6)), indexing="ij"
    )
    features = torch.stack([x.flatten() / 3, y.flatten() / 2, z.flatten() / 1], dim=1)
    points = DenseCRF(u.flatten(1), [FeatureKernel(features, 3)], spatial_dims=1)
    assert torch.equal(q.flatten(1), points.inference(3))


def test_volume_with_colour_runs() -> None:
    x = torch.randint(256, (2, 4, 5, 6), dtype=torch.uint8)
    crf = DenseCRF(torch.randn(C, 4, 5, 6), [BilateralKernel(3, 13, 5)], x, spatial_dims=3)
    assert crf.inference(3).shape == (C, 4, 5, 6)


def test_features_may_differ_within_a_batch() -> None:
    u = random_logits(C, 50, 2)
    f = random_points(50, 3, 2)
    q = DenseCRF(u, [FeatureKernel(f, 3)], spatial_dims=1).inference(3)
    for i in range(2):
        alone = DenseCRF(u[i], [FeatureKernel(f[i], 3)], spatial_dims=1).inference(3)
        assert torch.equal(q[i], alone)


def test_energy_of_two_points_is_the_sum_written_by_hand() -> None:
    # Two points in one place: every entry of the kernel is the same number, 2/3 or so.
    u = torch.tensor([[1.0, 2.0], [4.0, 8.0]])
    f = torch.zeros(2, 1)
    crf = DenseCRF(u, [FeatureKernel(f, 3.0, "after")], spatial_dims=1)
    # "after" averages: F(x) is 1 where both agree, 1/2 where they differ.
    agree = -(1 + 2) + 0.5 * (-3 * 1) * 2
    differ = -(1 + 8) + 0.5 * (-3 * 0.5) * 2
    assert crf.energy(torch.tensor([0, 0])).item() == pytest.approx(agree)
    assert crf.energy(torch.tensor([0, 1])).item() == pytest.approx(differ)


def test_energy_is_the_objective_of_certain_marginals_with_pairs_counted_once() -> None:
    crf = DenseCRF(logits(2, torch.float64), KERNELS, image(2))
    labels = crf.inference(3, output="labels")
    x = torch.nn.functional.one_hot(labels, C).movedim(-1, 1).double()
    unary = -(x * logits(2, torch.float64)).sum(dim=(1, 2, 3))
    expected = unary + 0.5 * (crf.kl_divergence(x) - unary)
    torch.testing.assert_close(crf.energy(labels), expected)


def test_inference_lowers_the_energy() -> None:
    crf = DenseCRF(logits(), KERNELS, image())
    assert crf.energy(crf.inference(5, output="labels")) < crf.energy(crf.map(crf.start()))


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_logits_are_computed_in_float32(half: torch.dtype) -> None:
    u = logits().to(half)
    q = DenseCRF(u, KERNELS, image()).inference(3)
    assert q.dtype == half
    assert torch.equal(q, DenseCRF(u.float(), KERNELS, image()).inference(3).to(half))


def test_caller_may_overwrite_the_logits() -> None:
    u = logits()
    crf = DenseCRF(u, KERNELS, image())
    u.zero_()
    torch.testing.assert_close(crf.start(), logits().softmax(0))


def test_marginals_of_the_caller_are_not_changed() -> None:
    crf = DenseCRF(logits(), KERNELS, image())
    q = crf.start()
    kept = q.clone()
    crf.step(q, 0.5)
    crf.kl_divergence(q)
    assert torch.equal(q, kept)


@pytest.mark.parametrize("shape", [(H, W), (2, 2, C, H, W), (C, 0, W)])
def test_logits_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected logits of shape .* found \["):
        DenseCRF(torch.zeros(shape), [])


@pytest.mark.parametrize("spatial_dims", [0, 4, 2.5])
def test_spaces_of_other_dimensions_are_refused(spatial_dims: Any) -> None:
    with pytest.raises(ValueError, match=f"spatial_dims to be 1, 2 or 3, found {spatial_dims}"):
        DenseCRF(logits(), [], spatial_dims=spatial_dims)


def test_integer_logits_are_refused() -> None:
    with pytest.raises(TypeError, match=r"floating dtype, found torch\.int64"):
        DenseCRF(torch.zeros(C, H, W, dtype=torch.long), [])


def test_logits_that_are_not_finite_are_refused_with_the_index() -> None:
    u = logits()
    u[1, 2, 3] = float("nan")
    with pytest.raises(ValueError, match=r"logits\[1, 2, 3\] = nan"):
        DenseCRF(u, KERNELS, image())


def test_bilateral_kernel_without_image_is_refused() -> None:
    with pytest.raises(ValueError, match="expected an image for the bilateral kernel, found None"):
        DenseCRF(logits(), KERNELS)


@pytest.mark.parametrize("shape", [(3, H, W + 1), (3, 3, H, W), (H, W), (0, H, W)])
def test_image_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected image of"):
        DenseCRF(logits(2), KERNELS, torch.zeros(shape, dtype=torch.uint8))


@pytest.mark.parametrize("weight", [[1.0, 2.0], [[1.0]], torch.ones(C, C + 1)])
def test_weight_of_another_shape_is_refused(weight: Any) -> None:
    with pytest.raises(ValueError, match=rf"number, \[{C}\] or \[{C}, {C}\], found shape"):
        DenseCRF(logits(), [GaussianKernel(3, weight)])


def test_weight_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match=r"weight\[2\] = inf"):
        DenseCRF(logits(), [GaussianKernel(3, [1.0, 1.0, float("inf"), 1.0])])


def test_wrong_number_of_bandwidths_is_refused() -> None:
    with pytest.raises(ValueError, match=r"sxy to be a number or 2 numbers, found \(3, 3, 3\)"):
        DenseCRF(logits(), [GaussianKernel((3, 3, 3), 3)])
    with pytest.raises(ValueError, match=r"srgb to be a number or 3 numbers, found \(13, 13\)"):
        DenseCRF(logits(), [BilateralKernel(80, (13, 13), 3)], image())


def test_features_of_other_points_are_refused() -> None:
    with pytest.raises(ValueError, match=rf"\[{H * W}, d\].*found \[7, 3\]"):
        DenseCRF(logits(), [FeatureKernel(torch.zeros(7, 3), 3)])


def test_tensors_on_other_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="image on cpu, found meta"):
        DenseCRF(logits(), KERNELS, image().to("meta"))
    with pytest.raises(RuntimeError, match="cpu or cuda, found meta"):
        DenseCRF(logits().to("meta"), KERNELS, image().to("meta"))


def test_float_image_in_unit_range_with_wide_colours_is_refused() -> None:
    with pytest.raises(ValueError, match=r"image_range=1\.0"):
        DenseCRF(logits(), KERNELS, image() / 255)


def test_marginals_of_another_shape_or_dtype_are_refused() -> None:
    crf = DenseCRF(logits(), KERNELS, image())
    with pytest.raises(ValueError, match=rf"q of shape \[{C}, {H}, {W}\]"):
        crf.step(crf.start()[None])
    with pytest.raises(TypeError, match=r"q of dtype torch\.float32, found torch\.float64"):
        crf.step(crf.start().double())


def test_labels_out_of_range_are_refused_with_the_index() -> None:
    crf = DenseCRF(logits(), KERNELS, image())
    labels = crf.map(crf.start())
    labels[3, 4] = C
    with pytest.raises(ValueError, match=rf"labels\[3, 4\] = {C}"):
        crf.energy(labels)


def test_other_kernels_are_refused() -> None:
    with pytest.raises(TypeError, match=r"expected kernels of type .* found CRFParams"):
        DenseCRF(logits(), [CRFParams.pydensecrf()])  # type: ignore[list-item]
