"""Makes a virtual environment with pip, also where Debian has split venv and pip off python3.

Usage: python3 tools/make_venv.py FOLDER. Says in one sentence what is missing, all of it at once.
"""

import importlib.util
import subprocess
import sys
import sysconfig
from pathlib import Path


def has(module: str) -> bool:
    """Whether this Python can import a module."""
    return importlib.util.find_spec(module) is not None


def make(folder: str) -> None:
    """Makes the environment with the first of venv, pip and virtualenv that this Python has."""
    if has("ensurepip"):
        commands = [["venv", "--clear", folder]]
    elif has("pip"):
        python = str(Path(folder, "bin", "python"))
        commands = [
            ["venv", "--clear", "--without-pip", folder],
            ["pip", "--python", python, "install", "-q", "pip"],
        ]
    else:
        commands = [["virtualenv", "--clear", folder]]
    for command in commands:
        subprocess.run([sys.executable, "-m", *command], check=True)


def missing():
    """What the build cannot do without, as Debian's packages."""
    packages = []
    if not (has("ensurepip") or has("pip") or has("virtualenv")):
        packages.append("python3-venv")
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        packages.append("python3-dev")
    return packages


def main() -> None:
    """Checks this Python, then makes the environment."""
    found = ".".join(str(part) for part in sys.version_info[:2])
    if sys.version_info < (3, 10):
        sys.exit(
            f"densecrf_gpu needs Python >= 3.10, but {sys.executable} is {found}: make PYTHON=..."
        )
    if missing():
        sys.exit(
            f"{sys.executable} lacks what an environment and an extension module are made with:"
            f" apt install {' '.join(missing())}"
        )
    make(sys.argv[1])


if __name__ == "__main__":
    main()
