"""Label images: read with the way they store labels, so that results are stored the same way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from .arrays import load_array, replacing
from .errors import FileError

_MAX_COLORS = 255  # of a label image in RGB; photographs and JPEGs have more
_UNKNOWN = -1  # stands for black pixels of an RGB label image


@dataclass(frozen=True)
class MaskStyle:
    """How a PNG stores labels.

    Attributes:
        palette: colours [n, 3] of an indexed PNG; None for a grey one.
        scale: the grey value of label 1: 255 for two-valued masks.
    """

    palette: NDArray[np.uint8] | None
    scale: int = 1


@dataclass(frozen=True)
class LabelMap:
    """Labels int64 [H, W], their number of classes and unknown label, and how they were stored."""

    labels: NDArray[np.int64]
    num_classes: int
    ignore_index: int | None
    style: MaskStyle


def voc_palette() -> NDArray[np.uint8]:
    """The colours [256, 3] that PASCAL VOC gives to labels: bits of the label, dealt to r, g, b."""
    index = np.arange(256)
    colors = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= ((index >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return colors


def load_labels(
    path: Path,
    *,
    num_classes: int | None,
    ignore_index: int | None,
    binary: bool,
    by_color: bool,
    key: str | None,
) -> LabelMap:
    """Reads a label map from a PNG or an array file.

    Args:
        path: a PNG (palette, grey, two-valued or RGB, where each colour is a label and black is
            unknown), or a .npy, .npz or .pt file of integers [H, W].
        num_classes: the largest label + 1 if None.
        ignore_index: the label of unknown pixels; None where all are known.
        binary: labels are 0 and not 0.
        by_color: a PNG of any mode is read as RGB.
        key: the entry of an array file.

    Raises:
        FileError: the file is unreadable or holds no labels.
    """
    style = MaskStyle(voc_palette())
    if path.suffix.lower() == ".png":
        with open_image(path) as image:
            if by_color or image.mode in ("RGB", "RGBA"):
                return _from_colors(path, np.array(image.convert("RGB")), num_classes, ignore_index)
            if image.mode == "1":
                binary = True
            elif image.mode == "P":
                style = MaskStyle(np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3))
            elif image.mode in ("L", "I", "I;16"):
                style = MaskStyle(None)
            else:
                raise FileError(f"{path}: expected labels, found a PNG of mode {image.mode}")
            labels = np.array(image).astype(np.int64)
    else:
        tensor = load_array(path, key)
        if tensor.is_floating_point() or tensor.is_complex():
            raise FileError(f"{path}: expected labels of an integer type, found {tensor.dtype}")
        labels = tensor.to(torch.int64).numpy()
    if labels.ndim == 3 and labels.shape[0] == 1:
        labels = labels[0]
    if labels.ndim != 2 or labels.size == 0:
        raise FileError(f"{path}: expected labels [H, W], found {list(labels.shape)}")
    if binary:
        style = MaskStyle(None, scale=255)
        return LabelMap((labels != 0).astype(np.int64), num_classes or 2, None, style)
    if num_classes is None:
        num_classes = _count_classes(path, labels, ignore_index)
    return LabelMap(labels, num_classes, ignore_index, style)


def _count_classes(path: Path, labels: NDArray[np.int64], ignore_index: int | None) -> int:
    known = labels if ignore_index is None else labels[labels != ignore_index]
    if known.size and known.max() > 0:
        return int(known.max()) + 1
    values = " and ".join(map(str, np.unique(labels)))
    raise FileError(
        f"{path}: holds only {values}: say --num-classes, or --binary for a mask of 0 and not 0"
    )


def _from_colors(
    path: Path, pixels: NDArray[np.uint8], num_classes: int | None, ignore_index: int | None
) -> LabelMap:
    """Labels of an RGB image, numbered by r + 256 g + 65536 b as in pydensecrf's example."""
    red, green, blue = pixels.astype(np.int64).transpose(2, 0, 1)
    packed, labels = np.unique(red + (green << 8) + (blue << 16), return_inverse=True)
    labels = labels.reshape(red.shape)
    unknown = None
    if packed[0] == 0 and ignore_index is not None:  # black, which sorts first
        packed, labels, unknown = packed[1:], labels - 1, _UNKNOWN
    if not 1 < len(packed) <= _MAX_COLORS:
        raise FileError(
            f"{path}: expected a colour for each of 2 to {_MAX_COLORS} labels, and black for "
            f"unknown, found {len(packed)} colours"
        )
    palette = np.stack([packed & 255, packed >> 8 & 255, packed >> 16], axis=1).astype(np.uint8)
    return LabelMap(labels, num_classes or len(packed), unknown, MaskStyle(palette))


def save_labels(path: Path, labels: NDArray[np.int64], style: MaskStyle) -> None:
    """Writes labels [H, W] as PNG: with the palette of ``style``, or as grey values.

    Raises:
        FileError: PNG cannot hold labels this large.
    """
    stored = labels * style.scale
    largest = int(stored.max())
    if largest >= 65536:
        raise FileError(f"{path}: expected labels below 65536 for a PNG, found {largest}")
    image = Image.fromarray(stored.astype(np.uint8 if largest < 256 else np.uint16))
    if style.palette is not None and largest < 256:
        image.putpalette(style.palette.tobytes())
    with replacing(path) as file:
        image.save(file, format="PNG")


def save_overlay(
    path: Path, image: NDArray[np.integer], labels: NDArray[np.int64], style: MaskStyle
) -> None:
    """Draws labels over an image in the colours of ``style``, white lines between them."""
    palette = voc_palette() if style.palette is None else style.palette
    colors = palette[labels % len(palette)]  # [H, W, 3]
    luminous = image if image.ndim == 3 else image[..., None]
    if luminous.dtype != np.uint8:
        luminous = luminous.astype(np.float64) * (255 / max(1, luminous.max()))
    blend = (0.5 * luminous + 0.5 * colors).astype(np.uint8)
    blend[outline(labels)] = 255
    save_picture(path, blend)


def save_picture(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Writes a picture [H, W, 3] as PNG; FileError if it cannot be written."""
    with replacing(path) as file:
        Image.fromarray(pixels).save(file, format="PNG")


def outline(labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Pixels [H, W] whose right or lower neighbour has another label."""
    edges = np.zeros(labels.shape, bool)
    edges[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edges[:-1] |= labels[:-1] != labels[1:]
    return edges


def load_image(path: Path) -> NDArray[np.integer]:
    """Reads an image: uint8 [H, W, 3], or [H, W] where it is grey, uint16 for 16 bits.

    Raises:
        FileError: the file is not an image, or broken.
    """
    with open_image(path) as image:
        if image.mode in ("I", "I;16", "I;16B"):
            return np.array(image).astype(np.uint16)
        return np.array(image.convert("L" if image.mode in ("L", "LA") else "RGB"))


def open_image(path: Path) -> Image.Image:
    """Opens and decodes an image.

    Raises:
        FileError: the file is missing, not an image, or broken.
    """
    try:
        image = Image.open(path)
        image.load()
    except UnidentifiedImageError:
        raise FileError(f"{path}: not an image, or of an unknown format") from None
    except Image.DecompressionBombError as error:
        raise FileError(f"{path}: {error}") from None
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}") from None
    return image
