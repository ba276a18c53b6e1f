"""``deeplab train``: a configuration in, a trained network out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from densecrf_gpu.cli.errors import FileError, UsageError

_EXAMPLES = """\
examples:
  deeplab train deeplabv3plus_resnet101_voc -o runs/voc --set data.root=data/VOC2012
  deeplab train my.toml -o runs/mine --set optimizer.lr=0.003 --set run.seed=1
  deeplab train my.toml -o runs/mine --set optimizer.lr=0.003 --set run.seed=1 --resume
  deeplab train my.toml --check                      only read and count the labels
  torchrun --nproc-per-node 8 -m deeplab train my.toml -o runs/mine

CONFIG is a TOML file or the name of a recipe that comes with the package; `deeplab train --recipes`
lists them, and `--show` prints one to start from. Ctrl-C saves and stops; --resume goes on.
"""


def add_train_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Adds ``deeplab train``."""
    from .parser import add_command

    parser = add_command(subparsers, "train", "train a network", _EXAMPLES)
    parser.add_argument("config", metavar="CONFIG", nargs="?", help="a TOML file, or a recipe")
    parser.add_argument(
        "-o", "--output", metavar="FOLDER", type=Path, help="where everything goes: runs/CONFIG"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run in the folder")
    parser.add_argument(
        "--set",
        metavar="TABLE.KEY=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="replace a value of the configuration; may be repeated",
    )
    parser.add_argument("--device", help="cpu, cuda or cuda:1; a GPU if there is one")
    parser.add_argument("--threads", metavar="N", type=int, help="threads of each process")
    actions = parser.add_mutually_exclusive_group()
    actions.add_argument("--check", action="store_true", help="only read and count the labels")
    actions.add_argument("--show", action="store_true", help="only print the configuration's file")
    actions.add_argument("--recipes", action="store_true", help="only list the recipes")
    parser.set_defaults(run=run_train)


def run_train(args: argparse.Namespace) -> int:
    """Runs the subcommand; the exit code is 130 after an interruption."""
    try:
        from deeplab import training
    except ModuleNotFoundError as error:
        raise FileError(f"{error}: pip install 'densecrf-gpu[train]'") from error
    from deeplab.checkpoints import CheckpointError
    from deeplab.data import DataError

    if args.recipes:
        print("\n".join(training.recipe_names()))
        return 0
    if args.config is None:
        raise UsageError("expected a TOML file or the name of a recipe")
    if args.threads is not None:
        if args.threads < 1:
            raise UsageError(f"expected --threads >= 1, found {args.threads}")
        _set_threads(args.threads)
    try:
        if args.show:
            print(training.config_path(args.config).read_text(), end="")
            return 0
        settings = training.load_settings(args.config, args.overrides)
        if args.check:
            return _check(settings)
        folder = args.output or Path("runs") / Path(args.config).stem
        outcome = training.train(settings, folder, resume=args.resume, device=args.device)
    except (
        *(CheckpointError, DataError, ModuleNotFoundError),
        *(training.ResumeError, training.SettingsError, training.TrainingDivergedError),
    ) as error:  # any other is a fault of the program, and shows where
        raise FileError(str(error)) from error
    if outcome.interrupted:
        print(
            f"interrupted after {outcome.iterations} iterations, all saved in {folder}: "
            "--resume goes on",
            file=sys.stderr,
        )
        return 130
    return 0


def _set_threads(count: int) -> None:
    import torch

    torch.set_num_threads(count)


def _check(settings: Any) -> int:
    """Prints what the labels hold; 1 if they cannot be trained on."""
    from deeplab.training import check_data

    reports = check_data(settings)
    print("\n".join(map(str, reports)))
    return int(any(report.problems for report in reports))
