"""Where and with what a measurement was taken."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from densecrf_gpu import backends, build_info, ops

from .cases import ROOT

CPU0_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def cores() -> int:
    """Processors this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def describe() -> dict[str, Any]:
    """The machine, the versions and the state of the source tree, ready for JSON."""
    return {
        "cpu": _cpu_model(),
        "cores": cores(),
        "isa": _isa(),
        "caches": _caches(),
        "memory_gib": round(_memory_bytes() / 2**30, 1),
        "transparent_hugepages": _transparent_hugepages(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": _versions("torch", "numpy", "densecrf_gpu", "pydensecrf2"),
        "build": {**build_info(), "compiler": _compiler()},
        "torch_parallel": _torch_parallel(),
        "gpu": gpu(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": _commit(),
        "load_average": load_average(),
    }


def gpu() -> dict[str, Any] | None:
    """The current CUDA device and its driver; None where torch sees none."""
    if not torch.cuda.is_available():
        return None
    about = torch.cuda.get_device_properties(torch.cuda.current_device())
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        driver = []
    return {
        "name": about.name,
        "driver": driver[0] if driver else None,
        "cuda": torch.version.cuda,
        "capability": f"{about.major}.{about.minor}",
        "multiprocessors": about.multi_processor_count,
        "memory_gib": round(about.total_memory / 2**30, 1),
        "l2_mib": round(about.L2_cache_size / 2**20, 1),
    }


def load_average() -> list[float]:
    """Runnable processes over the last 1, 5 and 15 minutes."""
    return [round(load, 2) for load in os.getloadavg()]


class OtherLoad:
    """How many cores everyone else kept busy between `start` and `read`; None off Linux."""

    def __init__(self) -> None:
        self._start = self._sample()

    def read(self) -> float | None:
        """Cores busy with other processes, the mean since this object was made."""
        now = self._sample()
        if now is None or self._start is None:
            return None
        wall, busy, own = (b - a for a, b in zip(self._start, now, strict=True))
        return max(0.0, round((busy - own) / max(wall, 1e-9), 2))

    @staticmethod
    def _sample() -> tuple[float, float, float] | None:
        """Seconds: wall clock, all busy processors, this process."""
        stat = _read("/proc/stat")
        if not stat:
            return None
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, stat.split()[1:9])
        busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        return time.monotonic(), busy, time.process_time()


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _cpu_model() -> str:
    match = re.search(r"^model name\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return match.group(1).strip() if match else platform.processor() or platform.machine()


def _isa() -> dict[str, str]:
    """What the processor has, as torch sees it, and what our backend chose."""
    return {"torch": torch.backends.cpu.get_cpu_capability(), "densecrf_gpu": ops.cpu_isa()}


def _caches() -> dict[str, str]:
    """Sizes of the first core's caches, such as {"L1 Data": "48K"}."""
    found = {}
    for index in sorted(CPU0_CACHES.glob("index*")):
        level, kind, size = (_read(index / name).strip() for name in ("level", "type", "size"))
        found[f"L{level} {kind}"] = size
    return found


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _transparent_hugepages() -> str | None:
    match = re.search(r"\[(\w+)\]", _read("/sys/kernel/mm/transparent_hugepage/enabled"))
    return match.group(1) if match else None


def _versions(*distributions: str) -> dict[str, str | None]:
    return {name: _version(name) for name in distributions}


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _compiler() -> str | None:
    """The compiler of the measured library, from the note that GCC and Clang leave in it."""
    (library,) = Path(backends.__file__).parent.glob("_C.*")
    notes = re.findall(rb"(?:GCC: \([^)]*\) [\d.]+|clang version [\d.]+)", library.read_bytes())
    return max(notes).decode().replace("GCC: ", "GCC ") if notes else None


def _torch_parallel() -> dict[str, str]:
    """The pool that the threads belong to and how they wait: both move the timings."""
    backend = re.search(r"ATen parallel backend: (.+)", torch.__config__.parallel_info())
    names = ("OMP_WAIT_POLICY", "OMP_PROC_BIND", "OMP_NUM_THREADS", "GOMP_SPINCOUNT")
    settings = {name: os.environ[name] for name in names if name in os.environ}
    return {"backend": backend.group(1) if backend else "unknown", **settings}


def _commit() -> str | None:
    """The commit measured, with "-dirty" where tracked files differ from it.

    A copy of the sources without git may be told by DENSECRF_REVISION.
    """
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("DENSECRF_REVISION")
    return described.stdout.strip()
