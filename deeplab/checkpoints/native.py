"""The package's own files: safetensors, with the configuration in the metadata."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file

from deeplab.config import Config
from deeplab.models import DeepLab

from .files import CheckpointError

FORMAT = "deeplab 1"


def save(model: DeepLab, path: str | os.PathLike[str]) -> None:
    """Writes a network as safetensors, its configuration as JSON in the metadata.

    ``load`` builds the same network from it, at the output stride now in force.

    Raises:
        ValueError: the path does not end with .safetensors, by which ``load`` knows the format.
    """
    if Path(path).suffix != ".safetensors":
        raise ValueError(f"expected a path ending with .safetensors, found {os.fspath(path)!r}")
    tensors = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
    metadata = {"format": FORMAT, "config": model.config.to_json()}
    save_file(tensors, os.fspath(path), metadata=metadata)


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
