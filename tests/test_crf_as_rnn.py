"""The layer: what it computes at first, its gradients, its parameters, what it refuses."""

from __future__ import annotations

import copy
import inspect
import re

import pytest
import torch
import torch.nn.functional as F
from problems import assert_near, random_image, random_logits
from torch import Tensor

from densecrf_gpu import (
    BilateralKernel,
    CRFParams,
    DenseCRF,
    FeatureKernel,
    GaussianKernel,
    crf_refine,
)
from densecrf_gpu.layers import CRFasRNN

C, H, W = 3, 7, 8
KERNELS = [GaussianKernel(2.0, 1.5), BilateralKernel((5.0, 6.0), 30.0, 2.0)]


def logits_of(
    device: torch.device, batch: int = 2, dtype: torch.dtype = torch.float64, h: int = H, w: int = W
) -> Tensor:
    return random_logits(C, h * w, batch, dtype).reshape(batch, C, h, w).to(device)


def image_of(device: torch.device, batch: int = 2, h: int = H, w: int = W) -> Tensor:
    return random_image(h, w, batch=batch).to(device)


def disturbed(layer: CRFasRNN) -> CRFasRNN:
    """Parameters away from where they start, so that none is special."""
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=g).to(parameter)
    return layer


@pytest.mark.parametrize("normalization", ["symmetric", "after"])
@pytest.mark.parametrize("preset", CRFParams.presets())
def test_with_potts_it_starts_as_crf_refine_bit_for_bit(
    device: torch.device, dtype: torch.dtype, preset: str, normalization: str
) -> None:
    params = CRFParams.presets()[preset]
    layer = CRFasRNN.from_params(
        params, C, normalization=normalization, weights="kernel", compatibility="potts"
    ).to(device)
    logits, image = logits_of(device, dtype=dtype), image_of(device)
    for training, iterations in ((True, 5), (False, 10)):
        expected = crf_refine(
            logits,
            image,
            params,
            iterations=iterations,
            normalization=normalization,
            output="logits",
        )
        with torch.no_grad():
            assert torch.equal(layer.train(training)(logits, image), expected)


@pytest.mark.parametrize("compatibility", ["full", "symmetric"])
@pytest.mark.parametrize("weights", ["kernel", "class"])
@pytest.mark.parametrize("learn_bandwidths", [False, True])
def test_with_a_matrix_it_starts_as_crf_refine_up_to_rounding(
    device: torch.device, compatibility: str, weights: str, learn_bandwidths: bool
) -> None:
    layer = CRFasRNN(
        C, weights=weights, compatibility=compatibility, learn_bandwidths=learn_bandwidths
    ).to(device, torch.float64)
    logits, image = logits_of(device), image_of(device)
    expected = crf_refine(logits, image, iterations=5, output="logits")
    assert_near(layer(logits, image).detach(), expected, 1e-12)


def options() -> list[dict[str, object]]:
    return [
        {"weights": "kernel", "compatibility": "potts"},
        {"weights": "class", "compatibility": "potts", "damping": 0.3},
        {"weights": "class", "compatibility": "full"},
        {"weights": "kernel", "compatibility": "symmetric", "zero_diagonal": True},
        {"per_iteration": True},
        {"per_iteration": True, "compatibility": "potts", "recompute": True},
        {"recompute": True, "output": "probabilities"},
        {"learn_bandwidths": True, "damping": 0.2},
        {"learn_bandwidths": True, "recompute": True, "output": "probabilities"},
        {"learn_bandwidths": True, "per_iteration": True, "compatibility": "potts"},
    ]


@pytest.mark.parametrize("settings", options(), ids=str)
def test_gradients_of_logits_and_all_parameters_are_exact(
    device: torch.device, settings: dict[str, object]
) -> None:
    layer = CRFasRNN(C, 2, kernels=KERNELS, **settings).to(device, torch.float64)
    names = [name for name, _ in disturbed(layer).named_parameters()]
    logits, image = logits_of(device, 1, h=5, w=6).requires_grad_(), image_of(device, 1, 5, 6)

    def forward(logits: Tensor, *parameters: Tensor) -> Tensor:
        used = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(layer, used, (logits, image))

    parameters = [parameter.detach().requires_grad_() for parameter in layer.parameters()]
    assert torch.autograd.gradcheck(forward, (logits, *parameters), fast_mode=True)


def test_gradients_reach_the_image(device: torch.device) -> None:
    layer = CRFasRNN(C, 2, kernels=KERNELS).to(device, torch.float64)
    logits = logits_of(device, 1, h=4, w=5)
    image = image_of(device, 1, 4, 5).double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda image: layer(logits, image), image, eps=1e-5, fast_mode=True
    )


