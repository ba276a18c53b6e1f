"""`make gpu-check` without a GPU: what it reports, resumes and refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from devices import why_no_cuda

from tools import native
from tools.gpu_check import building, checking, measuring, record, stages, tree
from tools.gpu_check.context import Context
from tools.gpu_check.record import Record, Records

ROOT = Path(__file__).resolve().parent.parent


def gpu_check(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.gpu_check", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def context(folder: Path, dry_run: bool = True, seconds: float = 60.0) -> Context:
    return Context(
        work=folder,
        carry=None,
        dry_run=dry_run,
        revision="abc",
        deadline=time.monotonic() + seconds,
    )


def test_dry_run_reports_every_stage_and_says_that_it_was_dry(tmp_path: Path) -> None:
    folders = ("--out", tmp_path / "out", "--work", tmp_path / "work")
    result = gpu_check("--dry-run", "--only", "machine", "build", "tests", *folders)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "gpu-check: passed" in result.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["dry_run"] is True
    assert [stage["status"] for stage in report["stages"]] == ["passed"] * 3
    assert report["stages"][2]["data"]["passed"] > 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "report.json",
        "log.txt",
        "tests.xml",
    }

    again = gpu_check("--dry-run", "--only", "machine", "build", "tests", *folders)
    assert again.stdout.count("passed before") == 3


@pytest.mark.skipif(why_no_cuda() is None, reason="there is a GPU")
def test_without_a_gpu_it_fails_and_says_what_was_not_run(tmp_path: Path) -> None:
    result = gpu_check("--out", tmp_path / "out", "--work", tmp_path / "work")
    assert result.returncode == 1
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["verdict"] == "failed"
    first, *others = report["stages"]
    assert (first["stage"], first["status"]) == ("machine", "failed")
    assert first["detail"] == "torch sees no GPU"
    assert [stage["stage"] for stage in others] == [stage.name for stage in stages.STAGES[1:]]
    assert {stage["status"] for stage in others} == {"not run"}


def test_without_time_nothing_is_begun(tmp_path: Path) -> None:
    folders = ("--out", tmp_path / "out", "--work", tmp_path / "work")
    result = gpu_check("--dry-run", "--limit", "1", "--only", "machine", *folders)
    assert result.returncode == 1
    assert "gpu-check: incomplete" in result.stdout
    assert "run again to go on" in result.stdout


def test_unknown_stage_is_refused_with_the_names() -> None:
    result = gpu_check("--only", "nonsense")
    assert result.returncode == 2
    assert "sanitizer" in result.stderr


def test_a_failed_stage_is_repeated_and_a_passed_one_is_not(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.put(Record("one", "passed", 1.0))
    records.put(Record("two", "failed", 1.0, "why", {"number": 3}, ("a.xml",)))
    assert Records(tmp_path).get("two") == Record(
        "two", "failed", 1.0, "why", {"number": 3}, ("a.xml",)
    )
    assert records.has_passed("one")
    assert not records.has_passed("two")
    assert record.verdict(records, ["one", "two"]) == "failed"
    assert record.verdict(records, ["one"]) == "passed"
    assert record.verdict(records, ["one", "three"]) == "incomplete"
    assert Records(tmp_path, fresh=True).all() == []


def test_half_a_record_is_none(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.put(Record("one", "passed", 1.0))
    (path,) = tmp_path.glob("one*")
    path.write_text(path.read_text()[:20])
    assert records.get("one") is None


def test_what_a_stage_raises_is_its_failure(tmp_path: Path) -> None:
    def run(_context: Context, _until: float) -> Any:
        raise ValueError("broken")

    done = stages.Stage("one", 10, 1, run).run_in(context(tmp_path))
    assert (done.status, done.detail) == ("failed", "ValueError: broken")
    assert "Traceback" in (tmp_path / "one.log").read_text()


def test_a_command_that_outlasts_its_time_is_ended_with_its_children(tmp_path: Path) -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; " \
        "time.sleep(60)'])"  # fmt: skip
    began = time.monotonic()
    with (tmp_path / "log").open("w") as log:
        process = context(tmp_path).start(["-c", code], log)
        assert process.finish(time.monotonic() + 1.0) is None
    assert time.monotonic() - began < 20


def test_bundle_keeps_at_most_eight_files(tmp_path: Path) -> None:
    records = Records(tmp_path / "work")
    records.put(Record("one", "passed", 1.0, files=tuple(f"{i}.xml" for i in range(7))))
    with pytest.raises(ValueError, match="at most 8 files"):
        record.bundle(records, tmp_path / "out", {})


def test_junit_counts_and_names_failures(tmp_path: Path) -> None:
    (tmp_path / "junit.xml").write_text(
        "<testsuites><testsuite><testcase classname='a' name='ok'/>"
        "<testcase classname='a' name='bad'><failure/></testcase>"
        "<testcase classname='a' name='worse'><error/></testcase>"
        "<testcase classname='a' name='left'><skipped/></testcase></testsuite></testsuites>"
    )
    counts, failures = checking.read_junit(tmp_path / "junit.xml")
    assert counts == {"passed": 1, "failed": 2, "skipped": 1}
    assert failures == ["a::bad", "a::worse"]


def test_tests_that_are_all_skipped_are_no_success(tmp_path: Path) -> None:
    """As they would be where the CUDA library does not load."""
    if why_no_cuda() is None:
        pytest.skip("there is a GPU")
    status, detail, _, _ = checking.run_stress(
        context(tmp_path, dry_run=False), time.monotonic() + 120
    )
    assert status == "failed"
    assert detail.startswith("0 passed, 0 failed")


@pytest.mark.parametrize(
    ("code", "output", "expected"),
    [
        (0, "sanitized: all calls made", "clean"),
        (0, "", "ended with 0"),
        (86, "Invalid __global__ write", "errors found"),
        (1, "Device not supported", "refused by this machine"),
        (None, "", "out of time"),
    ],
)
def test_a_sanitizer_is_clean_only_if_the_script_came_to_its_end(
    code: int | None, output: str, expected: str
) -> None:
    assert checking._sanitizer_result(code, output) == expected


def test_the_digest_of_the_sources_follows_their_contents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("setup.py", "pyproject.toml", "Makefile"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "csrc").mkdir()
    (tmp_path / "csrc" / "a.cu").write_text("1")
    monkeypatch.setattr(tree, "ROOT", tmp_path)
    before = tree.tree_digest()
    assert tree.tree_digest() == before
    (tmp_path / "csrc" / "a.cu").write_text("2")
    assert tree.tree_digest() != before


def test_without_git_the_carried_note_counts_for_its_own_sources_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "git_revision", lambda: None)
    note = {"revision": "abc123", "digest": "d" * 64}
    (tmp_path / tree.REVISION).write_text(json.dumps(note))
    assert tree.revision("d" * 64, tmp_path) == "abc123"
    assert tree.revision("e" * 64, tmp_path) == f"unknown (sources {'e' * 12})"


def test_the_machine_is_described_where_torch_sees_no_gpu(tmp_path: Path) -> None:
    status, _, data, _ = building.describe_machine(context(tmp_path), time.monotonic() + 60)
    assert status == "passed"
    assert data["torch"] == torch.__version__


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="there is no nvcc")
def test_the_comparison_of_loop_and_launches_compiles(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "machine.log").write_text('{"capability": "9.0"}\n')
    status, detail, _, _ = measuring.loops(context(folder), time.monotonic() + 300)
    assert status == "passed", (folder / "loops.log").read_text()
    assert detail == "compiled for sm_90, not run (dry run)"


def test_the_comparison_links_what_the_build_makes_of_the_backend() -> None:
    built = {Path(unit.object) for unit in native.emulated_cuda(ROOT / "build/objects", ())}
    found = {Path(name) for name in measuring.backend_objects()}
    assert built < found
    assert {path.name for path in found - built} == {
        path.with_suffix(".o").name for path in (ROOT / "csrc").glob("*.cpp")
    }


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="there is no nvcc")
@pytest.mark.parametrize("architecture", ["sm_75", "sm_90", "sm_120"])
def test_the_hardware_measurement_compiles(tmp_path: Path, architecture: str) -> None:
    source = ROOT / "tools" / "gpu_check" / "hardware.cu"
    command = ["nvcc", "-std=c++17", f"-arch={architecture}", "-cubin", "-o", tmp_path / "out"]
    result = subprocess.run([*command, source], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
