"""Which image goes with which labels or scores, and where its result goes."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import FileError, UsageError

IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
ARRAY_SUFFIXES = (".npy", ".npz", ".pt", ".pth")
LABEL_SUFFIXES = (".png", *ARRAY_SUFFIXES)
_STEM = "{stem}"


@dataclass(frozen=True)
class Job:
    """One image to refine; ``source`` is a file, or the folder that should hold ``stem.*``."""

    image: Path
    source: Path
    output: Path
    overlay: Path | None


def plan_jobs(
    images: Sequence[str], source: str, output: str, suffix: str, overlay: str | None
) -> list[Job]:
    """Lists the jobs of a command line; nothing is written.

    Args:
        images: files, folders and globs.
        source: file, folder or template of labels or scores.
        output: file, folder or template of results.
        suffix: of the results in a folder.
        overlay: file, folder or template of pictures.

    Raises:
        UsageError: nothing matches, a file stands for several images, or results would overwrite
            each other or what they are made from.
    """
    paths = expand_images(images)
    if len(paths) > 1:
        _refuse_single("the source", source, is_folder(source), len(paths))
        _refuse_single("the result", output, is_folder(output), len(paths))
        if overlay is not None:
            _refuse_single("the overlay", overlay, is_folder(overlay), len(paths))
    jobs = [
        Job(
            path,
            Path(source.replace(_STEM, path.stem)),
            _target(output, path.stem, suffix),
            None if overlay is None else _target(overlay, path.stem, ".png"),
        )
        for path in paths
    ]
    _refuse_overwriting(jobs)
    return jobs


def is_folder(text: str) -> bool:
    """Tells whether a path is, or is to become, a folder: what has no suffix is."""
    return Path(text).is_dir() or text.endswith("/") or not Path(text).suffix


def find_source(job: Job, suffixes: Sequence[str]) -> Path:
    """Returns the file that holds the labels or scores of an image.

    Raises:
        FileError: there is none, or the folder has several of the image's name.
    """
    if not job.source.is_dir():
        return job.source
    stem = job.image.stem
    found = [path for suffix in suffixes if (path := job.source / (stem + suffix)).is_file()]
    if len(found) == 1:
        return found[0]
    if found:
        names = " and ".join(path.name for path in found)
        raise FileError(f"{job.source} has {names}: use a template such as '{_STEM}{suffixes[0]}'")
    raise FileError(f"{job.source} has no {stem}{{{','.join(suffixes)}}}")


def expand_images(images: Sequence[str]) -> list[Path]:
    """Lists the images that files, folders and globs name, each once; UsageError if one has none.

    A file need not exist.
    """
    paths: list[Path] = []
    for text in images:
        path = Path(text)
        if path.is_dir():
            found = [item for item in path.iterdir() if item.suffix.lower() in IMAGE_SUFFIXES]
        elif any(character in text for character in "*?[") and not path.exists():
            matches = glob.glob(text, recursive=True)  # noqa: PTH207  (Path's is for relative ones)
            found = [Path(match) for match in matches]
        else:
            found = [path]
        if not found:
            raise UsageError(f"no images in {text}")
        paths.extend(sorted(found))
    return list(dict.fromkeys(paths))


def _refuse_single(what: str, text: str, folder: bool, count: int) -> None:
    if not folder and _STEM not in text:
        raise UsageError(
            f"{what} is one file, {text}, for {count} images: name a folder or a template "
            f"such as '{_STEM}{Path(text).suffix}'"
        )


def _target(text: str, stem: str, suffix: str) -> Path:
    if _STEM in text:
        return Path(text.replace(_STEM, stem))
    return Path(text) / (stem + suffix) if is_folder(text) else Path(text)


def _refuse_overwriting(jobs: Sequence[Job]) -> None:
    taken = {path.resolve(): path for job in jobs for path in (job.image, job.source)}
    for job in jobs:
        for target in (job.output, job.overlay):
            if target is None:
                continue
            resolved = target.resolve()
            if resolved in taken:
                raise UsageError(f"{target} would overwrite {taken[resolved]}, of the same run")
            taken[resolved] = target