@pytest.mark.parametrize("settings", options(), ids=str)
def test_recording_gradients_does_not_change_the_result(
    device: torch.device, settings: dict[str, object]
) -> None:
    layer = disturbed(CRFasRNN(C, 3, kernels=KERNELS, **settings).to(device, torch.float64))
    logits, image = logits_of(device), image_of(device)
    recorded = layer(logits, image)
    assert recorded.requires_grad
    assert recorded.is_contiguous()  # torch's nll_loss needs it
    with torch.no_grad():
        assert_near(layer(logits, image), recorded.detach(), 1e-10)


def test_recomputing_changes_neither_result_nor_gradients(device: torch.device) -> None:
    logits, image = logits_of(device).requires_grad_(), image_of(device)
    for learn_bandwidths in (False, True):
        layer = (
            CRFasRNN(C, 3, kernels=KERNELS, learn_bandwidths=learn_bandwidths).to(device).double()
        )
        again = copy.deepcopy(layer)
        again.recompute = True
        weights = torch.randn(2, C, H, W, dtype=torch.float64).to(device)
        results = [one(logits, image) for one in (layer, again)]
        grads = [
            torch.autograd.grad((result * weights).sum(), [logits, *one.parameters()])
            for result, one in zip(results, (layer, again), strict=True)
        ]
        assert torch.equal(*results)
        for first, second in zip(*grads, strict=True):
            assert_near(first, second, 1e-12)


def test_the_batch_is_a_batch_of_images(device: torch.device) -> None:
    layer = disturbed(CRFasRNN(C, 3, kernels=KERNELS).to(device, torch.float64))
    logits, image = logits_of(device), image_of(device)
    both = layer(logits, image)
    for b in range(2):
        assert_near(layer(logits[b], image[b]).detach(), both[b].detach())
    shared = layer(logits, image[0]).detach()
    assert_near(shared[1], layer(logits[1], image[0]).detach())


def test_smaller_logits_are_enlarged_as_crf_refine_does(device: torch.device) -> None:
    layer = CRFasRNN(C, 10, kernels=CRFParams.pydensecrf().kernels(), compatibility="potts")
    small = logits_of(device, h=4, w=4, dtype=torch.float32).requires_grad_()
    image = image_of(device)
    result = layer.to(device)(small, image)
    assert_near(result.detach(), crf_refine(small.detach(), image, output="logits"))
    (grad,) = torch.autograd.grad(result.sum(), small)
    assert grad.shape == small.shape


def test_every_iteration_can_have_parameters_of_its_own(device: torch.device) -> None:
    layer = CRFasRNN(C, 2, kernels=KERNELS, per_iteration=True, eval_iterations=4)
    layer = disturbed(layer.to(device, torch.float64)).eval()
    logits, image = logits_of(device), image_of(device)
    q = logits.softmax(1)
    with torch.no_grad():
        for iteration in (0, 1, 1, 1):  # the last serves all beyond
            q = DenseCRF(logits, layer.to_kernels(iteration), image).step(q)
        assert_near(layer(logits, image).exp(), q, 1e-12)


def test_its_kernels_give_the_crf_the_same_energy_model(device: torch.device) -> None:
    layer = CRFasRNN(C, 3, kernels=KERNELS, learn_bandwidths=True, weights="class")
    layer = disturbed(layer.to(device, torch.float64))
    logits, image = logits_of(device), image_of(device)
    with torch.no_grad():
        expected = DenseCRF(logits, layer.to_kernels(), image).inference(3, output="logits")
        assert_near(layer(logits, image), expected, 1e-10)
    with pytest.raises(ValueError, match="expected the iteration"):
        CRFasRNN(C, 3, per_iteration=True).to_kernels()


