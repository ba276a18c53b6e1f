"""From a file to a network: recognise, convert, check, fill in."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deeplab.config import Config
from deeplab.fields import near
from deeplab.models import DeepLab

from .families import FAMILIES, Family, infer, recognise, rename, stride_in
from .files import Allowed, CheckpointError, locate, read
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
    jfzhang95, segmentation_models.pytorch, mmsegmentation (each with ResNet-50 and -101, and as far
    as the package has them with MobileNets and Xceptions) and transformers (MobileNetV2). Names,
    the order of concatenated channels, strides, rates, paddings, interpolation and the
    normalisation of the images become what the family's code does. What no tensor says is taken
    from the family's defaults, or, of VainF, from the file's name (``..._os8.pth``), of
    segmentation_models.pytorch and transformers from a ``config.json`` beside the file.

    The weights are float32, whatever the file keeps them in.

    Args:
        path: a safetensors file, or one that ``torch.save`` wrote, read with
            ``weights_only=True``; or the folder that ``save_pretrained`` wrote one in.
        device: where the network goes.
        allow: types that the pickle may hold beyond tensors, plain containers, NumPy's numbers and
            arrays and ``argparse.Namespace``, as for ``torch.serialization.safe_globals``.
        options: fields of ``Config`` that the file does not say or that are to be another, as
            ``output_stride=8`` or ``rates=(6, 12, 18)``.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: a ValueError: the file is of no known family or does not fit it. The
            message names the nearest family and the first keys that differ.
        ValueError: an option's value is unknown.
        TypeError: an option is no field of ``Config``.
    """
    _check_names(options)
    path = locate(Path(path))
    held = read(path, allow)
    try:
        config = native_config(held.metadata, path)
        if config is None:
            family = _family(held.state, path.name)
            beside = _beside(path, family)
            state, model = _convert(held.state, family, path.name, beside, options)
        else:
            state, model = (
                dict(held.state),
                _build(vars(config), options, f"{path} is of this package"),
            )
            _check(model.state_dict(), state, f"{path} and the network built for it do not fit")
    except CheckpointError as error:
        weights = [key for key in held.aside if key.endswith((".weight", ".bias"))]
        if not weights:
            raise
        raise CheckpointError(
            f"{error}. Set aside, since most names begin otherwise: {_some(weights)}"
        ) from error
    return _fill(model, state).to(device).eval()


def convert(
    state: Mapping[str, Tensor],
    file_name: str = "the state dict",
    options: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Tensor], Config]:
    """A state dict of a known family as one of ours, and the configuration to go with it.

    Raises:
        CheckpointError: the family is unknown, or keys are not the family's.
        ValueError: an option's value is unknown.
        TypeError: an option is no field of ``Config``.
    """
    options = options or {}
    _check_names(options)
    family = _family(state, file_name)
    converted, model = _convert(state, family, file_name, {}, options)
    return converted, model.config


def _check_names(options: Mapping[str, Any]) -> None:
    known = [field.name for field in fields(Config)]
    for option in options:
        if option not in known:
            raise TypeError(f"{option!r} is no option of a network: {near(option, known)}")


def _family(state: Mapping[str, Tensor], file_name: str) -> Family:
    family = recognise(state)
    if family is None:
        raise CheckpointError(_unknown(state, file_name))
    return family


def _convert(
    state: Mapping[str, Tensor],
    family: Family,
    file_name: str,
    beside: Mapping[str, Any],
    options: Mapping[str, Any],
) -> tuple[dict[str, Tensor], DeepLab]:
    """A state dict of ours and the network for it, on the meta device."""
    who = f"{file_name} looks like {family.name}"
    unknown: list[str] = []
    try:
        renamed, unknown = rename(state, family)
        structure = infer(renamed, family.backbones)
    except ValueError as error:
        others = f"; its other keys: {_some(unknown)}" if unknown else ""
        raise CheckpointError(f"{who}, but {error}{others}") from error
    if unknown:
        raise CheckpointError(
            f"{who}, but {len(unknown)} of {len(state)} keys are none of its: {_some(unknown)}"
        )
    choices = {**structure, **family.options, **family.by_structure(structure), **beside}
    if family.stride_in_name and (stride := stride_in(file_name)):
        choices["output_stride"] = stride
    model = _build(choices, options, who)
    _check(model.state_dict(), renamed, f"{who}, but does not fit", family.renaming)
    family.reorder(renamed, model.config)
    return renamed, model


def _build(choices: Mapping[str, Any], options: Mapping[str, Any], who: str) -> DeepLab:
    """The network on the meta device; an option's fault is that of the caller, others the file's.

    Raises:
        CheckpointError: what the file says is no network, also without the options.
        ValueError: an option's value is unknown.
        TypeError: an option's value is of another type.
    """

    def build(**chosen: Any) -> DeepLab:
        with torch.device("meta"):
            return DeepLab(Config(**chosen))

    try:
        return build(**{**choices, **options})
    except (TypeError, ValueError) as error:
        try:
            build(**choices)
        except (TypeError, ValueError):
            raise CheckpointError(f"{who}, but is no network: {error}") from error
        raise


def _beside(path: Path, family: Family) -> dict[str, Any]:
    """What a ``config.json`` beside the file says of it, if its family writes one."""
    written = path.with_name("config.json")
    if family.by_config is None or not written.is_file():
        return {}
    try:
        return family.by_config(json.loads(written.read_text()))
    except (ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{written} is no configuration of {family.name} that is supported: {error}"
        ) from error


