"""Everything that needs a GPU, in one run: ``python -m tools.gpu_check`` (``make gpu-check``).

Each stage writes its result and is not repeated for the same source tree; one that fails does not
stop the others; all of it goes into a few files in --out, after every stage. Exit code 0: all
stages passed, or were skipped for a reason of the machine; 1: otherwise. The Python that runs this
must have torch and what the tests need; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from .context import Context
from .record import Record, Records, bundle, summary, verdict
from .stages import STAGES, Stage
from .tree import ROOT, revision, tree_digest


def main() -> int:
    """Run what has not been run; 0 if all is well."""
    arguments = _parser().parse_args()
    digest = tree_digest()
    work = arguments.work / digest[:12]
    if arguments.dry_run:
        work = work.with_name(work.name + "-dry-run")
    records = Records(work, fresh=arguments.fresh)
    context = Context(
        work=work,
        carry=arguments.carry,
        dry_run=arguments.dry_run,
        revision=revision(digest, arguments.carry),
        deadline=time.monotonic() + arguments.limit,
    )
    chosen = [stage for stage in STAGES if not arguments.only or stage.name in arguments.only]
    for stage in chosen:
        _run_or_reuse(stage, records, context)
        bundle(records, arguments.out, context.about())
    print(summary(records, [stage.name for stage in chosen]))
    print(f"results: {arguments.out}")
    return 0 if verdict(records, [stage.name for stage in chosen]) == "passed" else 1


def _run_or_reuse(stage: Stage, records: Records, context: Context) -> None:
    done = records.get(stage.name)
    if done is not None and done.status in ("passed", "skipped"):
        print(f"==== {stage.name}: {done.status} before", flush=True)
        return
    missing = [name for name in stage.needs if not records.has_passed(name)]
    if missing:
        records.put(Record(stage.name, "not run", 0.0, f"needs {', '.join(missing)}"))
    elif context.seconds_left() < stage.least:
        text = f"{max(0, context.seconds_left()):.0f} s were left: run again to go on"
        records.put(Record(stage.name, "not run", 0.0, text))
    else:
        print(f"==== {stage.name}", flush=True)
        records.put(stage.run_in(context))
    record = records.get(stage.name)
    assert record is not None
    print(
        f"==== {stage.name}: {record.status}, {record.seconds:.0f} s  {record.detail}", flush=True
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gpu_check", description=__doc__)
    names = [stage.name for stage in STAGES]
    parser.add_argument("--out", type=Path, default=ROOT / "build/gpu-check/out", metavar="DIR")
    parser.add_argument("--carry", type=Path, metavar="DIR", help="what `make gpu-carry` filled")
    parser.add_argument("--work", type=Path, default=ROOT / "build/gpu-check", metavar="DIR")
    parser.add_argument("--limit", type=float, default=470, metavar="S", help="of all stages")
    parser.add_argument("--only", nargs="+", choices=names, metavar="STAGE", help=", ".join(names))
    parser.add_argument("--fresh", action="store_true", help="repeat what has been done")
    parser.add_argument(
        "--dry-run", action="store_true", help="on the CPU, without the build: the report says so"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
