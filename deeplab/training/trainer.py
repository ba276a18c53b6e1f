"""The training loop."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from deeplab.checkpoints import save
from deeplab.data import Sample, SegmentationDataset
from deeplab.data.augment import Augmentation
from deeplab.labelling import Labelling
from deeplab.models import DeepLab

from .batch_norm import freeze_affine, synchronise, train_mode
from .batches import Steps, loader, seed_of
from .distributed import Noticed, Processes
from .interrupt import Interrupt
from .losses import pixel_losses, targets
from .optimizer import build_optimizer, learning_rate, set_learning_rate
from .report import Report
from .settings import Settings
from .state import BEST, LAST, STATE, replace_file, save_state
from .validation import validate

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class TrainingDivergedError(RuntimeError):
    """The loss or a weight is no finite number any more."""


@dataclass
class Outcome:
    """How a run ended.

    Attributes:
        iterations: done, those before a resumption included.
        best: the highest mean IoU of a validation; None without one.
        interrupted: whether it was stopped before its end.
    """

    iterations: int
    best: float | None
    interrupted: bool


class Trainer:
    """One process of a training run.

    Order, augmentation and dropout depend on the seed, the iteration and the process's rank alone,
    so that a run that goes on from a checkpoint repeats, to the bit, what one that never stopped
    would have done, on the same machine with the same number of threads and processes.

    Args:
        settings: the run.
        model: the network, as it starts.
        train: what it is trained on.
        val: what it is validated on.
        class_weights: one per class, or None.
        group: this process among its peers.
        folder: where everything goes.
    """

    def __init__(
        self,
        settings: Settings,
        model: DeepLab,
        train: SegmentationDataset,
        val: SegmentationDataset | None,
        class_weights: list[float] | None,
        group: Processes,
        folder: Path,
    ) -> None:
        run, data = settings.run, settings.data
        self.settings, self.group, self.folder = settings, group, folder
        self.train_set, self.val_set = train, val
        self.frozen = run.batch_norm in ("frozen", "frozen_statistics")
        self.model = model.to(group.device)
        if run.channels_last:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if run.batch_norm == "frozen":
            freeze_affine(self.model)
        if run.batch_norm == "sync":
            synchronise(self.model, group.device)
        self.forward: nn.Module = self.model
        if group.world > 1:
            self.forward = DistributedDataParallel(self.model)
        self.average = self._averaged() if run.ema else None
        self.optimizer = build_optimizer(self.model, settings.optimizer)
        self.dtype = _DTYPES.get(run.amp)
        # bfloat16 has float32's range: only float16 needs its gradients scaled.
        self.scaler = torch.amp.GradScaler(group.device.type, enabled=self.dtype is torch.float16)
        self.augment = Augmentation(
            data.window, data.scales, data.scale_step, data.flip, data.color_jitter
        )
        self.weights = (
            None if class_weights is None else torch.tensor(class_weights, device=group.device)
        )
        self.done = 0
        self.best: float | None = None
        self._unwritten: DeepLab | None = None  # the best network, until it is on disk
        self._saved = 0
        self._validated = 0
        self._losses = torch.zeros((), dtype=torch.float64, device=group.device)
        self._counted = 0
        self._wishes: Noticed | None = None  # of the processes to stop, in the last step

    def _averaged(self) -> AveragedModel:
        averaging = get_ema_multi_avg_fn(self.settings.run.ema)  # type: ignore[no-untyped-call]
        return AveragedModel(self.model, multi_avg_fn=averaging)

    @property
    def kept(self) -> DeepLab:
        """The network that is validated and kept: the average where there is one."""
        module = self.model if self.average is None else self.average.module
        assert isinstance(module, DeepLab)
        return module

    def run(self, interrupt: Interrupt) -> Outcome:
        """Trains to the end, or until it is interrupted.

        Raises:
            TrainingDivergedError: the loss or a weight is no finite number. What was saved before
                stays.
            OSError: the last checkpoint could not be written.
        """
        run = self.settings.run
        report = Report(
            self.folder,
            first=self.group.first,
            iterations=run.iterations,
            done=self.done,
            validated=self._validated,
            tensorboard=run.tensorboard,
        )
        try:
            stopped = self._iterate(report, interrupt)
            if not stopped and self._validated != self.done:
                if self.val_set is not None and not self._due(run.save_every):
                    self._save(report)  # before a validation, in which there may be no time for it
                stopped = not self._validate(report, interrupt)
            self._save(report, last=True)
        finally:
            report.close()
        return Outcome(self.done, self.best, stopped)

    def _iterate(self, report: Report, interrupt: Interrupt) -> bool:
        """All iterations; True if interrupted."""
        run, group = self.settings.run, self.group
        steps = Steps(
            len(self.train_set),
            seed=run.seed,
            batch_size=run.batch_size,
            first=self.done * run.accumulate,
            last=run.iterations * run.accumulate,
            rank=group.rank,
            world=group.world,
        )
        pinned = group.device.type == "cuda"
        batches = iter(loader(self.train_set, steps, self.settings.data.workers, pinned))
        train_mode(self.model, frozen=self.frozen)
        cut_short = self._due(run.validate_every) and self._validated != self.done
        if cut_short and not self._validate(report, interrupt):
            return True
        while self.done < run.iterations:
            rate = learning_rate(self.settings.optimizer, self.done, run.iterations)
            set_learning_rate(self.optimizer, rate)
            self._step(batches, interrupt)
            self.done += 1
            report.step()
            if self.done % run.log_every == 0:
                self._log(report, rate)
            validation_due = self._due(run.validate_every) and self.val_set is not None
            stop = self._stop_agreed(interrupt)
            if not stop and (self._due(run.save_every) or validation_due):
                self._save(report)
            if stop or (validation_due and not self._validate(report, interrupt)):
                return True
        return False

    def _stop_agreed(self, interrupt: Interrupt) -> bool:
        """Whether to stop behind this step; of several processes, if one wanted to during it."""
        if self.group.world == 1 or self._wishes is None:
            return interrupt.requested
        return self._wishes.read()[0] > 0

    def _due(self, every: int) -> bool:
        """Whether something done at every so many iterations is due now."""
        return bool(every) and self.done > 0 and self.done % every == 0

    def _step(self, batches: Any, interrupt: Interrupt) -> None:
        """One step of the optimiser."""
        run = self.settings.run
        # Dropout, like everything drawn, is a function of the step: nothing to save, and resume.
        torch.manual_seed(seed_of(run.seed, self.done, self.group.rank))
        self.optimizer.zero_grad(set_to_none=True)
        for part in range(run.accumulate):
            images, labels = self._window(next(batches))
            last = part == run.accumulate - 1
            quiet = self.group.world > 1 and not last
            assert not quiet or isinstance(self.forward, DistributedDataParallel)
            with self.forward.no_sync() if quiet else contextlib.nullcontext():  # type: ignore[operator]
                loss = self._loss(images, labels, interrupt)
                # DDP averages the gradients of the processes, whose losses are to be added.
                scaled = self.scaler.scale(loss * (self.group.world / run.accumulate))
                scaled.backward()  # type: ignore[no-untyped-call]
            self._losses += loss.detach().double() / run.accumulate
        self._counted += 1
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.model)

    def _window(self, samples: list[tuple[Sample, int]]) -> tuple[Tensor, Tensor]:
        """The augmented batch: normalised ``[B, 3, h, w]`` and labels ``[B, h, w]``."""
        drawn = [
            self.augment(sample, seed, self.model.normalize, self.group.device)
            for sample, seed in samples
        ]
        images = torch.stack([image for image, _ in drawn])
        if self.settings.run.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images, torch.stack([label for _, label in drawn])

    def _loss(self, images: Tensor, labels: Tensor, interrupt: Interrupt) -> Tensor:
        """This process's share of the loss: the mean over the labelled pixels of all processes."""
        settings = self.settings.loss
        enabled = self.dtype is not None
        with torch.autocast(self.group.device.type, self.dtype or torch.bfloat16, enabled=enabled):
            maps = self.forward(images, training_maps=True)
        keep = settings.ohem
        if self.done < settings.ohem_warmup:
            keep = 1 - (1 - keep) * self.done / settings.ohem_warmup
        total: Tensor | None = None
        wanted = targets(maps, labels, self.model.config)
        auxiliary = self.model.auxiliary is not None
        for number, (scores, label) in enumerate(zip(maps, wanted, strict=True)):
            losses, count = pixel_losses(scores.float(), label, weights=self.weights, keep=keep)
            # Processes agree to stop where they talk to each other anyway.
            wish = torch.full_like(count, float(interrupt.requested))
            sums = self.group.sum(torch.stack([count.detach(), wish]))
            count = sums[0]
            if self.group.world > 1 and number == 0:
                self._wishes = Noticed(sums[1:])
            share = losses / count.clamp(min=torch.finfo(count.dtype).tiny)
            if number and auxiliary:
                share = settings.auxiliary * share
            total = share if total is None else total + share
        assert total is not None
        return total

    def _log(self, report: Report, rate: float) -> None:
        """Loss and learning rate; raises if the loss is no finite number."""
        loss = self.group.sum(self._losses).item() / max(self._counted, 1)
        self._losses.zero_()
        self._counted = 0
        report.log(self.done, {"loss": loss, "lr": rate})
        self._check_finite(torch.tensor(loss), f"the loss is {loss}", rate)

    def _check_finite(self, values: Tensor, what: str, rate: float | None = None) -> None:
        if torch.isfinite(values).all():
            return
        at = "" if rate is None else f" at a learning rate of {rate:.3g}"
        kept = (
            f"{self.folder / STATE} holds iteration {self._saved}, from before"
            if self._saved
            else "no checkpoint was written yet"
        )
        again = ", in another folder" if self._saved else ""
        if (self.folder / LAST).is_file():
            again += f"; model.weights={self.folder / LAST} starts there from this run's network"
        raise TrainingDivergedError(
            f"{what} after {self.done} iterations{at}: {kept}. A lower optimizer.lr or an "
            f"optimizer.warmup may help{again}"
        )

    def _check_weights(self) -> None:
        for name, tensor in self.model.state_dict().items():
            self._check_finite(tensor, f"{name} is not finite")

    def _validate(self, report: Report, interrupt: Interrupt) -> bool:
        """Mean IoU on the validation set; keeps the network if it is the best so far.

        Returns:
            False if interrupted.
        """
        if self.val_set is None:
            return True
        self._check_weights()
        model = self.kept
        model.eval()
        scores = validate(model, self.val_set, self.group, lambda: interrupt.requested)
        train_mode(self.model, frozen=self.frozen)
        if scores is None:
            return False
        self._validated = self.done
        values = {"miou": scores.mean_iou, "pixel_accuracy": scores.pixel_accuracy}
        each = zip(self.val_set.classes, scores.iou.tolist(), strict=True)
        report.log(self.done, {**values, **{f"iou/{name}": iou for name, iou in each}})
        if self.best is None or scores.mean_iou > self.best:
            self.best = scores.mean_iou
            if self.group.first:
                self._unwritten = copy_on_host(self.kept)
                self._write(report, self._save_best)
        return True

    def _save(self, report: Report, last: bool = False) -> None:
        """Writes state and network, unless a weight is no finite number any more."""
        self._check_weights()
        losses = self.group.gather(self._losses.item())
        if not self.group.first:
            return
        report.flush()
        state = {
            "settings": self.settings.to_json(),
            "iterations": self.done,
            "best": self.best,
            "validated": self._validated,
            "world": self.group.world,
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "losses": torch.tensor(losses, dtype=torch.float64),  # of each process
            "counted": self._counted,
        }

        def write() -> None:
            try:
                self._save_best()  # before the state that says how good it was
                save_state(self.folder / STATE, state)
                self._saved = self.done
            except OSError as error:
                try:
                    self._save_network(LAST, self.kept)  # half the state's size: it may fit
                except OSError:
                    raise error from None  # what failed first, and matters more
                found = f"{self.folder / LAST} holds iteration {self.done}"
                raise OSError(f"{error}; {found}") from error
            self._save_network(LAST, self.kept)

        if last:
            write()
        else:
            self._write(report, write)

    def _save_best(self) -> None:
        """Writes the best network unless it is written: a full disk may have been in the way."""
        if self._unwritten is not None:
            self._save_network(BEST, self._unwritten)
            self._unwritten = None

    def _save_network(self, name: str, network: DeepLab) -> None:
        labelling = Labelling(
            self.train_set.classes, self.train_set.palette, ignore=self.settings.data.ignore
        )
        replace_file((self.folder / name).with_suffix(".json"), labelling.write)
        replace_file(self.folder / name, lambda part: save(network, part))

    def _write(self, report: Report, write: Any) -> None:
        """Writes; a full disk in the middle of a run is said and does not end it."""
        try:
            write()
        except OSError as error:
            report.say(f"{error}; what was written before stays, and training goes on")

    def restore(self, state: dict[str, Any]) -> None:
        """Goes back to where ``_save`` was."""
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.done, self.best = state["iterations"], state["best"]
        losses = state["losses"].flatten()
        self._losses.copy_(losses[self.group.rank % len(losses)])  # earlier versions kept one
        self._counted = state["counted"]
        self._validated = state["validated"]
        self._saved = self.done


def copy_on_host(network: DeepLab) -> DeepLab:
    """A network with the same weights, in memory of their own on the CPU."""
    with torch.device("meta"):
        twin = DeepLab(network.config)
    state = {key: tensor.cpu().clone() for key, tensor in network.state_dict().items()}
    twin.load_state_dict(state, assign=True)
    return twin
