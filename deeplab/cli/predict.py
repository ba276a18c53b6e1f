"""``deeplab predict``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from densecrf_gpu.cli.batch import expand_images
from densecrf_gpu.cli.errors import FileError, UsageError

from .options import (
    Shard,
    add_crf_options,
    add_network_options,
    add_run_options,
    choose_crf,
    load_network,
    prepare_output,
    progress_bar,
    whole_number,
)
from .parser import add_command
from .processes import Together

_EXAMPLES = """\
examples:
  deeplab predict street.jpg --crf --overlay -o out/
  deeplab predict images/ 'more/*.png' --weights r101.safetensors --crf-params crf.json -o masks/
  torchrun --nproc-per-node 4 -m deeplab predict images/ --crf -o masks/

results, in the folder of -o:
  <name>.png                  class numbers, with the classes' colours as palette
  <name>_overlay.png          --overlay: these colours over the picture
  <name>_probabilities.npy    --probabilities: float16 [C, H, W]

exit code: 0 all labelled, 1 some file failed (its name and the reason are on stderr), 2 usage.
"""


def add_predict_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Adds ``predict``."""
    parser = add_command(subparsers, "predict", "label pictures, with or without CRF", _EXAMPLES)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="file, folder or 'glob'")
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="FOLDER", help="where results go"
    )
    parser.add_argument("--overlay", action="store_true", help="also draw labels over the pictures")
    parser.add_argument(
        "--probabilities", action="store_true", help="also write those of all classes"
    )
    add_network_options(parser)
    add_crf_options(parser)
    add_run_options(parser)
    parser.add_argument(
        "--io-threads",
        type=whole_number(1),
        default=2,
        metavar="N",
        help="that read, and that write [2]",
    )
    parser.add_argument(
        "--upright", action="store_true", help="turn pictures as their EXIF orientation says"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print failures only")
    parser.set_defaults(run=run_predict)


def run_predict(args: argparse.Namespace) -> int:
    """Labels the pictures of this process; 1 if one failed, in whichever process."""
    from deeplab.data.pictures import is_turned
    from deeplab.prediction import Predictor, plan, run

    shard = Shard.from_environment()
    try:
        jobs = plan(
            expand_images(args.images),
            args.out,
            overlay=args.overlay,
            probabilities=args.probabilities,
        )
    except FileError as error:
        raise UsageError(str(error)) from error
    prepare_output("-o", args.out, folder=True)
    mine = jobs[shard.rank :: shard.size]
    loaded = load_network(args, shard)
    predictor = Predictor(
        loaded.segmenter,
        loaded.labelling,
        crf=choose_crf(args, loaded),
        device=loaded.device,
        overlay=args.overlay,
        probabilities=args.probabilities,
    )
    bar = progress_bar(args, shard, "image")
    together = Together()
    outcomes: Iterable[Any] = run(
        mine, predictor, loaded.labelling, args.io_threads, upright=args.upright
    )
    failures = turned = 0
    for job, fault in outcomes if bar is None else bar(outcomes, len(mine)):
        if fault is not None:
            failures += 1
            print(f"deeplab predict: {_describe(job.image, fault)}", file=sys.stderr)
        elif not args.quiet and bar is None:
            print(f"{job.image} -> {job.mask}")
        turned += not args.upright and is_turned(job.image)
    failures, turned = together.sums(failures, turned)
    if shard.rank == 0:
        _sum_up(failures, turned, len(jobs))
    return 1 if failures else 0


def _sum_up(failures: int, turned: int, pictures: int) -> None:
    if turned:
        print(
            f"deeplab predict: {turned} of {pictures} pictures were labelled as stored, though "
            "their EXIF orientation turns them: --upright does",
            file=sys.stderr,
        )
    if failures and pictures > 1:
        print(f"deeplab predict: {failures} of {pictures} pictures failed", file=sys.stderr)


def _describe(image: Path, error: Exception) -> str:
    """One line that starts with the picture's name."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        text = "out of memory: --window 513x513 needs less"
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror
    else:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return text if text.startswith(f"{image}: ") else f"{image}: {text}"
