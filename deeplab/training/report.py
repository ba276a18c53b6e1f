"""What a run says: a progress bar, a history in JSON lines, TensorBoard."""

from __future__ import annotations

import errno
import json
import math
import os
import sys
from pathlib import Path

from tqdm import tqdm

from .board import Board
from .state import HISTORY, replace_file


class Report:
    """The reports of one process; silent and writing nothing unless it is the first.

    Args:
        folder: for history and TensorBoard.
        first: whether this process reports.
        iterations: of the whole run.
        done: of them, those that a resumed run has behind it.
        validated: the last of these that it has the scores of.
        tensorboard: whether to write for TensorBoard.

    Raises:
        ModuleNotFoundError: TensorBoard is asked for and not installed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        first: bool,
        iterations: int,
        done: int,
        validated: int,
        tensorboard: bool,
    ) -> None:
        self._history = folder / HISTORY if first else None
        self._lacking = False  # and it was said
        self._bar = tqdm(
            total=iterations, initial=done, unit="it", disable=not first, dynamic_ncols=True
        )
        if self._history is not None:
            self._forget_after(done, validated)
        self._board: Board | None = None
        if first and tensorboard:
            self._board = Board(folder / "tensorboard", done, self.say)

    def _forget_after(self, done: int, validated: int) -> None:
        """Drops lines of iterations and validations that a resumed run will do again."""
        assert self._history is not None
        if not self._history.is_file():
            return
        lines = self._history.read_text().splitlines()
        kept = [line for line in lines if _is_behind(line, done, validated)]
        replace_file(self._history, lambda part: _write_lines(part, kept))

    def step(self) -> None:
        """One iteration is done."""
        self._bar.update()

    def log(self, iteration: int, values: dict[str, float]) -> None:
        """Numbers to be kept, by name; what is no finite number is null in the history."""
        shown = {k: f"{v:.3g}" for k, v in values.items() if "/" not in k}
        self._bar.set_postfix(shown, refresh=False)
        if self._history is not None:
            finite = {k: v if math.isfinite(v) else None for k, v in values.items()}
            try:
                _append_line(self._history, json.dumps({"iteration": iteration, **finite}))
                self._lacking = False
            except OSError as error:
                if not self._lacking:
                    why = error.strerror or error
                    self.say(f"{self._history} lacks lines from now on: {why}; training goes on")
                self._lacking = True
        if self._board is not None:
            self._board.log(iteration, values)

    def flush(self) -> None:
        """Returns once all that was logged is written."""
        if self._board is not None:
            self._board.flush()

    def say(self, message: str) -> None:
        """A line above the progress bar, on stderr."""
        if self._history is not None:
            tqdm.write(message, file=sys.stderr)

    def close(self) -> None:
        """Ends bar and log."""
        self._bar.close()
        if self._board is not None:
            self._board.close()


def _is_behind(line: str, done: int, validated: int) -> bool:
    """Whether a line of the history is to be kept; one that a crash cut short is not."""
    try:
        found = json.loads(line)
    except ValueError:
        return False
    last: int = validated if "miou" in found else done
    return bool(found["iteration"] <= last)


def _append_line(path: Path, line: str) -> None:
    """Writes a whole line or, where the disk is full, nothing of it."""
    with path.open("ab", buffering=0) as file:
        end = file.tell()
        data = f"{line}\n".encode()
        try:
            if file.write(data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            file.truncate(end)
            raise


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("".join(line + "\n" for line in lines))
