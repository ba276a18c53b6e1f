"""What the operators refuse, and that the message says what was expected and what came."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from operators import assert_has_no_lattice, infer, ops
from problems import random_image, random_logits, random_points, random_values
from torch import Tensor

from densecrf_gpu import ops as typed_ops

BAD_FEATURES = {
    "two axes": lambda: torch.zeros(5, 3),
    "four axes": lambda: torch.zeros(1, 5, 3, 1),
    "no point": lambda: torch.zeros(1, 0, 3),
    "no dimension": lambda: torch.zeros(1, 5, 0),
    "no batch": lambda: torch.zeros(0, 5, 3),
    "int64": lambda: torch.zeros(1, 5, 3, dtype=torch.int64),
    "float16": lambda: torch.zeros(1, 5, 3, dtype=torch.float16),
    "bfloat16": lambda: torch.zeros(1, 5, 3, dtype=torch.bfloat16),
    "complex64": lambda: torch.zeros(1, 5, 3, dtype=torch.complex64),
}


@pytest.mark.parametrize("kind", BAD_FEATURES)
def test_build_lattice_refuses(device: torch.device, kind: str) -> None:
    with pytest.raises(
        RuntimeError, match=r"features.*(must be|expected)|(must be|expected).*features"
    ):
        ops.build_lattice(BAD_FEATURES[kind]().to(device))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 3e38])
@pytest.mark.parametrize("d", [1, 2, 5, 12])
@pytest.mark.parametrize("place", [0, 17, 199])
def test_build_lattice_refuses_points_that_have_no_place(
    device: torch.device, dtype: torch.dtype, value: float, d: int, place: int
) -> None:
    features = random_points(200, d, dtype=dtype)
    features[0, place, d - 1] = value if value != 3e38 else torch.finfo(dtype).max
    assert_has_no_lattice(lambda: ops.build_lattice(features.to(device)), device, "feature")


IMAGE = random_image(4, 6)
BAD_IMAGES: dict[str, tuple[Any, ...]] = {
    "wrong size": (IMAGE, [6, 4], [3.0, 3.0], [5.0] * 3),
    "size of three for two": (IMAGE, [1, 4, 6], [3.0] * 3, [5.0] * 3),
    "too few spatial sigmas": (IMAGE, [4, 6], [3.0], [5.0] * 3),
    "too many spatial sigmas": (IMAGE, [4, 6], [3.0] * 3, [5.0] * 3),
    "too few channel sigmas": (IMAGE, [4, 6], [3.0, 3.0], [5.0] * 2),
    "channel sigmas without image": (None, [4, 6], [3.0, 3.0], [5.0]),
    "sigma zero": (IMAGE, [4, 6], [3.0, 0.0], [5.0] * 3),
    "sigma negative": (IMAGE, [4, 6], [3.0, 3.0], [5.0, -5.0, 5.0]),
    "sigma nan": (IMAGE, [4, 6], [3.0, float("nan")], [5.0] * 3),
    "empty size": (None, [0, 6], [3.0, 3.0], []),
    "negative size": (None, [-4, -6], [3.0, 3.0], []),
    "no size": (None, [], [], []),
    "int64 image": (IMAGE.long(), [4, 6], [3.0, 3.0], [5.0] * 3),
    "nan image": (IMAGE * float("nan"), [4, 6], [3.0, 3.0], [5.0] * 3),
}


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_build_image_lattice_refuses(device: torch.device, kind: str) -> None:
    image, *others = BAD_IMAGES[kind]
    if kind == "nan image":
        build = functools.partial(ops.build_image_lattice, image.to(device), *others)
        assert_has_no_lattice(build, device, "image channel 0")
        return
    with pytest.raises((ValueError, RuntimeError), match=r"image|size|sigma|feature"):
        ops.build_image_lattice(None if image is None else image.to(device), *others)


def lattice(device: torch.device, batch: int = 1, n: int = 30) -> tuple[Tensor, Tensor]:
    points, vertices = ops.build_lattice(random_points(n, 3, batch).to(device))
    return points, vertices


FilterCall = Callable[[torch.device], Any]


def filter_with(
    device: torch.device, values: Tensor, normalization: str = "none", batch: int = 1
) -> Any:
    return ops.lattice_filter(*lattice(device, batch), values.to(device), normalization, False)


BAD_FILTERS: dict[str, FilterCall] = {
    "other dtype": lambda d: filter_with(d, random_values(30, 2, dtype=torch.float64)),
    "integer values": lambda d: filter_with(d, torch.ones(1, 30, 2, dtype=torch.int64)),
    "too few points": lambda d: filter_with(d, random_values(29, 2)),
    "too many points": lambda d: filter_with(d, random_values(31, 2)),
    "points of another block": lambda d: filter_with(d, random_values(65, 2)),
    "two axes": lambda d: filter_with(d, random_values(30, 2)[0]),
    "batch 2 for 3": lambda d: filter_with(d, random_values(30, 2, 2), batch=3),
    "batch 1 for 3": lambda d: filter_with(d, random_values(30, 2, 1), batch=3),
    "normalization": lambda d: filter_with(d, random_values(30, 2), "sideways"),
    "points are not points": lambda d: ops.lattice_filter(
        torch.zeros(1, 30, device=d), lattice(d)[1], random_values(30, 2).to(d), "none", False
    ),
    "points cut short": lambda d: ops.lattice_filter(
        lattice(d)[0][:, :-8], lattice(d)[1], random_values(30, 2).to(d), "none", False
    ),
    "vertices are not vertices": lambda d: ops.lattice_filter(
        lattice(d)[0], torch.zeros(100, dtype=torch.uint8, device=d),
        random_values(30, 2).to(d), "none", False
    ),
    "vertices empty": lambda d: ops.lattice_filter(
        lattice(d)[0], torch.zeros(0, dtype=torch.uint8, device=d),
        random_values(30, 2).to(d), "none", False
    ),
    "vertices cut short": lambda d: ops.lattice_filter(
        lattice(d)[0], lattice(d)[1][:-8], random_values(30, 2).to(d), "none", False
    ),
    "of different lattices": lambda d: ops.lattice_filter(
        lattice(d, n=30)[0], lattice(d, n=300)[1], random_values(30, 2).to(d), "none", False
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_FILTERS)
def test_lattice_filter_refuses(device: torch.device, kind: str) -> None:
    with pytest.raises(
        (ValueError, RuntimeError), match=r"values|points|vertices|lattice|normalization"
    ):
        BAD_FILTERS[kind](device)


@pytest.mark.parametrize("size", [1, 7, 8, 64, 1000])
def test_lattice_sizes_refuses_bytes_that_are_no_lattice(device: torch.device, size: int) -> None:
    with pytest.raises((ValueError, RuntimeError), match="vertices"):
        ops.lattice_sizes(torch.zeros(size, dtype=torch.uint8, device=device))


def run(device: torch.device, **changes: Any) -> Any:
    given: dict[str, Any] = {
        "logits": random_logits(4, 30).to(device),
        "lattices": [lattice(device)],
        "compatibilities": [torch.ones(1, device=device)],
    }
    return infer(**(given | changes))


BAD_MEAN_FIELDS: dict[str, dict[str, Any]] = {
    "two axes": {"logits": random_logits(4, 30)[0]},
    "other number of points": {"logits": random_logits(4, 29)},
    "other dtype": {"logits": random_logits(4, 30, dtype=torch.float64)},
    "half": {"logits": random_logits(4, 30).half()},
    "no class": {"logits": random_logits(0, 30)},
    "weights missing": {"compatibilities": []},
    "weights of another dtype": {"compatibilities": [torch.ones(1, dtype=torch.float64)]},
    "weights for three classes": {"compatibilities": [torch.ones(3)]},
    "matrix not square": {"compatibilities": [torch.ones(4, 3)]},
    "matrix of three classes": {"compatibilities": [torch.ones(3, 3)]},
    "weight without axis": {"compatibilities": [torch.tensor(1.0)]},
    "normalization": {"normalization": "sideways"},
    "iterations negative": {"iterations": -1},
    "damping one": {"damping": 1.0},
    "damping negative": {"damping": -0.1},
    "damping nan": {"damping": float("nan")},
    "tolerance nan": {"tolerance": float("nan")},
    "output": {"output": "energy"},
}


@pytest.mark.parametrize("kind", BAD_MEAN_FIELDS)
def test_mean_field_refuses(device: torch.device, kind: str) -> None:
    changes = dict(BAD_MEAN_FIELDS[kind])
    if "logits" in changes:
        changes["logits"] = changes["logits"].to(device)
    if "compatibilities" in changes:
        changes["compatibilities"] = [w.to(device) for w in changes["compatibilities"]]
    names = "logits|compatibilit|normalization|iterations|damping|tolerance|output|points|lattice"
    with pytest.raises((ValueError, RuntimeError), match=names):
        run(device, **changes)


def test_mean_field_refuses_another_batch_of_lattices(device: torch.device) -> None:
    with pytest.raises((ValueError, RuntimeError), match=r"batch|points|lattice"):
        run(device, logits=random_logits(4, 30, 2).to(device), lattices=[lattice(device, 3)])


def test_mean_field_refuses_lists_of_different_length(device: torch.device) -> None:
    points, vertices = lattice(device)
    with pytest.raises((ValueError, RuntimeError), match=r"points|vertices|kernels"):
        ops.mean_field(
            random_logits(4, 30).to(device), [points], [vertices, vertices],
            [torch.ones(1, device=device)], ["symmetric"], 1, 0.0, 0.0, "labels"
        )  # fmt: skip


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_tensors_on_different_devices_are_refused() -> None:
    here, there = torch.device("cpu"), torch.device("cuda")
    with pytest.raises((ValueError, RuntimeError), match="device"):
        ops.lattice_filter(*lattice(here), random_values(30, 2).to(there), "none", False)
    with pytest.raises((ValueError, RuntimeError), match="device"):
        ops.lattice_filter(*lattice(there), random_values(30, 2), "none", False)
    with pytest.raises((ValueError, RuntimeError), match="device"):
        run(here, logits=random_logits(4, 30).to(there))
    with pytest.raises((ValueError, RuntimeError), match="device"):
        run(there, compatibilities=[torch.ones(1)])


@pytest.mark.parametrize("name", ["build_lattice", "lattice_filter", "mean_field"])
def test_lack_of_memory_on_a_gpu_is_torchs_own_error(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator, behind the stable ABI, can raise RuntimeError alone."""

    class FullGpu:
        @staticmethod
        def default(*_: object) -> None:
            raise RuntimeError("CUDA out of memory: no room on device 0 for a tensor")

    points, values = random_points(9, 2), random_values(9, 2)
    lattice = typed_ops.build_lattice(points)
    calls = {
        "build_lattice": lambda: typed_ops.build_lattice(points),
        "lattice_filter": lambda: typed_ops.lattice_filter(lattice, values, "none", False),
        "mean_field": lambda: typed_ops.mean_field(
            random_logits(2, 9),
            [lattice.points],
            [lattice.vertices],
            [torch.ones(1)],
            ["none"],
            1,
            0.0,
            0.0,
            "labels",
        ),
    }
    monkeypatch.setattr(torch.ops.densecrf_gpu, name, FullGpu)
    with pytest.raises(torch.cuda.OutOfMemoryError, match="no room on device 0"):
        calls[name]()


def test_other_errors_of_an_operator_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError) as caught:
        typed_ops.build_lattice(torch.zeros(3))
    assert not isinstance(caught.value, torch.cuda.OutOfMemoryError)
