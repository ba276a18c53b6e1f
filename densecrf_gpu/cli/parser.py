"""The options of ``densecrf``, and their help."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

_EXAMPLES = """\
examples:
  densecrf demo                                   the bundled photograph, before and after
  densecrf refine cat.jpg --logits cat.npy -o cat.png
  densecrf refine cat.jpg --labels scribbles.png --by-color -o cat.png
  densecrf refine images/ --logits 'logits/{stem}.npy' -o refined/ --preset deeplab_v2_vgg
  densecrf fit images/ --logits logits/ --truth masks/ -o crf.json
  densecrf presets                                the named parameters and where they come from
  densecrf info                                   versions, instruction set, threads
"""

_REFINE_EXAMPLES = """\
examples:
  A network's logits, at any resolution, to a PNG of labels and a look at it:
    densecrf refine cat.jpg --logits cat.npy -o cat.png --overlay look.png
  A mask with unknown pixels (255), its palette kept:
    densecrf refine cat.jpg --labels coarse.png -o fine.png --ignore-index 255
  A folder, with other parameters; probabilities instead of labels:
    densecrf refine images/ --probabilities probs/ -o refined/ --output probabilities \\
        --preset deeplab_v2_vgg --sxy 60 --srgb 8
  The same by templates; {stem} is the image's name without its suffix:
    densecrf refine 'images/*.jpg' --labels 'masks/{stem}_mask.png' -o 'out/{stem}.png'

files:
  labels         .png: palette or grey values are the labels. In RGB, and with --by-color, each
                 colour is a label and black is unknown. Also .npy, .npz, .pt of integers [H, W].
  probabilities, logits
                 .npy, .npz, .pt of floats [C, h, w]; h and w may be smaller than the image's.
  results        .png (labels), .npy, .npz, .pt.
Files are read safely: .npy and .npz without pickles, .pt by torch.load(weights_only=True).

exit code: 0 all refined, 1 some file failed (its name and the reason are on stderr), 2 usage.
"""


_FIT_EXAMPLES = """\
examples:
  Coarse to fine for the best mean IoU, as DeepLab does, then use what was found:
    densecrf fit images/ --logits logits/ --truth masks/ -o crf.json
    densecrf refine images/ --logits logits/ -o refined/ --preset crf.json
  By gradient, for the likelihood of the true labels:
    densecrf fit images/ --logits logits/ --truth masks/ -o crf.json --method gradient --steps 3

