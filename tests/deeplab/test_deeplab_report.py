"""What a run reports, on a disk that fills up and after a crash."""

from __future__ import annotations

import errno
import json
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytest.importorskip("kornia")

from deeplab.training import board
from deeplab.training.report import Report


def _report(
    folder: Path, done: int = 0, validated: int = 99, *, tensorboard: bool = False
) -> Report:
    return Report(
        folder,
        first=True,
        iterations=100,
        done=done,
        validated=validated,
        tensorboard=tensorboard,
    )


def _history(folder: Path) -> list[int]:
    lines = (folder / "history.jsonl").read_text().splitlines()
    return [json.loads(line)["iteration"] for line in lines]


def _steps(folder: Path) -> list[int]:
    """What TensorBoard shows."""
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    accumulator = events.EventAccumulator(str(folder / "tensorboard")).Reload()
    return [event.step for event in accumulator.Scalars("loss")]


@contextmanager
def _files_of_at_most(size: int) -> Iterator[None]:
    """The system writes what fits and refuses the rest, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_no_half_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = _report(tmp_path)
    report.log(1, {"loss": 1.0})
    with _files_of_at_most((tmp_path / "history.jsonl").stat().st_size + 7):
        report.log(2, {"loss": 1.0})
        report.log(3, {"loss": 1.0})
    report.log(4, {"loss": 1.0})
    report.close()
    assert _history(tmp_path) == [1, 4]
    assert capsys.readouterr().err.count("history.jsonl lacks lines from now on") == 1


def test_a_line_cut_short_by_a_crash_is_forgotten(tmp_path: Path) -> None:
    report = _report(tmp_path)
    for iteration in (1, 2):
        report.log(iteration, {"loss": 1.0})
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"iteration": 3, "lo')
    report = _report(tmp_path, done=2)
    report.log(3, {"loss": 1.0})
    assert _history(tmp_path) == [1, 2, 3]


def test_scores_of_a_validation_that_is_done_again_are_written_once(tmp_path: Path) -> None:
    report = _report(tmp_path)
    for iteration in (3, 6):
        report.log(iteration, {"loss": 1.0})
        report.log(iteration, {"miou": 0.5})
    _report(tmp_path, done=6, validated=3)
    assert _history(tmp_path) == [3, 3, 6]


def test_tensorboard_shows_every_iteration_of_a_resumed_run_once(tmp_path: Path) -> None:
    report = _report(tmp_path, tensorboard=True)
    for iteration in range(1, 8):
        report.log(iteration, {"loss": 1.0})
    report.close()
    report = _report(tmp_path, done=4, tensorboard=True)
    for iteration in range(5, 9):
        report.log(iteration, {"loss": 2.0})
    report.close()
    assert _steps(tmp_path) == [1, 2, 3, 4, 5, 6, 7, 8]


class _Usage(NamedTuple):
    free: int


def test_tensorboard_goes_on_once_the_disk_has_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = _report(tmp_path, tensorboard=True)
    for iteration in range(1, 7):
        with monkeypatch.context() as patch:
            if iteration in (3, 4):
                patch.setattr(board.shutil, "disk_usage", lambda path: _Usage(0))
            report.log(iteration, {"loss": 1.0})
            report.flush()
    report.close()
    assert _steps(tmp_path) == [1, 2, 5, 6]
    assert _history(tmp_path) == [1, 2, 3, 4, 5, 6]
    assert capsys.readouterr().err.count("lacks values from now on: the disk is full") == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_tensorboards_thread_may_die_of_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    records = pytest.importorskip("tensorboard.summary.writer.record_writer")

    def fail(self: Any, data: bytes) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    report = _report(tmp_path, tensorboard=True)
    report.log(1, {"loss": 1.0})
    report.flush()
    with monkeypatch.context() as patch:
        patch.setattr(records.RecordWriter, "write", fail)
        for iteration in range(2, 40):
            report.log(iteration, {"loss": 1.0})
        report.flush()
    report.flush()
    report.log(40, {"loss": 1.0})
    report.close()
    assert _steps(tmp_path) == [1, 40]
    assert capsys.readouterr().err.count("lacks values from now on: Disk quota exceeded") == 1


def test_a_run_without_room_for_tensorboard_starts_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: _Usage(0))
    report = _report(tmp_path, tensorboard=True)
    report.log(1, {"loss": 1.0})
    report.close()
    assert _history(tmp_path) == [1]
