"""A training run as a TOML file: every field, its default, and what is wrong with a value."""

from __future__ import annotations

import dataclasses
import json
import sys
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any

from deeplab.fields import near, typed

if sys.version_info >= (3, 11):
    import tomllib
else:  # the same library under its older name
    import tomli as tomllib

RECIPES = Path(__file__).resolve().parent / "recipes"

_CHOICES = {
    "schedule": ("poly", "step", "constant"),
    "batch_norm": ("train", "sync", "frozen_statistics", "frozen"),
    "amp": ("none", "bfloat16", "float16"),
    "class_weights": ("none", "median_frequency"),
}

_AT_LEAST = {
    1: (
        *("run.iterations", "run.batch_size", "run.accumulate", "run.log_every", "run.save_every"),
        "optimizer.step_every",
    ),
    0: (
        *("run.seed", "run.validate_every", "data.workers", "loss.ohem_warmup", "loss.auxiliary"),
        *("optimizer.lr", "optimizer.bias_lr", "optimizer.head_lr", "optimizer.classifier_lr"),
        *("optimizer.momentum", "optimizer.weight_decay", "optimizer.warmup", "optimizer.power"),
        "optimizer.step_factor",
    ),
}


class SettingsError(ValueError):
    """A configuration that cannot be run."""


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """What is trained on, and how it is augmented (see ``Augmentation``).

    Attributes:
        name: see ``open_dataset``.
        root: folder of the data set; ``~`` is the home folder.
        train: the split trained on.
        val: the split validated on; ``""`` for none.
        ignore: of ``name = "folder"``: values beside 255 that mean no class.
        upright: turn pictures as their EXIF orientation says, for labels that are turned.
        crop: size of the windows in pixels: one number, or height and width.
        scales: smallest and largest factor.
        scale_step: distance of the factors; 0 for all between.
        flip: mirror half of the pictures.
        color_jitter: largest change of brightness, contrast and saturation.
        workers: processes that read pictures, for each training process.
        check: read all pictures and labels first, and stop if one is wrong.
    """

    name: str
    root: str
    train: str = "train"
    val: str = "val"
    ignore: tuple[int, ...] = ()
    upright: bool = False
    crop: int | tuple[int, int] = 513
    scales: tuple[float, float] = (0.5, 2.0)
    scale_step: float = 0.25
    flip: bool = True
    color_jitter: float = 0.0
    workers: int = 2
    check: bool = True

    @property
    def window(self) -> tuple[int, int]:
        """Height and width of the windows."""
        return (self.crop, self.crop) if isinstance(self.crop, int) else self.crop


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """The network.

    Attributes:
        name: see ``deeplab.build``.
        weights: a checkpoint of the same network to start from, see ``deeplab.load``; classifiers
            for another number of classes start afresh.
        backbone: a checkpoint to start the backbone from, see ``deeplab.load_backbone``.
        options: fields of ``deeplab.Config`` to replace.
    """

    name: str
    weights: str = ""
    backbone: str = ""
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """Stochastic gradient descent.

    Attributes:
        lr: learning rate at the start.
        momentum: of SGD.
        nesterov: the form of the momentum.
        weight_decay: of the weights of convolutions.
        decay_biases: decay biases too.
        decay_norms: decay scales and shifts of batch normalisation too.
        head_lr: factor on the rate of everything behind the backbone.
        classifier_lr: factor on the rate of the last convolutions, instead of ``head_lr``.
        bias_lr: factor on the rate of biases, on top of the others.
        schedule: ``"poly"``: lr (1 - i / iterations)^power; ``"step"``; ``"constant"``.
        power: of ``"poly"``.
        step_every: iterations between the steps of ``"step"``.
        step_factor: of each of them.
        warmup: iterations over which the rate rises to its own, from a tenth.
    """

    lr: float
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    decay_biases: bool = False
    decay_norms: bool = False
    head_lr: float = 1.0
    classifier_lr: float = 1.0
    bias_lr: float = 1.0
    schedule: str = "poly"
    power: float = 0.9
    step_every: int = 2000
    step_factor: float = 0.1
    warmup: int = 0


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """Cross-entropy.

    Attributes:
        class_weights: ``"none"``, ``"median_frequency"``, or one number per class.
        weight_power: what these weights are raised to: 0.5 halves their spread.
        ohem: share of the pixels that count, the hardest: 1 for all.
        ohem_warmup: iterations over which the share falls from 1.
        auxiliary: weight of the auxiliary classifier's loss.
    """

    class_weights: str | tuple[float, ...] = "none"
    weight_power: float = 1.0
    ohem: float = 1.0
    ohem_warmup: int = 0
    auxiliary: float = 0.4


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """How long, on how much, and what is kept.

    Attributes:
        iterations: steps of the optimiser.
        batch_size: pictures of one forward pass, all processes together.
        accumulate: forward passes to a step, whose gradients are averaged (Caffe's iter_size).
        seed: of weights, order, augmentation and dropout.
        batch_norm: ``"train"``; ``"sync"``, over all processes; ``"frozen_statistics"``, whose
            scales and shifts go on training; ``"frozen"``.
        amp: ``"none"``, ``"bfloat16"`` or ``"float16"``.
        ema: decay of an exponential moving average of the weights, which is then what is validated
            and kept; 0 for none.
        channels_last: memory format of the network.
        deterministic: only kernels that repeat their results, on a GPU too.
        log_every: iterations between lines of the log.
        save_every: iterations between checkpoints.
        validate_every: iterations between validations; 0 for one at the end.
        tensorboard: write a log for TensorBoard.
    """

    iterations: int
    batch_size: int = 16
    accumulate: int = 1
    seed: int = 0
    batch_norm: str = "train"
    amp: str = "none"
    ema: float = 0.0
    channels_last: bool = False
    deterministic: bool = False
    log_every: int = 20
    save_every: int = 500
    validate_every: int = 0
    tensorboard: bool = True


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A training run: the tables of its TOML file."""

    data: DataSettings
    model: ModelSettings
    optimizer: OptimizerSettings
    loss: LossSettings
    run: RunSettings

    def __post_init__(self) -> None:
        for table in dataclasses.fields(self):
            section = getattr(self, table.name)
            for name, choices in _CHOICES.items():
                value = getattr(section, name, None)
                if isinstance(value, str) and value not in choices:
                    raise SettingsError(
                        f"expected {table.name}.{name} to be one of {', '.join(choices)}; "
                        f"found {value!r}"
                    )
        for least, names in _AT_LEAST.items():
            for name in names:
                value = attrgetter(name)(self)
                _expect(value >= least, f"{name} >= {least}", value)
        run, data, loss = self.run, self.data, self.loss
        _expect(self.optimizer.momentum < 1, "optimizer.momentum < 1", self.optimizer.momentum)
        _expect(bool(data.train), "data.train to name a split", data.train)
        _expect(not data.ignore or data.name == "folder", 'data.ignore with "folder"', data.name)
        _expect(all(0 <= v < 256 for v in data.ignore), "data.ignore in 0…255", data.ignore)
        _expect(min(data.window) >= 1, "data.crop >= 1", data.crop)
        _expect(0 < data.scales[0] <= data.scales[1], "0 < scales[0] <= scales[1]", data.scales)
        _expect(data.scale_step >= 0, "data.scale_step >= 0", data.scale_step)
        _expect(0 <= data.color_jitter < 1, "0 <= data.color_jitter < 1", data.color_jitter)
        _expect(0 < loss.ohem <= 1, "0 < loss.ohem <= 1", loss.ohem)
        if isinstance(loss.class_weights, tuple):
            sound = min(loss.class_weights, default=0) >= 0 and sum(loss.class_weights) > 0
            _expect(sound, "loss.class_weights >= 0, one of them > 0", list(loss.class_weights))
        _expect(0 <= run.ema < 1, "0 <= run.ema < 1", run.ema)

    def to_json(self) -> str:
        """All fields, as one JSON object."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)


