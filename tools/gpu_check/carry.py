"""Fills the folder that goes to the machine with the GPU: ``python -m tools.gpu_check.carry DIR``.

pydensecrf2's sources with their C++ generated (there is no registry over there), the photographs of
the benchmark, and a note which commit these sources are.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from .building import RIVAL_SOURCES
from .tree import REVISION, ROOT, git_revision, tree_digest

RIVAL = "pydensecrf2==1.1"
CYTHON = "cython==0.29.37"  # the series that pydensecrf2 is written for
MAX_MIB = 40


def main(folder: Path) -> None:
    """Fills the folder and says how large it is."""
    folder.mkdir(parents=True, exist_ok=True)
    note = {"revision": git_revision(), "digest": tree_digest()}
    (folder / REVISION).write_text(json.dumps(note) + "\n")
    if not (folder / RIVAL_SOURCES).is_file():
        _pack_rival(folder / RIVAL_SOURCES)
    shared = Path(os.environ.get("DENSECRF_SHARED_DATA", ROOT.parent / "shared" / "data"))
    for name in ("cc0", "pydensecrf_examples"):
        if (shared / name).is_dir():
            shutil.copytree(shared / name, folder / "data" / name, dirs_exist_ok=True)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20
    print(f"{folder}: {size:.1f} MiB, commit {note['revision']}")
    if size > MAX_MIB:
        raise SystemExit(f"{folder} holds more than {MAX_MIB} MiB")


def _pack_rival(target: Path) -> None:
    """Downloads pydensecrf2, lets Cython make its C++, and packs both."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
        tools = str(work / "tools")
        subprocess.run([*pip, "install", "--no-deps", "--target", tools, CYTHON], check=True)
        fetch = ["download", "--no-deps", "--no-binary", ":all:", "--no-build-isolation"]
        subprocess.run([*pip, *fetch, "-d", name, RIVAL], check=True)
        (archive,) = work.glob("pydensecrf2-*.tar.gz")
        shutil.unpack_archive(archive, work / "unpacked", filter="data")
        (sources,) = (work / "unpacked").iterdir()
        cython = [sys.executable, "-m", "cython", "--cplus"]
        modules = [f"pydensecrf/{module}.pyx" for module in ("eigen", "densecrf")]
        environment = {**os.environ, "PYTHONPATH": tools}
        subprocess.run([*cython, *modules], cwd=sources, env=environment, check=True)
        partial = target.with_suffix(".partial")
        with tarfile.open(partial, "w:gz") as packed:
            for path in sorted(sources.iterdir()):
                packed.add(path, path.name)
        partial.replace(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
