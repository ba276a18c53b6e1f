"""A progress bar where it is wanted and tqdm is installed."""

from __future__ import annotations

from types import TracebackType
from typing import Any


class Progress:
    """Counts work that has been done, on stderr; a context manager.

    Args:
        wanted: False draws nothing.
        unit: of the work.

    Raises:
        RuntimeError: it is wanted, but tqdm is not installed.
    """

    def __init__(self, wanted: bool, unit: str) -> None:
        self._bar: Any = None
        if wanted:
            try:
                from tqdm import tqdm
            except ModuleNotFoundError:
                raise RuntimeError("a progress bar needs tqdm: pip install tqdm") from None
            self._bar = tqdm(total=0, unit=unit)

    def expect(self, more: int) -> None:
        """Adds to the total."""
        if self._bar is not None:
            self._bar.total += more
            self._bar.refresh()

    def advance(self, by: int = 1) -> None:
        """Counts work as done."""
        if self._bar is not None:
            self._bar.update(by)

    def say(self, text: str) -> None:
        """Writes something behind the bar."""
        if self._bar is not None:
            self._bar.set_postfix_str(text)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()
