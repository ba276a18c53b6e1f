"""From settings to a running trainer: data, network, labels checked, an earlier run continued."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from tqdm import tqdm

import deeplab
from deeplab.checkpoints import CheckpointError
from deeplab.data import LabelReport, SegmentationDataset, check_labels, open_dataset
from deeplab.data.check import fingerprint
from deeplab.models import DeepLab

from .batches import seed_of
from .distributed import Processes, processes
from .interrupt import Interrupt
from .losses import median_frequency
from .optimizer import classifiers
from .settings import Settings, SettingsError
from .state import LABELS, SETTINGS, STATE, ResumeError, load_state
from .trainer import Outcome, Trainer

_log = logging.getLogger(__name__)


def train(
    settings: Settings,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    device: str | None = None,
) -> Outcome:
    """Trains a network.

    Leaves in ``folder``: ``best.safetensors`` and ``last.safetensors`` for ``deeplab.load``, the
    names of their classes beside them, ``last.pt`` to go on from, ``history.jsonl``,
    ``settings.json``, ``labels.txt`` and ``tensorboard``. Ctrl-C and SIGTERM end the
    run behind the iteration, with everything saved.

    Args:
        settings: the run, see ``load_settings``.
        folder: where it goes.
        resume: go on with the run in that folder, to the bit.
        device: see ``processes``.

    Raises:
        SettingsError: settings that do not fit each other or the data.
        LabelError: labels that cannot be trained on.
        ResumeError: there is a run already, or none to go on with.
        FileNotFoundError: data or checkpoint are not there.
        TrainingDivergedError: see ``Trainer.run``.
        OSError: the end of the run could not be saved.
    """
    folder = Path(folder).expanduser()
    with processes(device) as group:
        if settings.run.batch_size % group.world:
            raise SettingsError(
                f"expected a run.batch_size that {group.world} processes share evenly, found "
                f"{settings.run.batch_size}"
            )
        _check_folder(folder, resume)
        if group.world > 1:
            dist.barrier()  # no process may write before all have looked
        folder.mkdir(parents=True, exist_ok=True)
        _set_deterministic(settings.run.deterministic)
        state = load_state(folder, settings, group.device) if resume else None
        if state is not None and state["world"] != group.world:
            raise ResumeError(
                f"the run in {folder} had {state['world']} processes, found {group.world}"
            )
        trainer = _prepare(settings, group, folder, resume)
        if state is not None:
            trainer.restore(state)
        if group.first:
            (folder / SETTINGS).write_text(settings.to_json() + "\n")
        with Interrupt() as interrupt:  # until here there is nothing to save
            return trainer.run(interrupt)


def _set_deterministic(wanted: bool) -> None:
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


def _check_folder(folder: Path, resume: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise SettingsError(f"expected a folder for the run, found a file at {folder}")
    if not resume and (folder / STATE).exists():
        raise ResumeError(f"{folder} holds a run already: resume it, or choose another folder")


def _prepare(settings: Settings, group: Processes, folder: Path, resume: bool) -> Trainer:
    train_set, *others = _open(settings)
    # Before all labels are read, which may take long. A run that goes on has its weights.
    model = build_model(settings, train_set.num_classes, filled=not resume)
    reports: list[LabelReport] = []
    if settings.data.check or settings.loss.class_weights == "median_frequency":
        reports = _report([train_set, *others], settings, group, folder, resume)
        if group.first and reports[0].absent:
            _log.warning(
                "%s has no pixel of %s: the network cannot learn what it is not shown%s",
                reports[0].name,
                ", ".join(reports[0].absent),
                f"; {reports[0].hint}" if reports[0].hint else "",
            )
    weights = _class_weights(settings, train_set, reports)
    return Trainer(
        settings, model, train_set, others[0] if others else None, weights, group, folder
    )


def _report(
    datasets: Sequence[SegmentationDataset],
    settings: Settings,
    group: Processes,
    folder: Path,
    resume: bool,
) -> list[LabelReport]:
    """What the labels hold, kept in the folder: a run that goes on reads changed ones alone.

    Raises:
        LabelError: some cannot be trained on.
    """
    state = [fingerprint(dataset) for dataset in datasets] if group.first else []
    kept = _kept_reports(folder / LABELS, state) if resume and group.first else None
    reports = group.gather(kept)[0]
    if reports is None:
        if resume and group.first and (folder / LABELS).is_file():
            _log.warning("pictures or labels changed since the run began: all are read again")
        reports = [_check_labels(dataset, group, settings) for dataset in datasets]
        if group.first:
            (folder / "labels.txt").write_text("\n".join(map(str, reports)) + "\n")
        for each in reports:
            each.raise_for_problems()
        if group.first:
            held = {"of": state, "reports": [dataclasses.asdict(each) for each in reports]}
            (folder / LABELS).write_text(json.dumps(held) + "\n")
    return reports


def _kept_reports(path: Path, state: Sequence[str]) -> list[LabelReport] | None:
    """The reports of an earlier start, if they are on these files."""
    try:
        held = json.loads(path.read_text())
        if held["of"] != list(state):
            return None
        return [
            LabelReport(**{**fields, "classes": tuple(fields["classes"])})
            for fields in held["reports"]
        ]
    except (OSError, ValueError, KeyError, TypeError):  # none, or of another version
        return None


def check_data(settings: Settings) -> list[LabelReport]:
    """What the labels of the split trained on, and of the one validated on, hold."""
    alone = Processes(torch.device("cpu"))
    return [_check_labels(each, alone, settings) for each in _open(settings)]


def _check_labels(
    dataset: SegmentationDataset, group: Processes, settings: Settings
) -> LabelReport:
    """The report on all labels, which the processes read together."""
    name = f"labels of {dataset.name} {dataset.split}"
    bar = partial(tqdm, desc=name, unit="", leave=False, disable=not group.first)
    part = check_labels(
        dataset, part=(group.rank, group.world), workers=settings.data.workers, progress=bar
    )
    return LabelReport.merged(group.gather(part))


def _class_weights(
    settings: Settings, dataset: SegmentationDataset, reports: list[LabelReport]
) -> list[float] | None:
    chosen = settings.loss.class_weights
    if chosen == "none":
        return None
    weights = median_frequency(reports[0]) if isinstance(chosen, str) else list(chosen)
    if len(weights) != dataset.num_classes:
        raise SettingsError(
            f"expected {dataset.num_classes} class weights, one per class of {dataset.name}, "
            f"found {len(weights)}"
        )
    return [weight**settings.loss.weight_power for weight in weights]


def _open(settings: Settings) -> list[SegmentationDataset]:
    data = settings.data
    options = {"ignore": data.ignore} if data.ignore else {}
    splits = [split for split in (data.train, data.val) if split]
    return [
        open_dataset(data.name, data.root, split, upright=data.upright, **options)
        for split in splits
    ]


def build_model(settings: Settings, num_classes: int, *, filled: bool = True) -> DeepLab:
    """The network as a run starts with it; the seed draws what no checkpoint gives.

    Args:
        settings: the run.
        num_classes: of the data.
        filled: take the weights of the checkpoints that the settings name.

    Raises:
        SettingsError: there is no such network, an option of it is wrong, or the window does not
            fit its strides.
        CheckpointError: a checkpoint does not fit.
    """
    torch.manual_seed(seed_of(settings.run.seed))
    chosen = settings.model
    if "num_classes" in chosen.options:
        raise SettingsError(
            f"model.options.num_classes is not to be set: the data has {num_classes} classes"
        )
    try:
        model = deeplab.build(chosen.name, num_classes=num_classes, **chosen.options)
    except (ValueError, TypeError) as error:
        raise SettingsError(f"model: {error}") from error
    if model.config.head == "sum":
        stride = round(model.output_stride / min(model.config.scales))
        if any((side - 1) % stride for side in settings.data.window):
            raise SettingsError(
                f"expected data.crop to be a multiple of {stride} and one more, as "
                f"{40 * model.output_stride + 1}, found {settings.data.crop}: {chosen.name} is "
                "compared with every so many labels"
            )
    if chosen.backbone and filled:
        deeplab.load_backbone(model, Path(chosen.backbone).expanduser())
    if chosen.weights and filled:
        _start_from(model, Path(chosen.weights).expanduser())
    return model


def _start_from(model: DeepLab, path: Path) -> None:
    """Fills a network from a checkpoint, its classifiers only if they are for the same classes."""
    loaded = deeplab.load(path).state_dict()
    names = {id(module): name for name, module in model.named_modules()}
    fresh = tuple(f"{names[id(module)]}." for module in classifiers(model))
    wanted = model.state_dict()
    state = {}
    for key, tensor in wanted.items():
        fits = key in loaded and loaded[key].shape == tensor.shape
        if not fits and not key.startswith(fresh):
            found = list(loaded[key].shape) if key in loaded else "none"
            raise CheckpointError(
                f"{path} does not fit the network: expected {key} {list(tensor.shape)}, "
                f"found {found}"
            )
        state[key] = loaded[key] if fits else tensor
    model.load_state_dict(state)