@pytest.mark.parametrize("preset", CRFParams.presets())
def test_params_go_in_and_come_out(preset: str) -> None:
    params = CRFParams.presets()[preset]
    assert CRFasRNN.from_params(params, C).to_params() == params
    assert CRFasRNN.from_params(params, C, learn_bandwidths=True).to_params() == params


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (CRFasRNN(C, kernels=KERNELS[:1]), "one Gaussian and one bilateral"),
        (CRFasRNN(C, kernels=[GaussianKernel(1.0, torch.arange(3.0)), KERNELS[1]]), "weights"),
        (disturbed(CRFasRNN(C, weights="kernel", per_iteration=True)), "weights"),
    ],
)
def test_more_than_five_numbers_do_not_become_five(layer: CRFasRNN, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layer.to_params()


def test_another_compatibility_does_not_become_potts() -> None:
    layer = CRFasRNN(C)
    with torch.no_grad():
        layer.compatibility[0, 0, 1] += 0.5
    with pytest.raises(ValueError, match="Potts"):
        layer.to_params()


def test_the_state_dict_restores_a_layer(device: torch.device) -> None:
    layer = disturbed(CRFasRNN(C, learn_bandwidths=True).to(device))
    other = CRFasRNN(C, learn_bandwidths=True, kernels=CRFParams.crf_as_rnn().kernels())
    other.load_state_dict(layer.state_dict())
    logits, image = logits_of(device, dtype=torch.float32), image_of(device)
    with torch.no_grad():
        assert torch.equal(layer(logits, image), other.to(device)(logits, image))


def test_the_docstring_lists_the_state_dict() -> None:
    section = re.search(r"State dict:\n(.*?)\n\n", inspect.getdoc(CRFasRNN), re.DOTALL)
    documented = set(re.findall(r"^    (\w+):", section.group(1), re.MULTILINE))
    assert documented == set(CRFasRNN(C, learn_bandwidths=True).state_dict())
    assert set(CRFasRNN(C, compatibility="potts").state_dict()) == {"weights"}


def test_learning_recovers_a_bandwidth(device: torch.device) -> None:
    truth = CRFasRNN(C, 3, kernels=[GaussianKernel(3.0, 4.0)], compatibility="potts").to(device)
    layer = CRFasRNN(
        C, 3, kernels=[GaussianKernel(1.5, 4.0)], compatibility="potts", learn_bandwidths=True
    ).to(device)
    layer.weights.requires_grad_(False)
    logits, image = logits_of(device, dtype=torch.float32, h=12, w=14), image_of(device, 2, 12, 14)
    with torch.no_grad():
        target = truth(logits, image).exp()
    optimizer = torch.optim.Adam([layer.log_scales], lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        (-target * layer(logits, image)).mean().backward()
        optimizer.step()
    (kernel,) = layer.to_kernels()
    assert kernel.sxy == pytest.approx(3.0, rel=0.05)


def test_a_step_of_training_lowers_the_loss(device: torch.device) -> None:
    layer = CRFasRNN(C).to(device)
    logits, image = logits_of(device, dtype=torch.float32), image_of(device)
    labels = torch.randint(C, (2, H, W), device=device)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-3)
    before = F.nll_loss(layer(logits, image), labels)
    before.backward()
    optimizer.step()
    assert F.nll_loss(layer(logits, image), labels) < before


def test_under_autocast_it_computes_in_float32(device: torch.device) -> None:
    layer = disturbed(CRFasRNN(C, kernels=KERNELS, learn_bandwidths=True).to(device))
    logits = logits_of(device, dtype=torch.float32).bfloat16().requires_grad_()
    image = image_of(device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        result = layer(logits, image)
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, layer(logits.float(), image).bfloat16())
    result.sum().backward()
    assert logits.grad.dtype == torch.bfloat16


def test_it_is_described_by_its_repr() -> None:
    layer = CRFasRNN(C, kernels=KERNELS, zero_diagonal=True, damping=0.5, learn_bandwidths=True)
    assert repr(layer).startswith("CRFasRNN(3, iterations=5, eval_iterations=10, kernels=[")
    for part in (
        "GaussianKernel(sxy=2.0)",
        "BilateralKernel(sxy=(5.0, 6.0), srgb=30.0)",
        "weights=class",
        "compatibility=full",
        "zero_diagonal",
        "learn_bandwidths",
        "damping=0.5",
    ):
        assert part in repr(layer)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_classes": 1}, ValueError, "num_classes to be at least 2"),
        ({"iterations": 0}, ValueError, "iterations to be at least 1"),
        ({"eval_iterations": 0}, ValueError, "eval_iterations to be at least 1"),
        ({"weights": "pixel"}, ValueError, "weights to be one of"),
        ({"compatibility": "potts-like"}, ValueError, "compatibility to be one of"),
        ({"output": "labels"}, ValueError, "output to be one of"),
        ({"damping": 1.0}, ValueError, "damping"),
        ({"kernels": []}, ValueError, "at least one kernel"),
        ({"kernels": [FeatureKernel(torch.zeros(4, 1), 1.0)]}, TypeError, "FeatureKernel"),
        ({"kernels": [GaussianKernel(1.0, torch.eye(3))]}, ValueError, r"found \[3, 3\]"),
        ({"kernels": [GaussianKernel(1.0, [1.0] * 3)], "weights": "kernel"}, ValueError, "number"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    arguments: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        CRFasRNN(**({"num_classes": C} | arguments))


@pytest.mark.parametrize(
    ("logits", "image", "message"),
    [
        (torch.zeros(4, H, W), torch.zeros(3, H, W), "3 classes, found 4"),
        (torch.zeros(C, H, W), torch.zeros(H, W, 3), "expected image of shape"),
        (torch.full((C, H, W), torch.nan), torch.zeros(3, H, W), "logits to be finite"),
        (torch.zeros(C, H, W), torch.rand(3, H, W), "image_range"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(logits: Tensor, image: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CRFasRNN(C)(logits, image)
