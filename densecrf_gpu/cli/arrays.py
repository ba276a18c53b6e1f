"""Arrays in .npy, .npz and .pt files, read without running what a file may contain."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from .errors import FileError


def load_array(path: Path, key: str | None = None) -> Tensor:
    """Reads a tensor, on the CPU.

    Args:
        path: a .npy, .npz, .pt or .pth file; the last two hold a tensor or a dict of tensors.
        key: the entry to take, where there are several.

    Raises:
        FileError: the file is unreadable, holds pickled objects, or has no such entry.
    """
    suffix = path.suffix.lower()
    try:
        if suffix in (".pt", ".pth"):
            with warnings.catch_warnings():  # of pickles it is about to refuse
                warnings.simplefilter("ignore", UserWarning)
                content: Any = torch.load(path, map_location="cpu", weights_only=True)
        elif suffix in (".npy", ".npz"):
            content = np.load(path, allow_pickle=False)
        else:
            raise FileError(f"{path}: expected .npy, .npz or .pt, found {suffix or 'no suffix'}")
        if isinstance(content, Mapping):
            content = _pick(path, content, key)  # an entry of .npz is read here
    except pickle.UnpicklingError:
        message = "not a file of tensors alone (pickled objects are not loaded)"
        raise FileError(f"{path}: {message}") from None
    except (zipfile.BadZipFile, EOFError, RuntimeError, ValueError) as error:
        if "allow_pickle" in str(error):
            message = "holds pickled objects, which are not loaded"
            raise FileError(f"{path}: {message}") from None
        raise FileError(f"{path}: {_first_line(error)}") from error
    return _as_tensor(path, content)


def save_array(path: Path, tensor: Tensor, name: str) -> None:
    """Writes a tensor as .npy, .npz (under ``name``) or .pt, whole or not at all."""
    with replacing(path) as file:
        if path.suffix.lower() in (".pt", ".pth"):
            torch.save(tensor, file)
            return
        array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
        if path.suffix.lower() == ".npz":
            np.savez_compressed(file, allow_pickle=False, **{name: array})
        else:
            np.save(file, array)


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file beside ``path`` that takes its place at the end, unless something fails.

    Raises:
        FileError: it cannot be written.
    """
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            yield file
        part.replace(path)
    except OSError as error:
        raise FileError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        if part.exists():
            part.unlink()


def _pick(path: Path, entries: Mapping[str, Any], key: str | None) -> Any:
    names = list(entries)
    if key is None and len(names) == 1:
        key = names[0]
    if key is None:
        raise FileError(f"{path}: holds {', '.join(map(str, names))}: choose one with --key")
    if key not in names:
        raise FileError(f"{path}: has no {key!r}, but {', '.join(map(str, names))}")
    return entries[key]


def _as_tensor(path: Path, content: Any) -> Tensor:
    if isinstance(content, Tensor):
        return content.detach()
    if not isinstance(content, np.ndarray):
        raise FileError(f"{path}: expected a tensor or array, found {type(content).__name__}")
    try:
        return torch.from_numpy(np.ascontiguousarray(content, content.dtype.newbyteorder("=")))
    except TypeError:
        raise FileError(f"{path}: expected numbers, found an array of {content.dtype}") from None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
