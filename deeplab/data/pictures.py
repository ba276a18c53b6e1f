"""Reading pictures, of any kind that Pillow knows, as RGB of 8 bits a channel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

# Their range is the file's own business: 10 or 12 bits in 16, or any floats.
_DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")


class PictureError(OSError):
    """A picture that cannot be read, with its path and the reason."""


def read_image(path: Path, *, upright: bool = False) -> Tensor:
    """A picture as RGB, uint8 ``[3, H, W]``, its pixels as stored.

    An orientation that a camera noted in the file is not applied unless asked for: label images do
    not know of it.

    Args:
        path: the file.
        upright: turn the picture as its EXIF orientation says.

    Raises:
        FileNotFoundError: there is no such file.
        PictureError: it is no picture, a damaged one, or has more than 8 bits a channel.
    """
    try:
        with Image.open(path) as image:
            if image.mode in _DEEP_MODES:
                raise PictureError(f"{path}: expected 8 bits a channel, found mode {image.mode}")
            turned = ImageOps.exif_transpose(image) if upright else image
            pixels = np.array(turned.convert("RGB"))
    except (FileNotFoundError, PictureError):
        raise
    except UnidentifiedImageError:
        raise PictureError(f"{path}: not an image, or of an unknown format") from None
    except Exception as error:  # whatever a decoder stumbles over
        why = error.strerror if isinstance(error, OSError) else None
        raise PictureError(f"{path}: {why or error or 'damaged'}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def is_turned(path: Path) -> bool:
    """Whether a camera noted in the file that the picture is to be turned, or mirrored."""
    try:
        with Image.open(path) as image:
            return image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
    except Exception:  # what cannot be read is not turned, and is reported by who reads it
        return False
