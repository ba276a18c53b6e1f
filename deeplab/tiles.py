"""Sliding windows over images that are too large for one pass."""

from __future__ import annotations

from collections.abc import Iterator

# A window and its neighbour share a third, as in the evaluation of PyTorch-Encoding.
STEP = (2, 3)


def window_starts(size: int, window: int) -> list[int]:
    """Where windows begin along an axis: evenly spread, each at most 2/3 behind the last.

    The first begins at 0 and the last ends at ``size``. An axis no longer than the window has one.

    Raises:
        ValueError: the window is not positive.
    """
    if window < 1:
        raise ValueError(f"expected a window of at least 1 pixel, found {window}")
    if size <= window:
        return [0]
    step = max(1, window * STEP[0] // STEP[1])
    gaps = -(-(size - window) // step)
    return [gap * (size - window) // gaps for gap in range(gaps + 1)]


def windows(size: tuple[int, int], window: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """The rows and columns of all windows over an image of ``size`` (height, width)."""
    height, width = (min(s, w) for s, w in zip(size, window, strict=True))
    for top in window_starts(size[0], window[0]):
        for left in window_starts(size[1], window[1]):
            yield slice(top, top + height), slice(left, left + width)
