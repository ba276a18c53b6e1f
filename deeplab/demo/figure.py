"""The demo's picture: the photograph and three ways to label it, two by two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from deeplab.labelling import Labelling
from deeplab.trimap import outline_pixels

_MARGIN = 28
_GAP = 20
_HEAD = 44  # above each panel: its title
_FOOT = 52  # below all: the legend
_PAPER = (255, 255, 255)
_INK = (31, 41, 55)
_FAINT = (107, 114, 128)
_TITLE, _TEXT = 20, 14  # font sizes
_TINT = 0.62  # of a class's colour; the rest is the photograph's brightness
_VOID = 0.25  # brightness of pixels without a class
_NOTHING = -1


class Panel(NamedTuple):
    """A way to label the photograph: labels int64 ``[H, W]``, void ones beyond the classes."""

    title: str
    subtitle: str
    labels: Tensor


def colorize(image: Tensor, labels: Tensor, labelling: Labelling) -> NDArray[np.uint8]:
    """The photograph in the colours of its classes, white lines between them, void dark.

    Args:
        image: uint8 ``[3, H, W]``.
        labels: int64 ``[H, W]``.
        labelling: the colours.

    Returns:
        ``[H, W, 3]``.
    """
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]  # BT.601
    grey = (image * weights).sum(0)[..., None]  # [H, W, 1]
    known = (labels < len(labelling.classes))[..., None]
    colors = labelling.colors().float()[labels.clamp_max(len(labelling.classes) - 1)]
    shown = torch.where(known, _TINT * colors + (1 - _TINT) * grey, _VOID * grey)
    shown[outline_pixels(labels, _NOTHING)] = 255
    result: NDArray[np.uint8] = shown.to(torch.uint8).numpy()
    return result


def draw_figure(image: Tensor, panels: Sequence[Panel], labelling: Labelling) -> Image.Image:
    """Draws the photograph, three panels and a legend.

    Args:
        image: uint8 ``[3, H, W]``.
        panels: three.
        labelling: names and colours of the classes.
    """
    _, height, width = image.shape
    cells = [("Photograph", f"{width} x {height} pixels", image.permute(1, 2, 0).numpy())]
    cells += [(p.title, p.subtitle, colorize(image, p.labels, labelling)) for p in panels]
    size = (
        2 * _MARGIN + 2 * width + _GAP,
        2 * (_HEAD + height) + _GAP + _FOOT,
    )
    figure = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(figure)
    title, text = ImageFont.load_default(_TITLE), ImageFont.load_default(_TEXT)
    for index, (name, note, pixels) in enumerate(cells):
        left = _MARGIN + index % 2 * (width + _GAP)
        top = index // 2 * (_HEAD + height + _GAP)
        base = top + _HEAD - 12
        pen.text((left, base), name, _INK, title, anchor="ls")
        pen.text((left + width, base), note, _FAINT, text, anchor="rs")
        figure.paste(Image.fromarray(pixels), (left, top + _HEAD))
    _draw_legend(pen, size, labelling, [panel.labels for panel in panels])
    return figure


def _draw_legend(
    pen: ImageDraw.ImageDraw, size: tuple[int, int], labelling: Labelling, maps: Sequence[Tensor]
) -> None:
    """The colours of the classes that are in the panels, in a row."""
    found = np.unique(torch.stack(list(maps)).numpy())
    shown = [int(label) for label in found if label < len(labelling.classes)]
    font = ImageFont.load_default(_TEXT)
    middle = size[1] - _FOOT // 2
    widths = [19 + pen.textlength(labelling.classes[label], font) for label in shown]
    gap = (size[0] - 2 * _MARGIN - sum(widths)) / max(1, len(shown) - 1)
    left = float(_MARGIN)
    for label, width in zip(shown, widths, strict=True):
        swatch = (left, middle - 7, left + 14, middle + 7)
        pen.rounded_rectangle(swatch, radius=3, fill=labelling.palette[label])
        pen.text((left + 19, middle), labelling.classes[label], _INK, font, anchor="lm")
        left += width + min(gap, 60)
