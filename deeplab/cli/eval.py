"""``deeplab eval``."""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from densecrf_gpu.cli.errors import FileError, UsageError

from .options import (
    Shard,
    add_crf_options,
    add_data_options,
    add_network_options,
    add_run_options,
    choose_crf,
    load_network,
    open_data,
    prepare_output,
    progress_bar,
    whole_number,
)
from .parser import add_command
from .processes import process_group

_EXAMPLES = """\
examples:
  deeplab eval --data camvid --root data/camvid --split test --crf
  deeplab eval --weights r101.pth --data voc2012 --root VOCdevkit/VOC2012 --output-stride 8 \\
      --scales paper --flip --crf-params crf.json --trimap 1-40 --json scores.json --plot trimap.png
  torchrun --nproc-per-node 4 -m deeplab eval --data cityscapes --root data/cityscapes --crf

All pixels of the set are counted in one confusion matrix, at the labels' own size; void is not.
"""


def add_eval_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Adds ``eval``."""
    summary = "score a network on a labelled data set, with and without CRF"
    parser = add_command(subparsers, "eval", summary, _EXAMPLES)
    add_data_options(parser, "val")
    add_network_options(parser)
    add_crf_options(parser)
    group = parser.add_argument_group("scores")
    group.add_argument(
        "--trimap",
        type=_widths,
        default=(),
        metavar="W,W",
        help="also within bands of these widths, in pixels, around outlines: 2,4,8 or 1-40",
    )
    group.add_argument(
        "--outline",
        choices=("void", "labels"),
        default="void",
        help="what bands are around: the void of the labels, as VOC draws it, or where labels "
        "change [void]",
    )
    group.add_argument("--limit", type=whole_number(1), metavar="N", help="the first N pictures")
    group.add_argument("--json", type=Path, metavar="FILE", help="write all scores")
    group.add_argument("--plot", type=Path, metavar="FILE", help="draw the trimap scores, .png")
    add_run_options(parser)
    parser.add_argument(
        "--workers", type=whole_number(0), default=0, metavar="N", help="that read pictures [0]"
    )
    parser.set_defaults(run=run_eval)


def run_eval(args: argparse.Namespace) -> int:
    """Evaluates and prints; the first process alone does, where there are several."""
    from torch.utils.data import Subset

    from deeplab.data import LabelError
    from deeplab.evaluation import evaluate
    from deeplab.reporting import as_json, plot_trimap, table, write_json

    if args.plot is not None:
        if not args.trimap:
            raise UsageError("--plot draws trimap scores: say --trimap, such as 1-40")
        _check_plot(args.plot)
    for flag, path in (("--json", args.json), ("--plot", args.plot)):
        if path is not None:
            prepare_output(flag, path)
    shard = Shard.from_environment()
    loaded = load_network(args, shard)
    dataset = open_data(args, loaded)
    crf = choose_crf(args, loaded)
    chosen: Any = dataset
    if args.limit is not None and args.limit < len(dataset):
        chosen = _Part(Subset(dataset, range(args.limit)), dataset.ignore_index)
        loaded.settings["limit"] = args.limit
    with process_group(shard, loaded.device.type):
        try:
            evaluation = evaluate(
                loaded.segmenter,
                chosen,
                loaded.num_classes,
                crf=crf,
                widths=args.trimap,
                outline=args.outline,
                device=loaded.device,
                workers=args.workers,
                progress=progress_bar(args, shard, "image"),
            )
        except LabelError as error:
            raise FileError(str(error)) from error
    if shard.rank == 0:
        print(table(evaluation, dataset.classes))
        if args.outline == "void" and any(not band.pixels for band in evaluation.network.trimap):
            print(
                "deeplab eval: labels have no void for bands to be around: --outline labels takes "
                "where they change",
                file=sys.stderr,
            )
        if args.json is not None:
            write_json(args.json, as_json(evaluation, dataset.classes, loaded.settings))
        if args.plot is not None:
            plot_trimap(evaluation, args.plot)
    return 0


class _Part:
    """Some pictures of a data set."""

    def __init__(self, subset: Any, ignore_index: int) -> None:
        self._subset = subset
        self.ignore_index = ignore_index

    def __len__(self) -> int:
        return len(self._subset)

    def __getitem__(self, index: int) -> Any:
        return self._subset[index]


def _check_plot(path: Path) -> None:
    if find_spec("matplotlib") is None:
        raise UsageError("--plot needs matplotlib: pip install matplotlib")
    from matplotlib.backend_bases import FigureCanvasBase

    kinds = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.lstrip(".").lower() not in kinds:
        known = ", ".join(f".{kind}" for kind in sorted(kinds))
        raise UsageError(f"--plot {path}: expected a suffix among {known}")


def _widths(text: str) -> tuple[int, ...]:
    widths: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise argparse.ArgumentTypeError(
                f"expected widths such as 2,4,8 or 1-40, found {text!r}"
            )
        widths.update(range(int(first), int(last or first) + 1))
    if not widths or min(widths) < 1:
        raise argparse.ArgumentTypeError(f"expected widths of 1 pixel or more, found {text!r}")
    return tuple(sorted(widths))
