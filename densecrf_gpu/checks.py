"""Checks of arguments: one pass over the data where all is well, details only on failure.

Values are checked on the CPU alone. To look at those on a GPU, the host would have to wait for all
that is queued there; kernels answer what is not finite with NaN instead.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import torch
from torch import Tensor

# Rounding of a softmax in half precision, or of its interpolation, is no error.
_PROBABILITY_SLACK = 1e-3


def values_at_hand(tensor: Tensor) -> bool:
    """Tells whether the host can look at the values of a tensor without waiting for a device."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def check_finite(name: str, tensor: Tensor) -> None:
    """Raises ValueError naming the first NaN or infinity of a floating tensor on the CPU."""
    if not values_at_hand(tensor) or tensor.numel() == 0:
        return
    # One reduction: a NaN or an infinity anywhere makes the sum NaN or infinite.
    wide = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    if math.isfinite(tensor.sum(dtype=wide).item()):
        return
    finite = torch.isfinite(tensor)
    if not finite.all():  # else large finite values summed to infinity
        raise ValueError(f"expected {name} to be finite, found {first(name, tensor, ~finite)}")


def check_probabilities(name: str, tensor: Tensor) -> None:
    """Raises ValueError naming the first entry outside [0, 1], NaN included, on the CPU."""
    if not values_at_hand(tensor) or tensor.numel() == 0:
        return
    low, high = (bound.item() for bound in torch.aminmax(tensor))
    if low >= -_PROBABILITY_SLACK and high <= 1 + _PROBABILITY_SLACK:  # false for NaN
        return
    good = (tensor >= -_PROBABILITY_SLACK) & (tensor <= 1 + _PROBABILITY_SLACK)
    raise ValueError(
        f"expected {name} to be probabilities in [0, 1], found {first(name, tensor, ~good)}; "
        'pass scores of a network with input="logits"'
    )


def check_labels(
    name: str, labels: Tensor, num_classes: int, ignore_index: int | None = None
) -> None:
    """Raises ValueError naming the first label outside [0, num_classes), unknown ones apart.

    On the CPU alone, as the other checks.
    """
    if not values_at_hand(labels) or labels.numel() == 0:
        return
    wrong = (labels < 0) | (labels >= num_classes)
    allowed = f"labels in [0, {num_classes})"
    if ignore_index is not None:
        wrong &= labels != ignore_index
        allowed += f" or {ignore_index} (unknown)"
    if wrong.any():
        raise ValueError(f"expected {name} to hold {allowed}, found {first(name, labels, wrong)}")


def first(name: str, tensor: Tensor, wrong: Tensor) -> str:
    """Describes the first marked entry: ``name[2, 0, 5] = nan``."""
    index = wrong.nonzero()[0].tolist()
    value = tensor[tuple(index)].item()
    return f"{name}{index} = {value}" if index else f"{name} = {value}"


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raises ValueError unless ``value`` is one of ``choices``."""
    if value not in choices:
        listed = ", ".join(f'"{choice}"' for choice in choices)
        raise ValueError(f"expected {name} to be one of {listed}, found {value!r}")


def check_count(name: str, value: int, least: int = 0) -> int:
    """Returns ``value`` as an int; raises unless it is an integer of at least ``least``."""
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"expected {name} to be an integer, found {value!r}") from None
    if count < least:
        raise ValueError(f"expected {name} to be at least {least}, found {count}")
    return count


def check_max_vertices(max_vertices: int | str | None) -> int | None:
    """Returns the bound that the build operators take, in which -1 stands for ``"exact"``."""
    if max_vertices is None:
        return None
    if isinstance(max_vertices, str):
        if max_vertices != "exact":
            raise ValueError(
                f'expected max_vertices to be None, a number or "exact", found {max_vertices!r}'
            )
        return -1
    return check_count("max_vertices", max_vertices, least=1)


def check_damping(damping: float) -> float:
    """Returns ``damping``; raises ValueError unless it lies in [0, 1)."""
    if not 0 <= damping < 1:
        raise ValueError(f"expected damping in [0, 1), found {damping}")
    return float(damping)


def check_tolerance(tolerance: float | None) -> float:
    """Returns the tolerance that the operator takes, in which 0 stands for None."""
    if tolerance is None:
        return 0.0
    if not 0 <= tolerance < math.inf:
        raise ValueError(f"expected tolerance to be None, 0 or positive, found {tolerance}")
    return float(tolerance)


def check_sigmas(name: str, sigmas: float | tuple[float, ...]) -> None:
    """Raises ValueError unless all bandwidths are positive and finite."""
    for sigma in sigmas if isinstance(sigmas, tuple) else (sigmas,):
        if not 0 < sigma < math.inf:
            raise ValueError(f"expected {name} to be positive and finite, found {sigmas}")


def expand_sigmas(name: str, sigmas: float | tuple[float, ...], count: int) -> tuple[float, ...]:
    """Returns one bandwidth for each of ``count`` features."""
    if not isinstance(sigmas, tuple):
        return (float(sigmas),) * count
    if len(sigmas) != count:
        raise ValueError(f"expected {name} to be a number or {count} numbers, found {sigmas}")
    return tuple(float(sigma) for sigma in sigmas)