def load_settings(source: str, overrides: Sequence[str] = ()) -> Settings:
    """Reads a configuration.

    Args:
        source: a TOML file, or the name of one of the recipes (``recipe_names``).
        overrides: ``"table.key=value"``, the value as TOML writes it; what is no TOML is text.

    Raises:
        FileNotFoundError: there is neither such a file nor such a recipe.
        SettingsError: a ValueError: it is no TOML, or a key or a value is wrong.
    """
    path = config_path(source)
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is no TOML: {error}") from error
    for override in overrides:
        _override(tables, override)
    try:
        settings = _build(Settings, tables, "")
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error
    assert isinstance(settings, Settings)
    return settings


def config_path(source: str) -> Path:
    """The file of a configuration: itself, or the recipe of that name.

    Raises:
        FileNotFoundError: it is neither.
    """
    path = Path(source)
    if not path.is_file() and path.name == source:
        path = RECIPES / f"{source}.toml"
    if not path.is_file():
        raise FileNotFoundError(
            f"{source} is neither a file nor a recipe; recipes are {', '.join(recipe_names())}"
        )
    return path


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def _override(tables: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    *parents, key = name.strip().split(".")
    if not equals or not parents:
        raise SettingsError(f"expected table.key=value, found {override!r}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    table = tables
    for parent in parents:
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise SettingsError(f"{override!r}: {'.'.join(parents)} is no table")
    table[key] = value


def _build(kind: Any, values: Mapping[str, Any], where: str) -> Any:
    """A dataclass from a table, its types checked."""
    hints = typing.get_type_hints(kind)
    unknown = [key for key in values if key not in hints]
    if unknown:
        raise SettingsError(f"unknown key {where}{unknown[0]}: {near(unknown[0], hints, where)}")
    built: dict[str, Any] = {}
    for spec in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[spec.name]):
            table = values.get(spec.name, {})
            if not isinstance(table, Mapping):
                raise SettingsError(f"expected a table [{spec.name}], found {table!r}")
            built[spec.name] = _build(hints[spec.name], table, f"{spec.name}.")
        elif spec.name in values:
            try:
                built[spec.name] = typed(values[spec.name], hints[spec.name], where + spec.name)
            except TypeError as error:
                raise SettingsError(str(error)) from error
        elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            raise SettingsError(f"{where}{spec.name} is missing")
    return kind(**built)


def _expect(holds: bool, condition: str, found: object) -> None:
    if not holds:
        raise SettingsError(f"expected {condition}, found {found!r}")
