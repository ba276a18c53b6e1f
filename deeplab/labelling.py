"""What a network's class numbers mean, and the CRF that suits it, in a file beside its weights."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from densecrf_gpu import CRFParams

from .data.classes import voc_palette

Color = tuple[int, int, int]


@dataclass(frozen=True)
class Labelling:
    """Names and colours of classes.

    Attributes:
        classes: C names; a class's number is its place.
        palette: C colours, RGB.
        crf: parameters that were searched for the network; None if none were.
        ignore: values in the label images of a plain folder that, beside 255, mean no class.
    """

    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    crf: CRFParams | None = None
    ignore: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.classes) != len(self.palette):
            raise ValueError(
                f"expected a colour for each class, found {len(self.classes)} classes and "
                f"{len(self.palette)} colours"
            )

    @classmethod
    def numbered(cls, count: int) -> Labelling:
        """Classes by number, in the colours of PASCAL VOC."""
        return cls(tuple(map(str, range(count))), tuple(voc_palette(count)))

    @classmethod
    def read(cls, path: Path) -> Labelling:
        """Reads what ``write`` wrote; ValueError if the file holds something else."""
        try:
            found: dict[str, Any] = json.loads(path.read_text())
            palette = tuple((int(r), int(g), int(b)) for r, g, b in found["palette"])
            crf = None if found.get("crf") is None else CRFParams.from_dict(found["crf"])
            ignore = tuple(map(int, found.get("ignore", ())))
            return cls(tuple(map(str, found["classes"])), palette, crf, ignore)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} does not say classes and palette: {error}") from error

    def write(self, path: Path) -> None:
        """Writes JSON: ``classes``, ``palette`` and, where there are, ``crf`` and ``ignore``."""
        fields = asdict(self)
        for name in ("crf", "ignore"):
            if not fields[name]:
                del fields[name]
        path.write_text(json.dumps(fields, indent=1) + "\n")

    def flat_palette(self) -> list[int]:
        """The colours as Pillow's ``putpalette`` wants them."""
        return [value for color in self.palette for value in color]

    def colors(self, device: torch.device | str = "cpu") -> Tensor:
        """The colours, uint8 ``[C, 3]``."""
        return torch.tensor(self.palette, dtype=torch.uint8, device=device)


def labelling_beside(weights: Path, count: int) -> Labelling:
    """The labelling in the .json file beside the weights; classes by number if there is none.

    Raises:
        ValueError: the file holds something else, or another number of classes.
    """
    path = weights.with_suffix(".json")
    if not path.is_file():
        return Labelling.numbered(count)
    labelling = Labelling.read(path)
    if len(labelling.classes) != count:
        raise ValueError(f"{path} names {len(labelling.classes)} classes, the network has {count}")
    return labelling


def choose_crf_params(text: str, searched: CRFParams | None) -> CRFParams:
    """The parameters that a command line names.

    Args:
        text: a preset's name, a .json file that ``CRFParams.save`` wrote, or ``"auto"`` for those
            that were searched for the network, DeepLab v2's for ResNet-101 where none were.
        searched: those of the network.

    Raises:
        ValueError: there is no such preset, or the file holds something else.
        OSError: the file cannot be read.
    """
    presets = CRFParams.presets()
    if text == "auto":
        return searched or presets["deeplab_v2_resnet101"]
    if text in presets:
        return presets[text]
    if Path(text).suffix != ".json":
        raise ValueError(f"expected auto, {', '.join(presets)} or a .json file; found {text!r}")
    return CRFParams.load(Path(text))
