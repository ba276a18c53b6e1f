"""Stages "machine" and "build": what there is, and the modules made for it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from .context import Context, Process
from .tree import ROOT

HERE = Path(__file__).resolve().parent
RIVAL_SOURCES = "pydensecrf2.tar.gz"  # with the C++ that Cython makes of it

PROBE = """
import json, platform, torch
found = {"python": platform.python_version(), "torch": torch.__version__,
         "torch_cuda": torch.version.cuda, "gpu": None}
if torch.cuda.is_available():
    about = torch.cuda.get_device_properties(0)
    found |= {"gpu": about.name, "capability": f"{about.major}.{about.minor}",
              "memory_gib": round(about.total_memory / 2**30, 1),
              "multiprocessors": about.multi_processor_count,
              "l2_mib": about.L2_cache_size / 2**20, "gpus": torch.cuda.device_count()}
print(json.dumps(found))
"""


def describe_machine(context: Context, until: float) -> Any:
    """GPU, driver, torch, nvcc; fails where torch sees no GPU."""
    probe = subprocess.run(
        [sys.executable, "-c", PROBE],
        capture_output=True,
        text=True,
        timeout=until - time.monotonic(),
    )
    (context.work / "machine.log").write_text(probe.stdout + probe.stderr)
    if probe.returncode:
        return "failed", "this Python has no working torch", {}, ()
    about = json.loads(probe.stdout)
    about["cores"] = len(os.sched_getaffinity(0))
    query = ["nvidia-smi", "--query-gpu=name,driver_version,clocks.max.sm,clocks.max.memory"]
    about["nvidia_smi"] = _output([*query, "--format=csv,noheader"])
    about["nvcc"] = (_output(["nvcc", "--version"]) or "").splitlines()[-1:] or None
    if about["gpu"] is None and not context.dry_run:
        return "failed", "torch sees no GPU", about, ()
    detail = f"{about['gpu'] or 'dry run on the CPU'}, torch {about['torch']}"
    return "passed", detail, about, ()


def build(context: Context, until: float) -> Any:
    """The modules for the GPU at hand, in place, and beside them pydensecrf2 from the carry."""
    log_path = context.work / "build.log"
    rival_log = context.work / "build-rival.log"
    with log_path.open("w") as log, rival_log.open("w") as other:
        rival = _build_rival(context, other)
        ours = _build_ours(context, log)
        code = ours.finish(until) if ours is not None else 0
        rival_code = rival.finish(until) if rival is not None else None
    with log_path.open("a") as log:
        log.write(rival_log.read_text(errors="replace"))
    if code != 0:
        return "failed", "out of time" if code is None else f"setup.py ended with {code}", {}, ()
    if rival is None:
        said = f"without pydensecrf2: no {RIVAL_SOURCES} was carried"
    else:
        said = "with pydensecrf2" if rival_code == 0 else "pydensecrf2 could not be built"
    return "passed", said, {"pydensecrf2": rival_code == 0}, ()


def _build_ours(context: Context, log: Any) -> Process | None:
    if context.dry_run:
        log.write("dry run: the modules that are there are used\n")
        return None
    capability = json.loads((context.work / "machine.log").read_text().splitlines()[0])
    return context.start(
        ["setup.py", "build_ext", "--inplace"],
        log,
        DENSECRF_CUDA="1",
        TORCH_CUDA_ARCH_LIST=capability["capability"],
        MAX_JOBS=os.environ.get("MAX_JOBS", str(len(os.sched_getaffinity(0)))),
    )


def _build_rival(context: Context, log: Any) -> Process | None:
    if context.carry is None or not (context.carry / RIVAL_SOURCES).is_file():
        return None
    sources = context.work / "rival"
    shutil.rmtree(sources, ignore_errors=True)
    shutil.unpack_archive(context.carry / RIVAL_SOURCES, sources, filter="data")
    return context.start(
        [str(HERE / "rival.py"), str(sources.resolve()), str(context.site.resolve())], log
    )


def _output(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
