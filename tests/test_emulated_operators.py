"""The operators on CUDA, compiled for the emulator and called with tensors on the CPU.

Their C++ is that of a GPU down to the kernels: checks of arguments, layouts of tensors, scratch
memory. What they give is held against the CPU's operators, and the shapes against the fakes'.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from densecrf_gpu import ops
from densecrf_gpu.cuda_layout import lattice_shapes
from densecrf_gpu.ops import EXACT, LatticeData

Operators = Callable[..., Any]

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-11}
GRID = (18, 33)  # tiles of 16 x 16 at two borders
SIGMAS = [6.0, 6.0]
COLOURS = [30.0] * 3


@pytest.fixture(scope="module")
def emulated() -> Operators:
    """``emulated(name, *arguments)`` calls an operator on "CUDA"."""
    built = sorted(Path(__file__).parent.glob("_emulated*.so"))
    if not built:
        pytest.skip("tests/_emulated is not built: python setup.py build_whitebox")
    spec = importlib.util.spec_from_file_location("_CUDA", built[0])
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    cuda = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)

    def call(name: str, *arguments: Any) -> Any:
        operator = getattr(torch.ops.densecrf_emulated, name).default
        return operator.redispatch(cuda, *arguments)

    return call


def features(batch: int, dimensions: int, dtype: torch.dtype, grid: Sequence[int] = GRID) -> Tensor:
    generator = torch.Generator().manual_seed(dimensions)
    steps = torch.randn(batch, prod(grid), dimensions, generator=generator, dtype=dtype)
    return steps.cumsum(1) / 3


def image(batch: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    coarse = torch.randint(0, 256, (batch, 3, 3, 5), generator=generator).float()
    return torch.nn.functional.interpolate(coarse, size=GRID).to(dtype)


def logits(batch: int, classes: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(classes)
    return 2 * torch.randn(batch, classes, prod(GRID), generator=generator, dtype=dtype)


def lattices(
    emulated: Operators, batch: int, dtype: torch.dtype, bound: int | None = None
) -> tuple[list[LatticeData], list[LatticeData]]:
    """Of positions, one for the batch, and of images: the emulated ones, and the CPU's."""
    positions = torch.stack(torch.meshgrid(*map(torch.arange, GRID), indexing="ij"), -1)
    positions = positions.flip(-1).reshape(1, -1, 2).to(dtype) / 3
    pixels = image(batch, torch.uint8 if dtype == torch.float32 else dtype)
    given = [
        LatticeData(*emulated("build_lattice", positions, GRID, bound)),
        LatticeData(*emulated("build_image_lattice", pixels, GRID, SIGMAS, COLOURS, bound)),
    ]
    cpu = [
        ops.build_lattice(positions, GRID),
        ops.build_image_lattice(pixels, GRID, SIGMAS, COLOURS),
    ]
    return given, cpu


def kernels(lattices: Sequence[LatticeData]) -> tuple[list[Tensor], list[Tensor]]:
    return [lattice.points for lattice in lattices], [lattice.vertices for lattice in lattices]


@pytest.mark.parametrize("bound", [None, 100, 10**6])
@pytest.mark.parametrize(
    ("batch", "grid", "dimensions"),
    [(1, (1,), 1), (2, (300,), 3), (1, (18, 33), 5), (2, (7, 5), 2), (1, (5, 9, 11), 4)],
)
def test_lattices_have_the_shapes_that_their_fakes_tell(
    emulated: Operators,
    dtype: torch.dtype,
    batch: int,
    grid: tuple[int, ...],
    dimensions: int,
    bound: int | None,
) -> None:
    given = features(batch, dimensions, dtype, grid)
    points, vertices = emulated("build_lattice", given, grid, bound)
    expected = lattice_shapes(batch, grid, dimensions, dtype.itemsize, bound)
    assert (tuple(points.shape), tuple(vertices.shape)) == expected


@pytest.mark.parametrize("dimensions", [1, 2, 5, 7, 12])
def test_lattices_have_the_vertices_of_the_cpus(
    emulated: Operators, dtype: torch.dtype, dimensions: int
) -> None:
    given = features(2, dimensions, dtype)
    _, vertices = emulated("build_lattice", given, GRID, None)
    expected = [ops.lattice_sizes(ops.build_lattice(one[None]).vertices).item() for one in given]
    assert emulated("lattice_sizes", vertices).tolist() == expected


