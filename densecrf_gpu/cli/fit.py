"""``densecrf fit``: parameters that suit a network, from its logits and true labels."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from densecrf_gpu.fit import FitResult, Sample, fit_crf
from densecrf_gpu.params import CRFParams

from .arrays import load_array, replacing
from .batch import ARRAY_SUFFIXES, LABEL_SUFFIXES, Job, expand_images, find_source, is_folder
from .errors import FileError, UsageError
from .masks import load_image, load_labels
from .refine import choose_params


def run_fit(args: argparse.Namespace) -> int:
    """Fits, prints scores before and after, writes the parameters.

    Raises:
        UsageError: the options do not fit together, before anything is computed.
        FileError: an image, its logits or its labels cannot be used.
    """
    start = choose_params(args)
    samples = _Files(args)
    output = Path(args.out)
    if output.suffix.lower() != ".json":
        raise UsageError(f"expected -o of .json, found {args.out}")
    if args.threads:
        torch.set_num_threads(args.threads)
    resume = Path(args.resume) if args.resume else output.with_suffix(_KEPT[args.method])
    options: dict[str, Any] = {
        "start": start,
        "iterations": args.iterations,
        "normalization": args.normalization,
        "ignore_index": args.ignore_index,
        "image_range": args.image_range,
        "progress": sys.stderr.isatty() if args.progress is None else args.progress,
    }
    if args.method == "search":
        options |= {"grid": args.grid, "rounds": args.rounds, "metric": args.metric}
        options["journal"] = resume
    else:
        options |= {"objective": args.objective, "steps": args.steps, "checkpoint": resume}
    try:
        result = fit_crf(samples, args.method, **options)
    except (RuntimeError, TypeError, ValueError) as error:
        raise FileError(str(error)) from error
    with replacing(output) as file:  # whole or not at all
        file.write(result.params.to_json().encode())
    if not args.quiet:
        print(_table(result, len(samples)))
        print(f"{output}: use it with densecrf refine --preset {output}")
    return 0


_KEPT = {"search": ".journal.jsonl", "gradient": ".checkpoint.pt"}


class _Files(Sequence[Sample]):
    """The samples of a command line, read whenever they are asked for."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        paths = expand_images(args.images)
        for name in ("logits", "truth"):
            template = getattr(args, name)
            if len(paths) > 1 and not is_folder(template) and "{stem}" not in template:
                raise UsageError(
                    f"--{name} is one file, {template}, for {len(paths)} images: name a folder or "
                    f"a template such as '{{stem}}{Path(template).suffix}'"
                )
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: Any) -> Any:
        image = self._paths[index]
        logits = load_array(self._find(image, self._args.logits, ARRAY_SUFFIXES), self._args.key)
        logits = logits[0] if logits.dim() == 4 and logits.shape[0] == 1 else logits
        if logits.dim() != 3 or not logits.is_floating_point():
            raise FileError(
                f"{image}: expected logits of floats [C, h, w], "
                f"found {logits.dtype} {list(logits.shape)}"
            )
        truth = load_labels(
            self._find(image, self._args.truth, LABEL_SUFFIXES),
            num_classes=logits.shape[0],
            ignore_index=self._args.ignore_index,
            binary=False,
            by_color=False,
            key=self._args.key,
        )
        pixels = torch.from_numpy(load_image(image))
        pixels = pixels[None] if pixels.dim() == 2 else pixels.permute(2, 0, 1)
        return Sample(logits, pixels, torch.from_numpy(truth.labels))

    @staticmethod
    def _find(image: Path, template: str, suffixes: Sequence[str]) -> Path:
        source = Path(template.replace("{stem}", image.stem))
        return find_source(Job(image, source, source, None), suffixes)


def _table(result: FitResult, images: int) -> str:
    lines = [
        f"{images} images, {result.trials} evaluations",
        f"{'':<10}{'mIoU':>10}{'accuracy':>10}",
    ]
    for name, scores in (
        ("no CRF", result.unary),
        ("before", result.before),
        ("after", result.after),
    ):
        lines.append(f"{name:<10}{100 * scores.miou:>8.2f} %{100 * scores.accuracy:>8.2f} %")
    lines += [f"{name:<18}{value}" for name, value in _values(result.params)]
    return "\n".join(lines)


def _values(params: CRFParams) -> list[tuple[str, str]]:
    return [
        (name, ", ".join(f"{v:g}" for v in (value if isinstance(value, tuple) else (value,))))
        for name, value in vars(params).items()
    ]
