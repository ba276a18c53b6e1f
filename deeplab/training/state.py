"""What a run leaves on disk, written so that nothing already there is lost."""

from __future__ import annotations

import json
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
# What is in STATE.
KEYS = {
    *("settings", "world", "iterations", "best", "validated", "losses", "counted"),
    *("model", "average", "optimizer", "scaler"),
}


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
        if not isinstance(error, Exception):
            raise
        # torch and safetensors report a full disk as errors of their own.
        why = error.strerror if isinstance(error, OSError) else None
        raise OSError(f"{path} could not be written: {why or error}") from error


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Writes all that a run needs to go on; OSError if it cannot."""

    def write(part: Path) -> None:
        with part.open("wb") as file:  # of a path torch would not say that the disk is full
            torch.save(dict(state), file)

    replace_file(path, write)


def load_state(folder: Path, settings: str, device: torch.device) -> dict[str, Any]:
    """Reads what ``save_state`` wrote.

    Raises:
        ResumeError: there is nothing, it is no state of a run, or it is of other settings.
    """
    path = folder / STATE
    if not path.is_file():
        raise ResumeError(f"there is no run to go on with in {folder}: no {STATE}")
    try:
        held = torch.load(path, map_location=device, weights_only=True)
    except OSError:
        raise
    except Exception as error:  # whatever torch's unpickler stumbles over
        raise ResumeError(f"{path} is no state of a run, or a damaged one") from error
    missing = sorted(KEYS - set(held)) if isinstance(held, dict) else sorted(KEYS)
    if missing:
        raise ResumeError(f"{path} is no state of a run: it lacks {', '.join(missing)}")
    state: dict[str, Any] = held
    if difference := _difference(state["settings"], settings):
        raise ResumeError(
            f"the run in {folder} has other settings, and goes on only as it began: {difference}"
        )
    return state


def _difference(before: str, now: str) -> str:
    """The first setting that two runs differ in, as ``Settings.to_json`` writes them, or none."""
    old, new = json.loads(before), json.loads(now)
    for table in sorted({*old, *new}):
        for key in sorted({*old.get(table, {}), *new.get(table, {})}):
            was, is_now = (settings.get(table, {}).get(key) for settings in (old, new))
            if was != is_now:
                return f"expected {table}.{key} = {was!r}, found {is_now!r}"
    return ""
