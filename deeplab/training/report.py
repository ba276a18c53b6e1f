"""What a run says: a progress bar, a history in JSON lines, TensorBoard."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .state import HISTORY, replace_file


class Report:
    """The reports of one process; silent and writing nothing unless it is the first.

    Args:
        folder: for history and TensorBoard.
        first: whether this process reports.
        iterations: of the whole run.
        done: of them, those that a resumed run has behind it.
        tensorboard: whether to write for TensorBoard.

    Raises:
        ModuleNotFoundError: TensorBoard is asked for and not installed.
    """

    def __init__(
        self, folder: Path, *, first: bool, iterations: int, done: int, tensorboard: bool
    ) -> None:
        self._history = folder / HISTORY if first else None
        self._board: Any = None
        self._bar = tqdm(
            total=iterations, initial=done, unit="it", disable=not first, dynamic_ncols=True
        )
        if self._history is not None:
            self._forget_after(done)
        if first and tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ModuleNotFoundError as error:
                raise ModuleNotFoundError(
                    "run.tensorboard = true needs TensorBoard: pip install 'densecrf-gpu[train]', "
                    "or set it to false"
                ) from error
            writer: Any = SummaryWriter
            self._board = writer(folder / "tensorboard", purge_step=done)

    def _forget_after(self, done: int) -> None:
        """Drops lines of iterations that a resumed run will do again."""
        assert self._history is not None
        if not self._history.is_file():
            return
        lines = self._history.read_text().splitlines()
        kept = [line for line in lines if json.loads(line)["iteration"] <= done]
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
                with self._history.open("a") as file:
                    file.write(json.dumps({"iteration": iteration, **finite}) + "\n")
            except OSError as error:
                self.say(f"the history could not be written: {error}")
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, iteration)

    def say(self, message: str) -> None:
        """A line above the progress bar, on stderr."""
        if self._history is not None:
            tqdm.write(message, file=sys.stderr)

    def close(self) -> None:
        """Ends bar and log."""
        self._bar.close()
        if self._board is not None:
            self._board.close()


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("".join(line + "\n" for line in lines))
