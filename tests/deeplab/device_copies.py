"""Counts copies between host and device on a machine without a device.

The meta device stands for it: it computes shapes alone, refuses to mix with the host's tensors and
has no values that could be read back, so that every way to the host shows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("meta")


class DeviceCopies(TorchDispatchMode):
    """Records, within a ``with`` block, the shapes of what goes to the device and comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.to_device: list[tuple[int, ...]] = []
        self.to_host: list[tuple[int, ...]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        sources = {t.device.type for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        target = kwargs.get("device")
        if sources == {"meta"} and target is not None and torch.device(target).type == "cpu":
            out: Any = torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        else:
            out = func(*args, **kwargs)
        results = {t.device.type for t in tree_leaves(out) if isinstance(t, Tensor)}
        if sources == {"cpu"} and results == {"meta"}:
            self.to_device.append(tuple(out.shape))
        elif len(sources | results) > 1:
            self.to_host.append(tuple(out.shape))
        return out


def on_device(network: nn.Module) -> nn.Module:
    """The network on the stand-in."""
    return network.to(DEVICE)
