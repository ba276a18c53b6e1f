"""The subcommands of ``deeplab``; each module adds its own parser and names what runs it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NoReturn

_EXAMPLES = """\
examples:
  deeplab predict street.jpg --crf --overlay -o out/
  deeplab eval --data camvid --root data/camvid --split test --crf
  deeplab tune-crf --data camvid --root data/camvid -o crf.json
  deeplab train deeplabv3plus_resnet101_voc -o runs/voc --set data.root=data/VOC2012
  deeplab demo                                    a street before and after: deeplab-demo.png
  deeplab models                                  the networks of the papers, by name
"""


class _Parser(argparse.ArgumentParser):
    """argparse with errors of one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def add_command(
    subparsers: argparse._SubParsersAction[Any], name: str, summary: str, epilog: str | None = None
) -> argparse.ArgumentParser:
    """Adds a subcommand; ``set_defaults(run=...)`` then names what takes its arguments.

    ``run`` returns the exit code, and raises UsageError for a command line that makes no sense,
    FileError for a file that cannot be used.
    """
    command: argparse.ArgumentParser = subparsers.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.set_defaults(parser=command)
    return command


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser; its result has ``run``, and the ``parser`` of the subcommand."""
    # The subcommands' modules need add_command of this one.
    from .eval import add_eval_parser
    from .models import add_models_parser
    from .options import whole_number
    from .predict import add_predict_parser
    from .train import add_train_parser
    from .tune import add_tune_parser

    parser = _Parser(
        prog="deeplab",
        description="DeepLab v1, v2, v3 and v3+, refined by a fully connected CRF.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_predict_parser(subparsers)
    add_eval_parser(subparsers)
    add_tune_parser(subparsers)
    add_train_parser(subparsers)
    demo = add_command(subparsers, "demo", "label a photograph that comes with the package")
    demo.add_argument("-o", "--output", type=Path, default=Path("deeplab-demo.png"), metavar="PNG")
    threads = "CPU threads [torch's]"
    demo.add_argument("--threads", type=whole_number(1), metavar="N", help=threads)
    demo.set_defaults(run=_run_demo)
    add_models_parser(subparsers)
    return parser


def _run_demo(args: argparse.Namespace) -> int:
    import torch

    from deeplab.demo import run_demo

    if args.threads:
        torch.set_num_threads(args.threads)
    return run_demo(args.output)
