"""The package's own files: safetensors, with the configuration in the metadata."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save as to_bytes
from torch import nn

from deeplab.config import Config
from deeplab.models import DeepLab

from .files import CheckpointError

FORMAT = "deeplab 1"


def save(model: nn.Module, path: str | os.PathLike[str], *, half: bool = False) -> None:
    """Writes a network as safetensors, its configuration as JSON in the metadata.

    ``load`` builds the same network from it, at the output stride now in force.

    Args:
        model: the network, also compiled or in a ``DataParallel``: it is saved without.
        path: ends with .safetensors.
        half: writes the convolutions' weights in float16, which halves the file; what batch
            normalisation counts stays as it is.

    Raises:
        TypeError: the model is no ``DeepLab``.
        ValueError: the path does not end with .safetensors, by which ``load`` knows the format.
        OSError: the file cannot be written.
    """
    if Path(path).suffix != ".safetensors":
        raise ValueError(f"expected a path ending with .safetensors, found {os.fspath(path)!r}")
    model = _unwrapped(model)
    tensors = {
        # A compiled part has a prefix of its own.
        key.replace("_orig_mod.", ""): (
            tensor.half() if half and tensor.dim() == 4 else tensor
        ).contiguous()
        for key, tensor in model.state_dict().items()
    }
    metadata = {"format": FORMAT, "config": model.config.to_json()}
    # Not its save_file: that leaves a file only its owner may read.
    Path(path).write_bytes(to_bytes(tensors, metadata=metadata))


def _unwrapped(model: nn.Module) -> DeepLab:
    while not isinstance(model, DeepLab):
        inner = next((m for n, m in model.named_children() if n in ("module", "_orig_mod")), None)
        if inner is None:
            raise TypeError(f"expected a DeepLab, found {type(model).__name__}")
        model = inner
    return model


def native_config(metadata: Mapping[str, str], path: Path) -> Config | None:
    """The configuration in a file's metadata; None if the package did not write the file."""
    if not metadata.get("format", "").startswith("deeplab "):
        return None
    if metadata["format"] != FORMAT:
        raise CheckpointError(f"{path} has format {metadata['format']!r}, expected {FORMAT!r}")
    try:
        return Config.from_json(metadata["config"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} has no readable configuration: {error}") from error
