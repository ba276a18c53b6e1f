"""From pictures to class scores and labels: scales, flips, windows, and the CRF behind them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from densecrf_gpu import CRFParams, crf_refine

from .layers import ratio, rescale, resize
from .models import DeepLab
from .tiles import windows

# v3, section 4.1: what its authors average over.
PAPER_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)

_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, kw_only=True)
class CRF:
    """The fully connected CRF behind a network.

    Args:
        params: bandwidths and weights; colours in 0…255.
        iterations: of mean field, 10 in DeepLab v1 and v2.
        normalization: of both kernels.
    """

    params: CRFParams
    iterations: int = 10
    normalization: str = "symmetric"

    def __call__(self, scores: Tensor, images: Tensor, output: str = "labels") -> Tensor:
        """Refines scores ``[B, C, H, W]`` by uint8 RGB ``[B, 3, H, W]``, on their device.

        Returns:
            int64 ``[B, H, W]``, or for ``output="probabilities"`` ``[B, C, H, W]`` as the scores.
        """
        return crf_refine(
            scores,
            images,
            self.params,
            iterations=self.iterations,
            normalization=self.normalization,
            output=output,
            image_layout="CHW",
        )


class Segmenter:
    """Labels pictures with a network; everything stays on the device of the pictures.

    With one scale, no flip and no window the scores are the network's own. Otherwise they are the
    logarithms of probabilities averaged over scales, flips (v3, section 4.1) and windows.

    Args:
        network: a DeepLab, a ``HuggingFaceNetwork``, or any callable from RGB in 0…255, floating
            ``[B, 3, H, W]``, to scores ``[B, C, h, w]`` at its own stride, which are enlarged
            bilinearly. A module is put into evaluation mode.
        scales: of the pictures; the probabilities of all are averaged.
        flip: also average over the mirrored pictures.
        window: (height, width) of sliding windows, at each scale; None looks at whole pictures.
        autocast: the dtype of the network's convolutions; None computes in float32.
        align_corners: of enlarging and of scaling, see ``rescale``; None takes the DeepLab's, and
            False of others.

    Raises:
        ValueError: there is no scale, or one is not positive.
    """

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        *,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        window: tuple[int, int] | None = None,
        autocast: torch.dtype | None = None,
        align_corners: bool | None = None,
    ) -> None:
        if not scales or min(scales) <= 0:
            raise ValueError(f"expected scales to be positive, found {tuple(scales)}")
        if isinstance(network, nn.Module):
            network.eval()
        self._network = network
        self._scales = tuple(ratio(scale) for scale in scales)
        self._flip = flip
        self._window = window
        self._autocast = autocast
        if align_corners is None:
            align_corners = isinstance(network, DeepLab) and network.config.align_corners
        self._align_corners = align_corners

    @torch.inference_mode()
    def scores(self, images: Tensor) -> Tensor:
        """Class scores, log-probabilities up to a number per pixel.

        Args:
            images: uint8 RGB ``[B, 3, H, W]``.

        Returns:
            float32 ``[B, C, H, W]``.

        Raises:
            TypeError: the images are not uint8.
            ValueError: their shape is another.
        """
        _check(images)
        pictures = images.float()
        size = (images.shape[2], images.shape[3])
        if self._passes_once(size):
            return self._enlarged(pictures, size)
        total: Tensor | None = None
        for scale in self._scales:
            align = self._align_corners
            scaled = pictures if scale == 1 else rescale(pictures, scale, align)
            part = self._probabilities(scaled, size)
            if self._flip:
                part += self._probabilities(scaled.flip(3), size).flip(3)
            total = part if total is None else total.add_(part)
        assert total is not None
        passes = len(self._scales) * (2 if self._flip else 1)
        return total.div_(passes).clamp_min_(_TINY).log_()

    @torch.inference_mode()
    def compact_scores(self, images: Tensor) -> Tensor:
        """Scores to keep: at the network's stride where one pass gives them, else as ``scores``.

        ``enlarge`` makes the others of them.
        """
        _check(images)
        if self._passes_once((images.shape[2], images.shape[3])):
            return self._at_stride(images.float())
        return self.scores(images)

    def enlarge(self, scores: Tensor, size: tuple[int, int]) -> Tensor:
        """Scores ``[B, C, h, w]`` at (height, width) ``size``, by the network's convention."""
        return scores if scores.shape[2:] == size else resize(scores, size, self._align_corners)

    @torch.inference_mode()
    def labels(self, images: Tensor, crf: CRF | None = None) -> Tensor:
        """int64 ``[B, H, W]`` of uint8 RGB ``[B, 3, H, W]``, refined if there is a CRF."""
        scores = self.scores(images)
        return scores.argmax(1) if crf is None else crf(scores, images)

    @torch.inference_mode()
    def probabilities(self, images: Tensor, crf: CRF | None = None) -> Tensor:
        """float32 ``[B, C, H, W]`` of uint8 RGB ``[B, 3, H, W]``, refined if there is a CRF."""
        scores = self.scores(images)
        return scores.softmax(1) if crf is None else crf(scores, images, "probabilities")

    def _probabilities(self, pictures: Tensor, size: tuple[int, int]) -> Tensor:
        """One pass over pictures of any size, at ``size``. Windows are averaged before that."""
        own = (pictures.shape[2], pictures.shape[3])
        if self._window is None or self._fits(own):
            return self._enlarged(pictures, size).softmax(1)
        total: Tensor | None = None
        seen = pictures.new_zeros(own)
        for rows, columns in windows(own, self._window):
            patch = pictures[:, :, rows, columns]
            found = self._enlarged(patch, (patch.shape[2], patch.shape[3])).softmax(1)
            if total is None:
                total = found.new_zeros((*found.shape[:2], *own))
            total[:, :, rows, columns] += found
            seen[rows, columns] += 1
        assert total is not None
        mean = total.div_(seen)
        return mean if own == size else resize(mean, size, self._align_corners)

    def _passes_once(self, size: tuple[int, int]) -> bool:
        return self._scales == (ratio(1),) and not self._flip and self._fits(size)

    def _fits(self, size: tuple[int, int]) -> bool:
        window = self._window
        return window is None or (size[0] <= window[0] and size[1] <= window[1])

    def _enlarged(self, pictures: Tensor, size: tuple[int, int]) -> Tensor:
        """Scores at ``size``."""
        return self.enlarge(self._at_stride(pictures), size)

    def _at_stride(self, pictures: Tensor) -> Tensor:
        """Scores at the network's stride, float32."""
        half = self._autocast
        with nullcontext() if half is None else torch.autocast(pictures.device.type, half):
            if isinstance(self._network, DeepLab):
                scores = self._network.fused_scores(self._network.normalize(pictures, full=255.0))
            else:
                scores = self._network(pictures)
        return scores.float()


def _check(images: Tensor) -> None:
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        found = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"expected images to be a uint8 tensor, found {found}")
    if images.dim() != 4 or images.shape[1] != 3 or images.numel() == 0:
        raise ValueError(f"expected images [B, 3, H, W], found {list(images.shape)}")
