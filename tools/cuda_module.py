"""Checks the CUDA module without a GPU: what it is bound to, and that every operator is in it.

Usage: python -m tools.cuda_module, after a build with CUDA. A module that is bound to a library of
CUDA could not be loaded where there is no driver; an operator without a CUDA kernel would be
missed by the first user with a GPU. Under a CPU build of torch the module is loaded all the same,
for this check alone: a stand-in has the one function that only a CUDA build exports.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

from tools.native import ROOT, compiler

_NEEDED = re.compile(r"\(NEEDED\).*\[(.+)\]")

# Fails, as it would where there is no GPU.
_STAND_IN = """
extern "C" int aoti_torch_get_current_cuda_stream(int, void**) { return 1; }
"""


def needed_libraries(module: Path) -> list[str]:
    """The libraries that a shared object is bound to, by readelf's account."""
    command = ["readelf", "--dynamic", "--wide", str(module)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return _NEEDED.findall(said)


def binding_faults(needed: list[str]) -> list[str]:
    """Says which libraries the module of the CUDA backend must not be bound to, or lacks."""
    faults = [
        f"it is bound to {name}, which is not there without a driver or toolkit"
        for name in needed
        if name.startswith(("libcuda", "libnv"))
    ]
    if "libtorch.so" not in needed:
        faults.append(f"it is not bound to libtorch.so, but to {', '.join(needed) or 'nothing'}")
    return faults


def unserved(kernels: dict[str, set[str]]) -> list[str]:
    """The operators that run on the CPU and not on CUDA; `kernels`: of each, its dispatch keys."""
    return sorted(name for name, keys in kernels.items() if "CUDA" not in keys and "CPU" in keys)


def load(module: Path, folder: Path) -> dict[str, set[str]]:
    """Loads both modules; the devices that every operator has kernels for."""
    import torch

    sys.path.insert(0, str(ROOT))
    import densecrf_gpu  # noqa: F401  (defines the operators)

    if torch.version.cuda is None:
        source, library = folder / "stand_in.cpp", folder / "libstand_in.so"
        source.write_text(_STAND_IN)
        command = [*compiler(), "-shared", "-fPIC", str(source), "-o", str(library)]
        subprocess.run(command, check=True)
        ctypes.CDLL(str(library.resolve()), ctypes.RTLD_GLOBAL)
    spec = importlib.util.spec_from_file_location("densecrf_gpu._CUDA", module)
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    return {
        name: {key for key in ("CPU", "CUDA") if has_kernel(name, key)}
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("densecrf_gpu::")
    }


def main() -> None:
    """Checks the module of the last build."""
    os.chdir(ROOT)
    modules = sorted(Path("build").glob("lib*/densecrf_gpu/_CUDA*.so"))
    if len(modules) != 1:
        sys.exit(f"densecrf_gpu: expected one _CUDA*.so in build/lib*, found {len(modules)}")
    (module,) = modules
    faults = binding_faults(needed_libraries(module))
    kernels = load(module, Path("build"))
    faults += [f"{name} has no kernel for CUDA" for name in unserved(kernels)]
    if faults:
        sys.exit("\n".join(f"densecrf_gpu: {module}: {fault}" for fault in faults))
    served = sum("CUDA" in keys for keys in kernels.values())
    print(f"{module}: loads, {served} operators, bound to no library of CUDA")


if __name__ == "__main__":
    main()
