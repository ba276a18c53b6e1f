"""``densecrf refine``: one image after the other, failures collected."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from densecrf_gpu.params import CRFParams
from densecrf_gpu.refine import crf_refine

from .arrays import load_array, save_array
from .batch import ARRAY_SUFFIXES, LABEL_SUFFIXES, Job, find_source, is_folder, plan_jobs
from .errors import FileError, UsageError
from .masks import MaskStyle, load_image, load_labels, save_labels, save_overlay, voc_palette

_PARAMETERS = (
    "gaussian_sxy",
    "gaussian_weight",
    "bilateral_sxy",
    "bilateral_srgb",
    "bilateral_weight",
)


def run_refine(args: argparse.Namespace) -> int:
    """Refines all images of a command line; 1 if one failed.

    Raises:
        UsageError: the options do not fit together, before anything is written.
    """
    kind = next(name for name in ("labels", "probabilities", "logits") if getattr(args, name))
    params = choose_params(args)
    output, suffix = _choose_output(args)
    jobs = plan_jobs(args.images, getattr(args, kind), args.out, suffix, args.overlay)
    if args.threads:
        torch.set_num_threads(args.threads)
    failures = 0
    bar = _progress(args, len(jobs))
    for job in jobs if bar is None else bar(jobs):
        start = time.perf_counter()
        try:
            _refine_one(args, job, kind, output, params)
        except (FileError, OSError, ValueError, TypeError, RuntimeError, MemoryError) as error:
            failures += 1
            _say(f"densecrf: {_describe(job, error)}", bar is not None, sys.stderr)
        else:
            if not args.quiet and bar is None:
                print(f"{job.image} -> {job.output}  {time.perf_counter() - start:.2f} s")
    if failures and len(jobs) > 1:
        print(f"densecrf: {failures} of {len(jobs)} images failed", file=sys.stderr)
    return 1 if failures else 0


def choose_params(args: argparse.Namespace) -> CRFParams:
    """Returns the preset, or the file of ``densecrf fit``, with what the command line changes."""
    presets = CRFParams.presets()
    if args.preset.lower().endswith(".json"):
        try:
            base = CRFParams.load(args.preset)
        except (OSError, ValueError) as error:
            raise UsageError(f"--preset {args.preset}: {error}") from None
    elif args.preset in presets:
        base = presets[args.preset]
    else:
        raise UsageError(
            f"expected --preset {', '.join(presets)}, or a .json file; found {args.preset}"
        )
    changes = {name: getattr(args, name) for name in _PARAMETERS if getattr(args, name) is not None}
    try:
        return replace(base, **changes)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _choose_output(args: argparse.Namespace) -> tuple[str, str]:
    """Returns what to write (labels, ...) and the suffix of its files in a folder."""
    if is_folder(args.out):
        output = args.output or "labels"
        return output, ".png" if output == "labels" else ".npy"
    suffix = Path(args.out).suffix.lower()
    if suffix not in LABEL_SUFFIXES:
        raise UsageError(f"expected -o of {', '.join(LABEL_SUFFIXES)}, found {args.out}")
    output = args.output or ("labels" if suffix == ".png" else "probabilities")
    if suffix == ".png" and output != "labels":
        raise UsageError(f"a .png holds labels: write {output} to .npy, .npz or .pt")
    return output, suffix


def _refine_one(
    args: argparse.Namespace, job: Job, kind: str, output: str, params: CRFParams
) -> None:
    image = load_image(job.image)
    source = find_source(job, LABEL_SUFFIXES if kind == "labels" else ARRAY_SUFFIXES)
    options: dict[str, Any] = {}
    style = MaskStyle(voc_palette())
    if kind == "labels":
        found = load_labels(
            source,
            num_classes=args.num_classes,
            ignore_index=args.ignore_index,
            binary=args.binary,
            by_color=args.by_color,
            key=args.key,
        )
        _check_size(source, found.labels.shape, image.shape[:2], resizable=False)
        scores, style = torch.from_numpy(found.labels), found.style
        options = {"ignore_index": found.ignore_index, "gt_prob": args.gt_prob}
        num_classes = found.num_classes
    else:
        scores = load_array(source, args.key)
        if scores.dim() == 4 and scores.shape[0] == 1:
            scores = scores[0]
        if scores.dim() != 3 or not scores.is_floating_point():
            raise FileError(
                f"{source}: expected {kind} of floats [C, h, w], "
                f"found {scores.dtype} {list(scores.shape)}"
            )
        _check_size(source, tuple(scores.shape[1:]), image.shape[:2], resizable=True)
        num_classes = args.num_classes
    # One inference serves both: the labels of the overlay are the arg max of what is written.
    result = crf_refine(
        scores,
        image,
        params,
        iterations=args.iterations,
        input=kind,
        output=output,
        normalization=args.normalization,
        tolerance=args.tolerance,
        num_classes=num_classes,
        image_layout="HWC" if image.ndim == 3 else "HW",
        image_range=args.image_range,
        **options,
    )
    labels = result if output == "labels" else result.argmax(dim=0)
    if output == "labels" and job.output.suffix.lower() == ".png":
        save_labels(job.output, labels.numpy(), style)
    else:
        save_array(job.output, result, output)
    if job.overlay is not None:
        save_overlay(job.overlay, image, labels.numpy(), style)


def _check_size(
    source: Path, size: tuple[int, ...], image: tuple[int, ...], resizable: bool
) -> None:
    fits = all(np.less_equal(size, image)) if resizable else size == image
    if not fits:
        at_most = "at most " if resizable else ""
        raise FileError(
            f"expected {source} of {at_most}{image[1]} x {image[0]} pixels as the image, "
            f"found {size[1]} x {size[0]}"
        )


def _progress(args: argparse.Namespace, count: int) -> Any:
    """Returns what draws a bar around an iterable, or None for no bar."""
    wanted = count > 1 and sys.stderr.isatty() if args.progress is None else args.progress
    if not wanted or (args.quiet and args.progress is None):
        return None
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        if args.progress:
            raise UsageError("--progress needs tqdm: pip install tqdm") from None
        return None

    def bar(jobs: Iterable[Job]) -> Iterable[Job]:
        return tqdm(jobs, total=count, unit="image", file=sys.stderr)  # type: ignore[no-any-return]

    return bar


def _say(line: str, above_bar: bool, file: Any) -> None:
    if above_bar:
        from tqdm import tqdm

        tqdm.write(line, file=file)
    else:
        print(line, file=file)


def _describe(job: Job, error: Exception) -> str:
    """One line that starts with the image's name."""
    if isinstance(error, MemoryError):
        text = "out of memory"
    else:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return text if text.startswith(f"{job.image}: ") else f"{job.image}: {text}"
