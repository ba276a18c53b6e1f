"""``deeplab models``."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from densecrf_gpu.cli.errors import UsageError

from .options import Shard, choose_device, parse_window, whole_number
from .parser import add_command

if TYPE_CHECKING:
    import torch

    from deeplab.models import DeepLab

_REPEATS = 5


def add_models_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Adds ``models``."""
    parser = add_command(subparsers, "models", "list the networks, their size and their cost")
    parser.add_argument("names", nargs="*", metavar="NAME", help="[all]")
    parser.add_argument(
        "--classes", type=whole_number(1), default=21, metavar="C", help="of the scores [21]"
    )
    parser.add_argument(
        "--size",
        type=parse_window,
        metavar="WxH",
        help="also count multiply-adds for a picture of this size",
    )
    parser.add_argument(
        "--output-stride", type=whole_number(1), metavar="N", help="[each network's own]"
    )
    parser.add_argument(
        "--time",
        action="store_true",
        help=f"also run them on pictures of --size: the fastest of {_REPEATS}",
    )
    parser.add_argument("--device", default="cpu", metavar="D", help="for --time [cpu]")
    parser.add_argument("--threads", type=whole_number(1), metavar="N", help="CPU threads")
    parser.set_defaults(run=run_models)


def run_models(args: argparse.Namespace) -> int:
    """Prints a line for each network."""
    import torch

    from deeplab.registry import MODELS, build

    if args.time and args.size is None:
        raise UsageError("--time needs a --size, such as 513x513")
    if args.threads:
        torch.set_num_threads(args.threads)
    device = choose_device(args.device, Shard.from_environment())
    options = {} if args.output_stride is None else {"output_stride": args.output_stride}
    head = f"{'model':<32}{'stride':>8}{'parameters':>14}"
    if args.size is not None:
        head += f"{'multiply-adds':>16}" + (f"{'time':>12}" if args.time else "")
    print(f"{head}   ({args.classes} classes)")
    for name in args.names or MODELS:
        try:
            with torch.device("meta"):
                model = build(name, num_classes=args.classes, **options).eval()
        except ValueError as error:
            raise UsageError(str(error)) from error
        count = sum(parameter.numel() for parameter in model.parameters())
        line = f"{name:<32}{model.output_stride:>8}{count / 1e6:>12.2f} M"
        if args.size is not None:
            line += f"{multiply_adds(model, args.size) / 1e9:>14.1f} G"
            if args.time:
                line += f"{1000 * seconds(model, args.size, device):>9.0f} ms"
        print(line, flush=True)
    return 0


def multiply_adds(model: DeepLab, size: tuple[int, int]) -> int:
    """Of the convolutions, for one picture of (height, width); the model is on the meta device."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, *size, device="meta"))
    flops: int = counter.get_total_flops()
    return flops // 2  # a multiplication and an addition


def seconds(model: DeepLab, size: tuple[int, int], device: torch.device) -> float:
    """The fastest of some runs on one picture, with weights of no meaning."""
    import torch

    model = model.to_empty(device=device)
    for parameter in model.state_dict().values():
        parameter.zero_()
    images = torch.zeros(1, 3, *size, device=device)
    times = []
    with torch.inference_mode():
        for _ in range(_REPEATS + 1):
            start = time.perf_counter()
            model(images)[0, 0, 0, 0].item()  # waits for the device
            times.append(time.perf_counter() - start)
    return min(times[1:])
