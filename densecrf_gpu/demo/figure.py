"""The demo's picture: photograph, coarse, refined and hand-made labels in a row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from densecrf_gpu.cli.masks import outline

from .scene import CLASSES, Scene

_PANEL = 312  # pixels, a side
_MARGIN = 28
_GAP = 16
_HEAD = 66  # above the panels: title and subtitle
_FOOT = 58  # below them: the legend
_PAPER = (255, 255, 255)
_INK = (31, 41, 55)
_FAINT = (107, 114, 128)
_TITLE, _TEXT = 21, 15  # font sizes


def colorize(
    image: NDArray[np.uint8], labels: NDArray[np.integer], colors: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """The photograph in shades of the colour of each pixel's class, classes parted by a white line.

    Args:
        image: [H, W, 3].
        labels: [H, W], 0 for background, which fades to light grey.
        colors: [C, 3].
    """
    luma = (image @ np.array([0.299, 0.587, 0.114]))[..., None] / 255  # [H, W, 1], BT.601
    faded = 255 * (0.72 + 0.22 * luma)
    shaded = colors[labels] * (0.42 + 0.58 * luma) + 70 * luma**2  # the last term: highlights
    shown = np.where((labels == 0)[..., None], faded, shaded)
    shown[outline(labels)] = 255
    result: NDArray[np.uint8] = np.minimum(shown, 255).astype(np.uint8)
    return result


def draw_figure(
    scene: Scene,
    coarse: NDArray[np.integer],
    refined: NDArray[np.integer],
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    caption: str,
) -> Image.Image:
    """Draws the four panels, their titles and the scores of the classes.

    Args:
        scene: photograph, hand-made labels and colours.
        coarse: labels [H, W] before refinement.
        refined: labels [H, W] after it.
        before: intersection over union [C] of ``coarse``.
        after: the same of ``refined``.
        caption: below the title of the refined panel, after its score.
    """
    height, width = scene.labels.shape

    def shown(labels: NDArray[np.integer]) -> NDArray[np.uint8]:
        return colorize(scene.image, labels, scene.colors)

    panels = [
        ("Photograph", f"{width} x {height} pixels", scene.image),
        ("Coarse logits", f"mean IoU {before.mean():.1%}", shown(coarse)),
        ("Refined", f"mean IoU {after.mean():.1%}, {caption}", shown(refined)),
        ("Drawn by hand", "the ground truth", shown(scene.labels)),
    ]
    size = (
        2 * _MARGIN + len(panels) * _PANEL + (len(panels) - 1) * _GAP,
        _HEAD + _PANEL + _FOOT,
    )
    figure = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(figure)
    for column, (title, subtitle, pixels) in enumerate(panels):
        left = _MARGIN + column * (_PANEL + _GAP)
        panel = Image.fromarray(pixels).resize((_PANEL, _PANEL), Image.Resampling.LANCZOS)
        figure.paste(panel, (left, _HEAD))
        pen.text((left, 12), title, _INK, ImageFont.load_default(_TITLE))
        pen.text((left, 38), subtitle, _FAINT, ImageFont.load_default(_TEXT))
    _draw_legend(pen, size, scene.colors, before, after)
    return figure


def _draw_legend(
    pen: ImageDraw.ImageDraw,
    size: tuple[int, int],
    colors: NDArray[np.uint8],
    before: NDArray[np.float64],
    after: NDArray[np.float64],
) -> None:
    """One entry a class, evenly spread: its colour, its name, its score before and after."""
    font = ImageFont.load_default(_TEXT)
    step = (size[0] - 2 * _MARGIN) / len(CLASSES)
    middle = size[1] - _FOOT // 2
    for label, name in enumerate(CLASSES):
        left = round(_MARGIN + label * step)
        swatch = (left, middle - 8, left + 16, middle + 8)
        pen.rounded_rectangle(swatch, radius=4, fill=tuple(colors[label].tolist()))
        text = f"{name}  {before[label]:.1%} to {after[label]:.1%}"
        pen.text((left + 25, middle), text, _INK, font, anchor="lm")
