"""Arguments as users have them (torch, NumPy, PIL; any layout), made ready for the operators."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .checks import check_choice, first, values_at_hand

IMAGE_LAYOUTS = ("auto", "CHW", "HWC", "HW")

# PIL modes whose array holds intensities, and those whose array holds labels.
_PIL_IMAGES = ("L", "RGB", "I", "I;16", "F")
_PIL_LABELS = ("L", "P", "I", "I;16")


@dataclass(frozen=True)
class Guide:
    """An image as the lattice takes it.

    Attributes:
        pixels: ``[B, channels, *size]`` or, for the whole batch, ``[1, channels, *size]``; uint8,
            float32 or float64, of any strides.
        peak: the largest magnitude of an image that came as floats; None for integers, and where
            the values are on a GPU.
    """

    pixels: Tensor
    peak: float | None


def is_array(value: Any) -> bool:
    """Tells whether results for ``value`` should be NumPy arrays: it is one, or a PIL image."""
    return isinstance(value, np.ndarray) or _is_pil(value)


def _is_pil(value: Any) -> bool:
    pil = sys.modules.get("PIL.Image")  # not imported: no PIL image either
    return pil is not None and isinstance(value, pil.Image)


def as_tensor(name: str, value: Any, label_map: bool = False) -> Tensor:
    """Returns a tensor of the data of a tensor, array or PIL image, shared where it can be.

    Raises:
        TypeError: ``value`` is something else, or of a dtype that torch does not have.
        ValueError: it is a PIL image whose mode does not hold intensities or, for a label map,
            labels.
    """
    if isinstance(value, Tensor):
        return value
    if _is_pil(value):
        modes = _PIL_LABELS if label_map else _PIL_IMAGES
        if value.mode not in modes:
            raise ValueError(
                f"expected {name} of PIL mode {', '.join(modes)}, found {value.mode!r}"
                + ("" if label_map else ': pass image.convert("RGB")')
            )
        value = np.asarray(value)
    if not isinstance(value, np.ndarray):
        raise TypeError(
            f"expected {name} to be a torch.Tensor, NumPy array or PIL image, "
            f"found {type(value).__name__}"
        )
    if value.dtype.kind not in "biuf" or value.dtype.itemsize > 8:
        raise TypeError(f"expected {name} of a real dtype of at most 8 bytes, found {value.dtype}")
    # torch has neither negative strides, nor foreign byte orders, nor read-only memory.
    native = value.dtype.newbyteorder("=")
    if value.dtype != native or not value.flags.writeable or min(value.strides, default=0) < 0:
        value = np.array(value, dtype=native)
    return torch.from_numpy(value)


def prepare_image(
    image: Any,
    layout: str,
    size: tuple[int, int],
    batch: int | None,
    device: torch.device,
    dtype: torch.dtype,
    resizable: bool,
) -> Guide:
    """Checks an image and brings it to ``[B or 1, channels, H, W]`` without a copy if it can.

    Args:
        image: tensor, array or PIL image.
        layout: one of ``IMAGE_LAYOUTS``; see :func:`find_layout`.
        size: ``(h, w)`` of the logits.
        batch: of the logits; None where they have no batch axis.
        device: of the logits; arrays and PIL images are moved there.
        dtype: float32 or float64, in which the lattice is wanted.
        resizable: whether the logits may be enlarged to the size of the image.

    Raises:
        TypeError: wrong kind or dtype.
        ValueError: wrong shape, device, or an entry that is not finite.
    """
    tensor = as_tensor("image", image)
    if tensor.dtype == torch.bool or tensor.is_complex():
        raise TypeError(f"expected image of dtype uint8 or floating, found {tensor.dtype}")
    if isinstance(image, Tensor) and tensor.device != device:
        raise ValueError(f"expected image on {device} as the logits, found {tensor.device}")
    found = find_layout(tuple(tensor.shape), layout, size, batch, resizable)
    peak = check_image_values("image", tensor)
    tensor = tensor.to(device)
    if tensor.dim() == len(found):
        tensor = tensor[None]
    if found == "HW":
        tensor = tensor[:, None]
    elif found == "HWC":
        tensor = tensor.permute(0, 3, 1, 2)
    return Guide(lattice_pixels(tensor, dtype), peak)


def find_layout(
    shape: tuple[int, ...],
    layout: str,
    size: tuple[int, int],
    batch: int | None,
    resizable: bool,
) -> str:
    """Finds which axes of an image are channels, rows and columns.

    Every layout stands with or without a leading batch axis of the logits' batch size. A layout is
    possible if it gives the image exactly the size of the logits; if no layout does, and logits
    may be enlarged, if it gives a size that is nowhere smaller. ``"auto"`` takes the only possible
    layout, whatever the number of channels.

    Returns:
        ``"CHW"``, ``"HWC"`` or ``"HW"``.

    Raises:
        ValueError: no layout is possible, or more than one.
    """
    check_choice("image_layout", layout, IMAGE_LAYOUTS)
    candidates = [layout] if layout != "auto" else ["CHW", "HWC", "HW"]
    exact, larger = [], []
    for candidate in candidates:
        axes = dict(zip(candidate, shape[-len(candidate) :], strict=False))
        batched = len(shape) == len(candidate) + 1
        if not (len(shape) == len(candidate) or (batched and shape[0] == batch)):
            continue
        if math.prod(shape) == 0:
            continue
        if (axes["H"], axes["W"]) == size:
            exact.append(candidate)
        elif resizable and axes["H"] >= size[0] and axes["W"] >= size[1]:
            larger.append(candidate)
    possible = exact or larger
    if len(possible) == 1:
        return possible[0]
    if possible:
        raise ValueError(
            f"image of shape {list(shape)} may be {' or '.join(possible)} for logits of size "
            f"{list(size)}: pass image_layout"
        )
    raise ValueError(
        f"expected image {_expected_shapes(candidates, size, batch, resizable)}, "
        f"found shape {list(shape)}"
    )


def _expected_shapes(
    candidates: Sequence[str], size: tuple[int, int], batch: int | None, resizable: bool
) -> str:
    h, w = size
    spelled = {"CHW": f"[channels, {h}, {w}]", "HWC": f"[{h}, {w}, channels]", "HW": f"[{h}, {w}]"}
    shapes = " or ".join(spelled[candidate] for candidate in candidates)
    if batch is not None:
        shapes += f" or a batch of {batch} such"
    return f"of shape {shapes}" + (", or a larger size" if resizable else "")


def check_image_values(name: str, image: Tensor) -> float | None:
    """Returns the largest magnitude of a floating image; None for integers, and on a GPU.

    Raises:
        ValueError: an entry is not finite.
    """
    if not image.is_floating_point() or not values_at_hand(image):
        return None
    low, high = (bound.item() for bound in torch.aminmax(image))
    if not (math.isfinite(low) and math.isfinite(high)):
        wrong = ~torch.isfinite(image)
        raise ValueError(f"expected {name} to be finite, found {first(name, image, wrong)}")
    return float(max(-low, high))


def lattice_pixels(image: Tensor, dtype: torch.dtype) -> Tensor:
    """Converts pixels to uint8 or ``dtype``, so that the lattice comes out in ``dtype``."""
    if image.dtype == torch.uint8 and dtype == torch.float32:
        return image  # the operator converts on the fly
    return image.to(dtype)


def prepare_scores(name: str, scores: Tensor) -> None:
    """Checks kind and shape of logits or probabilities ``[C, H, W]`` or ``[B, C, H, W]``."""
    if not scores.is_floating_point():
        raise TypeError(
            f"expected {name} of a floating dtype, found {scores.dtype}; "
            'pass a label map with input="labels"'
        )
    if scores.dim() not in (3, 4) or scores.numel() == 0:
        raise ValueError(
            f"expected {name} of shape [C, H, W] or [B, C, H, W], none of them 0, "
            f"found {list(scores.shape)}"
        )


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Returns the dtype in which tensors of ``dtype`` are computed: float32, or float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32
