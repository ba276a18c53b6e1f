"""``deeplab tune-crf``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from densecrf_gpu.cli.errors import FileError, UsageError

from .options import (
    Shard,
    add_data_options,
    add_network_options,
    add_run_options,
    choose_device,
    load_network,
    open_data,
    prepare_output,
    progress_bar,
    whole_number,
)
from .parser import add_command

_EXAMPLES = """\
examples:
  deeplab tune-crf --data camvid --root data/camvid -o crf.json
  deeplab tune-crf --weights vgg.pth --data voc2012 --root VOC2012 --grid deeplab_v1 \\
      --journal trials.jsonl -o crf.json
  deeplab eval --data camvid --root data/camvid --split test --crf-params crf.json

The network labels each picture once. Then the papers' search (DeepLab v1, section 4.2): weight and
bandwidths of the bilateral kernel over a coarse grid, then over finer ones around the best. With
--journal an interrupted search goes on where it was. Search on one split, score on another.
"""


def add_tune_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Adds ``tune-crf``."""
    parser = add_command(
        subparsers, "tune-crf", "search the parameters of the CRF behind a network", _EXAMPLES
    )
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="FILE", help=".json for --crf-params"
    )
    add_data_options(parser, "val")
    add_network_options(parser)
    group = parser.add_argument_group("search")
    group.add_argument(
        "--limit",
        type=whole_number(1),
        default=100,
        metavar="N",
        help="pictures, evenly spread over the split [100, as the papers]",
    )
    group.add_argument(
        "--grid",
        default="deeplab_v2",
        choices=("deeplab_v1", "deeplab_v2"),
        help="of the paper; [deeplab_v2]: weight 3…6, sxy 30…100, srgb 3…6",
    )
    for flag, text in (
        ("--weights-tried", "weights of the bilateral kernel"),
        ("--sxy", "its spatial bandwidths, pixels"),
        ("--srgb", "its colour bandwidths, 0…255"),
    ):
        group.add_argument(flag, type=_values, metavar="V,V", help=f"{text}, for those of the grid")
    group.add_argument(
        "--rounds", type=whole_number(0), default=2, metavar="N", help="finer grids [2]"
    )
    group.add_argument(
        "--start", default="auto", metavar="NAME", help="the other parameters, as --crf-params"
    )
    group.add_argument("--iterations", type=whole_number(1), default=10, metavar="N", help="[10]")
    group.add_argument("--journal", type=Path, metavar="FILE", help="keeps every trial")
    add_run_options(parser)
    parser.set_defaults(run=run_tune)


def run_tune(args: argparse.Namespace) -> int:
    """Searches, prints what was found and writes it."""
    from deeplab.data import LabelError
    from deeplab.labelling import choose_crf_params
    from deeplab.tuning import CachedScores, spread
    from densecrf_gpu.backends import require_backend
    from densecrf_gpu.fit import search_crf

    shard = Shard.from_environment()
    if shard.size > 1:
        raise UsageError(f"the search runs in one process, found {shard.size}")
    if args.out.suffix != ".json":
        raise UsageError(f"expected -o of a .json file, found {args.out}")
    prepare_output("-o", args.out)
    try:
        require_backend(choose_device(args.device, shard))
    except RuntimeError as error:
        raise UsageError(str(error)) from error
    loaded = load_network(args, shard)
    dataset = open_data(args, loaded)
    try:
        start = choose_crf_params(args.start, loaded.labelling.crf)
    except ValueError as error:
        raise UsageError(str(error)) from error
    bar = progress_bar(args, shard, "image")
    try:
        samples = CachedScores(
            loaded.segmenter,
            dataset,
            spread(len(dataset), args.limit),
            device=loaded.device,
            progress=bar,
        )
        found = search_crf(
            samples,
            start=start,
            grid=_grid(args),
            rounds=args.rounds,
            iterations=args.iterations,
            ignore_index=dataset.ignore_index,
            journal=args.journal,
            progress=bar is not None,
        )
    except (LabelError, ValueError) as error:
        raise FileError(str(error)) from error
    found.params.save(args.out)
    for name, scores in (
        ("network alone", found.unary),
        (f"CRF, {args.start}", found.before),
        ("CRF, best", found.after),
    ):
        print(f"{name:<28} mean IoU {100 * scores.miou:6.2f} %")
    print(f"{found.trials} parameters tried on {len(samples)} pictures; {args.out} has the best:")
    print(found.params)
    return 0


def _grid(args: argparse.Namespace) -> dict[str, Sequence[float]]:
    """The coarse grid, some of its values replaced."""
    from densecrf_gpu.fit import GRIDS

    given = {
        "bilateral_weight": args.weights_tried,
        "bilateral_sxy": args.sxy,
        "bilateral_srgb": args.srgb,
    }
    replaced = {name: values for name, values in given.items() if values is not None}
    return {**GRIDS[args.grid], **replaced}


def _values(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or min(values) <= 0:
        raise argparse.ArgumentTypeError(f"expected positive numbers such as 3,4,5, found {text!r}")
    return values
