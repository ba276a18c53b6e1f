"""What the stages left: a file each, and the bundle of all that is to be kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

MAX_BYTES = 15 << 20  # of one file of the bundle
MAX_FILES = 8
GOOD = ("passed", "skipped")


@dataclass(frozen=True)
class Record:
    """The end of a stage: "passed", "failed", "skipped" (the machine cannot), or "not run"."""

    stage: str
    status: str
    seconds: float
    detail: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()  # of the working folder, to be kept


class Records:
    """The records of one source tree, in files of a working folder."""

    def __init__(self, folder: Path, fresh: bool = False) -> None:
        self.folder = folder
        if fresh and folder.is_dir():
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, stage: str) -> Record | None:
        """The record of a stage; None where there is none, or half of one."""
        try:
            stored = json.loads(self._path(stage).read_text())
        except (OSError, ValueError):
            return None
        return Record(**{**stored, "files": tuple(stored["files"])})

    def put(self, record: Record) -> None:
        """Keeps a record, whole or not at all."""
        partial = self._path(record.stage).with_suffix(".partial")
        partial.write_text(json.dumps(asdict(record), indent=1) + "\n")
        partial.replace(self._path(record.stage))

    def has_passed(self, stage: str) -> bool:
        """Whether a stage that others need is through."""
        record = self.get(stage)
        return record is not None and record.status == "passed"

    def all(self) -> list[Record]:
        """All records, in the order in which they were written."""
        paths = sorted(self.folder.glob("*.record.json"), key=lambda path: path.stat().st_mtime_ns)
        found = (self.get(path.name.removesuffix(".record.json")) for path in paths)
        return [record for record in found if record is not None]

    def log(self, stage: str) -> Path:
        """Where the output of a stage goes."""
        return self.folder / f"{stage}.log"

    def _path(self, stage: str) -> Path:
        return self.folder / f"{stage}.record.json"


def bundle(records: Records, out: Path, about: dict[str, Any]) -> None:
    """Writes report.json and log.txt, and copies the stages' files, into a flat folder."""
    out.mkdir(parents=True, exist_ok=True)
    everything = records.all()
    names = [record.stage for record in everything]
    report = {
        **about,
        "verdict": verdict(records, names),
        "stages": [asdict(record) for record in everything],
    }
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    share = MAX_BYTES // max(1, len(names))
    parts = []
    for name in names:
        if records.log(name).is_file():
            text = records.log(name).read_text(errors="replace")
            parts.append(f"======== {name}\n{text[-share:]}")
    (out / "log.txt").write_text("\n".join(parts))
    files = [name for record in everything for name in record.files]
    if len(files) + 2 > MAX_FILES:
        raise ValueError(f"at most {MAX_FILES} files can be kept, found {len(files) + 2}: {files}")
    for name in files:
        kept = records.folder / name
        if kept.is_file() and kept.stat().st_size <= MAX_BYTES:
            shutil.copyfile(kept, out / name)


def verdict(records: Records, stages: Sequence[str]) -> str:
    """Either "passed", "failed", or "incomplete" where a stage is still to be run."""
    status = {stage: getattr(records.get(stage), "status", "not run") for stage in stages}
    if "failed" in status.values():
        return "failed"
    return "passed" if all(value in GOOD for value in status.values()) else "incomplete"


def summary(records: Records, stages: Sequence[str]) -> str:
    """A line a stage, and the verdict."""
    lines = ["", "stage        result   seconds"]
    for stage in stages:
        record = records.get(stage)
        if record is not None:
            line = f"{stage:12} {record.status:8} {record.seconds:7.1f}  {record.detail}"
            lines.append(line.rstrip())
    return "\n".join([*lines, f"gpu-check: {verdict(records, stages)}"])
