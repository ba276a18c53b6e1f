"""The five numbers of the image CRF, and the values that papers and programs use."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from .checks import check_sigmas
from .kernels import BilateralKernel, GaussianKernel, Kernel


@dataclass(frozen=True, kw_only=True)
class CRFParams:
    """Parameters of the CRF of Krähenbühl and Koltun (NIPS 2011), Potts compatibility.

    The kernel between pixels with positions p and colours c is::

        gaussian_weight exp(-|p_i - p_j|^2 / 2 gaussian_sxy^2)
        + bilateral_weight exp(-|p_i - p_j|^2 / 2 bilateral_sxy^2
                               -|c_i - c_j|^2 / 2 bilateral_srgb^2)

    Attributes:
        gaussian_sxy: in pixels; a tuple gives (x, y).
        gaussian_weight: attraction; 0 leaves the kernel out.
        bilateral_sxy: in pixels; a tuple gives (x, y).
        bilateral_srgb: in the image's own units; a tuple gives one per channel.
        bilateral_weight: attraction; 0 leaves the kernel out.

    Raises:
        ValueError: a bandwidth is not positive and finite, or a weight not finite.
    """

    gaussian_sxy: float | tuple[float, ...]
    gaussian_weight: float
    bilateral_sxy: float | tuple[float, ...]
    bilateral_srgb: float | tuple[float, ...]
    bilateral_weight: float

    def __post_init__(self) -> None:
        for name in ("gaussian_sxy", "bilateral_sxy", "bilateral_srgb"):
            check_sigmas(name, getattr(self, name))
        for name in ("gaussian_weight", "bilateral_weight"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"expected {name} to be finite, found {getattr(self, name)}")

    def kernels(
        self, normalization: str = "symmetric", image_range: float | None = None
    ) -> list[Kernel]:
        """Returns the kernels whose weight is not 0, the Gaussian one first as in pydensecrf."""
        kernels: list[Kernel] = []
        if self.gaussian_weight:
            kernels.append(GaussianKernel(self.gaussian_sxy, self.gaussian_weight, normalization))
        if self.bilateral_weight:
            kernels.append(
                BilateralKernel(
                    self.bilateral_sxy,
                    self.bilateral_srgb,
                    self.bilateral_weight,
                    normalization,
                    image_range,
                )
            )
        return kernels

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CRFParams:
        """Returns the parameters of a dict such as ``dataclasses.asdict`` or JSON gives.

        Raises:
            TypeError: a value is neither a number nor a list of numbers.
            ValueError: a name is missing or unknown, or a value out of its range.
        """
        names = {field.name for field in fields(cls)}
        if set(values) != names:
            missing = ", ".join(sorted(names - set(values))) or "none"
            unknown = ", ".join(sorted(set(values) - names)) or "none"
            raise ValueError(
                f"expected the five parameters of CRFParams: missing {missing}, unknown {unknown}"
            )
        checked: dict[str, Any] = {}
        for name, value in values.items():
            numbers = value if isinstance(value, list | tuple) else [value]
            if not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
                raise TypeError(f"expected {name} to be a number or a list of them, found {value}")
            checked[name] = tuple(value) if isinstance(value, list | tuple) else value
        return cls(**checked)

    def to_json(self) -> str:
        """Returns the parameters as a JSON object."""
        return json.dumps(asdict(self), indent=1) + "\n"

    def save(self, path: str | Path) -> None:
        """Writes the parameters as JSON."""
        Path(path).write_text(self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> CRFParams:
        """Reads what :meth:`save` wrote.

        Raises:
            ValueError: the file holds something else.
        """
        try:
            values = json.loads(Path(path).read_text())
            if not isinstance(values, dict):
                raise ValueError(f"expected a JSON object, found {type(values).__name__}")
            return cls.from_dict(values)
        except (TypeError, ValueError) as error:  # of JSON as well
            raise ValueError(f"{path} does not hold parameters of a CRF: {error}") from None

    @classmethod
    def pydensecrf(cls) -> CRFParams:
        """Values of pydensecrf's README and example, which runs 5 iterations."""
        return cls(
            gaussian_sxy=3,
            gaussian_weight=3,
            bilateral_sxy=80,
            bilateral_srgb=13,
            bilateral_weight=10,
        )

    @classmethod
    def deeplab_v1(cls) -> CRFParams:
        """Values of the LargeFOV test network that the authors of DeepLab released.

        The paper (Chen et al., ICLR 2015) prints no final values: it fixes the Gaussian kernel at
        3, 3 and searches the bilateral one in a range that holds these. 10 iterations.
        """
        return cls(
            gaussian_sxy=3,
            gaussian_weight=3,
            bilateral_sxy=50,
            bilateral_srgb=10,
            bilateral_weight=5,
        )

    @classmethod
    def deeplab_v2_vgg(cls) -> CRFParams:
        """Values of ``run_densecrf.sh`` in the code that the authors of DeepLab released.

        The paper (Chen et al., TPAMI 2018) prints no final values: it fixes the Gaussian kernel at
        3, 3 and searches the bilateral one in a range that holds these. 10 iterations.
        """
        return cls(
            gaussian_sxy=3,
            gaussian_weight=3,
            bilateral_sxy=49,
            bilateral_srgb=5,
            bilateral_weight=4,
        )

    @classmethod
    def deeplab_v2_resnet101(cls) -> CRFParams:
        """Values of two re-implementations of DeepLab v2 with ResNet-101.

        kazuto1011/deeplab-pytorch and rulixiang/deeplab-pytorch, not the authors; the paper prints
        none. 10 iterations.
        """
        return cls(
            gaussian_sxy=1,
            gaussian_weight=3,
            bilateral_sxy=67,
            bilateral_srgb=3,
            bilateral_weight=4,
        )

    @classmethod
    def crf_as_rnn(cls) -> CRFParams:
        """Values with which the released CRF-as-RNN programs (Zheng et al., ICCV 2015) start.

        The layers train from there, and normalise with ``"after"``. 5 iterations in training, 10
        in testing.
        """
        return cls(
            gaussian_sxy=3,
            gaussian_weight=3,
            bilateral_sxy=160,
            bilateral_srgb=3,
            bilateral_weight=5,
        )

    @classmethod
    def presets(cls) -> dict[str, CRFParams]:
        """Returns all named values above, by name."""
        return {
            "pydensecrf": cls.pydensecrf(),
            "deeplab_v1": cls.deeplab_v1(),
            "deeplab_v2_vgg": cls.deeplab_v2_vgg(),
            "deeplab_v2_resnet101": cls.deeplab_v2_resnet101(),
            "crf_as_rnn": cls.crf_as_rnn(),
        }
