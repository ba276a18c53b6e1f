"""The CRF's parameters for a network: DeepLab's search, on scores that are computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, overload

import torch
from torch import Tensor

from densecrf_gpu.fit import Sample

from .evaluation import LabelledImages
from .segmenter import Segmenter


class CachedScores(Sequence[Sample]):
    """A network's scores of labelled pictures, kept; enlarged anew each time one is asked for.

    Where one pass gives them they are kept at the network's stride, float32; averaged ones at the
    pictures' size, as float16.

    Args:
        segmenter: labels the pictures, all of them now.
        dataset: pictures with labels.
        indices: which of them.
        device: where the scores are computed and stay.
        progress: draws a bar around an iterable of known length.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        dataset: LabelledImages,
        indices: Sequence[int],
        *,
        device: torch.device | str = "cpu",
        progress: Callable[[Iterable[Any], int], Iterable[Any]] | None = None,
    ) -> None:
        self._segmenter = segmenter
        self._device = torch.device(device)
        self._kept: list[tuple[Tensor, Tensor, Tensor]] = []
        for index in indices if progress is None else progress(indices, len(indices)):
            image, label, _ = dataset[index]
            scores = segmenter.compact_scores(image.to(device)[None])[0]
            if scores.shape[1:] == image.shape[1:]:
                # Relative to the largest: the classes that compete are near 0, where half is fine.
                scores = (scores - scores.amax(0)).half()
            # Out of inference mode, so that later operators may take them for ordinary tensors.
            self._kept.append((scores.clone(), image, label))

    def __len__(self) -> int:
        return len(self._kept)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        """Scores ``[C, H, W]``, image ``[3, H, W]`` and labels ``[H, W]`` of one picture."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        scores, image, label = self._kept[index]
        size = (image.shape[1], image.shape[2])
        full = self._segmenter.enlarge(scores[None].float(), size)[0]
        return Sample(full, image.to(self._device), label.to(self._device))


def spread(total: int, count: int) -> list[int]:
    """``count`` of ``total`` indices, evenly spread: neighbours in a video are alike."""
    count = min(count, total)
    return [index * total // count for index in range(count)]
