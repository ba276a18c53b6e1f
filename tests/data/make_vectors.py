"""Makes the stored vectors from pydensecrf2 1.1: `python tests/data/make_vectors.py PHOTOGRAPH`.

The photograph is chelsea.png of scikit-image (CC0, Stefan van der Walt). Each case is written to
vectors.npz under its name: `q1` and `q10` are Q [L, N] after one and after ten iterations, `kl1`
and `kl10` what klDivergence says of them. `cases` holds the settings as JSON, so the tests need
nothing else.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pydensecrf.densecrf as dcrf
from PIL import Image

HERE = Path(__file__).parent
CROP = (96, 150, 20, 24)  # top, left, height, width: an eye, fur and its edge; 480 pixels
ODD = (96, 150, 19, 23)  # 437 pixels, which pydensecrf pads to 440
BANDWIDTHS = ((80, 13), (67, 3), (49, 4))
MODES = {
    "none": dcrf.NormalizationType.NO_NORMALIZATION,
    "before": dcrf.NormalizationType.NORMALIZE_BEFORE,
    "after": dcrf.NormalizationType.NORMALIZE_AFTER,
    "symmetric": dcrf.NormalizationType.NORMALIZE_SYMMETRIC,
}
# Without normalisation a message is the sum over hundreds of pixels: weights to match.
WEIGHTS = {
    "none": (0.1, 0.05),
    "before": (3.0, 10.0),
    "after": (3.0, 10.0),
    "symmetric": (3.0, 10.0),
}


def settings() -> list[dict[str, Any]]:
    """Every case, as the tests read it."""
    cases = []
    for sxy, srgb in BANDWIDTHS:
        for mode in MODES:
            name = f"{sxy}_{srgb}_{mode}"
            case = {"name": name, "crop": CROP, "sxy": sxy, "srgb": srgb, "mode": mode, "labels": 3}
            cases.append(case | {"gaussian": WEIGHTS[mode][0], "bilateral": WEIGHTS[mode][1]})
    base = {"crop": CROP, "sxy": 80, "srgb": 13, "mode": "symmetric", "gaussian": 3.0}
    classes = [2.0, 10.0, 5.0]  # attraction of each class
    matrix = [[0.0, 4.0, 9.0], [4.0, 0.0, 6.0], [9.0, 6.0, 0.0]]  # penalty of each pair
    cases.append(base | {"name": "21_labels", "labels": 21, "bilateral": 10.0})
    cases.append(base | {"name": "per_class", "labels": 3, "bilateral": classes})
    cases.append(base | {"name": "matrix", "labels": 3, "bilateral": matrix})
    cases.append(base | {"name": "odd_size", "crop": ODD, "labels": 3, "bilateral": 10.0})
    cases.append(
        base
        | {
            "name": "anisotropic",
            "sxy": [60, 20],
            "srgb": [20, 5, 10],
            "labels": 3,
            "bilateral": 10.0,
        }
    )
    return cases


def logits(labels: int, pixels: int) -> np.ndarray:
    """Logits [L, N] in steps of 1/64: exact in float32 whatever makes them."""
    rng = np.random.default_rng(labels)
    return (rng.integers(-192, 193, size=(labels, pixels)) / 64).astype(np.float32)


def compatibility(attraction: float | list[Any]) -> Any:
    """Pydensecrf's form: a number attracts; a vector and a matrix are penalties."""
    array = np.asarray(attraction, dtype=np.float32)
    if array.ndim == 0:
        return float(array)
    return -array if array.ndim == 1 else array


def run(image: np.ndarray, case: dict[str, Any]) -> dict[str, np.ndarray]:
    height, width = image.shape[:2]
    crf = dcrf.DenseCRF2D(width, height, case["labels"])
    crf.setUnaryEnergy(np.ascontiguousarray(-logits(case["labels"], height * width)))
    mode = MODES[case["mode"]]
    crf.addPairwiseGaussian(sxy=3, compat=compatibility(case["gaussian"]), normalization=mode)
    crf.addPairwiseBilateral(
        sxy=case["sxy"],
        srgb=case["srgb"],
        rgbim=image,
        compat=compatibility(case["bilateral"]),
        normalization=mode,
    )
    found = {}
    q, first, second = crf.startInference()
    for iteration in range(1, 11):
        crf.stepInference(q, first, second)
        if iteration in (1, 10):
            found[f"q{iteration}"] = np.array(q, dtype=np.float32)
            found[f"kl{iteration}"] = np.float32(crf.klDivergence(q))
    return found


def main() -> None:
    photograph = np.array(Image.open(sys.argv[1]).convert("RGB"))
    arrays: dict[str, np.ndarray] = {}
    cases = settings()
    for case in cases:
        top, left, height, width = case["crop"]
        image = np.ascontiguousarray(photograph[top : top + height, left : left + width])
        arrays[f"image_{height}x{width}"] = image
        for key, value in run(image, case).items():
            arrays[f"{case['name']}/{key}"] = value
        arrays[f"logits_{case['labels']}_{height}x{width}"] = logits(case["labels"], height * width)
    arrays["cases"] = np.array(json.dumps(cases))
    np.savez_compressed(HERE / "vectors.npz", **arrays)


if __name__ == "__main__":
    main()
