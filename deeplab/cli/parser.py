"""The subcommands of ``deeplab``; each module adds its own parser and names what runs it."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

_EXAMPLES = """\
examples:
  deeplab predict street.jpg --crf --overlay -o out/
  deeplab eval --data camvid --root data/camvid --split test --crf
  deeplab tune-crf --data camvid --root data/camvid -o crf.json
  deeplab train deeplabv3plus_resnet101_voc -o runs/voc --set data.root=data/VOC2012
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
    models = add_command(subparsers, "models", "list the networks and their parameters")
    models.set_defaults(run=_print_models)
    return parser


def _print_models(args: argparse.Namespace) -> int:
    import torch

    from deeplab.registry import MODELS, build

    print(f"{'model':<32}{'parameters':>12}   (21 classes)")
    for name in MODELS:
        with torch.device("meta"):
            count = sum(p.numel() for p in build(name).parameters())
        print(f"{name:<32}{count / 1e6:>10.2f} M")
    return 0
