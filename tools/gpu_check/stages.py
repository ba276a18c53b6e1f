"""The stages of the check, in their order, with what each may take."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from . import building, checking, measuring
from .context import Context
from .record import Record

Outcome = tuple[str, str, dict[str, object], tuple[str, ...]]  # status, detail, data, files


@dataclass(frozen=True)
class Stage:
    """One part of the check."""

    name: str
    seconds: float  # at most
    least: float  # with less time left it is not begun
    run: Callable[[Context, float], Outcome]  # with the time when it must end
    needs: tuple[str, ...] = ()

    def run_in(self, context: Context) -> Record:
        """Runs it; what goes wrong in it is its own failure."""
        began = time.monotonic()
        until = min(began + self.seconds, began + context.seconds_left())
        try:
            status, detail, data, files = self.run(context, until)
        except Exception as error:
            with (context.work / f"{self.name}.log").open("a") as log:
                traceback.print_exc(file=log)
            status, detail, data, files = "failed", f"{type(error).__name__}: {error}", {}, ()
        return Record(self.name, status, time.monotonic() - began, detail, data, files)


STAGES = (
    Stage("machine", 40, 10, building.describe_machine),
    Stage("build", 180, 60, building.build, needs=("machine",)),
    Stage("smoke", 60, 10, checking.smoke, needs=("build",)),
    Stage("tests", 150, 30, checking.run_tests, needs=("build",)),
    Stage("stress", 90, 30, checking.run_stress, needs=("build",)),
    Stage("benchmark", 120, 40, measuring.benchmark, needs=("smoke",)),
    Stage("hardware", 60, 20, measuring.hardware, needs=("machine",)),
    Stage("loops", 90, 40, measuring.loops, needs=("build",)),
    Stage("sanitizer", 120, 40, checking.sanitize, needs=("smoke",)),
)
