"""What a run leaves on disk, written so that nothing already there is lost."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from .settings import Settings

STATE = "last.pt"
LAST = "last.safetensors"  # beside it, as .json, what its classes are called
BEST = "best.safetensors"
HISTORY = "history.jsonl"
SETTINGS = "settings.json"
LABELS = "labels.json"  # what was found in which files
# What is in STATE.
KEYS = {
    *("settings", "world", "iterations", "best", "validated", "losses", "counted"),
    *("model", "average", "optimizer", "scaler"),
}

# Where files are, and what is said and kept of a run: nothing that it computes depends on these.
_MAY_DIFFER = {
    *("data.root", "data.workers", "data.check", "model.weights", "model.backbone"),
    *("run.log_every", "run.save_every", "run.tensorboard"),
}
_ROOM = 2**20  # a disk with less is full


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
        why = _reason(error, path.parent)  # while the disk is still full
        part.unlink(missing_ok=True)
        if not isinstance(error, Exception):
            raise
        raise OSError(f"{path} could not be written: {why}") from error


def _reason(error: BaseException, folder: Path) -> str:
    """What the system said: torch and safetensors report a full disk as errors of their own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    if folder.is_dir() and shutil.disk_usage(folder).free < _ROOM:
        return os.strerror(errno.ENOSPC)
    return str(error)


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Writes all that a run needs to go on; OSError if it cannot."""

    def write(part: Path) -> None:
        with part.open("wb") as file:  # of a path torch would not keep the system's error
            torch.save(dict(state), file)

    replace_file(path, write)


def load_state(folder: Path, settings: Settings, device: torch.device) -> dict[str, Any]:
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
    if difference := _difference(state, settings):
        raise ResumeError(
            f"the run in {folder} has other settings, and goes on only as it began: {difference}; "
            f"a run of its own may start from its network, in another folder with "
            f"model.weights={folder / LAST}"
        )
    return state


def _difference(state: Mapping[str, Any], settings: Settings) -> str:
    """The first setting that keeps a run from going on to the bit, or none."""
    old, new = json.loads(state["settings"]), json.loads(settings.to_json())
    for table in dataclasses.fields(settings):
        for field in dataclasses.fields(getattr(settings, table.name)):
            name, now = f"{table.name}.{field.name}", new[table.name][field.name]
            # A setting that the run's version did not know has the value that it had then.
            before = old.get(table.name, {}).get(field.name, field.default)
            if name in _MAY_DIFFER or now == before:
                continue
            found = f"expected {name} = {before!r}, found {now!r}"
            if name != "run.iterations":
                return found
            if settings.optimizer.schedule == "poly":
                return f"{found}, and all rates of the poly schedule follow from it"
            if now < state["iterations"]:
                return f"{found}, and {state['iterations']} are done"
    return ""
