"""Which sources are checked: a digest of them, and the commit they are."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDERS = ("benchmarks", "csrc", "deeplab", "densecrf_gpu", "tests", "tools")
SUFFIXES = {".py", ".cpp", ".cu", ".h", ".toml"}
REVISION = "revision.json"  # in the carried folder, where there is no git


def tree_digest() -> str:
    """SHA-256 over names and contents of all sources."""
    digest = hashlib.sha256()
    paths = [ROOT / "setup.py", ROOT / "pyproject.toml", ROOT / "Makefile"]
    for folder in FOLDERS:
        paths += sorted(path for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES)
    for path in paths:
        content = path.read_bytes()
        digest.update(f"{path.relative_to(ROOT)}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def git_revision() -> str | None:
    """The commit, with "-dirty" where tracked files differ from it; None without git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def revision(digest: str, carry: Path | None) -> str:
    """The commit by git, or by the carried note if that is of these very sources."""
    found = git_revision()
    if found is not None:
        return found
    note = carry / REVISION if carry is not None else None
    if note is not None and note.is_file():
        noted = json.loads(note.read_text())
        if noted["digest"] == digest:
            return str(noted["revision"])
    return f"unknown (sources {digest[:12]})"
