"""Gradients of mean field with respect to logits and weights: exact, on every path."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from operators import Lattice, image_lattices, ops
from problems import assert_near, random_image, random_logits, random_points, random_values
from torch import Tensor

from densecrf_gpu import mean_field_composite, reference
from densecrf_gpu.mean_field_ops import mean_field
from densecrf_gpu.ops import NORMALIZATIONS

WEIGHTS = {
    "number": lambda c: 0.5 + torch.rand(1, dtype=torch.float64),
    "negative": lambda c: -torch.rand(1, dtype=torch.float64),
    "zero": lambda c: torch.zeros(1, dtype=torch.float64),
    "vector": lambda c: torch.randn(c, dtype=torch.float64),
    "matrix": lambda c: torch.randn(c, c, dtype=torch.float64),
}


def lattices(device: torch.device, n: int, batch: int, dtype: torch.dtype) -> list[Lattice]:
    """Two kernels, the first shared by the batch."""
    return [
        ops.build_lattice(random_points(n, 2, 1, dtype, seed=7).to(device)),
        ops.build_lattice(random_points(n, 3, batch, dtype, seed=8).to(device)),
    ]


def weights_of(
    kinds: tuple[str, ...], classes: int, device: torch.device, dtype: torch.dtype, times: int = 1
) -> list[Tensor]:
    found = [WEIGHTS[kind](classes).to(device, dtype) for _ in range(times) for kind in kinds]
    return [weight.requires_grad_() for weight in found]


def run(
    logits: Tensor,
    kernels: list[Lattice],
    weights: list[Tensor],
    normalization: str = "symmetric",
    iterations: int = 2,
    damping: float = 0.0,
    output: str = "probabilities",
) -> Tensor:
    points, vertices = [p for p, _ in kernels], [v for _, v in kernels]
    modes = [normalization] * len(kernels)
    return mean_field(logits, points, vertices, weights, modes, iterations, damping, 0.0, output)


def check_gradients(
    device: torch.device, kinds: tuple[str, ...], varying: bool = False, **options: Any
) -> None:
    kernels = lattices(device, 7, 2, torch.float64)
    logits = random_logits(3, 7, 2, torch.float64).to(device).requires_grad_()
    times = options.get("iterations", 2) if varying else 1
    weights = weights_of(kinds, 3, device, torch.float64, times)
    assert torch.autograd.gradcheck(
        lambda x, *w: run(x, kernels, list(w), **options), (logits, *weights)
    )


@pytest.mark.parametrize("output", ["probabilities", "logits"])
@pytest.mark.parametrize("kinds", [("number", "number"), ("vector", "matrix")], ids="-".join)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_gradients_of_logits_and_weights_are_exact(
    device: torch.device, normalization: str, kinds: tuple[str, ...], output: str
) -> None:
    check_gradients(device, kinds, normalization=normalization, output=output)


@pytest.mark.parametrize("kinds", [("negative", "zero"), ("zero", "matrix")], ids="-".join)
def test_gradients_are_exact_where_weights_are_zero_or_negative(
    device: torch.device, kinds: tuple[str, ...]
) -> None:
    check_gradients(device, kinds)


@pytest.mark.parametrize("output", ["probabilities", "logits"])
@pytest.mark.parametrize("kinds", [("number", "number"), ("vector", "matrix")], ids="-".join)
def test_gradients_are_exact_with_damping(
    device: torch.device, kinds: tuple[str, ...], output: str
) -> None:
    check_gradients(device, kinds, normalization="after", damping=0.4, output=output, iterations=3)


@pytest.mark.parametrize("damping", [0.0, 0.3])
@pytest.mark.parametrize("kinds", [("number", "number"), ("vector", "matrix")], ids="-".join)
def test_every_iteration_can_have_weights_of_its_own(
    device: torch.device, kinds: tuple[str, ...], damping: float
) -> None:
    check_gradients(device, kinds, varying=True, damping=damping)


@pytest.mark.parametrize("output", ["probabilities", "logits"])
@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_gradients_without_any_iteration_are_those_of_softmax(
    device: torch.device, damping: float, output: str
) -> None:
    check_gradients(device, ("number", "vector"), iterations=0, damping=damping, output=output)


def test_gradients_without_any_kernel_are_those_of_softmax(device: torch.device) -> None:
    logits = random_logits(3, 7, 1, torch.float64).to(device).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: run(x, [], [], damping=0.2), logits)


# A kernel of positions and one of three colours, where sizes are known to the compiler, or others;
# widths of one register, of three, and of any number.
@pytest.mark.parametrize("classes", [2, 5, 12, 21, 30, 40])
@pytest.mark.parametrize("kinds", [("number", "number"), ("vector", "matrix")], ids="-".join)
@pytest.mark.parametrize("normalization", ["symmetric", "before"])
@pytest.mark.parametrize("damping", [0.0, 0.2])
def test_fused_gradients_equal_those_of_filter_calls(
    device: torch.device,
    dtype: torch.dtype,
    damping: float,
    normalization: str,
    kinds: tuple[str, ...],
    classes: int,
) -> None:
    image = random_image(15, 17, batch=2)
    image = image if dtype == torch.float32 else image.double()
    size = [15, 17]
    positions = reference.image_features(None, size, (3, 3), device=device)[None, 0].to(dtype)
    kernels = [
        ops.build_lattice(positions, size),
        ops.build_image_lattice(image.to(device), size, [20.0] * 2, [13.0] * 3),
    ]
    logits = random_logits(classes, 255, 2, dtype).to(device)
    direction = random_logits(classes, 255, 2, dtype, seed=9).to(device)
    weights = [w.detach() for w in weights_of(kinds, classes, device, dtype)]
    lists = ([p for p, _ in kernels], [v for _, v in kernels], weights, [normalization] * 2)
    result, states = ops.mean_field_train(logits, *lists, 3, damping, "probabilities")
    slow, slow_states = mean_field_composite.train(logits, *lists, 3, damping, "probabilities")
    assert_near(result, slow, 2e-5 if dtype == torch.float32 else 1e-12)
    tail = (*lists, damping, "probabilities")
    found, found_weights = ops.mean_field_backward(direction, logits, result, states, *tail)
    expected, expected_weights = mean_field_composite.backward(
        direction, logits, slow, slow_states, *tail
    )
    limit = 2e-4 if dtype == torch.float32 else 1e-10
    assert_near(found, expected, limit)
    for one, other in zip(found_weights, expected_weights, strict=True):
        assert_near(one, other, limit)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_gradients_equal_autograd_through_the_reference(
    device: torch.device, dtype: torch.dtype, normalization: str
) -> None:
    features = random_points(60, 2, 1, dtype)
    kernel = ops.build_lattice(features.to(device))
    logits = random_logits(4, 60, 1, dtype).to(device).requires_grad_()
    weight = torch.tensor([1.5], dtype=dtype, device=device, requires_grad=True)
    direction = random_logits(4, 60, 1, dtype, seed=4).to(device)
    result = run(logits, [kernel], [weight], normalization, 3)
    found = torch.autograd.grad(result, (logits, weight), direction)

    slow = reference.build_lattice(features.double())
    wide = [t.detach().cpu().double().requires_grad_() for t in (logits, weight)]
    expected = reference.mean_field(
        wide[0],
        [lambda q, b: reference.lattice_filter(slow, q, normalization)],
        [wide[1]],
        iterations=3,
    )
    grads = torch.autograd.grad(expected, wide, direction.cpu().double())
    for one, other in zip(found, grads, strict=True):
        assert_near(one.cpu().double(), other, 2e-5 if dtype == torch.float32 else 1e-11)


def test_gradients_agree_with_finite_differences_on_an_image(device: torch.device) -> None:
    from densecrf_gpu.demo.scene import coarse_logits, load_scene

    scene = load_scene()
    image = torch.as_tensor(scene.image)[::8, ::8].permute(2, 0, 1)[None].double().to(device)
    coarse = torch.as_tensor(coarse_logits(scene.labels))[None].double()
    logits = torch.nn.functional.interpolate(coarse, size=image.shape[2:], mode="bilinear")
    logits = logits.flatten(2).to(device).requires_grad_()
    size = list(image.shape[2:])
    spatial = reference.image_features(None, size, (3, 3), device=device).double()
    kernels = [
        ops.build_lattice(spatial, size),
        ops.build_image_lattice(image, size, [20.0, 20.0], [13.0] * 3),
    ]
    weights = weights_of(("number", "number"), 5, device, torch.float64)

    def loss(x: Tensor, *w: Tensor) -> Tensor:
        return run(x, kernels, list(w), iterations=5)[0, 2].sum()

    grads = torch.autograd.grad(loss(logits, *weights), (logits, *weights))
    directions = [
        random_values(*t.shape[1:], dtype=torch.float64).to(device)
        if t.dim() == 3
        else torch.ones_like(t)
        for t in (logits, *weights)
    ]
    h = 1e-6
    for index, direction in enumerate(directions):

        def at(step: float, index: int = index, direction: Tensor = direction) -> Tensor:
            moved = [t.detach() for t in (logits, *weights)]
            moved[index] = moved[index] + step * direction
            return loss(*moved)

        slope = (at(h) - at(-h)) / (2 * h)
        torch.testing.assert_close((grads[index] * direction).sum(), slope, rtol=1e-5, atol=1e-7)


def test_recording_does_not_change_the_result(device: torch.device, dtype: torch.dtype) -> None:
    kernels = image_lattices(random_image(20, 30), 20, 13)
    kernels = [tuple(t.to(device) for t in pair) for pair in kernels]
    logits = random_logits(5, 600).to(device)
    weights = [torch.tensor([3.0], device=device), torch.tensor([10.0], device=device)]
    inferred = run(logits, kernels, weights)
    trained = run(logits.requires_grad_(), kernels, weights)
    assert trained.requires_grad
    assert torch.equal(trained.detach(), inferred)


def test_gradients_are_the_same_bit_for_bit_every_time(device: torch.device) -> None:
    kernels = image_lattices(random_image(90, 100), 30, 13)
    kernels = [tuple(t.to(device) for t in pair) for pair in kernels]
    logits = random_logits(21, 9000).to(device).requires_grad_()
    weights = weights_of(("number", "vector"), 21, device, torch.float32)
    first, second = (
        torch.autograd.grad(run(logits, kernels, weights).square().sum(), (logits, *weights))
        for _ in range(2)
    )
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_batch_has_the_gradients_of_its_images(device: torch.device, dtype: torch.dtype) -> None:
    kernels = lattices(device, 100, 3, dtype)
    logits = random_logits(4, 100, 3, dtype).to(device).requires_grad_()
    weights = weights_of(("number", "matrix"), 4, device, dtype)
    loss = run(logits, kernels, weights).square().sum()
    together = torch.autograd.grad(loss, (logits, *weights))
    alone = []
    for b in range(3):
        one = logits[b : b + 1].detach().requires_grad_()
        points = [
            kernels[0],
            ops.build_lattice(random_points(100, 3, 3, dtype, seed=8)[b : b + 1].to(device)),
        ]
        alone.append(torch.autograd.grad(run(one, points, weights).square().sum(), (one, *weights)))
    limit = 1e-5 if dtype == torch.float32 else 1e-12
    assert_near(together[0], torch.cat([grads[0] for grads in alone]), limit)
    for i in (1, 2):
        assert_near(together[i], sum(grads[i] for grads in alone), limit)


@pytest.mark.parametrize("output", ["probabilities", "logits"])
@pytest.mark.parametrize("damping", [0.0, 0.5])
def test_gradients_are_finite_where_probabilities_vanish(
    device: torch.device, damping: float, output: str
) -> None:
    kernels = lattices(device, 40, 1, torch.float32)
    logits = (1e4 * random_logits(4, 40)).to(device).requires_grad_()
    weights = weights_of(("number", "vector"), 4, device, torch.float32)
    result = run(logits, kernels, weights, damping=damping, output=output)
    for grad in torch.autograd.grad(result.sum(), (logits, *weights)):
        assert grad.isfinite().all()


def test_labels_carry_no_gradient(device: torch.device) -> None:
    logits = random_logits(3, 7).to(device).requires_grad_()
    labels = run(logits, lattices(device, 7, 1, torch.float32), [torch.ones(1, device=device)] * 2,
                 output="labels")  # fmt: skip
    assert not labels.requires_grad


def test_tolerance_is_refused_where_gradients_are_recorded(device: torch.device) -> None:
    logits = random_logits(3, 7).to(device).requires_grad_()
    with pytest.raises(RuntimeError, match=r"no tolerance.*0.5"):
        mean_field(logits, [], [], [], [], 2, 0.0, 0.5, "probabilities")


def test_second_derivative_is_refused(device: torch.device) -> None:
    logits = random_logits(3, 7, dtype=torch.float64).to(device).requires_grad_()
    result = run(logits, [], []).square().sum()
    (grad,) = torch.autograd.grad(result, logits, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        grad.sum().backward()


def arguments(
    device: torch.device, dtype: torch.dtype = torch.float64, times: int = 1
) -> tuple[Any, ...]:
    kernels = lattices(device, 70, 2, dtype)
    logits = random_logits(3, 70, 2, dtype).to(device)
    weights = [w.detach() for w in weights_of(("number", "matrix"), 3, device, dtype, times)]
    points, vertices = [p for p, _ in kernels], [v for _, v in kernels]
    return logits, points, vertices, weights, ["after", "symmetric"]


@pytest.mark.parametrize("output", ["probabilities", "logits"])
@pytest.mark.parametrize("times", [1, 2])
def test_train_and_backward_pass_opcheck(
    device: torch.device, dtype: torch.dtype, times: int, output: str
) -> None:
    logits, *lists = arguments(device, dtype, times)
    train = (logits.requires_grad_(), *lists, 2, 0.1, output)
    torch.library.opcheck(ops.mean_field_train.default, train)
    with torch.no_grad():
        result, states = ops.mean_field_train(*train)
    backward = (torch.ones_like(result), logits.detach(), result, states, *lists, 0.1, output)
    torch.library.opcheck(ops.mean_field_backward.default, backward)


BAD_TRAIN: dict[str, tuple[int, Any]] = {
    "logits of two axes": (0, lambda x: x[0]),
    "logits of another dtype": (0, lambda x: x.float()),
    "weights missing": (3, lambda x: x[:1]),
    "weights of two iterations and a half": (3, lambda x: x * 2 + x[:1]),
    "weights that change their shape": (3, lambda x: [*x, x[1], x[0]]),
    "normalization": (4, lambda x: ["sideways"] * 2),
    "iterations negative": (5, lambda x: -1),
    "damping one": (6, lambda x: 1.0),
    "labels": (7, lambda x: "labels"),
}


@pytest.mark.parametrize("kind", BAD_TRAIN)
def test_mean_field_train_refuses(device: torch.device, kind: str) -> None:
    given = [*arguments(device), 2, 0.0, "probabilities"]
    index, change = BAD_TRAIN[kind]
    given[index] = change(given[index])
    with pytest.raises((ValueError, RuntimeError), match=r"must|expected"):
        ops.mean_field_train(*given)


BAD_BACKWARD: dict[str, tuple[int, Any]] = {
    "grad of another shape": (0, lambda x: x[:, :2]),
    "result of another dtype": (2, lambda x: x.float()),
    "states cut short": (3, lambda x: x[:, :, :-1].contiguous()),
    "states of other images": (3, lambda x: x[:1]),
    "weights missing": (6, lambda x: x[:1]),
    "labels": (9, lambda x: "labels"),
}


@pytest.mark.parametrize("kind", BAD_BACKWARD)
def test_mean_field_backward_refuses(device: torch.device, kind: str) -> None:
    logits, *lists = arguments(device)
    result, states = ops.mean_field_train(logits, *lists, 2, 0.0, "probabilities")
    given = [result, logits, result, states, *lists, 0.0, "probabilities"]
    index, change = BAD_BACKWARD[kind]
    given[index] = change(given[index])
    with pytest.raises((ValueError, RuntimeError), match=r"must|expected"):
        ops.mean_field_backward(*given)
