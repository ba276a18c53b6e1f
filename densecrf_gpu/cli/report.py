"""``densecrf presets`` and ``densecrf info``."""

from __future__ import annotations

import inspect

from densecrf_gpu.info import build_info
from densecrf_gpu.params import CRFParams


def print_presets() -> int:
    """Prints the numbers of every preset and where they come from."""
    print(f"{'preset':<22}{'gaussian':>16}{'bilateral':>28}")
    print(f"{'':<22}{'sxy':>8}{'weight':>8}{'sxy':>12}{'srgb':>8}{'weight':>8}")
    for name, preset in CRFParams.presets().items():
        print(
            f"{name:<22}{preset.gaussian_sxy:>8}{preset.gaussian_weight:>8}"
            f"{preset.bilateral_sxy:>12}{preset.bilateral_srgb:>8}{preset.bilateral_weight:>8}"
        )
        for line in (inspect.getdoc(getattr(CRFParams, name)) or "").splitlines():
            if line:
                print(f"    {line}")
    return 0


def print_info() -> int:
    """Prints what was built and what it runs on."""
    for name, value in build_info().items():
        print(f"{name:<16}{value}")
    return 0
