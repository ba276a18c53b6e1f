"""The ``densecrf`` command: refine, fit, presets, info and demo."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .errors import FileError, UsageError
from .parser import build_parser

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line ``argv`` (``sys.argv[1:]`` by default) and returns the exit code.

    0: all done. 1: something failed, each failure with a line on stderr. 2: the command line is
    wrong. argparse itself leaves by SystemExit with 2, or with 0 for ``--help``.
    """
    args = build_parser().parse_args(argv)
    # Only what a subcommand needs is imported: `densecrf --help` should not wait for Pillow.
    try:
        if args.command == "refine":
            from .refine import run_refine

            return run_refine(args)
        if args.command == "fit":
            from .fit import run_fit

            return run_fit(args)
        if args.command == "demo":
            from densecrf_gpu.demo import run_demo

            return run_demo(args.output, args.threads)
        from .report import print_info, print_presets

        return print_presets() if args.command == "presets" else print_info()
    except UsageError as error:
        print(f"{args.parser.prog}: {error} (see {args.parser.prog} --help)", file=sys.stderr)
        return 2
    except (FileError, OSError) as error:
        print(f"densecrf: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("densecrf: interrupted", file=sys.stderr)
        return 130
