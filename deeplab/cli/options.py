"""What the subcommands that run a network share: their options, and what these stand for."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densecrf_gpu.cli.errors import FileError, UsageError

if TYPE_CHECKING:
    import torch

    from deeplab.data import SegmentationDataset
    from deeplab.labelling import Labelling
    from deeplab.segmenter import CRF, Segmenter

_DTYPES = ("float32", "bfloat16", "float16")
_SCALE_RANGE = (0.05, 20)  # beyond, pictures come down to a pixel, or fill the memory


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """The network and how it looks at pictures."""
    group = parser.add_argument_group("network")
    group.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="checkpoint, of this package or of the families that deeplab.load knows [the one "
        "that comes with the package]; a .json of the same name beside it may name the classes",
    )
    group.add_argument(
        "--output-stride", type=int, metavar="N", help="8 or 16 [what the weights say]"
    )
    group.add_argument(
        "--scales",
        type=_scales,
        default=(1.0,),
        metavar="S,S",
        help="average over these scales of the picture; paper is 0.5,0.75,1,1.25,1.5,1.75 [1]",
    )
    group.add_argument("--flip", action="store_true", help="average over the mirrored picture too")
    group.add_argument(
        "--window",
        type=parse_window,
        metavar="WxH",
        help="sliding windows of this size [whole picture]",
    )
    group.add_argument(
        "--dtype", choices=_DTYPES, default="float32", help="of the network [float32]"
    )


def add_crf_options(parser: argparse.ArgumentParser) -> None:
    """The CRF behind the network."""
    group = parser.add_argument_group("fully connected CRF")
    group.add_argument("--crf", action="store_true", help="refine the network's scores")
    group.add_argument(
        "--crf-params",
        metavar="NAME",
        help="auto (searched for these weights, else deeplab_v2_resnet101), a preset (densecrf "
        "presets) or a .json file of tune-crf; implies --crf [auto]",
    )
    group.add_argument("--iterations", type=_count, default=10, metavar="N", help="[10]")


def add_data_options(parser: argparse.ArgumentParser, split: str) -> None:
    """A labelled data set."""
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data",
        required=True,
        metavar="NAME",
        help="voc2012, sbd, camvid, cityscapes, cocostuff; or folder: images, labels, classes.txt",
    )
    group.add_argument("--root", required=True, metavar="FOLDER", help="where its files are")
    group.add_argument("--split", default=split, metavar="NAME", help=f"[{split}]")
    group.add_argument(
        "--ignore",
        type=_ignored,
        metavar="V,V",
        help="values in the labels of a folder that, beside 255, mean no class; none for none "
        "[those that the network was trained with]",
    )
    group.add_argument(
        "--upright",
        action="store_true",
        help="turn pictures as their EXIF orientation says, for labels that are turned",
    )


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Where and how it runs."""
    group = parser.add_argument_group("running")
    group.add_argument(
        "--device", default="auto", metavar="D", help="cpu, cuda, cuda:1 [cuda where there is one]"
    )
    group.add_argument("--threads", type=_positive, metavar="N", help="CPU threads [torch's]")
    group.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="a progress bar [if stderr is a terminal]",
    )


