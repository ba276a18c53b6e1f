"""The conventions of Hugging Face's semantic segmentation, both ways; transformers is not needed.

Its networks run in a ``Segmenter``, and the outputs of networks like them, ``logits`` at their own
stride, become label maps, refined by a CRF where the pictures are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .layers import resize
from .segmenter import CRF


class SegmenterOutput(Protocol):
    """What transformers' ``SemanticSegmenterOutput`` has of interest."""

    @property
    def logits(self) -> Tensor:
        """Scores ``[B, C, h, w]`` at the network's own stride."""


class HuggingFaceNetwork(nn.Module):
    """A network that returns an output with ``logits``, for a ``Segmenter``.

    Args:
        model: called with ``pixel_values``, such as ``SegformerForSemanticSegmentation``.
        mean: of the normalisation, per channel, in [0, 1]; a processor's ``image_mean``.
        std: the same; ``image_std``.
    """

    def __init__(
        self,
        model: nn.Module,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
    ) -> None:
        super().__init__()
        self.model = model
        self._mean, self._std = tuple(mean), tuple(std)

    def forward(self, images: Tensor) -> Tensor:
        """RGB in 0…255 ``[B, 3, H, W]`` to scores ``[B, C, h, w]``."""
        planes = zip(images.unbind(1), self._mean, self._std, strict=True)
        pixels = torch.stack([(p / 255 - m) / s for p, m, s in planes], 1)
        logits: Tensor = self.model(pixel_values=pixels).logits
        return logits


def post_process_semantic_segmentation(
    outputs: SegmenterOutput | Tensor,
    target_sizes: Sequence[tuple[int, int]] | None = None,
    *,
    images: Sequence[Tensor] | None = None,
    crf: CRF | None = None,
    align_corners: bool = False,
) -> list[Tensor]:
    """Label maps from a network's outputs, as transformers' function of this name makes them.

    Args:
        outputs: an object with ``logits``, or the logits, ``[B, C, h, w]``; left as they are.
        target_sizes: (height, width) of each picture; None keeps the logits' size, or takes that
            of ``images``.
        images: the pictures, uint8 RGB ``[3, H, W]`` each, of any sizes, on the logits' device;
            required by a CRF.
        crf: refines the enlarged logits.
        align_corners: of enlarging; DeepLab's own networks say it in ``config.align_corners``.

    Returns:
        int64 ``[height, width]`` for each picture, on the logits' device.

    Raises:
        ValueError: there are more or fewer sizes or images than logits, an image is of another
            size than its target, or a CRF has no images.
    """
    logits = outputs if isinstance(outputs, Tensor) else outputs.logits
    if logits.dim() != 4:
        raise ValueError(f"expected logits [B, C, h, w], found {list(logits.shape)}")
    if crf is not None and images is None:
        raise ValueError("expected images for the CRF to look at, found none")
    given: list[tuple[str, Sequence[Any]]] = []
    if images is not None:
        given.append(("images", images))
        if target_sizes is None:
            target_sizes = [(image.shape[1], image.shape[2]) for image in images]
    if target_sizes is not None:
        given.append(("target sizes", target_sizes))
    for name, values in given:
        if len(values) != len(logits):
            raise ValueError(f"expected {len(logits)} {name}, one each, found {len(values)}")
    if target_sizes is None:
        return list(logits.argmax(1))
    maps = []
    for index, size in enumerate(target_sizes):
        height, width = int(size[0]), int(size[1])
        scores = resize(logits[index : index + 1].detach().float(), (height, width), align_corners)
        if crf is None or images is None:
            maps.append(scores[0].argmax(0))
            continue
        if images[index].shape[1:] != (height, width):
            raise ValueError(
                f"expected image {index} of {height}×{width} pixels as its target size, "
                f"found {list(images[index].shape)}"
            )
        maps.append(crf(scores, images[index][None])[0])
    return maps