An interrupted run goes on where it was when the same command is given again.
"""


class _Parser(argparse.ArgumentParser):
    """argparse with errors of one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser; its result has ``command`` and the ``parser`` of that command."""
    parser = _Parser(
        prog="densecrf",
        description="Refine segmentations with a fully connected CRF (Krähenbühl and Koltun 2011).",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(
        name: str, summary: str, usage: str | None = None, epilog: str | None = None
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name,
            usage=usage,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.set_defaults(parser=command)
        return command

    usage = "%(prog)s IMAGE... (--labels | --probabilities | --logits) FILE -o OUT [options]"
    _add_refine_options(add("refine", "refine images, one or many", usage, _REFINE_EXAMPLES))
    usage = "%(prog)s IMAGE... --logits FILE --truth FILE -o PARAMS.json [options]"
    _add_fit_options(add("fit", "fit the parameters to a network", usage, _FIT_EXAMPLES))
    add("presets", "list the named parameters and where they come from")
    add("info", "say what was built and what it runs on")
    demo = add("demo", "refine the bundled photograph and draw what happened")
    demo.add_argument(
        "-o", "--output", type=Path, default=Path("demo.png"), metavar="PNG", help="[demo.png]"
    )
    demo.add_argument("--threads", type=_positive, metavar="N", help="CPU threads [torch's]")
    return parser


def _add_refine_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="file, folder or 'glob'")
    source = parser.add_argument_group("what to refine (one of)")
    one = source.add_mutually_exclusive_group(required=True)
    for kind in ("labels", "probabilities", "logits"):
        one.add_argument(
            f"--{kind}",
            metavar="FILE",
            help="file; for many images a folder or a '{stem}' template",
        )
    source.add_argument("--key", metavar="NAME", help="entry of .npz or .pt files with several")
    source.add_argument("--num-classes", type=_positive, metavar="C", help="[largest label + 1]")
    source.add_argument(
        "--ignore-index",
        type=_index_or_none,
        default=255,
        metavar="N",
        help="label of unknown pixels, or none [255]",
    )
    source.add_argument(
        "--binary", action="store_true", help="the labels are 0 and not 0; written as 0 and 255"
    )
    source.add_argument(
        "--by-color",
        action="store_true",
        help="colours are labels, black is unknown, whatever the PNG's mode",
    )
    source.add_argument(
        "--gt-prob", type=float, default=0.7, metavar="P", help="trust in labels, in (0, 1) [0.7]"
    )

    result = parser.add_argument_group("results")
    result.add_argument(
        "-o", "--out", required=True, metavar="OUT", help="file, folder or '{stem}' template"
    )
    result.add_argument(
        "--output",
        choices=("labels", "probabilities", "logits"),
        help="[labels for .png and folders, else probabilities]",
    )
    result.add_argument("--overlay", metavar="PNG", help="also draw the labels over the image")

    crf = _add_parameters(parser)
    crf.add_argument(
        "--tolerance", type=float, metavar="T", help="stop when no marginal moves by as much"
    )
    _add_running(parser)


def _add_fit_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="file, folder or 'glob'")
    source = parser.add_argument_group("the held-out set (folders or '{stem}' templates)")
    source.add_argument("--logits", required=True, metavar="FILE", help=".npy, .npz, .pt [C, h, w]")
    source.add_argument("--truth", required=True, metavar="FILE", help="labels, .png or arrays")
    source.add_argument("--key", metavar="NAME", help="entry of .npz or .pt files with several")
    source.add_argument(
        "--ignore-index",
        type=_index_or_none,
        default=255,
        metavar="N",
        help="label of unknown pixels, or none [255]",
    )
    result = parser.add_argument_group("results")
    result.add_argument("-o", "--out", required=True, metavar="PARAMS.json")
    result.add_argument(
        "--resume", metavar="FILE", help="what has been done so far [beside PARAMS.json]"
    )
    way = parser.add_argument_group("the way")
    way.add_argument("--method", choices=("search", "gradient"), default="search", help="[search]")
    way.add_argument("--grid", choices=("deeplab_v1", "deeplab_v2"), default="deeplab_v2")
    way.add_argument(
        "--rounds", type=_count, default=2, metavar="N", help="finer grids after the first [2]"
    )
    way.add_argument("--metric", choices=("miou", "accuracy"), default="miou", help="[miou]")
    way.add_argument(
        "--objective",
        choices=("log_likelihood", "iou"),
        default="log_likelihood",
        help="of --method gradient [log_likelihood]",
    )
    way.add_argument("--steps", type=_count, default=20, metavar="N", help="of L-BFGS [20]")
    _add_parameters(parser)
    _add_running(parser)


def _add_parameters(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    crf = parser.add_argument_group("parameters (sigmas in pixels, colours in 0..255)")
    crf.add_argument(
        "--preset",
        default="pydensecrf",
        metavar="NAME",
        help="see densecrf presets, or a .json of densecrf fit [pydensecrf]",
    )
    for flags, metavar, text in (
        (("--gaussian-sxy",), "S", "bandwidth of the smoothness kernel; x,y if they differ"),
        (("--bilateral-sxy", "--sxy"), "S", "spatial bandwidth of the bilateral kernel"),
        (
            ("--bilateral-srgb", "--srgb"),
            "S",
            "its colour bandwidth; one per channel if they differ",
        ),
    ):
        crf.add_argument(*flags, type=_numbers, metavar=metavar, help=text)
    crf.add_argument("--gaussian-weight", type=float, metavar="W", help="0 leaves the kernel out")
    crf.add_argument("--bilateral-weight", type=float, metavar="W", help="0 leaves the kernel out")
    crf.add_argument(
        "--image-range",
        type=float,
        metavar="R",
        help="value of full intensity, where not 255: 65535 for 16-bit images",
    )
    crf.add_argument("--iterations", type=_count, default=10, metavar="N", help="[10]")
    crf.add_argument(
        "--normalization",
        choices=("symmetric", "before", "after", "none"),
        default="symmetric",
        help="[symmetric]",
    )
    return crf


def _add_running(parser: argparse.ArgumentParser) -> None:
    run = parser.add_argument_group("running")
    run.add_argument("--threads", type=_positive, metavar="N", help="CPU threads [torch's]")
    run.add_argument("-q", "--quiet", action="store_true", help="print failures only")
    run.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="a progress bar [if stderr is a terminal and there is enough to do]",
    )


def _integer(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"expected a whole number >= {least}, found {text!r}")
        return value

    return parse


_positive = _integer(1)
_count = _integer(0)


def _index_or_none(text: str) -> int | None:
    if text.lower() == "none":
        return None
    try:
        return int(text)
    except ValueError:
        message = f"expected a whole number or none, found {text!r}"
        raise argparse.ArgumentTypeError(message) from None


def _numbers(text: str) -> float | tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        message = f"expected a number or several parted by commas, found {text!r}"
        raise argparse.ArgumentTypeError(message) from None
    return values[0] if len(values) == 1 else values