@dataclass(frozen=True)
class Shard:
    """This process among those that torchrun started."""

    rank: int
    size: int
    local_rank: int

    @classmethod
    def from_environment(cls) -> Shard:
        """The process that torchrun's variables describe; a single one without them."""
        env = os.environ
        names = (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
        return cls(
            *(int(env.get(name, default)) for name, default in names),
        )


@dataclass(frozen=True)
class Loaded:
    """A network ready to label pictures."""

    segmenter: Segmenter
    labelling: Labelling
    weights: Path
    device: torch.device
    settings: dict[str, Any]

    @property
    def num_classes(self) -> int:
        """Of the network."""
        return len(self.labelling.classes)


def load_network(args: argparse.Namespace, shard: Shard) -> Loaded:
    """Loads the network that the options describe onto its device.

    Raises:
        UsageError: options do not fit the network or the machine.
        FileError: the weights cannot be used.
    """
    import torch

    from deeplab.checkpoints import CheckpointError, load
    from deeplab.labelling import labelling_beside
    from deeplab.segmenter import Segmenter
    from deeplab.weights import packaged_weights

    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        weights = args.weights or packaged_weights()
    except FileNotFoundError as error:
        raise UsageError(f"expected --weights: {error}") from None
    try:
        model = load(weights)
        labelling = labelling_beside(weights, model.config.num_classes)
    except (CheckpointError, ValueError) as error:
        raise FileError(str(error)) from error
    try:
        if args.output_stride is not None:
            model.set_output_stride(args.output_stride)
        device = choose_device(args.device, shard)
        segmenter = Segmenter(
            model.to(device).float(),  # files of half precision are for keeping
            scales=args.scales,
            flip=args.flip,
            window=args.window,
            autocast=None if args.dtype == "float32" else getattr(torch, args.dtype),
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    settings = {
        "weights": weights.name,
        "output_stride": model.output_stride,
        "scales": list(args.scales),
        "flip": args.flip,
        "window": args.window,
        "dtype": args.dtype,
        "device": str(device),
        "torch": torch.__version__,
    }
    return Loaded(segmenter, labelling, weights, device, settings)


def choose_device(text: str, shard: Shard) -> torch.device:
    """The device of this process.

    Raises:
        UsageError: it is unknown, or not in this machine.
    """
    import torch

    if text == "auto":
        text = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(text)
    except RuntimeError as error:
        raise UsageError(f"--device {text}: {str(error).splitlines()[0]}") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device {text}: expected cpu or cuda")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UsageError(f"--device {text}: torch {torch.__version__} finds no CUDA device")
        return device if device.index is not None else torch.device("cuda", shard.local_rank)
    return device


def choose_crf(args: argparse.Namespace, loaded: Loaded) -> CRF | None:
    """The CRF that the options ask for.

    Raises:
        UsageError: its parameters are unknown, or it has no backend on the device.
    """
    from deeplab.labelling import choose_crf_params
    from deeplab.segmenter import CRF
    from densecrf_gpu.backends import require_backend

    if not args.crf and args.crf_params is None:
        return None
    try:
        require_backend(loaded.device)
        params = choose_crf_params(args.crf_params or "auto", loaded.labelling.crf)
    except (RuntimeError, ValueError) as error:
        raise UsageError(str(error)) from error
    loaded.settings["crf"] = {**asdict(params), "iterations": args.iterations}
    return CRF(params=params, iterations=args.iterations)


def open_data(args: argparse.Namespace, loaded: Loaded) -> SegmentationDataset:
    """The data set that the options name; UsageError if it is none, or of other classes."""
    from deeplab.data import DataError, open_dataset

    options: dict[str, Any] = {}
    if args.data == "folder":
        ignore = loaded.labelling.ignore if args.ignore is None else args.ignore
        options["ignore"] = ignore
        loaded.settings["ignore"] = list(ignore)
    elif args.ignore:
        raise UsageError(f"--ignore is for --data folder, found --data {args.data}")
    try:
        dataset = open_dataset(args.data, args.root, args.split, upright=args.upright, **options)
    except DataError as error:
        raise UsageError(str(error)) from error
    if dataset.num_classes != loaded.num_classes:
        raise UsageError(
            f"{args.data} has {dataset.num_classes} classes, the network of {loaded.weights.name} "
            f"{loaded.num_classes}"
        )
    loaded.settings.update(data=args.data, split=args.split, upright=args.upright)
    return dataset


def prepare_output(flag: str, path: Path, *, folder: bool = False) -> None:
    """Makes room for a result before hours are spent on it.

    Raises:
        UsageError: there cannot be such a file, or folder.
    """
    home = path if folder else path.parent
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{flag} {path}: {home} cannot be a folder: {error.strerror}") from error
    if path.is_dir() != folder:
        raise UsageError(f"{flag} {path}: expected a file, found a folder")


def progress_bar(
    args: argparse.Namespace, shard: Shard, unit: str
) -> Callable[[Iterable[Any], int], Iterable[Any]] | None:
    """What draws a bar around an iterable of known length, in the first process; None for none."""
    wanted = sys.stderr.isatty() if args.progress is None else args.progress
    if not wanted or shard.rank:
        return None
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        if args.progress:
            raise UsageError("--progress needs tqdm: pip install tqdm") from None
        return None

    def bar(items: Iterable[Any], total: int) -> Iterable[Any]:
        return tqdm(items, total=total, unit=unit, file=sys.stderr)  # type: ignore[no-any-return]

    return bar


def _scales(text: str) -> tuple[float, ...]:
    from deeplab.segmenter import PAPER_SCALES

    if text == "paper":
        return PAPER_SCALES
    try:
        scales = tuple(float(part) for part in text.split(","))
    except ValueError:
        scales = ()
    least, most = _SCALE_RANGE
    if not scales or not all(least <= scale <= most for scale in scales):
        raise argparse.ArgumentTypeError(
            f"expected paper or scales such as 0.5,1, from {least} to {most}, found {text!r}"
        )
    return scales


def _ignored(text: str) -> tuple[int, ...]:
    if text == "none":
        return ()
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) < 256 for part in parts):
        raise argparse.ArgumentTypeError(f"expected values such as 7,8, or none, found {text!r}")
    return tuple(int(part) for part in parts)


def parse_window(text: str) -> tuple[int, int]:
    """(height, width) of ``WxH``."""
    match = re.fullmatch(r"([1-9]\d*)[x×]([1-9]\d*)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected a window such as 513x513, found {text!r}")
    return int(match[2]), int(match[1])


def whole_number(least: int) -> Callable[[str], int]:
    """A type for argparse: whole numbers from ``least`` on."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number >= {least}, found {text!r}")
        return int(text)

    return parse


_positive = whole_number(1)
_count = whole_number(0)
