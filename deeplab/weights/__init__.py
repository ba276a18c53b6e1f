"""The weights that come with the package: one .safetensors file, and a .json that names classes.

The .json holds ``classes``, ``palette`` and, once ``deeplab tune-crf`` has searched it, ``crf``:
see ``deeplab.labelling.Labelling``.
"""

from __future__ import annotations

from pathlib import Path


def packaged_weights() -> Path:
    """The weights that come with the package; FileNotFoundError if it has none."""
    folder = Path(__file__).parent
    found = sorted(folder.glob("*.safetensors"))
    if len(found) != 1:
        raise FileNotFoundError(f"expected one file of weights in {folder}, found {len(found)}")
    return found[0]
