"""The ``deeplab`` command."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from densecrf_gpu.cli.errors import FileError, UsageError

from .parser import build_parser

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line ``argv`` (``sys.argv[1:]`` by default) and returns the exit code.

    0: all done. 1: something failed, each failure with a line on stderr. 2: the command line is
    wrong. 130: interrupted. argparse itself leaves by SystemExit with 2, or with 0 for ``--help``.
    """
    args = build_parser().parse_args(argv)
    try:
        code: int = args.run(args)
    except UsageError as error:
        print(f"{args.parser.prog}: {error} (see {args.parser.prog} --help)", file=sys.stderr)
        return 2
    except (FileError, OSError) as error:
        print(f"{args.parser.prog}: {_said(error)}", file=sys.stderr)
        return 1
    except (RuntimeError, MemoryError) as error:
        if not (fault := _fault_of_the_machine(error)):
            raise
        print(f"{args.parser.prog}: {fault}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{args.parser.prog}: interrupted", file=sys.stderr)
        return 130
    return code


def _fault_of_the_machine(error: RuntimeError | MemoryError) -> str:
    """A sentence on what is no fault of the program; empty of any other error."""
    text = str(error)
    # torch's own class is known where torch is loaded, which --help does without.
    if type(error).__name__ == "OutOfMemoryError":
        return "the GPU is out of memory: smaller batches, crops or windows need less"
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in text:
        return "out of memory"
    if "DataLoader worker" in text and ("killed by signal" in text or "exited unexp" in text):
        return (
            "a process that reads pictures was killed, perhaps for want of memory: fewer "
            "workers need less"
        )
    return ""


def _said(error: FileError | OSError) -> str:
    """The system's errors as the others: the file, then what is wrong with it."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    lines = str(error).strip().splitlines() or [""]
    if "in DataLoader worker process" in lines[0]:  # then comes its traceback, its error last
        return lines[-1].partition(": ")[2]
    return str(error)
