"""What a stage works with: folders, the time that is left, and commands that end in it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

from .tree import ROOT

RESERVE = 5.0  # seconds for the report


@dataclass
class Context:
    """One run of the check."""

    work: Path
    carry: Path | None
    dry_run: bool
    revision: str
    deadline: float  # of time.monotonic()
    machine: dict[str, Any] = field(default_factory=dict)

    @property
    def device(self) -> str:
        """What tests and benchmarks run on."""
        return "cpu" if self.dry_run else "cuda"

    @property
    def site(self) -> Path:
        """Where packages from the carried folder are installed."""
        return self.work / "site"

    def seconds_left(self) -> float:
        """Until the report must be written."""
        return self.deadline - time.monotonic() - RESERVE

    def about(self) -> dict[str, Any]:
        """What the report says of the run as a whole."""
        return {
            "check": "gpu",
            "dry_run": self.dry_run,
            "revision": self.revision,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }

    def environment(self, **more: str) -> dict[str, str]:
        """That of every command: this checkout first, then what was carried."""
        paths = [str(ROOT), str(self.site), os.environ.get("PYTHONPATH", "")]
        variables = {
            "PYTHONPATH": os.pathsep.join(path for path in paths if path),
            "PYTHONUNBUFFERED": "1",
            "DENSECRF_REVISION": self.revision,
        }
        if self.carry is not None and (self.carry / "data").is_dir():
            variables["DENSECRF_SHARED_DATA"] = str((self.carry / "data").resolve())
        return {**os.environ, **variables, **more}

    def start(self, command: Sequence[str], log: IO[str], **environment: str) -> Process:
        """Starts a command of this Python, in a process group of its own."""
        full = [sys.executable, *command]
        return self.start_program(full, log, self.environment(**environment))

    def start_program(
        self, command: Sequence[str], log: IO[str], environment: Mapping[str, str]
    ) -> Process:
        """Starts any program; its output goes to the log."""
        log.write(f"$ {' '.join(command)}\n")
        log.flush()
        child = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        return Process(child)


@dataclass
class Process:
    """A command under way."""

    child: subprocess.Popen[bytes]

    def finish(self, until: float) -> int | None:
        """Its exit code; None if it had to be ended, with its children, at `until`."""
        try:
            return self.child.wait(timeout=max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self.child.pid, signal.SIGKILL)
            self.child.wait()
            return None
