"""The conventions of Hugging Face's semantic segmentation, both ways; transformers is not needed.

Its networks run in a ``Segmenter``, and the outputs of networks like them, ``logits`` at their own
stride, become label maps, refined by a CRF where the pictures are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from .layers import resize
from .segmenter import CRF


class SegmenterOutput(Protocol):
    """What transformers' ``SemanticSegmenterOutput`` has of interest."""

    @property
    def logits(self) -> Tensor:
        """Scores ``[B, C, h, w]`` at the network's own stride."""


class SemanticSegmentation(dict[str, Tensor]):
    """A label map and the scores it comes from, as attributes or by name, as transformers has it.

    Attributes:
        segmentation: int64 ``[height, width]``.
        segmentation_scores: ``[C, height, width]``: the enlarged logits, or the probabilities that
            a CRF gives.
    """

    def __init__(self, segmentation: Tensor, segmentation_scores: Tensor) -> None:
        super().__init__(segmentation=segmentation, segmentation_scores=segmentation_scores)
        self.segmentation = segmentation
        self.segmentation_scores = segmentation_scores


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
    target_sizes: Tensor | Sequence[tuple[int, int]] | None = None,
    return_segmentation_scores: bool = False,
    *,
    images: Sequence[Tensor | NDArray[np.uint8] | Image.Image] | None = None,
    crf: CRF | None = None,
    align_corners: bool = False,
) -> list[Any]:
    """Label maps from a network's outputs, as transformers' function of this name makes them.

    Args:
        outputs: an object with ``logits``, or the logits, ``[B, C, h, w]``; left as they are.
        target_sizes: (height, width) of each picture; None keeps the logits' size, or takes that
            of ``images``.
        return_segmentation_scores: give the scores beside each map.
        images: the pictures, of any sizes: Pillow's, arrays ``[H, W, 3]``, or tensors ``[3, H, W]``
            on the logits' device, uint8 RGB; required by a CRF.
        crf: refines the enlarged logits.
        align_corners: of enlarging; DeepLab's own networks say it in ``config.align_corners``.

    Returns:
        int64 ``[height, width]`` for each picture, on the logits' device; with scores, a
        ``SemanticSegmentation`` each.

    Raises:
        TypeError: an image is none.
        ValueError: there are more or fewer sizes or images than logits, an image is of another
            size than its target, or a CRF has no images.
    """
    logits = outputs if isinstance(outputs, Tensor) else outputs.logits
    if logits.dim() != 4:
        raise ValueError(f"expected logits [B, C, h, w], found {list(logits.shape)}")
    if crf is not None and images is None:
        raise ValueError("expected images for the CRF to look at, found none")
    given: list[tuple[str, Tensor | Sequence[Any]]] = []
    pictures: list[Tensor] = []
    if images is not None:
        pictures = [_as_tensor(image, logits.device) for image in images]
        given.append(("images", pictures))
        if target_sizes is None:
            target_sizes = [(image.shape[1], image.shape[2]) for image in pictures]
    if target_sizes is not None:
        given.append(("target sizes", target_sizes))
    for name, values in given:
        if len(values) != len(logits):
            raise ValueError(f"expected {len(logits)} {name}, one each, found {len(values)}")
    if target_sizes is None:
        target_sizes = [(logits.shape[2], logits.shape[3])] * len(logits)
    found: list[Any] = []
    for index, size in enumerate(target_sizes):
        height, width = int(size[0]), int(size[1])
        scores = logits[index : index + 1].detach().float()
        if scores.shape[2:] != (height, width):
            scores = resize(scores, (height, width), align_corners)
        if crf is not None:
            if pictures[index].shape[1:] != (height, width):
                raise ValueError(
                    f"expected image {index} of {height}×{width} pixels as its target size, "
                    f"found {list(pictures[index].shape)}"
                )
            if not return_segmentation_scores:
                found.append(crf(scores, pictures[index][None])[0])
                continue
            scores = crf(scores, pictures[index][None], "probabilities")
        labels = scores[0].argmax(0)
        found.append(
            SemanticSegmentation(labels, scores[0]) if return_segmentation_scores else labels
        )
    return found


def _as_tensor(image: Tensor | NDArray[np.uint8] | Image.Image, device: torch.device) -> Tensor:
    """A picture as uint8 RGB ``[3, H, W]``; tensors are taken as they are."""
    if isinstance(image, Tensor):
        return image
    pixels = np.array(image.convert("RGB")) if isinstance(image, Image.Image) else image
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 3:
        kind = f"{pixels.dtype} {list(pixels.shape)}" if isinstance(pixels, np.ndarray) else pixels
        raise TypeError(f"expected images of Pillow, or arrays uint8 [H, W, 3], found {kind!r}")
    return torch.tensor(pixels).permute(2, 0, 1).to(device)
