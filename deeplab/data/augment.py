"""The papers' augmentation, on any device: scale, crop, flip, pad with void."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from kornia import enhance
from kornia.geometry.transform import warp_affine
from torch import Tensor

from .dataset import Sample
from .labels import IGNORE


@dataclass(frozen=True)
class Augmentation:
    """What happens to a sample before a network is trained on it.

    The picture is enlarged by a random factor and flipped at random; a window is cut out of it at
    random, and where the picture is smaller than the window it lies in it at random. What the
    picture does not fill has the mean colour and is void. One interpolation does all of it:
    bilinear for the picture, nearest neighbour for the labels.

    Args:
        crop: height and width of the window in pixels.
        scales: the smallest and the largest factor.
        scale_step: the factors are this far apart; 0 allows every factor between.
        flip: half of all pictures are mirrored.
        color_jitter: brightness, contrast and saturation change by up to this share; 0 in the
            papers.
    """

    crop: tuple[int, int]
    scales: tuple[float, float] = (1.0, 1.0)
    scale_step: float = 0.0
    flip: bool = True
    color_jitter: float = 0.0

    def __call__(
        self,
        sample: Sample,
        seed: int,
        normalize: Callable[[Tensor, float], Tensor],
        device: torch.device,
    ) -> tuple[Tensor, Tensor]:
        """Draws one window.

        Args:
            sample: on the CPU.
            seed: equal seeds draw equal windows.
            normalize: from RGB ``[1, 3, H, W]`` and its full intensity to what the network wants.
            device: where the work is done.

        Returns:
            The normalised picture ``[3, *crop]`` and its label, int64 ``[*crop]``.
        """
        rng = np.random.default_rng(seed)
        matrix = torch.from_numpy(self._matrix(rng, *sample.label.shape)[None])
        matrix = matrix.to(device, torch.float32)
        image = sample.image.to(device, non_blocking=True)[None] / 255.0
        if self.color_jitter:
            image = self._jitter(image, rng)
        # A normalised zero is the mean colour.
        image = warp_affine(
            normalize(image, 1.0), matrix, self.crop, padding_mode="zeros", align_corners=True
        )
        label = sample.label.to(device, torch.float32, non_blocking=True)[None, None] - IGNORE
        label = warp_affine(
            label, matrix, self.crop, mode="nearest", padding_mode="zeros", align_corners=True
        )
        return image[0], (label[0, 0] + IGNORE).round().long()

    def _matrix(self, rng: np.random.Generator, *size: int) -> np.ndarray:
        """Where the centres of the picture's pixels come to lie in the window: ``[2, 3]``."""
        scale = self._scale(rng)
        matrix = np.zeros((2, 3))
        for row, axis in ((0, 1), (1, 0)):  # x, y
            scaled, wanted = max(round(size[axis] * scale), 1), self.crop[axis]
            low, high = sorted((0, scaled - wanted))
            offset = int(rng.integers(low, high + 1))
            matrix[row, row] = scale
            matrix[row, 2] = 0.5 * scale - 0.5 - offset
        if self.flip and rng.random() < 0.5:
            matrix[0] *= -1
            matrix[0, 2] += self.crop[1] - 1
        return matrix

    def _scale(self, rng: np.random.Generator) -> float:
        low, high = self.scales
        if not self.scale_step:
            return float(rng.uniform(low, high))
        # All steps up to the largest factor; a share of a step forgives what rounding took.
        steps = int((high - low) / self.scale_step + 1e-6)
        return low + self.scale_step * int(rng.integers(0, steps + 1))

    def _jitter(self, image: Tensor, rng: np.random.Generator) -> Tensor:
        brightness, contrast, saturation = rng.uniform(
            1 - self.color_jitter, 1 + self.color_jitter, 3
        )
        image = enhance.adjust_brightness_accumulative(image, float(brightness))
        image = enhance.adjust_contrast_with_mean_subtraction(image, float(contrast))
        return enhance.adjust_saturation_with_gray_subtraction(image, float(saturation))
