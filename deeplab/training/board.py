"""TensorBoard's log of a run, which a full disk may cost values but never the run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# TensorBoard writes from a thread of its own, which an error ends with a traceback: with less
# room than this on the disk it is not asked to.
_ROOM = 2**20


class Board:
    """Writes numbers for TensorBoard.

    Args:
        folder: for the event files; one more for each start of the run.
        done: iterations that a resumed run has behind it: later ones that an earlier start wrote
            are no longer shown.
        say: tells the user a sentence.

    Raises:
        ModuleNotFoundError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, done: int, say: Callable[[str], None]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "run.tensorboard = true needs TensorBoard: pip install 'densecrf-gpu[train]', "
                "or set it to false"
            ) from error
        self._open: Any = SummaryWriter
        self._folder, self._say = folder, say
        self._writer: Any = None
        self._lacking = False  # and it was said
        self._ended = False  # the writer's thread, by an error
        self._try(lambda: self._start(done + 1))

    def log(self, iteration: int, values: Mapping[str, float]) -> None:
        """Numbers by name; left out, and said so once, while the disk is full."""

        def write() -> None:
            self._expect_room()
            for name, value in values.items():
                self._writer.add_scalar(name, value, iteration)

        if not self._ended and self._try(write):
            self._lacking = False

    def flush(self) -> None:
        """Returns once all is written; where the disk was full, tries to go on."""
        if self._ended:
            self._try(lambda: self._start(None))
        else:
            self._try(self._writer.flush)

    def close(self) -> None:
        """Ends the log."""
        if not self._ended:
            self._try(self._writer.close)

    def _start(self, first: int | None) -> None:
        self._ended = True
        self._folder.mkdir(parents=True, exist_ok=True)
        self._expect_room()
        self._writer = self._open(self._folder, purge_step=first)
        self._ended = False

    def _expect_room(self) -> None:
        if shutil.disk_usage(self._folder).free < _ROOM:
            raise OSError("the disk is full")

    def _try(self, action: Callable[[], None]) -> bool:
        """Whether it did not fail."""
        try:
            action()
        except OSError as error:
            self._ended |= error.errno is not None
            if not self._lacking:
                why = error.strerror or error
                self._say(f"{self._folder} lacks values from now on: {why}; training goes on")
            self._lacking = True
            return False
        return True
