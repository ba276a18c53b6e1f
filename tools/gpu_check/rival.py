"""Builds pydensecrf2 from sources that hold their generated C++: ``rival.py SOURCES SITE``.

Its setup.py wants one exact Cython, from the network if need be. Neither is there: Cython is
hidden, so that setup.py takes the C++ files, and its demand is dropped.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path
from typing import Any

from setuptools import Distribution


def main(sources: Path, site: Path) -> None:
    """Compiles in the sources' folder; the package goes to `site`."""

    def fetch_nothing(*_: Any, **__: Any) -> list[Any]:
        return []

    Distribution.fetch_build_eggs = fetch_nothing
    sys.modules["Cython"] = sys.modules["Cython.Build"] = None  # type: ignore[assignment]
    os.chdir(sources)
    jobs = str(len(os.sched_getaffinity(0)))
    sys.argv = ["setup.py", "build", "--build-lib", str(site), "--parallel", jobs]
    runpy.run_path("setup.py", run_name="__main__")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