@pytest.mark.parametrize("pixel", [torch.uint8, torch.float32, torch.float64])
def test_images_are_read_by_their_strides(emulated: Operators, pixel: torch.dtype) -> None:
    planes = image(2, pixel)
    interleaved = planes.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    every_other = planes.repeat_interleave(2, 3)[..., ::2]
    shared = planes[:1].expand(2, -1, -1, -1)
    arguments = (GRID, SIGMAS, COLOURS, EXACT)
    points, vertices = emulated("build_image_lattice", planes, *arguments)
    for same in (interleaved, every_other):
        built = emulated("build_image_lattice", same, *arguments)
        assert torch.equal(emulated("lattice_sizes", built[1]), emulated("lattice_sizes", vertices))
        assert built[0].shape == points.shape
    sizes = emulated("lattice_sizes", emulated("build_image_lattice", shared, *arguments)[1])
    assert sizes[0] == sizes[1]
    assert sizes[0] == emulated("lattice_sizes", vertices)[0]


@pytest.mark.parametrize("channels", [1, 5, 33])
@pytest.mark.parametrize("normalization", ops.NORMALIZATIONS)
@pytest.mark.parametrize("adjoint", [False, True])
def test_filtered_values_are_the_cpus(
    emulated: Operators, dtype: torch.dtype, normalization: str, adjoint: bool, channels: int
) -> None:
    given = features(1, 3, dtype)
    values = logits(2, channels, dtype).transpose(1, 2)  # not contiguous
    points, vertices = emulated("build_lattice", given, GRID, None)
    found = emulated("lattice_filter", points, vertices, values, normalization, adjoint, None)
    lattice = ops.build_lattice(given)
    expected = ops.lattice_filter(lattice, values, normalization, adjoint)
    torch.testing.assert_close(found, expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("adjoint", [False, True])
def test_gradients_of_features_are_the_cpus(
    emulated: Operators, dtype: torch.dtype, adjoint: bool
) -> None:
    given, values, grad = features(1, 3, dtype), logits(1, 4, dtype), logits(1, 4, dtype).flip(1)
    rest = (given, values.transpose(1, 2), grad.transpose(1, 2), "symmetric", adjoint)
    built = emulated("build_lattice", given, GRID, None)
    found = emulated("lattice_filter_grad_features", *built, *rest)
    expected = torch.ops.densecrf_gpu.lattice_filter_grad_features(*ops.build_lattice(given), *rest)
    atol = 20 * TOLERANCE[dtype]
    torch.testing.assert_close(found, expected, atol=atol, rtol=atol)


def weights(kind: str, classes: int, dtype: torch.dtype) -> Tensor:
    shapes = {"number": (1,), "vector": (classes,), "matrix": (classes, classes)}
    steps = torch.arange(prod(shapes[kind]), dtype=dtype)
    return 1 + 0.3 * torch.sin(steps).reshape(shapes[kind])


@pytest.mark.parametrize(
    ("classes", "kind"), [(2, "number"), (19, "number"), (19, "vector"), (40, "matrix")]
)
def test_marginals_are_the_cpus(
    emulated: Operators, dtype: torch.dtype, classes: int, kind: str
) -> None:
    given, cpu = lattices(emulated, 2, dtype)
    scores, modes = logits(2, classes, dtype), ["symmetric", "after"]
    compatibilities = [weights("number", classes, dtype), weights(kind, classes, dtype)]
    for damping, output in ((0.0, "probabilities"), (0.0, "logits"), (0.25, "probabilities")):
        rest = (compatibilities, modes, 2, damping, 0.0, output)
        found = emulated("mean_field", scores, *kernels(given), *rest)
        expected = ops.mean_field(scores, *kernels(cpu), *rest)
        torch.testing.assert_close(found, expected, atol=10 * TOLERANCE[dtype], rtol=1e-5)


def test_labels_are_the_cpus(emulated: Operators, dtype: torch.dtype) -> None:
    given, cpu = lattices(emulated, 2, dtype)
    rest = ([weights("number", 5, dtype)] * 2, ["symmetric"] * 2, 10, 0.0, 0.0, "labels")
    scores = logits(2, 5, dtype)
    found = emulated("mean_field", scores, *kernels(given), *rest)
    assert found.dtype == torch.int64
    assert torch.equal(found, ops.mean_field(scores, *kernels(cpu), *rest))


def test_bounded_and_exact_lattices_give_the_same_bits_from_less_memory(
    emulated: Operators, dtype: torch.dtype
) -> None:
    rest = ([weights("number", 5, dtype)] * 2, ["symmetric"] * 2, 5, 0.0, 0.0, "probabilities")
    scores = logits(2, 5, dtype)
    results, memory = [], []
    for bound in (None, prod(GRID), EXACT):
        given, _ = lattices(emulated, 2, dtype, bound)
        results.append(emulated("mean_field", scores, *kernels(given), *rest))
        memory.append(sum(t.numel() for lattice in given for t in lattice))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    assert memory == sorted(memory, reverse=True)
    assert memory[2] < memory[0] / 2


def test_too_many_vertices_are_counted_and_give_nan(
    emulated: Operators, dtype: torch.dtype
) -> None:
    given = features(1, 3, dtype)
    _, enough = emulated("build_lattice", given, GRID, None)
    count = emulated("lattice_sizes", enough).item()
    points, vertices = emulated("build_lattice", given, GRID, count - 1)
    assert emulated("lattice_sizes", vertices).tolist() == [-1 - count]
    values = torch.ones(1, prod(GRID), 2, dtype=dtype)
    found = emulated("lattice_filter", points, vertices, values, "none", False, None)
    assert found.isnan().all()


@pytest.mark.parametrize("kind", ["number", "vector", "matrix"])
@pytest.mark.parametrize("output", ["probabilities", "logits"])
def test_gradients_of_mean_field_are_the_cpus(
    emulated: Operators, dtype: torch.dtype, kind: str, output: str
) -> None:
    given, cpu = lattices(emulated, 2, dtype)
    scores, grad, modes = logits(2, 4, dtype), logits(2, 4, dtype).flip(0), ["symmetric"] * 2
    compatibilities = [weights("number", 4, dtype), weights(kind, 4, dtype)]
    rest = (compatibilities, modes, 3, 0.25, output)
    backward = (compatibilities, modes, 0.25, output)
    result, states = emulated("mean_field_train", scores, *kernels(given), *rest)
    kept = (grad, scores, result, states)
    found = emulated("mean_field_backward", *kept, *kernels(given), *backward)
    on_cpu = torch.ops.densecrf_gpu
    kept = (grad, scores, *on_cpu.mean_field_train(scores, *kernels(cpu), *rest))
    expected = on_cpu.mean_field_backward(*kept, *kernels(cpu), *backward)
    for one, other in zip((found[0], *found[1]), (expected[0], *expected[1]), strict=True):
        scale = other.abs().max().item()
        atol = 10 * TOLERANCE[dtype] * max(1.0, scale)
        torch.testing.assert_close(one, other, atol=atol, rtol=1e-4)


@pytest.mark.parametrize("classes", [1, 5, 21, 33])
def test_states_have_the_shape_that_their_fake_tells(
    emulated: Operators, dtype: torch.dtype, classes: int
) -> None:
    given, _ = lattices(emulated, 2, dtype)
    rest = ([weights("number", classes, dtype)] * 2, ["symmetric"] * 2, 2, 0.0, "probabilities")
    _, states = emulated("mean_field_train", logits(2, classes, dtype), *kernels(given), *rest)
    with FakeTensorMode():
        fakes = [
            [torch.empty(t.shape, dtype=t.dtype, device="cuda") for t in tensors]
            for tensors in kernels(given)
        ]
        scores = torch.empty(2, classes, prod(GRID), dtype=dtype, device="cuda")
        compatibilities = [torch.empty(1, dtype=dtype, device="cuda")] * 2
        _, expected = torch.ops.densecrf_gpu.mean_field_train(
            scores, *fakes, compatibilities, *rest[1:]
        )
    assert states.shape == expected.shape
    assert states.dtype == expected.dtype


def test_arguments_that_do_not_fit_are_refused(emulated: Operators) -> None:
    given = features(1, 3, torch.float32)
    points, vertices = emulated("build_lattice", given, GRID, None)
    two = emulated("build_lattice", given.repeat(2, 1, 1), GRID, None)
    loose = emulated("build_lattice", given, [prod(GRID)], None)
    values, rest = torch.ones(1, prod(GRID), 2), ("none", False, None)
    unlike = ([points, loose[0]], [vertices, loose[1]], [torch.ones(1)] * 2, ["none"] * 2)
    with pytest.raises(RuntimeError, match="must have the lattice's dtype"):
        emulated("lattice_filter", points, vertices, values.double(), *rest)
    with pytest.raises(RuntimeError, match="values has 593 points, the lattice 594"):
        emulated("lattice_filter", points, vertices, values[:, 1:], *rest)
    with pytest.raises(RuntimeError, match="values holds 3 images, the lattice 2"):
        emulated("lattice_filter", *two, values.repeat(3, 1, 1), *rest)
    with pytest.raises(RuntimeError, match="points and vertices are not of one lattice"):
        emulated("lattice_filter", points, vertices[..., :40].contiguous(), values, *rest)
    with pytest.raises(RuntimeError, match="must be built with the same grid"):
        emulated("mean_field", values.transpose(1, 2), *unlike, 1, 0.0, 0.0, "labels")
    with pytest.raises(RuntimeError, match=r"max_vertices must be positive, or -1 .*, got 0"):
        emulated("build_lattice", given, GRID, 0)
