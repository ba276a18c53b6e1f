"""Builds densecrf_gpu._C (CPU) and densecrf_gpu._CUDA for every Python >= 3.10 and torch >= 2.10.

One abi3 wheel: both modules use the LibTorch stable ABI alone, so the torch they are built with is
not the only one they run with. The environment steers the build:

    DENSECRF_CUDA         0: CPU only; 1: demand CUDA; unset: CUDA where torch has it and nvcc is
    CUDA_HOME             the CUDA toolkit, where nvcc is not on the PATH
    TORCH_CUDA_ARCH_LIST  the GPUs, such as "8.0;9.0+PTX"
    CXX, CXXFLAGS, LDFLAGS, MAX_JOBS
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import ClassVar

import setuptools
from setuptools import Command, Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.command.dist_info import dist_info

ROOT = Path(__file__).resolve().parent
os.chdir(ROOT)
sys.path.insert(0, str(ROOT / "tools"))  # pip runs this file without its folder on the path

import native  # noqa: E402
from native import OBJECTS, Unit, fail  # noqa: E402

TORCH_FLOOR = (2, 10)
STABLE_ABI = (
    "-DTORCH_TARGET_VERSION=0x020a000000000000"  # the stable ABI of torch 2.10, and nothing else
)
ARCHS = "7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX"
# CPython without the GIL has no limited API yet: there the wheel serves one version of Python.
ABI3 = not sysconfig.get_config_var("Py_GIL_DISABLED")
PYTHON_API = ["-DPy_LIMITED_API=0x030a0000"] if ABI3 else []


def torch_folder() -> Path:
    """The installed torch, found without importing it.

    Raises:
        SystemExit: torch is missing or too old.
    """
    cure = "install torch >= 2.10 first, then run: pip install --no-build-isolation ."
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise fail(f"building needs torch, and this Python sees none: {cure}")
    version = importlib.metadata.version("torch")
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < TORCH_FLOOR:
        raise fail(f"building needs torch >= 2.10, but torch {version} is installed: {cure}")
    return Path(spec.origin).parent


def torch_has_cuda() -> bool:
    """Whether the installed torch is a CUDA build, by its own record; no torch has none."""
    spec = importlib.util.find_spec("torch")
    record = Path(spec.origin).parent / "version.py" if spec and spec.origin else None
    if record is None or not record.exists():
        return False
    return re.search(r"^cuda\b[^=\n]*=\s*['\"]", record.read_text(), re.MULTILINE) is not None


def python_include() -> str:
    """The folder of Python.h.

    Raises:
        SystemExit: the headers are not installed.
    """
    folder = sysconfig.get_path("include")
    if not Path(folder, "Python.h").exists():
        raise fail(f"building needs Python.h, which is not in {folder}: apt install python3-dev")
    return folder


def nvcc_home(nvcc: str) -> str | None:
    """The toolkit of an nvcc, by its own account: that on the PATH may be a link or a wrapper."""
    dry_run = [nvcc, "--dryrun", "-x", "cu", os.devnull]
    report = subprocess.run(dry_run, capture_output=True, text=True).stderr
    top = re.search(r"^#\$ TOP=(.+)$", report, re.MULTILINE)
    return str(Path(top[1]).resolve()) if top else None


def cuda_toolkit() -> tuple[Path | None, str]:
    """The CUDA toolkit to build with, or None for a CPU-only build, and the reason in words."""
    wanted = os.environ.get("DENSECRF_CUDA")
    if wanted not in (None, "0", "1"):
        raise fail(f"DENSECRF_CUDA must be 0, 1 or unset, got {wanted!r}")
    if wanted == "0":
        return None, "DENSECRF_CUDA=0"
    nvcc = shutil.which("nvcc")
    home = os.environ.get("CUDA_HOME") or (nvcc and nvcc_home(nvcc))
    if not native.sources("csrc/cuda", ".cu"):
        home, reason = None, "these sources have no csrc/cuda/*.cu"
    elif wanted is None and not torch_has_cuda():
        home, reason = None, "this torch is a CPU build (DENSECRF_CUDA=1 builds for others too)"
    elif not home or not Path(home, "bin", "nvcc").exists():
        home, reason = None, "no nvcc on the PATH or in CUDA_HOME"
    else:
        reason = f"nvcc in {home}"
    if wanted == "1" and home is None:
        raise fail(f"DENSECRF_CUDA=1 demands CUDA, but {reason}")
    return (Path(home) if home else None), reason


def architectures() -> list[str]:
    """TORCH_CUDA_ARCH_LIST as nvcc takes it; "+PTX" adds code for GPUs to come."""
    flags = []
    for name in re.split(r"[;,\s]+", (os.environ.get("TORCH_CUDA_ARCH_LIST") or ARCHS).strip()):
        match = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", name)
        if not match:
            raise fail(f'TORCH_CUDA_ARCH_LIST must be such as "8.0;9.0+PTX", got {name!r}')
        number = "".join(match.group(1, 2, 3))
        codes = [f"sm_{number}", *([f"compute_{number}"] if match[4] else [])]
        flags += [f"-gencode=arch=compute_{number},code={code}" for code in codes]
    return flags


if int(setuptools.__version__.partition(".")[0]) < 77:
    found = setuptools.__version__
    raise fail(f"building needs setuptools >= 77, found {found}: pip install -U setuptools")
CUDA_HOME, WHY = cuda_toolkit()


class BuildExt(build_ext):
    """Compiles everything side by side, then links each module."""

    def build_extensions(self) -> None:
        """Builds the modules; the objects stay in build/objects for the next time."""
        torch = torch_folder()
        tiers = ", ".join(tier for tier, _ in native.tiers(native.machine(native.compiler())))
        archs = os.environ.get("TORCH_CUDA_ARCH_LIST") or ARCHS
        what = f"CPU ({tiers}) and CUDA ({archs})" if CUDA_HOME else f"CPU ({tiers}) only"
        print(f"densecrf_gpu: building for {what}: {WHY}", flush=True)

        includes = ["-isystem", str(torch / "include"), "-isystem", python_include()]
        made_by = f"torch {importlib.metadata.version('torch')}"
        flags = [STABLE_ABI, *PYTHON_API, *includes]
        units = {
            "_C": [native.unit(s, OBJECTS, flags, made_by) for s in native.sources("csrc/torch")]
        }
        units["_C"] += native.cpu_units()
        libraries = {"_C": []}
        if CUDA_HOME:
            units["_CUDA"] = cuda_units(CUDA_HOME, flags, made_by)
            units["_CUDA"] += [
                native.unit(s, OBJECTS, flags, made_by) for s in native.sources("csrc")
            ]
            libraries["_CUDA"] = [
                f"-L{CUDA_HOME / 'lib64'}",
                *("-lcudart_static", "-lrt", "-lpthread", "-ldl"),
                # libtorch.so among the needed brings libtorch_cuda in, where torch has one.
                *("-Wl,--no-as-needed", "-ltorch", "-Wl,--exclude-libs,ALL"),
            ]
        native.compile_all([unit for group in units.values() for unit in group])
        for extension in self.extensions:
            name = extension.name.rpartition(".")[2]
            objects = [str(unit.object) for unit in units[name]]
            torch_libraries = [f"-L{torch / 'lib'}", "-ltorch_cpu", "-lc10"]
            output = Path(self.get_ext_fullpath(extension.name))
            native.link(["-shared", *objects, *libraries[name], *torch_libraries], output)


def cuda_units(home: Path, flags: list[str], made_by: str) -> list[Unit]:
    """The CUDA backend, compiled by nvcc for every architecture."""
    nvcc = (str(home / "bin" / "nvcc"),)
    host = ["-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"]
    command = (
        *nvcc,
        *("-std=c++20", "-O3", "--threads=0", "--expt-relaxed-constexpr", "-Icsrc"),
        # uncovers the CUDA half of the stable ABI (aoti_torch_get_current_cuda_stream)
        "-DUSE_CUDA",
        "-Xptxas=-v",
        *architectures(),
        *(f"-Xcompiler={flag}" for flag in host),
        *flags,
        *("-isystem", str(home / "include" / "cccl")),  # where CUDA 13 keeps CUB and Thrust
    )
    made_by = native.compiler_version(nvcc) + made_by
    found = [*native.sources("csrc/cuda", ".cu"), *native.sources("csrc/torch", ".cu")]
    return [
        Unit(
            s,
            OBJECTS / s.relative_to("csrc").with_suffix(".o"),
            # a*b+c in one operation could move a point to another vertex of the lattice
            (*command, *(["-fmad=false"] if s.name in native.CUDA_EMBEDDING else [])),
            made_by,
        )
        for s in found
    ]


def emulated_units(flags: list[str], made_by: str) -> list[Unit]:
    """The operators on CUDA as C++ for the emulator, in a library of their own."""
    folder = Path("build/emulated")
    as_cpp = ["-O1", "-Ddensecrf_gpu=densecrf_emulated", "-x", "c++", "-Wno-unknown-pragmas"]
    operators = [*native.sources("csrc/torch", ".cu"), Path("csrc/torch/library.cpp")]
    return [
        *(native.unit(s, folder, [*flags, *as_cpp], made_by) for s in operators),
        *native.emulated_cuda(folder, ["-O1"]),
        *native.emulator_units(folder, ["-O1"]),
        *(native.unit(s, folder, ["-O1"]) for s in native.sources("csrc")),
    ]


class BuildWhitebox(Command):
    """Builds what the tests alone import: the CPU backend's insides, and emulated operators."""

    description = "build tests/_whitebox (needs pybind11) and tests/_emulated"
    user_options: ClassVar[list[tuple[str, str | None, str]]] = []

    def initialize_options(self) -> None:
        """There are no options."""

    def finalize_options(self) -> None:
        """There are no options."""

    def run(self) -> None:
        """Compiles csrc/testing, and csrc/torch and csrc/cuda for the emulator, and links both."""
        import pybind11

        torch = torch_folder()

        includes = ["-isystem", pybind11.get_include(), "-isystem", python_include()]
        units = [
            native.unit(s, OBJECTS, ["-O1", *includes]) for s in native.sources("csrc/testing")
        ]
        objects = native.compile_all([*units, *native.cpu_units()])
        suffix = sysconfig.get_config_var("EXT_SUFFIX")
        native.link(["-shared", *objects], Path("tests", f"_whitebox{suffix}"))
        made_by = f"torch {importlib.metadata.version('torch')}"
        flags = [STABLE_ABI, "-isystem", str(torch / "include"), "-isystem", python_include()]
        objects = native.compile_all(emulated_units(flags, made_by))
        libraries = [f"-L{torch / 'lib'}", "-ltorch_cpu", "-lc10"]
        native.link(["-shared", *objects, *libraries], Path("tests", f"_emulated{suffix}"))


class Build(build):
    """Starts from an empty folder: what an earlier build left there would go into the wheel."""

    def run(self) -> None:
        """Empties the folder and builds."""
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


class DistInfo(dist_info):
    """Fails before pip downloads anything where the build is bound to fail."""

    def run(self) -> None:
        """Looks for torch, the compiler and Python.h, then writes the metadata."""
        torch_folder()
        native.compiler()
        python_include()
        super().run()


modules = ["_C", "_CUDA"] if CUDA_HOME else ["_C"]
setup(
    # The sources are the business of BuildExt.
    ext_modules=[Extension(f"densecrf_gpu.{m}", [], py_limited_api=ABI3) for m in modules],
    cmdclass={
        "build": Build,
        "build_ext": BuildExt,
        "build_whitebox": BuildWhitebox,
        "dist_info": DistInfo,
    },
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if ABI3 else {},
)
