"""Reading files without running what they may contain, and unwrapping what they hold."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

# Where training scripts put the state dict.
WRAPPERS = ("model_state", "state_dict", "model", "model_state_dict")
# What wrapping modules put before every name.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")

Allowed = Callable[..., Any] | tuple[Callable[..., Any], str]

# Types that known families pickle beside the weights, each harmless: scores as NumPy scalars, by
# their names before and since NumPy 2, and the training script's arguments.
_SCALAR: Any = np.float64(0).__reduce__()[0]
SAFE_TYPES: tuple[Allowed, ...] = (
    _SCALAR,
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    type(np.dtype(np.float64)),
    argparse.Namespace,
)


class CheckpointError(ValueError):
    """A file that is no checkpoint, or none that fits."""


def read(path: Path, allow: Sequence[Allowed] = ()) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file and, of a safetensors file, its metadata.

    Pickles are read with ``weights_only=True``: nothing but tensors, plain containers and the
    types of ``SAFE_TYPES`` and ``allow`` is ever built.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it holds other types, or no tensors.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                return {k: file.get_tensor(k) for k in file.keys()}, file.metadata() or {}  # noqa: SIM118
        except SafetensorError as error:
            raise CheckpointError(f"{path} is no safetensors file: {error}") from error
    try:
        with torch.serialization.safe_globals([*SAFE_TYPES, *allow]):
            held = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # whatever torch's unpickler stumbles over
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if refused is None:
            raise CheckpointError(f"{path} is no checkpoint, or a damaged one") from error
        raise CheckpointError(
            f"{path} holds more than weights, {refused[1]}: if you trust that type, pass it in "
            "allow=[...]; nothing of the file was run"
        ) from error
    return unwrap(held, path), {}


def unwrap(held: object, path: Path) -> dict[str, Tensor]:
    """The state dict inside a training script's dictionary, without wrappers' prefixes."""
    for wrapper in WRAPPERS:
        if isinstance(held, Mapping) and isinstance(held.get(wrapper), Mapping):
            held = held[wrapper]
            break
    if not isinstance(held, Mapping):
        raise CheckpointError(f"{path} holds a {type(held).__name__}, expected named tensors")
    state = {str(k): v for k, v in held.items() if isinstance(v, Tensor)}
    if not state:
        raise CheckpointError(f"{path} holds no tensors, but {sorted(map(str, held))[:8]}")
    while prefix := next((p for p in PREFIXES if all(k.startswith(p) for k in state)), None):
        state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    return state
