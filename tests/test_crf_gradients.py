"""Gradients through the public functions, and how they go with compile, export, autocast, vmap."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from problems import assert_near, random_image, random_logits, random_points, random_values
from torch import Tensor

from densecrf_gpu import (
    BilateralKernel,
    CRFParams,
    DenseCRF,
    FeatureKernel,
    GaussianKernel,
    PermutohedralLattice,
    crf_refine,
    ops,
    permutohedral_filter,
)

C, H, W = 3, 4, 5


def image(device: torch.device) -> Tensor:
    return random_image(H, W)[0].to(device)


def logits(device: torch.device, dtype: torch.dtype = torch.float64) -> Tensor:
    return random_logits(C, H * W, 1, dtype)[0].reshape(C, H, W).to(device).requires_grad_()


def weight(device: torch.device, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(shape, dtype=torch.float64).to(device, dtype).requires_grad_()


def crf_of(x: Tensor, w: Tensor, mu: Tensor) -> DenseCRF:
    kernels = [GaussianKernel(3, w), BilateralKernel(20, 13, mu, "after")]
    return DenseCRF(x, kernels, image(x.device))


CALLS: dict[str, Callable[[DenseCRF], Tensor]] = {
    "inference": lambda crf: crf.inference(2),
    "logits": lambda crf: crf.inference(2, output="logits"),
    "damped": lambda crf: crf.inference(2, damping=0.3),
    "steps": lambda crf: crf.step(crf.step(crf.start()), 0.3),
    "divergence": lambda crf: crf.kl_divergence(crf.start()),
    "energy": lambda crf: crf.energy(crf.map(crf.start().detach())),
}


@pytest.mark.parametrize("call", CALLS)
def test_gradients_of_a_crf_are_exact_in_logits_and_weights(
    device: torch.device, call: str
) -> None:
    assert torch.autograd.gradcheck(
        lambda x, w, mu: CALLS[call](crf_of(x, w, mu)),
        (logits(device), weight(device), weight(device, C, C)),
    )


@pytest.mark.parametrize("options", [{}, {"damping": 0.3}, {"output": "logits"}], ids=str)
def test_gradients_of_a_crf_are_exact_in_the_features(
    device: torch.device, options: dict[str, Any]
) -> None:
    def infer(x: Tensor, features: Tensor, w: Tensor) -> Tensor:
        kernels = [GaussianKernel(3, 1.0), FeatureKernel(features, w)]
        return DenseCRF(x, kernels).inference(2, **options)

    features = random_points(H * W, 3, 1, torch.float64)[0].to(device).requires_grad_()
    assert torch.autograd.gradcheck(infer, (logits(device), features, weight(device, C)))


def test_learnable_features_do_not_change_the_result(device: torch.device) -> None:
    x = logits(device, torch.float32).detach()
    features = random_points(H * W, 3)[0].to(device)
    fixed = DenseCRF(x, [FeatureKernel(features, 2.0)]).inference(3)
    learned = DenseCRF(x, [FeatureKernel(features.requires_grad_(), 2.0)]).inference(3)
    assert learned.requires_grad
    assert_near(learned.detach(), fixed, 1e-5)


def test_bandwidth_learns_through_features_that_were_divided_by_it(device: torch.device) -> None:
    positions = random_points(H * W, 2, 1, torch.float64)[0].to(device)
    sigma = torch.tensor([0.7, 1.3], dtype=torch.float64, device=device, requires_grad=True)
    x = logits(device).detach()
    assert torch.autograd.gradcheck(
        lambda s: DenseCRF(x, [FeatureKernel(positions / s, 1.5)]).inference(2), sigma
    )


def test_weight_of_zero_receives_its_gradient(device: torch.device) -> None:
    w = torch.zeros((), device=device, requires_grad=True)
    crf = DenseCRF(logits(device, torch.float32).detach(), [GaussianKernel(3, w)])
    crf.inference(2).square().sum().backward()
    assert w.grad is not None
    assert w.grad.abs() > 0


def test_gradients_of_refinement_are_exact(device: torch.device) -> None:
    params = CRFParams.pydensecrf()
    guide = image(device)
    coarse = random_logits(C, 4, 2, torch.float64).reshape(2, C, 2, 2).to(device).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: crf_refine(x, guide, params, iterations=2, image_layout="CHW"), coarse
    )
    probabilities = coarse.detach().softmax(1).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda p: crf_refine(
            p, guide, params, iterations=2, input="probabilities", image_layout="CHW"
        ),
        probabilities,
    )


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_gradients_of_half_precision_logits_come_in_half_precision(
    device: torch.device, half: torch.dtype
) -> None:
    x = logits(device).detach().to(half).requires_grad_()
    crf_refine(x, image(device)).square().sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == half
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("normalization", ops.NORMALIZATIONS)
def test_gradients_of_a_lattice_are_exact_in_values_and_features(
    device: torch.device, normalization: str
) -> None:
    features = random_points(11, 2, 1, torch.float64)[0].to(device).requires_grad_()
    values = random_values(11, 2, 3, torch.float64).to(device).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda v, f: permutohedral_filter(v, f, normalization), (values, features)
    )


def test_lattice_keeps_the_features_it_was_built_with(device: torch.device) -> None:
    features = random_points(11, 2)[0].to(device).requires_grad_()
    lattice = PermutohedralLattice(features)
    values = random_values(11, 2)[0].to(device)
    filtered = lattice.filter(values, "after")
    with torch.no_grad():
        features += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        filtered.sum().backward()


def test_image_that_requires_grad_is_refused_and_not_cut_off(device: torch.device) -> None:
    learned = image(device).float().requires_grad_()
    x = logits(device, torch.float32)
    with pytest.raises(RuntimeError, match=r"image is not differentiable"):
        crf_refine(x, learned)
    with pytest.raises(RuntimeError, match=r"image is not differentiable"):
        DenseCRF(x, [BilateralKernel(20, 13, 1.0)], learned)


def test_tolerance_is_refused_where_gradients_are_recorded(device: torch.device) -> None:
    x = logits(device, torch.float32)
    features = random_points(H * W, 2)[0].to(device).requires_grad_()
    with pytest.raises(RuntimeError, match=r"no tolerance.*0\.01"):
        crf_refine(x, image(device), tolerance=0.01)
    with pytest.raises(RuntimeError, match=r"no tolerance.*0\.01"):
        DenseCRF(x, [GaussianKernel(3, 1.0)]).inference(tolerance=0.01)
    with pytest.raises(RuntimeError, match=r"no tolerance.*0\.01"):
        DenseCRF(x.detach(), [FeatureKernel(features, 1.0)]).inference(tolerance=0.01)


class Layer(torch.nn.Module):
    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(2.0, device=device))

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        kernels = [GaussianKernel(3, self.weight), BilateralKernel(20, 13, torch.ones(C))]
        return DenseCRF(x, kernels, guide).inference(2)


@pytest.mark.parametrize("backend", ["aot_eager", "eager"])
def test_compiled_gradients_equal_eager_ones_without_graph_breaks(
    device: torch.device, backend: str
) -> None:
    torch.compiler.reset()
    layer, guide = Layer(device), image(device)

    def loss(x: Tensor) -> Tensor:
        return (layer(x, guide) + crf_refine(x, guide, iterations=2)).square().sum()

    grads = []
    for call in (loss, torch.compile(loss, fullgraph=True, backend=backend)):
        x = logits(device, torch.float32)
        grads.append(torch.autograd.grad(call(x), (x, layer.weight)))
    for one, other in zip(*grads, strict=True):
        assert torch.equal(one, other)


def test_compiled_gradient_of_features_equals_the_eager_one(device: torch.device) -> None:
    torch.compiler.reset()
    features = random_points(30, 3)[0].to(device).requires_grad_()
    values = random_values(30, 2)[0].to(device)
    compiled = torch.compile(permutohedral_filter, fullgraph=True, backend="aot_eager")
    (found,) = torch.autograd.grad(compiled(values, features, "after").sum(), features)
    (expected,) = torch.autograd.grad(
        permutohedral_filter(values, features, "after").sum(), features
    )
    assert torch.equal(found, expected)


def test_layer_is_exported_without_graph_breaks(device: torch.device) -> None:
    layer, x, guide = Layer(device), logits(device, torch.float32).detach(), image(device)
    exported = torch.export.export(layer, (x, guide)).module()
    assert torch.equal(exported(x, guide), layer(x, guide))


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_autocast_computes_in_float32(device: torch.device, half: torch.dtype) -> None:
    x, mu = logits(device, torch.float32), weight(device, C, C, dtype=torch.float32)
    w = weight(device, dtype=torch.float32)

    def losses() -> Tensor:
        crf = crf_of(x, w, mu)
        return sum(call(crf).float().square().sum() for call in CALLS.values())

    expected = torch.autograd.grad(losses(), (x, w, mu))
    with torch.autocast(device.type, dtype=half):
        loss = losses()
    for one, other in zip(torch.autograd.grad(loss, (x, w, mu)), expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_operators_take_half_precision_as_float32_under_autocast(
    device: torch.device, half: torch.dtype
) -> None:
    lattice = ops.build_lattice(random_points(30, 2).to(device))
    lists = [lattice.points], [lattice.vertices], [torch.ones(1, device=device)], ["after"]
    values, x = random_values(30, 2).to(device, half), random_logits(3, 30).to(device, half)
    with torch.autocast(device.type, dtype=half):
        filtered = ops.lattice_filter(lattice, values, "after", False)
        inferred = ops.mean_field(x, *lists, 2, 0.0, 0.0, "probabilities")
    assert torch.equal(filtered, ops.lattice_filter(lattice, values.float(), "after", False))
    assert torch.equal(inferred, ops.mean_field(x.float(), *lists, 2, 0.0, 0.0, "probabilities"))


@pytest.mark.parametrize("dim", [0, 1, 3])
def test_filter_is_vmapped_over_its_values(device: torch.device, dim: int) -> None:
    lattice = ops.build_lattice(random_points(30, 2, 2, torch.float64).to(device))
    many = random_values(30, 3, 8, torch.float64).reshape(4, 2, 30, 3).to(device)
    moved = many.movedim(0, dim).requires_grad_()

    def filtered(values: Tensor) -> Tensor:
        return ops.lattice_filter(lattice, values, "symmetric", False)

    found = torch.vmap(filtered, in_dims=dim)(moved)
    expected = torch.stack([filtered(values) for values in many])
    assert_near(found.detach(), expected)
    (grad,) = torch.autograd.grad(found.square().sum(), moved)
    adjoint = ops.lattice_filter(lattice, 2 * expected[1], "symmetric", True)
    assert_near(grad.movedim(dim, 0)[1], adjoint)


def test_vmap_of_anything_else_is_refused_with_a_way_out(device: torch.device) -> None:
    features = random_points(30, 2, 4).to(device)
    lattice = ops.build_lattice(features[:1])
    many = random_logits(3, 30, 4)[:, None].to(device)
    lists = [lattice.points], [lattice.vertices], [torch.ones(1, device=device)], ["after"]
    with pytest.raises(NotImplementedError, match=r"mean_field cannot be vmapped: pass a batch"):
        torch.vmap(lambda x: ops.mean_field(x, *lists, 2, 0.0, 0.0, "probabilities"))(many)
    with pytest.raises(NotImplementedError, match=r"build_lattice cannot be vmapped: pass a batch"):
        torch.vmap(ops.build_lattice)(features[:, None])
    values = random_values(30, 2).to(device)
    with pytest.raises(NotImplementedError, match="over its values alone"):
        torch.vmap(lambda f: ops.lattice_filter(lattice, values, "after", False, f))(
            features[:, None]
        )
