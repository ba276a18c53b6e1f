"""Reading files without running what they may contain, and unwrapping what they hold."""

from __future__ import annotations

import argparse
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

# Where training scripts put the state dict.
WRAPPERS = ("model_state", "state_dict", "model", "model_state_dict")
# What wrapping modules put before every name.
PREFIXES = ("module.", "model.", "net.")
# What ``save_pretrained`` writes.
IN_A_FOLDER = ("model.safetensors", "pytorch_model.bin")

Allowed = Callable[..., Any] | tuple[Callable[..., Any], str]


def _plain_dict(default: object = None) -> dict[Any, Any]:
    return {}


# Types that training scripts pickle beside the weights, each harmless: NumPy's numbers, strings and
# arrays, by their modules' names before and since NumPy 2, a script's arguments, dictionaries with
# a default of a plain type.
_NUMPY: Any = (np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0])
_DTYPES = [*map(np.dtype, "?bBhHiIlLqQefdFDUS")]
SAFE_TYPES: tuple[Allowed, ...] = (
    *((f, f"numpy.{core}.multiarray.{f.__name__}") for f in _NUMPY for core in ("core", "_core")),
    np.ndarray,
    np.dtype,
    *{type(dtype) for dtype in _DTYPES},
    argparse.Namespace,
    (_plain_dict, "collections.defaultdict"),  # torch fills none but plain dictionaries
    *(bool, int, float, str, list, tuple, dict, set),
)


class CheckpointError(ValueError):
    """A file that is no checkpoint, or none that fits."""


@dataclass(frozen=True)
class Held:
    """What a file holds.

    Args:
        state: the tensors, without wrappers' prefixes.
        metadata: of a safetensors file.
        aside: names of tensors that stand beside the network, without the others' prefix.
    """

    state: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)
    aside: tuple[str, ...] = ()


def locate(path: Path) -> Path:
    """The file itself, or that in a folder as ``save_pretrained`` writes it.

    Raises:
        FileNotFoundError: there is none.
    """
    if path.is_dir():
        inside = [path / name for name in IN_A_FOLDER]
        if found := next((file for file in inside if file.is_file()), None):
            return found
        raise FileNotFoundError(f"no {' or '.join(IN_A_FOLDER)} in the folder {path}")
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    return path


def read(path: Path, allow: Sequence[Allowed] = ()) -> Held:
    """The tensors of a file.

    Pickles are read with ``weights_only=True``: nothing but tensors, plain containers and the
    types of ``SAFE_TYPES`` and ``allow`` is ever built.

    Raises:
        CheckpointError: it holds other types, or no tensors.
    """
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                held = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
                return unwrap(held, path, file.metadata())
        except SafetensorError as error:
            raise CheckpointError(f"{path} is no safetensors file: {error}") from error
    if _is_torchscript(path):
        raise CheckpointError(
            f"{path} is a TorchScript program, which holds code beside its weights: if you trust "
            "it, open it with torch.jit.load and torch.save its state_dict()"
        )
    try:
        with torch.serialization.safe_globals([*SAFE_TYPES, *allow]):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # whatever torch's unpickler stumbles over
        refused = _REFUSED.search(str(error))
        if refused is None:
            raise CheckpointError(f"{path} is no checkpoint, or a damaged one") from error
        raise CheckpointError(
            f"{path} holds more than weights, {refused[1]}: if you trust that type, pass it in "
            "allow=[...]; nothing of the file was run"
        ) from error
    return unwrap(loaded, path)


# How torch's unpickler names what it does not build.
_REFUSED = re.compile(r"(?:GLOBAL |got <class '|unrecognized function <\w+ )([\w.]+)")


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except zipfile.BadZipFile:  # damaged, or of torch before 1.6
        return False


def unwrap(held: object, path: Path, metadata: Mapping[str, str] | None = None) -> Held:
    """The state dict inside a training script's dictionary, without wrappers' prefixes.

    A prefix goes where no other begins as many names; names without it are set aside, such as
    buffers of the module around the network or a count of averaged steps.
    """
    for wrapper in WRAPPERS:
        if isinstance(held, Mapping) and isinstance(held.get(wrapper), Mapping):
            held = held[wrapper]
            break
    if not isinstance(held, Mapping):
        raise CheckpointError(f"{path} holds a {type(held).__name__}, expected named tensors")
    # torch.compile puts its prefix also before the names inside of what it compiles.
    state = {str(k).replace("_orig_mod.", ""): v for k, v in held.items() if isinstance(v, Tensor)}
    if not state:
        raise CheckpointError(f"{path} holds no tensors, but {sorted(map(str, held))[:8]}")
    if empty := next((key for key, tensor in state.items() if tensor.is_meta), None):
        raise CheckpointError(f"{path} holds names and shapes, but no values: {empty}")
    aside: list[str] = []
    while prefix := _most_frequent_prefix(state):
        aside += [key for key in state if not key.startswith(prefix)]
        state = {k.removeprefix(prefix): t for k, t in state.items() if k.startswith(prefix)}
    return Held(state, dict(metadata or {}), tuple(aside))


def _most_frequent_prefix(state: Mapping[str, Tensor]) -> str | None:
    counts = Counter(key[: key.find(".") + 1] for key in state)
    most = max(counts.values())
    return next((prefix for prefix in PREFIXES if counts[prefix] == most), None)
