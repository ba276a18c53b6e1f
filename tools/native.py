"""Compiles and links the C++ of densecrf_gpu: which file, with which flags, and when again.

setup.py builds the extension modules with it, ``python tools/native.py`` the C++ tests. An object
is made again when its source, a header it includes, its command or its compiler has changed: the
compiler's own dependency files say which headers those are. Nothing here needs torch.

Environment: CXX and CXXFLAGS and LDFLAGS as usual, MAX_JOBS how many compilers or tests run
side by side.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OBJECTS = Path("build/objects")

CXX_FLAGS = [
    "-std=c++20",
    "-O3",
    # No fused multiply-add: every tier then embeds points as the baseline does.
    "-ffp-contract=off",
    # Neither errno nor floating-point traps are looked at; both would forbid vector code.
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fPIC",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    # Wide vectors are passed to inlined functions only, so their calling convention is nobody's.
    "-Wno-psabi",
    "-Icsrc",
]

# The x86-64 micro-architecture levels the CPU backend is compiled for; one is chosen at load time.
X86_TIERS = {"avx512": ["-march=x86-64-v4"], "avx2": ["-march=x86-64-v3"], "baseline": []}
OTHER_TIERS: dict[str, list[str]] = {"baseline": []}

# Files of the backend in which a*b+c may be one operation; elsewhere it could move a point to
# another vertex of the lattice.
CONTRACTED = {"feature_gradient.cpp", "filter.cpp", "mean_field.cpp", "mean_field_gradient.cpp"}


# CUDA sources that embed points: there nvcc must not contract either.
CUDA_EMBEDDING = {"build.cu", "feature_gradient.cu"}

# The lines in which nvcc -Xptxas=-v tells what kernels take; tools/cuda_resources.py reads them.
PTXAS_REPORT = re.compile(r"ptxas info\b|\s+\d+ bytes stack frame")


def fail(sentence: str) -> SystemExit:
    """The end of the build, in one sentence and without a traceback."""
    return SystemExit(f"densecrf_gpu: {sentence}")


@dataclass(frozen=True)
class Unit:
    """One source file on its way to one object."""

    source: Path
    object: Path
    command: tuple[str, ...]  # without -o and the dependency options
    made_by: str  # what else the object depends on: the versions of compiler and torch

    @property
    def _record(self) -> Path:
        return self.object.with_suffix(".txt")

    @property
    def _dependencies(self) -> Path:
        return self.object.with_suffix(".d")

    def _fingerprint(self) -> str:
        return f"{shlex.join(self.command)}\n{self.made_by}\n"

    def is_current(self) -> bool:
        """Whether the object stands, made by this very command, newer than all it was made from."""
        files = (self.object, self._record, self._dependencies)
        if (
            not all(file.exists() for file in files)
            or self._record.read_text() != self._fingerprint()
        ):
            return False
        rule = self._dependencies.read_text().replace("\\\n", " ").partition(":")[2]
        made = self.object.stat().st_mtime
        names = [name.replace("\\ ", " ") for name in re.split(r"(?<!\\)\s+", rule.strip())]
        return all(Path(name).exists() and Path(name).stat().st_mtime <= made for name in names)

    def compile(self) -> None:
        """Runs the compiler; the record comes last: what an interrupted run leaves never counts."""
        self.object.parent.mkdir(parents=True, exist_ok=True)
        self._record.unlink(missing_ok=True)
        outputs = ["-MMD", "-MF", str(self._dependencies), "-o", str(self.object)]
        print(f"  {self.command[0]} {self.source} -> {self.object}", flush=True)
        said = run([*self.command, *outputs, "-c", str(self.source)])
        self.report.write_text(said)
        self._record.write_text(self._fingerprint())

    @property
    def report(self) -> Path:
        """What the compiler said of the object: warnings, and of CUDA each kernel's resources."""
        return self.object.with_suffix(".log")


