"""From a file to a network: recognise, convert, check, fill in."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deeplab.config import Config
from deeplab.models import DeepLab

from .families import FAMILIES, Family, infer, recognise, rename, stride_in
from .files import Allowed, CheckpointError, read
from .names import CLASSIFIERS, Renaming
from .native import native_config

_SHOWN = 5  # keys in a message


def load(
    path: str | os.PathLike[str],
    *,
    device: torch.device | str = "cpu",
    allow: Sequence[Allowed] = (),
    **options: Any,
) -> DeepLab:
    """Builds the network that a checkpoint belongs to, with its weights, in evaluation mode.

    Knows this package's own files (``save``) and those of torchvision, kazuto1011, isht7, VainF,
    jfzhang95, segmentation_models.pytorch (ResNets), mmsegmentation and transformers
    (MobileNetV2). Names, the order of concatenated channels, strides, rates, paddings,
    interpolation and the normalisation of the images become what the family's code does. What no
    file says is taken from the family's defaults, or, of VainF, from the file's name
    (``..._os8.pth``), of transformers from a ``config.json`` beside the file.

    Args:
        path: a safetensors file, or one that ``torch.save`` wrote; read with
            ``weights_only=True``.
        device: where the network goes.
        allow: types that the pickle may hold beyond tensors, NumPy scalars and
            ``argparse.Namespace``, as for ``torch.serialization.safe_globals``.
        options: fields of ``Config`` that the file does not say or that are to be another, as
            ``output_stride=8`` or ``rates=(6, 12, 18)``.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: a ValueError: the file is of no known family or does not fit it. The
            message names the nearest family and the first keys that differ.
        ValueError: an option's value is unknown.
        TypeError: an option is no field of ``Config``.
    """
    path = Path(path)
    state, metadata = read(path, allow)
    config = native_config(metadata, path)
    if config is None:
        state, config = convert(state, path.name, {**_beside(path, state), **options})
    else:
        # Half precision is how ``save`` keeps files small, not what a network is run in.
        state = {k: t.float() if t.dtype is torch.float16 else t for k, t in state.items()}
        config = Config(**{**vars(config), **options})
    return _fill(config, state, str(path)).to(device).eval()


def convert(
    state: Mapping[str, Tensor], file_name: str = "", options: Mapping[str, Any] | None = None
) -> tuple[dict[str, Tensor], Config]:
    """A state dict of a known family as one of ours, and the configuration to go with it.

    Raises:
        CheckpointError: the family is unknown, or keys are not the family's.
    """
    family = recognise(state)
    if family is None:
        raise CheckpointError(_unknown(state, file_name))
    try:
        renamed, unknown = rename(state, family)
        structure = infer(renamed)
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"{file_name} looks like {family.name}: {error}") from error
    if unknown:
        raise CheckpointError(
            f"{file_name} looks like {family.name}, but {len(unknown)} of {len(state)} keys are "
            f"none of its: {_some(unknown)}"
        )
    choices = {**structure, **family.options, **family.by_structure(structure)}
    if family.stride_in_name and (stride := stride_in(file_name)):
        choices["output_stride"] = stride
    if structure["head"] == "linear":
        choices = {k: v for k, v in choices.items() if k not in ("rates", "rates_at", "dropout")}
    family.reorder(renamed, structure)
    return renamed, Config(**{**choices, **(options or {})})


def _beside(path: Path, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What a ``config.json`` beside the file says of it, if its family writes one."""
    family, written = recognise(state), path.with_name("config.json")
    if family is None or family.by_config is None or not written.is_file():
        return {}
    try:
        return family.by_config(json.loads(written.read_text()))
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{written} is no configuration of {family.name}: {error}") from error


def load_backbone(
    model: DeepLab, path: str | os.PathLike[str], *, allow: Sequence[Allowed] = ()
) -> None:
    """Fills a network's backbone from a checkpoint, leaving its head alone.

    Takes torchvision's classifiers (VGG-16, ResNet-50 and -101, MobileNetV2, MobileNetV3-Large),
    its FCN, Cadene's Xception, and every file that ``load`` knows. The network keeps its own
    strides, paddings and normalisation: those that the weights were trained with must be chosen
    when it is built. torchvision's ResNets want ``stride_in_1x1=False, ceil_pool=False`` and
    ``inputs="imagenet"``.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file does not hold this backbone.
    """
    path = Path(path)
    state, metadata = read(path, allow)
    if native_config(metadata, path) is None:
        candidates = [Renaming(CLASSIFIERS), *(family.renaming for family in FAMILIES)]
        renamed = [_backbone_of(state, renaming) for renaming in candidates]
        state = max(renamed, key=len)
    else:
        state = {key: t for key, t in state.items() if key.startswith("backbone.")}
    wanted = {f"backbone.{key}": t for key, t in model.backbone.state_dict().items()}
    _check(wanted, state, f"{path} and the backbone {model.config.backbone}")
    model.load_state_dict({**model.state_dict(), **state})


def _backbone_of(state: Mapping[str, Tensor], renaming: Renaming) -> dict[str, Tensor]:
    renamed = ((renaming(key), tensor) for key, tensor in state.items())
    return {new: t for new, t in renamed if new is not None and new.startswith("backbone.")}


def _fill(config: Config, state: dict[str, Tensor], source: str) -> DeepLab:
    with torch.device("meta"):
        model = DeepLab(config)
    wanted = model.state_dict()
    for key, tensor in wanted.items():
        # Files older than torch 0.4.1 do not count batches.
        if key.endswith("num_batches_tracked") and key not in state:
            state[key] = torch.zeros((), dtype=tensor.dtype)
    _check(wanted, state, f"{source} and the network built for it")
    # Tensors may share memory with each other or a file: the network gets its own.
    model.load_state_dict({key: t.clone() for key, t in state.items()}, assign=True)
    return model


def _check(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], who: str) -> None:
    counts = "num_batches_tracked"
    missing = [key for key in wanted if key not in state and not key.endswith(counts)]
    surplus = [key for key in state if key not in wanted]
    shapes = [
        f"{key} is {list(state[key].shape)}, expected {list(tensor.shape)}"
        for key, tensor in wanted.items()
        if key in state and state[key].shape != tensor.shape
    ]
    faults = [
        f"{len(keys)} {what}: {_some(keys)}"
        for what, keys in (
            ("missing", missing),
            ("unexpected", surplus),
            ("of other shape", shapes),
        )
        if keys
    ]
    if faults:
        raise CheckpointError(f"{who} do not fit. {'; '.join(faults)}")


def _unknown(state: Mapping[str, Tensor], file_name: str) -> str:
    def known(family: Family) -> int:
        return sum(family.renaming(key) is not None for key in state)

    nearest = max(FAMILIES, key=known)
    strange = [key for key in state if nearest.renaming(key) is None]
    absent = [mark for mark in nearest.marks if mark not in state]
    return (
        f"{file_name} is of no known family. Nearest is {nearest.name}, which has "
        f"{known(nearest)} of its {len(state)} keys; it does not have {_some(strange) or 'more'}, "
        f"and would need {_some(absent)}"
    )


def _some(keys: Sequence[str]) -> str:
    rest = len(keys) - _SHOWN
    return ", ".join(keys[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
