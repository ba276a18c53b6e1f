"""Reading label images, and mapping their values to class numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

IGNORE = 255
"""The label of pixels that neither losses nor scores look at, in every data set opened here."""

Color = tuple[int, int, int]

_SHOWN = 8  # values in a message
_COUNTED = 2**16  # values up to here are counted rather than sorted


def colors_of(palette: Sequence[Color], void: Color | None = None) -> dict[Color, int]:
    """The class number of each colour of a palette, and ``IGNORE`` of the colour of void."""
    colors = {color: label for label, color in enumerate(palette)}
    return colors if void is None else {**colors, void: IGNORE}


class DataError(ValueError):
    """A data set that is not as it should be."""


class LabelError(DataError):
    """A label image that cannot be read or holds values that are no class's."""


def read_values(path: Path) -> NDArray[np.int64]:
    """The numbers in a label image: ``[H, W]``, or ``[H, W, 3]`` where it holds colours.

    Of a palette PNG these are the indices, whatever the palette's colours; of a ``.mat`` file of
    SBD, the classes.

    Raises:
        LabelError: the file is no picture, or its pixels are neither numbers nor colours.
        FileNotFoundError: there is no such file.
        ModuleNotFoundError: the file is SBD's and scipy, which reads it, is not installed.
    """
    if path.suffix == ".mat":
        return _read_sbd(path)
    try:
        with Image.open(path) as image:
            if image.mode in ("RGB", "RGBA"):
                return np.array(image.convert("RGB")).astype(np.int64)
            if image.mode in ("P", "L", "1", "I", "I;16", "I;16B"):
                return np.array(image).astype(np.int64)
            mode = image.mode
    except FileNotFoundError:
        raise
    except UnidentifiedImageError as error:
        raise LabelError(f"{path} is no picture, or of an unknown format") from error
    except Exception as error:  # whatever a decoder stumbles over
        raise LabelError(f"{path} cannot be read: {error or 'damaged'}") from error
    raise LabelError(f"{path} has pixels of mode {mode}, expected indices, a palette or RGB")


def _read_sbd(path: Path) -> NDArray[np.int64]:
    """The field ``Segmentation`` of the structure ``GTcls``, ``[H, W]``."""
    try:
        from scipy.io import loadmat
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{path} is a MATLAB file, which scipy reads: pip install 'densecrf-gpu[sbd]'"
        ) from error
    try:
        with path.open("rb") as file:
            held = loadmat(file, variable_names=["GTcls"])
        classes = np.asarray(held["GTcls"]["Segmentation"][0, 0])
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever the reader stumbles over
        raise LabelError(f"{path} holds no GTcls.Segmentation: {error or 'damaged'}") from error
    if classes.ndim != 2 or classes.dtype.kind not in "ui":
        found = f"{classes.dtype} {list(classes.shape)}"
        raise LabelError(f"{path}: expected GTcls.Segmentation to be numbers [H, W], found {found}")
    return classes.astype(np.int64)


def stored_palette(path: Path) -> list[Color] | None:
    """The colours of a palette PNG; None of any other picture."""
    with Image.open(path) as image:
        if image.mode != "P":
            return None
        flat = image.getpalette("RGB") or []
    return [(flat[i], flat[i + 1], flat[i + 2]) for i in range(0, len(flat) - 2, 3)]


class ValueMap:
    """From the values of label images to class numbers and ``IGNORE``.

    Args:
        values: class number, or ``IGNORE``, of each value that may occur, from 0 to 255.
        colors: class number, or ``IGNORE``, of each RGB, for label images that hold colours.
    """

    def __init__(
        self, values: Mapping[int, int], colors: Mapping[Color, int] | None = None
    ) -> None:
        self._table = np.full(256, -1, dtype=np.int64)
        for value, label in values.items():
            self._table[value] = label
        self._has_colors = bool(colors)
        packed = {r << 16 | g << 8 | b: label for (r, g, b), label in (colors or {}).items()}
        self._colors = np.array(sorted(packed), dtype=np.int64)
        self._of_color = np.array([packed[c] for c in sorted(packed)], dtype=np.int64)

    def unknown(self, found: NDArray[np.int64]) -> list[int] | list[Color]:
        """The values, or colours, of a label image that are no class's."""
        if found.ndim == 2:
            values = _occurring(found)
            legal = (values >= 0) & (values < 256)
            legal[legal] = self._table[values[legal]] >= 0
            return [int(value) for value in values[~legal]]
        strange = np.setdiff1d(_packed(found), self._colors)
        return [(int(c) >> 16, int(c) >> 8 & 255, int(c) & 255) for c in strange]

    def __call__(self, found: NDArray[np.int64], source: str) -> Tensor:
        """Class numbers, int64 ``[H, W]``.

        Raises:
            LabelError: a value is no class's; the message names ``source``.
        """
        if unknown := self.unknown(found):
            raise LabelError(f"{source}: {self.describe(unknown)}")
        if found.ndim == 2:
            return torch.from_numpy(self._table[found])
        return torch.from_numpy(self._of_color[np.searchsorted(self._colors, _packed(found))])

    def describe(self, unknown: Sequence[int] | Sequence[Color]) -> str:
        """What is wrong with values that are no class's, in a sentence."""
        shown = ", ".join(str(value) for value in unknown[:_SHOWN])
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        if unknown and isinstance(unknown[0], tuple):
            if not self._has_colors:
                return "found colours, expected class numbers: the classes have no colours"
            return f"found the colours {shown}{more}, which are no class's"
        legal = _ranges([int(v) for v in np.flatnonzero(self._table >= 0)])
        return f"found the values {shown}{more}, expected {legal}"


def _occurring(found: NDArray[np.int64]) -> NDArray[np.int64]:
    """The values of an array, ascending."""
    if found.size and (found.min() < 0 or found.max() > _COUNTED):
        return np.unique(found)  # sorts all of them
    values: NDArray[np.int64] = np.flatnonzero(np.bincount(found.ravel()))
    return values


def _packed(colors: NDArray[np.int64]) -> NDArray[np.int64]:
    """RGB ``[..., 3]`` as one number each, ``[...]``."""
    packed: NDArray[np.int64] = colors[..., 0] << 16 | colors[..., 1] << 8 | colors[..., 2]
    return packed


def _ranges(values: Sequence[int]) -> str:
    """``[0, 1, 2, 255]`` as "0…2, 255"."""
    spans: list[list[int]] = []
    for value in values:
        if spans and value == spans[-1][1] + 1:
            spans[-1][1] = value
        else:
            spans.append([value, value])
    return ", ".join(f"{first}" if first == last else f"{first}…{last}" for first, last in spans)