def run(command: Sequence[str]) -> str:
    """Runs a compiler or linker in the root of the repository: the names it sees are relative.

    Prints warnings, but not the resources of CUDA kernels; returns all that it said.
    """
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if result.returncode:
        print(
            shlex.join(command), result.stdout, result.stderr, sep="\n", file=sys.stderr, flush=True
        )
        raise fail(f"{Path(command[0]).name} failed, see above")
    warnings = [line for line in result.stderr.splitlines() if not PTXAS_REPORT.match(line)]
    if any(line.strip() for line in warnings):
        print(*warnings, sep="\n", file=sys.stderr, flush=True)
    return result.stderr


def jobs_at_once() -> int:
    """MAX_JOBS, or as many as there are cores."""
    return max(1, int(os.environ.get("MAX_JOBS") or len(os.sched_getaffinity(0))))


def compile_all(units: Sequence[Unit]) -> list[str]:
    """Compiles what is not current, in parallel; returns the objects of all units."""
    stale = [unit for unit in units if not unit.is_current()]
    with ThreadPoolExecutor(jobs_at_once()) as pool:
        try:
            list(pool.map(Unit.compile, stale))
        except SystemExit:
            pool.shutdown(cancel_futures=True)
            raise
    return [str(unit.object) for unit in units]


@lru_cache
def compiler() -> tuple[str, ...]:
    """The C++ compiler's command: CXX, else g++, c++ or clang++.

    Raises:
        SystemExit: there is none, or it is too old.
    """
    named = shlex.split(os.environ.get("CXX", ""))
    command = named or [name for name in ("g++", "c++", "clang++") if shutil.which(name)][:1]
    if not command or not shutil.which(command[0]):
        what = f"CXX={named[0]} is not to be found" if named else "there is no g++, c++ or clang++"
        raise fail(f"building needs a C++20 compiler, but {what}: apt install g++, or set CXX")
    probe = [*command, "-std=c++20", "-x", "c++", "-E", os.devnull, *tiers(machine(command))[0][1]]
    result = subprocess.run(probe, capture_output=True, text=True)
    if result.returncode:
        reason = (result.stderr.strip() or "no reason given").splitlines()[0]
        raise fail(f"building needs g++ >= 11 or clang++ >= 12, but {command[0]} says: {reason}")
    return tuple(command)


@lru_cache
def compiler_version(command: tuple[str, ...]) -> str:
    """What a compiler says of itself; part of the record of each object."""
    return subprocess.run(
        [*command, "--version"], capture_output=True, text=True, check=True
    ).stdout


def machine(command: Sequence[str]) -> str:
    """The machine a compiler compiles for, which need not be this one: x86_64-linux-gnu."""
    result = subprocess.run([*command, "-dumpmachine"], capture_output=True, text=True)
    return result.stdout.strip()


def tiers(target: str) -> list[tuple[str, list[str]]]:
    """The instruction-set tiers of a machine, (name, flags) each."""
    return list((X86_TIERS if target.startswith("x86_64") else OTHER_TIERS).items())


def unit(source: Path, folder: Path, flags: Sequence[str], made_by: str = "") -> Unit:
    """A C++ source compiled into a folder; CXXFLAGS stand before ``flags`` and cannot undo them."""
    cxx = compiler()
    user = shlex.split(os.environ.get("CXXFLAGS", ""))
    return Unit(
        source=source,
        object=folder
        / source.relative_to("csrc" if source.parts[0] == "csrc" else ".").with_suffix(".o"),
        command=(*cxx, *CXX_FLAGS, *user, *flags),
        made_by=compiler_version(cxx) + made_by,
    )


def sources(folder: str, suffix: str = ".cpp") -> list[Path]:
    """The sources right in a folder of the repository, in a fixed order, relative to its root."""
    return sorted(path.relative_to(ROOT) for path in (ROOT / folder).glob(f"*{suffix}"))


def cpu_units(folder: Path = OBJECTS, flags: Sequence[str] = ()) -> list[Unit]:
    """The CPU backend: csrc/cpu/isa/*.cpp once for each tier, csrc/*.cpp, csrc/cpu/*.cpp once."""
    units = [unit(source, folder, flags) for source in [*sources("csrc"), *sources("csrc/cpu")]]
    for tier, march in tiers(machine(compiler())):
        tier_flags = [*flags, f"-DDENSECRF_ISA={tier}", *march]
        for source in sources("csrc/cpu/isa"):
            contraction = ["-ffp-contract=fast"] if source.name in CONTRACTED else []
            units.append(unit(source, folder / tier, [*tier_flags, *contraction]))
    return units


