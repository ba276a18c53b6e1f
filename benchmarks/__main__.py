"""The command line: ``python -m benchmarks --help`` lists its commands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from . import agreement, crf, footprint, gpu, gradients, machine, networks, readme, report
from .cases import PARAMS, ROOT, Params, Size, photographs

SIZES = ("500x375x21", "2048x1024x19")
QUICK_SIZES = ("160x120x5",)
CUDA_SIZES = (*SIZES, "320x240x2")
MEMORY_SIZES = ("250x188x21", "500x375x2", "500x375x21", "500x375x64", "1000x750x21")
GRADIENT_SIZES = ("500x375x21",)
QUICK_NETWORKS = ("deeplabv3_mobilenetv2", "deeplabv3plus_mobilenetv2")
COARSE_AND_FINE = ("80/13", "67/3")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0, or 1 with the reason on standard error."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except (RuntimeError, ValueError, FileNotFoundError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")

    timing = commands.add_parser("crf", help="whole calls, ours and pydensecrf2, in turn")
    timing.set_defaults(run=_crf)
    _common(timing, SIZES)
    timing.add_argument("--pictures", nargs="+", metavar="NAME", help="default: all there are")
    timing.add_argument("--repeats", type=_positive, help="default: 7, large sizes 3, --quick 2")
    timing.add_argument(
        "--threads", type=_counts, help="of ours, such as 1,4 (default: 1 and all cores)"
    )
    timing.add_argument(
        "--cold", action="store_true", help="ours without its cache of spatial lattices throughout"
    )
    timing.add_argument("--no-rival", action="store_true", help="ours alone")
    timing.add_argument("--no-memory", action="store_true", help="skip the memory measurements")
    timing.add_argument("--no-plot", action="store_true", help="write JSON only")
    timing.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    timing.add_argument(
        "--batches", type=_counts, default=(1, 16), help="on cuda: images a call (default: 1,16)"
    )
    timing.add_argument(
        "--rehearse", action="store_true", help="of cuda: show on the CPU that it runs"
    )

    footprint_ = commands.add_parser("memory", help="peak extra memory of one call of ours")
    footprint_.set_defaults(run=_memory)
    _common(footprint_, MEMORY_SIZES)
    footprint_.add_argument("--threads", type=_positive, help="default: all cores")

    training_ = commands.add_parser("training", help="what training through the CRF is worth, MSRC")
    training_.set_defaults(run=_training)
    training_.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    training_.add_argument("--quick", action="store_true", help="a few pictures, one seed")
    training_.add_argument(
        "--output", type=Path, metavar="DIR", help="for results (default: benchmarks/results)"
    )

    backward = commands.add_parser("gradients", help="backward against forward, and its memory")
    backward.set_defaults(run=_gradients)
    _common(backward, GRADIENT_SIZES)
    backward.add_argument("--threads", type=_positive, help="default: all cores")
    backward.add_argument("--repeats", type=_positive, help="default: 7, --quick 2")

    emulated = commands.add_parser(
        "agreement", help="the CUDA backend in the emulator against the CPU backend"
    )
    emulated.set_defaults(run=_agreement)
    _common(emulated, SIZES[:1])
    emulated.add_argument("--pictures", nargs="+", metavar="NAME", help="default: all there are")

    networks_ = commands.add_parser("networks", help="size, cost and time of DeepLab's networks")
    networks_.set_defaults(run=_networks)
    networks_.add_argument("--names", nargs="+", metavar="NAME", help="default: all of the table")
    networks_.add_argument("--side", type=_positive, help="pixels (default: 513, --quick 65)")
    networks_.add_argument("--threads", type=_positive, default=1, help="default: 1")
    networks_.add_argument("--repeats", type=_positive, help="default: 5, --quick 2")
    networks_.add_argument("--quick", action="store_true", help="two networks, a small picture")
    networks_.add_argument(
        "--output", type=Path, metavar="DIR", help="for JSON (default: benchmarks/results)"
    )

    tables = commands.add_parser(
        "readme", help="rewrite the measured tables of README.md and docs/deeplab.md"
    )
    tables.set_defaults(run=_readme)
    tables.add_argument("--readme", type=Path, default=ROOT / "README.md")
    tables.add_argument("--deeplab", type=Path, default=ROOT / "docs" / "deeplab.md")
    tables.add_argument("--results", type=Path, default=report.RESULTS)
    return parser


def _common(parser: argparse.ArgumentParser, sizes: Sequence[str]) -> None:
    parser.add_argument(
        "--sizes", nargs="+", metavar="WxHxC", type=_size, help=f"default: {' '.join(sizes)}"
    )
    parser.add_argument("--params", nargs="+", choices=PARAMS)
    parser.add_argument("--iterations", type=_positive, default=10)
    parser.add_argument(
        "--quick", action="store_true", help="one small picture; kept only in --output"
    )
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="for JSON and plot (default: benchmarks/results)"
    )


def _crf(arguments: argparse.Namespace) -> None:
    quick: bool = arguments.quick or arguments.rehearse
    output = _output(arguments)
    if output is not None and not arguments.no_plot:
        report.require_matplotlib()
    full = CUDA_SIZES if arguments.device == "cuda" else SIZES
    sizes = arguments.sizes or [Size.parse(text) for text in (QUICK_SIZES if quick else full)]
    names = arguments.params or (COARSE_AND_FINE if quick else tuple(PARAMS))
    pictures = arguments.pictures or (list(photographs())[:1] if quick else None)
    chosen = None if pictures is None else tuple(pictures)
    if arguments.device == "cuda":
        _cuda(arguments, tuple(sizes), tuple(PARAMS[name] for name in names), chosen, output)
        return
    if arguments.rehearse:
        raise ValueError("--rehearse is of --device cuda")
    crf.run(
        crf.Settings(
            sizes=tuple(sizes),
            params=tuple(PARAMS[name] for name in names),
            pictures=chosen,
            iterations=arguments.iterations,
            threads=arguments.threads or tuple(sorted({1, machine.cores()})),
            repeats=arguments.repeats or (2 if quick else None),
            cold=arguments.cold,
            rival=not arguments.no_rival,
            memory=not arguments.no_memory,
            plot=not arguments.no_plot,
            device=arguments.device,
            quick=quick,
        ),
        output,
    )


def _cuda(
    arguments: argparse.Namespace,
    sizes: tuple[Size, ...],
    params: tuple[Params, ...],
    pictures: tuple[str, ...] | None,
    output: Path | None,
) -> None:
    if arguments.threads or arguments.cold or arguments.no_memory:
        raise ValueError("--threads, --cold and --no-memory are of --device cpu")
    settings = gpu.Settings(
        sizes=sizes,
        params=params,
        pictures=pictures,
        batches=arguments.batches,
        iterations=arguments.iterations,
        repeats=arguments.repeats or (2 if arguments.rehearse else None),
        rival=not arguments.no_rival,
        plot=not arguments.no_plot,
        quick=arguments.quick,
        rehearse=arguments.rehearse,
    )
    gpu.run(settings, output)


def _memory(arguments: argparse.Namespace) -> None:
    quick: bool = arguments.quick
    defaults = QUICK_SIZES if quick else MEMORY_SIZES
    names = arguments.params or COARSE_AND_FINE
    footprint.run(
        arguments.sizes or [Size.parse(text) for text in defaults],
        [PARAMS[name] for name in names],
        ("labels", "probabilities"),
        arguments.threads or machine.cores(),
        arguments.iterations,
        _output(arguments),
        quick,
    )


def _training(arguments: argparse.Namespace) -> None:
    from .training import run  # scipy, for the scribbles

    seeds = arguments.seeds[:1] if arguments.quick else arguments.seeds
    run.run(seeds, _output(arguments), arguments.quick)


def _gradients(arguments: argparse.Namespace) -> None:
    quick: bool = arguments.quick
    defaults = QUICK_SIZES if quick else GRADIENT_SIZES
    names = arguments.params or COARSE_AND_FINE
    gradients.run(
        arguments.sizes or [Size.parse(text) for text in defaults],
        [PARAMS[name] for name in names],
        arguments.threads or machine.cores(),
        arguments.iterations,
        arguments.repeats or (2 if quick else 7),
        _output(arguments),
        quick,
    )


def _agreement(arguments: argparse.Namespace) -> None:
    quick: bool = arguments.quick
    defaults = QUICK_SIZES if quick else SIZES[:1]
    names = arguments.params or (COARSE_AND_FINE if quick else tuple(PARAMS))
    agreement.run(
        arguments.sizes or [Size.parse(text) for text in defaults],
        [PARAMS[name] for name in names],
        arguments.pictures or (list(photographs())[:1] if quick else None),
        arguments.iterations,
        _output(arguments),
        quick,
    )


def _networks(arguments: argparse.Namespace) -> None:
    quick: bool = arguments.quick
    side = arguments.side or (65 if quick else 513)
    names = QUICK_NETWORKS if quick else tuple(networks.PAPERS)
    networks.run(
        arguments.names or names,
        (side, side),
        arguments.threads,
        arguments.repeats or (2 if quick else 5),
        _output(arguments),
        quick,
    )


def _readme(arguments: argparse.Namespace) -> None:
    for page, section in (
        (arguments.readme, readme.section),
        (arguments.deeplab, networks.section),
    ):
        changed = readme.update(page, section(arguments.results))
        print(f"{page.name} {'rewritten' if changed else 'is up to date'}")


def _output(arguments: argparse.Namespace) -> Path | None:
    """Where results go: a quick run's nowhere unless it is said, so that none looks like a full."""
    if arguments.output is not None or arguments.quick or getattr(arguments, "rehearse", False):
        folder: Path | None = arguments.output
        return folder
    return report.RESULTS


def _size(text: str) -> Size:
    try:
        return Size.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text!r}")
    return int(text)


def _counts(text: str) -> tuple[int, ...]:
    return tuple(sorted({_positive(field) for field in text.split(",")}))


if __name__ == "__main__":
    raise SystemExit(main())
