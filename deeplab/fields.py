"""Checked values for the fields of a dataclass, as files and users give them."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


def typed(value: Any, hint: Any, name: str) -> Any:
    """The value as the type of its field: lists become tuples, whole numbers floats.

    Raises:
        TypeError: it is none of the field's types; the message names the field.
    """
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        origin, inner = typing.get_origin(option), typing.get_args(option)
        if origin is tuple and isinstance(value, list | tuple):
            kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else list(inner)
            if len(kinds) == len(value):
                return tuple(typed(v, k, name) for v, k in zip(value, kinds, strict=True))
        elif origin is dict and isinstance(value, dict):
            return value
        elif option is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        elif isinstance(option, type) and type(value) is option:
            return value
    wanted = " or ".join(map(_shown, options))
    raise TypeError(f"expected {name} to be {wanted}, found {value!r}")


def near(name: str, known: Iterable[str], where: str = "") -> str:
    """What an unknown name may have meant, to end a message with."""
    known = list(known)
    close = get_close_matches(name, known, 1)
    return f"did you mean {where}{close[0]}?" if close else f"expected {', '.join(known)}"


def _shown(hint: Any) -> str:
    if typing.get_origin(hint) is dict:
        return "a table"
    return str(hint) if typing.get_args(hint) else getattr(hint, "__name__", str(hint))