def link(command: Sequence[str], output: Path) -> None:
    """Links objects and libraries into a shared object or a program."""
    output.parent.mkdir(parents=True, exist_ok=True)
    user = shlex.split(os.environ.get("LDFLAGS", ""))
    run([*compiler(), *command, *user, "-o", str(output)])


def emulator_units(folder: Path, flags: Sequence[str]) -> list[Unit]:
    """The emulator in csrc/testing, which runs CUDA kernels."""
    # TSAN must not take what the scheduler does for accesses of the kernels.
    blind = ["-fno-sanitize=thread"] if "-fsanitize=thread" in flags else []
    emulator = sources("csrc/testing/emulator")
    return [unit(source, folder, [*flags, *blind]) for source in emulator]


def emulated_cuda(folder: Path, flags: Sequence[str], contracted: bool = False) -> list[Unit]:
    """The CUDA backend as C++ for the emulator; ``contracted``: where nvcc does so, a*b+c too."""
    # What nvcc is asked to unroll means nothing here.
    as_cpp = ["-Wno-unknown-pragmas", "-x", "c++"]
    units = []
    for source in sources("csrc/cuda", ".cu"):
        fused = contracted and source.name not in CUDA_EMBEDDING
        contraction = ["-ffp-contract=fast"] if fused else []
        units.append(unit(source, folder, [*flags, *as_cpp, *contraction]))
    return units


def cpp_tests(folder: Path, flags: Sequence[str], cuda: bool, only: str = "*") -> list[Path]:
    """Builds each tests/cpp/*.cpp into a program, with the CPU backend and without torch.

    Without ``cuda`` those are left out that run CUDA kernels in the emulator; ``only`` is a
    pattern for the names without ``.cpp``.
    """
    emulating = ("cuda_", "emulator_")
    tests = [
        unit(source, folder, flags)
        for source in sources("tests/cpp")
        if fnmatch(source.stem, only) and (cuda or not source.name.startswith(emulating))
    ]
    if not tests:
        raise fail(f"tests/cpp holds no test that fits {only!r}")
    emulated = [*emulator_units(folder, flags), *emulated_cuda(folder, flags)] if cuda else []
    objects = compile_all([*cpu_units(folder, flags), *emulated])
    programs = []
    for test in compile_all(tests):
        program = Path(test).with_suffix("")
        link([test, *objects, *flags, "-pthread"], program)
        programs.append(program)
    return programs


def run_tests(programs: Sequence[Path], prefix: Sequence[str]) -> None:
    """Runs the programs side by side and shows what each said when it ends; stops at a failure."""

    def run_one(program: Path) -> subprocess.CompletedProcess[str]:
        command = [*prefix, str(program)]
        return subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )

    with ThreadPoolExecutor(jobs_at_once()) as pool:
        for future in as_completed([pool.submit(run_one, program) for program in programs]):
            done = future.result()
            print(f"  {shlex.join(done.args)}\n{done.stdout}", end="", flush=True)
            if done.returncode:
                pool.shutdown(cancel_futures=True)
                raise fail(f"{done.args[-1]} failed with exit status {done.returncode}")


def main() -> None:
    """Builds the C++ tests into --folder with --flags and prints the programs' names, to be run."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where objects and programs go")
    parser.add_argument("--flags", default="", help="further flags, to compile and to link")
    parser.add_argument(
        "--cpu-only", action="store_true", help="leave out the emulated CUDA kernels"
    )
    parser.add_argument("--only", default="*", metavar="PATTERN", help="cuda_build*: these alone")
    parser.add_argument("--run", help="run each program with this command in front of it")
    options = parser.parse_args()
    os.chdir(ROOT)
    programs = cpp_tests(
        options.folder, shlex.split(options.flags), not options.cpu_only, options.only
    )
    if options.run is not None:
        run_tests(programs, shlex.split(options.run))
    verb = "built" if options.run is None else "passed"
    print(f"densecrf_gpu: {len(programs)} C++ tests for {machine(compiler())} {verb}")


if __name__ == "__main__":
    main()