def load_backbone(
    model: DeepLab, path: str | os.PathLike[str], *, allow: Sequence[Allowed] = ()
) -> None:
    """Fills a network's backbone from a checkpoint, leaving its head alone but for fc6 and fc7.

    These are taken from VGG-16's classifier, a regular part of it, where v1's and v2's heads have
    them; of a cascade block5 ... start as copies of block4, as in the papers.

    Takes torchvision's classifiers (VGG-16, ResNet-50 and -101, MobileNetV2, MobileNetV3-Large),
    its FCN, Cadene's Xception, every file that ``load`` knows, and this package's names without a
    configuration. The network keeps its own strides, paddings and normalisation: those that the
    weights were trained with must be chosen when it is built. torchvision's ResNets want
    ``stride_in_1x1=False, ceil_pool=False`` and ``inputs="imagenet"``.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file does not hold this backbone.
    """
    path = locate(Path(path))
    held = read(path, allow)
    state = held.state
    if native_config(held.metadata, path) is None and not _is_own(state):
        candidates = [Renaming(CLASSIFIERS), *(family.renaming for family in FAMILIES)]
        renamed = [_backbone_of(state, renaming) for renaming in candidates]
        state = max(renamed, key=len)
    else:
        state = {key: t for key, t in state.items() if key.startswith("backbone.")}
    bare = {key.removeprefix("backbone."): t for key, t in state.items()}
    state = {f"backbone.{key}": t for key, t in model.backbone.completed(bare).items()}
    wanted = {f"backbone.{key}": t for key, t in model.backbone.state_dict().items()}
    _check(wanted, state, f"{path} and the backbone {model.config.backbone} do not fit")
    model.load_state_dict({**model.state_dict(), **state, **model.head_from(held.state)})


def _backbone_of(state: Mapping[str, Tensor], renaming: Renaming) -> dict[str, Tensor]:
    renamed = ((renaming(key), tensor) for key, tensor in state.items())
    return {new: t for new, t in renamed if new is not None and new.startswith("backbone.")}


def _fill(model: DeepLab, state: dict[str, Tensor]) -> DeepLab:
    for key, tensor in model.state_dict().items():
        # Files older than torch 0.4.1 do not count batches.
        if key not in state:
            state[key] = torch.zeros((), dtype=tensor.dtype)
        # Tensors may share memory with each other or a file: the network gets its own.
        state[key] = state[key].to(tensor.dtype, copy=True)
    model.load_state_dict(state, assign=True)
    return model


def _check(
    wanted: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    who: str,
    renaming: Renaming | None = None,
) -> None:
    """CheckpointError unless names and shapes agree; ``renaming`` gives the family's names."""

    def name(key: str) -> str:
        return next(iter(renaming.origins(key)), key) if renaming else key

    counts = "num_batches_tracked"
    missing = [name(key) for key in wanted if key not in state and not key.endswith(counts)]
    surplus = [name(key) for key in state if key not in wanted]
    shapes = [
        f"{name(key)} is {list(state[key].shape)}, expected {list(tensor.shape)}"
        for key, tensor in wanted.items()
        if key in state and state[key].shape != tensor.shape
    ]
    types = [
        f"{name(key)} is {str(state[key].dtype).removeprefix('torch.')}"
        for key, tensor in wanted.items()
        if key in state and tensor.is_floating_point() and not state[key].is_floating_point()
    ]
    faults = [
        f"{len(keys)} {what}: {_some(keys)}"
        for what, keys in (
            ("missing", missing),
            ("unexpected", surplus),
            ("of other shape", shapes),
            ("not floating", types),
        )
        if keys
    ]
    if faults:
        raise CheckpointError(f"{who}. {'; '.join(faults)}")


# Beginnings of this package's own names.
_OWN = ("backbone.", "aspp.", "neck.", "decoder.", "classifier.", "auxiliary.")


def _is_own(state: Mapping[str, Tensor]) -> bool:
    classifiers = ("classifier.weight", "classifier.branches.")
    return all(key.startswith(_OWN) for key in state) and any(
        key.startswith(classifiers) for key in state
    )


def _unknown(state: Mapping[str, Tensor], file_name: str) -> str:
    def known(renaming: Renaming) -> int:
        return sum(renaming(key) is not None for key in state)

    if _is_own(state):
        return (
            f"{file_name} has this package's names and no configuration: which network it is, its "
            "tensors do not say. build(...) the same, model.load_state_dict(...) the tensors and "
            "deeplab.save(model, 'file.safetensors'); of a run of deeplab train, load its "
            "best.safetensors or last.safetensors"
        )
    if known(Renaming(CLASSIFIERS)) > len(state) / 2:
        return (
            f"{file_name} is a classifier's file, without a head for segmentation: fill the "
            "backbone of a network with it, deeplab.load_backbone(model, path)"
        )
    nearest = max(FAMILIES, key=lambda family: known(family.renaming))
    if not (shared := known(nearest.renaming)):
        families = ", ".join(family.name for family in FAMILIES)
        return f"{file_name} is of no known family ({families}): it has {_some(list(state))}"
    strange = [key for key in state if nearest.renaming(key) is None]
    absent = [mark for mark in nearest.marks if mark not in state]
    return (
        f"{file_name} is of no known family. Nearest is {nearest.name}, which has "
        f"{shared} of its {len(state)} keys; it does not have {_some(strange) or 'more'}, "
        f"and would need {_some(absent)}"
    )


def _some(keys: Sequence[str]) -> str:
    rest = len(keys) - _SHOWN
    return ", ".join(keys[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
