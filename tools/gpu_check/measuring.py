"""Stages "benchmark", "hardware" and "loops": how fast, and how fast it could be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from .context import Context
from .tree import ROOT

HERE = Path(__file__).resolve().parent
LOOPS_FLAGS = ("-std=c++20", "-O3", "--expt-relaxed-constexpr", f"-I{ROOT / 'csrc'}")
LOOPS_DIFFER = 2  # loops.cu's exit code where its ways give different bits


def benchmark(context: Context, until: float) -> Any:
    """``python -m benchmarks crf --device cuda``; a dry run rehearses it on the CPU."""
    folder = context.work / "benchmark"
    shutil.rmtree(folder, ignore_errors=True)
    mode = ["--rehearse"] if context.dry_run else []
    command = ["-m", "benchmarks", "crf", "--device", "cuda", *mode, "--output", str(folder)]
    with (context.work / "benchmark.log").open("w") as log:
        code = context.start(command, log).finish(until)
    names = []
    for path in sorted(folder.glob("crf-*")) if folder.is_dir() else []:
        shutil.copyfile(path, context.work / path.name)
        names.append(path.name)
    if not any(name.endswith(".json") for name in names):
        return "failed", f"no results; ended with {code}", {}, tuple(names)
    cases = sum(
        len(json.loads((context.work / name).read_text())["cases"])
        for name in names
        if name.endswith(".json")
    )
    if code is None:
        return "failed", f"out of time after {cases} cases", {"cases": cases}, tuple(names)
    status = "passed" if code == 0 else "failed"
    return status, f"{cases} cases", {"cases": cases}, tuple(names)


def hardware(context: Context, until: float) -> Any:
    """What the kernels' designs rest on: copies, random rows, additions in L2, launches."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return "skipped", "there is no nvcc", {}, ()
    architecture = _architecture(context)
    program = context.work / "hardware"
    compile_ = [nvcc, "-std=c++17", "-O3", f"-arch={architecture}", "-o", str(program.resolve())]
    with (context.work / "hardware.log").open("w") as log:
        source = str(HERE / "hardware.cu")
        environment = context.environment()
        code = context.start_program([*compile_, source], log, environment).finish(until)
        if code != 0:
            return "failed", f"nvcc ended with {code}", {}, ()
        if context.dry_run:
            return "passed", f"compiled for {architecture}, not run (dry run)", {}, ()
        with (context.work / "hardware.json").open("w") as output:
            code = context.start_program([str(program.resolve())], output, environment).finish(
                until
            )
        text = (context.work / "hardware.json").read_text()
        log.write(text)
    if code != 0:
        return "failed", f"ended with {code}", {}, ()
    # The first line is the command.
    found = json.loads(text.split("\n", 1)[1])
    detail = f"copy {found['copy_gb_s']:.0f} GB/s, launch {found['launch_us']:.2f} us"
    return "passed", detail, found, ()


def loops(context: Context, until: float) -> Any:
    """Mean field by launches or one, blurred by two buffers or in place: the bits, and times."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return "skipped", "there is no nvcc", {}, ()
    architecture = _architecture(context)
    program = str((context.work / "loops").resolve())
    command = [nvcc, *LOOPS_FLAGS, f"-arch={architecture}", str(HERE / "loops.cu"), "-o", program]
    # A dry run builds no CUDA objects to link with.
    command += ["-c"] if context.dry_run else backend_objects()
    environment = context.environment()
    with (context.work / "loops.log").open("w") as log:
        code = context.start_program(command, log, environment).finish(until)
        if code != 0:
            return "failed", f"nvcc ended with {code}", {}, ()
        if context.dry_run:
            return "passed", f"compiled for {architecture}, not run (dry run)", {}, ()
        with (context.work / "loops.json").open("w") as output:
            code = context.start_program([program], output, environment).finish(until)
        text = (context.work / "loops.json").read_text()
        log.write(text)
    if code not in (0, LOOPS_DIFFER):
        return "failed", "out of time" if code is None else f"ended with {code}", {}, ()
    # The first line is the command.
    found = json.loads(text.split("\n", 1)[1])
    different = [case for case in found["cases"] if not case["same_bits"]]
    if different:
        return "failed", f"other bits in {len(different)} of {len(found['cases'])} cases", found, ()
    return "passed", f"the same bits in {len(found['cases'])} cases", found, ()


def backend_objects() -> list[str]:
    """The CUDA backend without torch, as stage "build" left it."""
    sources = [*sorted((ROOT / "csrc/cuda").glob("*.cu")), *sorted((ROOT / "csrc").glob("*.cpp"))]
    folder = ROOT / "build/objects"
    return [str(folder / source.relative_to(ROOT / "csrc").with_suffix(".o")) for source in sources]


def _architecture(context: Context) -> str:
    machine = json.loads((context.work / "machine.log").read_text().splitlines()[0])
    return "sm_" + str(machine.get("capability", "9.0")).replace(".", "")
