"""Peak memory of one call, each in a process of its own.

The child holds its inputs, has made one small call (so that libraries and threads are there), gives
free memory back to the system, resets the kernel's high-water mark, and makes one call. What is
reported: high-water mark after it minus resident memory before it, the result included.
"""

from __future__ import annotations

import ctypes
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch

from .cases import ROOT, Case, Params, Size
from .rivals import IMPLEMENTATIONS, Output

SMALL = 16  # pixels: side of the warming call's picture


class Memory(TypedDict):
    """One call in a fresh process."""

    peak_bytes: int  # high-water mark over the resident memory before the call
    kept_bytes: int  # still resident when the result is freed: caches, work buffers
    first_call_ms: float  # the same call by the clock: the first of this size in its process
    reset: bool  # False: the kernel's mark could not be reset, peak_bytes is a lower bound


def measure(case: Case, implementation: str, threads: int, output: Output = "labels") -> Memory:
    """Peak memory of one call on `case`, measured in a child process."""
    with tempfile.TemporaryDirectory() as folder:
        # The child loads its inputs: making them there would leave free heap that hides growth.
        for name, array in (
            ("image", case.image.numpy()),
            ("logits", case.logits.numpy()),
            ("energies", case.energies),
        ):
            np.save(Path(folder, f"{name}.npy"), array)
        request = {
            "folder": folder,
            "implementation": implementation,
            "threads": threads,
            "output": output,
            "picture": case.picture,
            "size": asdict(case.size),
            "params": asdict(case.params),
            "iterations": case.iterations,
        }
        child = subprocess.run(
            [sys.executable, "-m", f"{__package__}.memory"],
            input=json.dumps(request),
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    if child.returncode:
        raise RuntimeError(f"the memory measurement of {implementation} failed:\n{child.stderr}")
    measured: Memory = json.loads(child.stdout)
    return measured


def _child() -> None:
    """Read a request from standard input, print a `Memory`."""
    request = json.load(sys.stdin)
    case = _load(request)
    run = IMPLEMENTATIONS[request["implementation"]]
    torch.set_num_threads(request["threads"])
    run(_crop(case), request["output"])
    _trim()
    reset = _reset_high_water_mark()
    before = _resident_bytes() if reset else _max_rss_bytes()
    start = time.perf_counter_ns()
    result = run(case, request["output"])
    milliseconds = (time.perf_counter_ns() - start) / 1e6
    peak = (_status_bytes("VmHWM") if reset else _max_rss_bytes()) - before
    del result
    _trim()
    kept = _resident_bytes() - before if reset else 0
    measured: Memory = {
        "peak_bytes": max(peak, 0),
        "kept_bytes": max(kept, 0),
        "first_call_ms": milliseconds,
        "reset": reset,
    }
    print(json.dumps(measured))


def _load(request: dict[str, Any]) -> Case:
    folder = Path(request["folder"])
    return Case(
        picture=request["picture"],
        size=Size(**request["size"]),
        params=Params(**request["params"]),
        iterations=request["iterations"],
        image=torch.from_numpy(np.load(folder / "image.npy")),
        logits=torch.from_numpy(np.load(folder / "logits.npy")),
        energies=np.load(folder / "energies.npy"),
    )


def _crop(case: Case) -> Case:
    """The corner of a case, in arrays of its own."""
    height, width = min(SMALL, case.size.height), min(SMALL, case.size.width)
    logits = case.logits[:, :height, :width].contiguous()
    return replace(
        case,
        size=Size(width, height, case.size.classes),
        image=case.image[:height, :width].contiguous(),
        logits=logits,
        energies=(-logits.flatten(1).log_softmax(0)).numpy(),
    )


def _trim() -> None:
    """Return the allocator's free memory to the system, where its C library can (glibc)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _reset_high_water_mark() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status_bytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


def _resident_bytes() -> int:
    return _status_bytes("VmRSS")


def _max_rss_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    _child()
