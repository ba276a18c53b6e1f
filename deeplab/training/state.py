"""What a run leaves on disk, written so that nothing already there is lost."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

STATE = "last.pt"
LAST = "last.safetensors"  # beside it, as .json, what its classes are called
BEST = "best.safetensors"
HISTORY = "history.jsonl"
SETTINGS = "settings.json"


class ResumeError(ValueError):
    """A run that cannot be continued as asked."""


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Writes a file beside the old one and puts it in its place once it is complete on disk.

    A full disk, a crash or a cut of power leaves either the old file or the new one.

    Args:
        path: the file.
        write: writes its argument, of the same suffix.

    Raises:
        OSError: it could not be written; the old file is as it was.
    """
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        write(part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        # torch and safetensors report a full disk as errors of their own.
        if isinstance(error, Exception) and not isinstance(error, OSError):
            raise OSError(f"{path} could not be written: {error}") from error
        raise


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Writes all that a run needs to go on; OSError if it cannot."""
    replace_file(path, lambda part: torch.save(dict(state), part))


def load_state(folder: Path, settings: str, device: torch.device) -> dict[str, Any]:
    """Reads what ``save_state`` wrote.

    Raises:
        ResumeError: there is nothing, or it is of other settings.
    """
    path = folder / STATE
    if not path.is_file():
        raise ResumeError(f"there is no run to go on with in {folder}: no {STATE}")
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    if state["settings"] != settings:
        raise ResumeError(
            f"the run in {folder} has other settings (see its {SETTINGS}): a run goes on only as "
            "it began"
        )
    return state
