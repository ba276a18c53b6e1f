"""How images and arrays are read: layouts, dtypes, memory, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from densecrf_gpu.checks import check_finite
from densecrf_gpu.inputs import as_tensor, find_layout, prepare_image

CPU = torch.device("cpu")


def layout(
    shape: tuple[int, ...],
    size: tuple[int, int],
    batch: int | None = None,
    asked: str = "auto",
    resizable: bool = True,
) -> str:
    return find_layout(shape, asked, size, batch, resizable)


@pytest.mark.parametrize(
    ("shape", "size", "batch", "expected"),
    [
        ((3, 50, 40), (50, 40), None, "CHW"),
        ((50, 40, 3), (50, 40), None, "HWC"),
        ((50, 40), (50, 40), None, "HW"),
        ((7, 50, 40), (50, 40), None, "CHW"),
        ((50, 40, 200), (50, 40), None, "HWC"),
        ((2, 3, 50, 40), (50, 40), 2, "CHW"),
        ((2, 50, 40, 3), (50, 40), 2, "HWC"),
        ((3, 50, 40), (50, 40), 2, "CHW"),  # one image for a batch of two
        ((3, 3, 40), (3, 40), None, "CHW"),  # an image of three rows
        ((3, 50, 40), (7, 5), None, "CHW"),  # logits of lower resolution
        ((50, 40, 3), (7, 5), None, "HWC"),
        ((50, 40), (7, 5), None, "HW"),
    ],
)
def test_layout_is_found_from_the_size_of_the_logits(
    shape: tuple[int, ...], size: tuple[int, int], batch: int | None, expected: str
) -> None:
    assert layout(shape, size, batch) == expected


@pytest.mark.parametrize(
    ("shape", "size", "batch", "readings"),
    [
        ((3, 3, 3), (3, 3), None, "CHW or HWC"),
        ((16, 16, 16), (8, 8), None, "CHW or HWC"),
        ((3, 50, 40), (50, 40), 3, "CHW or HW"),  # one colour image or three grey ones
        ((2, 50, 40), (50, 40), 2, "CHW or HW"),
        ((2, 4, 4, 4), (4, 4), 2, "CHW or HWC"),
    ],
)
def test_ambiguous_layout_is_refused(
    shape: tuple[int, ...], size: tuple[int, int], batch: int | None, readings: str
) -> None:
    with pytest.raises(ValueError, match=f"may be {readings} .*: pass image_layout"):
        layout(shape, size, batch)


@pytest.mark.parametrize("asked", ["CHW", "HWC", "HW"])
def test_layout_that_was_asked_for_is_taken(asked: str) -> None:
    assert layout((3, 3, 3), (3, 3), batch=3, asked=asked) == asked


@pytest.mark.parametrize(
    ("shape", "size", "batch"),
    [
        ((3, 50, 41), (51, 41), None),  # smaller than the logits
        ((50,), (50, 40), None),
        ((2, 3, 50, 40), (50, 40), None),  # a batch for logits without one
        ((4, 3, 50, 40), (50, 40), 2),
        ((0, 50, 40), (50, 40), None),
        ((1, 1, 3, 50, 40), (50, 40), 1),
    ],
)
def test_impossible_shape_is_refused_with_both_shapes(
    shape: tuple[int, ...], size: tuple[int, int], batch: int | None
) -> None:
    with pytest.raises(ValueError, match=rf"{size[0]}, {size[1]}.*found shape \[{shape[0]}"):
        layout(shape, size, batch)


def test_label_maps_are_not_enlarged() -> None:
    with pytest.raises(ValueError, match=r"found shape \[3, 50, 40\]"):
        layout((3, 50, 40), (25, 20), resizable=False)


def test_unknown_layout_is_refused() -> None:
    with pytest.raises(ValueError, match="image_layout to be one of"):
        layout((3, 50, 40), (50, 40), asked="WHC")


def pixels(image: object, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return prepare_image(image, "auto", (4, 5), None, CPU, dtype, True).pixels


@pytest.mark.parametrize("mode", ["tensor", "array", "pil"])
def test_interleaved_image_is_viewed_as_planes(mode: str) -> None:
    array = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    image = {"tensor": torch.from_numpy, "array": np.copy, "pil": Image.fromarray}[mode](array)
    assert torch.equal(pixels(image), torch.from_numpy(array).permute(2, 0, 1)[None])


def test_interleaved_tensor_is_not_copied() -> None:
    image = torch.zeros(4, 5, 3, dtype=torch.uint8)
    assert pixels(image).data_ptr() == image.data_ptr()


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int16, torch.int64]
)
def test_other_dtypes_become_the_dtype_of_the_lattice(dtype: torch.dtype) -> None:
    image = torch.arange(60).reshape(3, 4, 5).to(dtype)
    assert torch.equal(pixels(image), image.float()[None])
    assert pixels(image, torch.float64).dtype == torch.float64


def test_sixteen_bit_array_keeps_its_values() -> None:
    image = np.linspace(0, 65535, 20).astype(np.uint16).reshape(4, 5)
    assert pixels(image).tolist() == image[None, None].astype(float).tolist()


@pytest.mark.parametrize("how", ["flipped", "read-only", "big-endian", "transposed"])
def test_arrays_of_any_memory_are_read_without_a_warning(
    how: str, recwarn: pytest.WarningsRecorder
) -> None:
    image = np.arange(60, dtype=np.float32).reshape(4, 5, 3)
    if how == "flipped":
        image = image[:, ::-1]
    elif how == "read-only":
        image.flags.writeable = False
    elif how == "big-endian":
        image = image.astype(">f4")
    else:
        image = np.ascontiguousarray(image.transpose(2, 1, 0)).transpose(2, 1, 0)
    assert np.array_equal(pixels(image)[0].permute(1, 2, 0).numpy(), image)
    assert not recwarn


@pytest.mark.parametrize("mode", ["P", "RGBA", "CMYK", "1"])
def test_pil_modes_that_are_no_intensities_are_refused_with_the_cure(mode: str) -> None:
    with pytest.raises(ValueError, match=rf"found '{mode}': pass image.convert"):
        pixels(Image.new(mode, (5, 4)))


def test_grey_pil_image_is_one_channel() -> None:
    assert pixels(Image.new("L", (5, 4))).shape == (1, 1, 4, 5)


def test_palette_image_holds_labels() -> None:
    assert as_tensor("logits", Image.new("P", (5, 4), 7), label_map=True).tolist() == [[7] * 5] * 4


@pytest.mark.parametrize("image", [[[1, 2], [3, 4]], None, "image.png"])
def test_other_objects_are_refused(image: object) -> None:
    with pytest.raises(TypeError, match=f"PIL image, found {type(image).__name__}"):
        pixels(image)


@pytest.mark.parametrize("dtype", [np.complex64, np.longdouble, object])
def test_dtypes_without_meaning_are_refused(dtype: type) -> None:
    with pytest.raises(TypeError, match="dtype"):
        pixels(np.zeros((4, 5), dtype=dtype))


def test_boolean_image_is_refused() -> None:
    with pytest.raises(TypeError, match=r"found torch\.bool"):
        pixels(torch.zeros(4, 5, dtype=torch.bool))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_image_that_is_not_finite_is_refused_with_its_index(dtype: torch.dtype, bad: float) -> None:
    image = torch.full((4, 5, 3), 99.0, dtype=dtype)
    image[2, 4, 1] = bad
    image[3, 0, 0] = bad
    with pytest.raises(ValueError, match=rf"image\[2, 4, 1\] = {bad}"):
        pixels(image)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_tensor_that_is_not_finite_is_refused_with_its_index(
    dtype: torch.dtype, bad: float
) -> None:
    tensor = torch.zeros(2, 3, 4, dtype=dtype)
    tensor[1, 0, 2] = bad
    with pytest.raises(ValueError, match=rf"logits to be finite, found logits\[1, 0, 2\] = {bad}"):
        check_finite("logits", tensor)


def test_opposite_infinities_do_not_cancel() -> None:
    with pytest.raises(ValueError, match=r"x\[0\] = inf"):
        check_finite("x", torch.tensor([float("inf"), float("-inf")]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_finite_values_whose_sum_overflows_are_accepted(dtype: torch.dtype) -> None:
    check_finite("x", torch.full((9, 9), torch.finfo(dtype).max, dtype=dtype))
