"""Stages "smoke", "tests", "stress" and "sanitizer": whether the answers are right."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

from .context import Context

HERE = Path(__file__).resolve().parent
OURS_ALONE = ["--kernel-name", "kns=densecrf"]  # a part of the mangled name
SANITIZERS = {
    "memcheck": OURS_ALONE,
    "racecheck": OURS_ALONE,
    "initcheck": [],  # it must see what torch's kernels write
}
SANITIZER_FOUND = 86  # the exit code that we ask for where it finds something
# What compute-sanitizer says of a machine on which it cannot work.
REFUSALS = ("Device not supported", "Unable to launch", "not supported on this", "LibraryNotLoaded")


def smoke(context: Context, until: float) -> Any:
    """A few calls on the GPU beside the CPU's answers."""
    with (context.work / "smoke.log").open("w") as log:
        code = context.start([str(HERE / "smoke.py"), context.device], log).finish(until)
    if code == 0:
        return "passed", _last_line(context.work / "smoke.log"), {}, ()
    detail = "out of time" if code is None else _last_line(context.work / "smoke.log")
    return "failed", detail, {}, ()


def run_tests(context: Context, until: float) -> Any:
    """The suite's tests that take a device, on this one, a process for every other core."""
    cores = len(os.sched_getaffinity(0))
    arguments = ["tests", "--ignore=tests/cuda", "--ignore=tests/deeplab", "-m", "not slow"]
    arguments += ["-k", context.device]
    if context.dry_run:  # the others run in `make test`
        arguments = ["tests/test_unary.py", "-k", "cpu"]
    if importlib.util.find_spec("xdist") and cores > 2:
        arguments += ["-n", str(min(8, cores // 2))]
    return _pytest(context, until, "tests", arguments)


def run_stress(context: Context, until: float) -> Any:
    """tests/cuda: repeats, streams, graphs, memory, counted launches; one process."""
    return _pytest(context, until, "stress", ["tests/cuda"])


def sanitize(context: Context, until: float) -> Any:
    """compute-sanitizer's three tools at once, over a small script."""
    program = _compute_sanitizer()
    if program is None:
        return "skipped", "there is no compute-sanitizer", {}, ()
    if context.dry_run:
        return "skipped", "dry run: nothing runs on a GPU", {}, ()
    running = {}
    for tool, options in SANITIZERS.items():
        log = (context.work / f"sanitizer-{tool}.log").open("w")
        # The caching allocator would hide reads of memory that a new block never wrote.
        environment = context.environment(PYTORCH_NO_CUDA_MEMORY_CACHING="1")
        command = [program, "--tool", tool, *options, "--error-exitcode", str(SANITIZER_FOUND)]
        command += [sys.executable, str(HERE / "sanitized.py")]
        running[tool] = context.start_program(command, log, environment), log
    results = {}
    for tool, (process, log) in running.items():
        code = process.finish(until)
        log.close()
        text = Path(log.name).read_text(errors="replace")
        results[tool] = _sanitizer_result(code, text)
        with (context.work / "sanitizer.log").open("a") as whole:
            whole.write(f"---- {tool}: {results[tool]}\n{text}\n")
    detail = ", ".join(f"{tool}: {result}" for tool, result in results.items())
    if all(result == "clean" for result in results.values()):
        return "passed", detail, results, ()
    if all(result in ("clean", "refused by this machine") for result in results.values()):
        return "skipped", detail, results, ()
    return "failed", detail, results, ()


def _sanitizer_result(code: int | None, output: str) -> str:
    """Clean only where the script came to its end under the tool, and the tool says 0 errors."""
    if code is None:
        return "out of time"
    if any(text in output for text in REFUSALS):
        return "refused by this machine"
    if code == 0 and "sanitized: all calls made" in output:
        return "clean"
    return "errors found" if code == SANITIZER_FOUND else f"ended with {code}"


def _pytest(context: Context, until: float, name: str, arguments: list[str]) -> Any:
    """Runs pytest; passed where none failed and at least one test ran on the device."""
    report = f"{name}.xml"
    junit = context.work / report
    junit.unlink(missing_ok=True)
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={junit.resolve()}"]
    command.append("--continue-on-collection-errors")  # a module may lack a library there
    if importlib.util.find_spec("pytest_timeout"):
        command.append("--timeout=60")
    with (context.work / f"{name}.log").open("w") as log:
        code = context.start([*command, *arguments], log, DENSECRF_GPU_CHECK="1").finish(until)
    if code is None:
        return "failed", f"out of time: {_last_line(context.work / f'{name}.log')}", {}, ()
    if not junit.is_file():
        return "failed", f"pytest ended with {code} and no report", {}, ()
    counts, failures = read_junit(junit)
    text = ", ".join(f"{number} {what}" for what, number in counts.items())
    data = {**counts, "failures": failures}
    if context.dry_run and counts["failed"] == 0 and code in (0, 5):
        return "passed", f"{text} (dry run)", data, (report,)
    good = code == 0 and counts["failed"] == 0 and counts["passed"] > 0
    return "passed" if good else "failed", text, data, (report,)


def read_junit(path: Path) -> tuple[dict[str, int], list[str]]:
    """Numbers of tests by outcome, and the names of those that failed."""
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    failures = []
    for case in ET.parse(path).iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            counts["failed"] += 1
            failures.append(f"{case.get('classname')}::{case.get('name')}")
        else:
            counts["skipped" if case.find("skipped") is not None else "passed"] += 1
    return counts, failures


def _compute_sanitizer() -> str | None:
    beside_nvcc = Path(shutil.which("nvcc") or "").parent / "compute-sanitizer"
    found = shutil.which("compute-sanitizer")
    return found or (str(beside_nvcc) if beside_nvcc.is_file() else None)


def _last_line(path: Path) -> str:
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no output"
