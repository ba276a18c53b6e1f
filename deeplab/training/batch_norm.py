"""Batch normalisation that is frozen, or synchronised over processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

_BatchNorm = nn.modules.batchnorm._BatchNorm


class SyncBatchNorm(_BatchNorm):
    """Batch normalisation over the batches of all processes, on any device.

    torch's own runs on accelerators alone. Mean and variance come from sums that are all-reduced,
    in forward and, by autograd, in backward.
    """

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() != 4:
            raise ValueError(f"expected [B, C, h, w], found {list(x.shape)}")

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, h, w]`` to the same shape."""
        if not self.training:
            return super().forward(x)
        count = torch.full((1,), x.numel() // x.shape[1], dtype=torch.float32, device=x.device)
        values = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        total = _sum_over_processes(torch.cat([values.sum((0, 2, 3)), count]))
        count = total[-1].detach()
        mean = total[:-1] / count
        centred = values - mean[:, None, None]
        variance = _sum_over_processes(centred.square().sum((0, 2, 3))) / count
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        if count > 1:  # a single value has no variance, see deeplab.layers.BatchNorm2d
            with torch.no_grad():
                self.num_batches_tracked += 1
                momentum = self.momentum or 0.0
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
                unbiased = variance * (count / (count - 1))
                self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)
        else:
            centred = values - self.running_mean[:, None, None]
            variance = self.running_var
        scale = self.weight * (variance + self.eps).rsqrt()
        out = centred * scale[:, None, None] + self.bias[:, None, None]
        normalised: Tensor = out.to(x.dtype)
        return normalised


class _SumOverProcesses(torch.autograd.Function):
    """The sum of all processes' tensors; its gradient is the sum of all processes' gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


def _sum_over_processes(x: Tensor) -> Tensor:
    total: Tensor = _SumOverProcesses.apply(x)  # type: ignore[no-untyped-call]
    return total


def synchronise(module: nn.Module, device: torch.device) -> nn.Module:
    """The module with batch normalisation over all processes; its parameters stay the same."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return module
    if device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        return converted
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d):
            norm = SyncBatchNorm(child.num_features, child.eps, child.momentum)
            norm.load_state_dict(child.state_dict())
            setattr(module, name, norm)
        else:
            synchronise(child, device)
    return module


def freeze_affine(module: nn.Module) -> None:
    """Excludes scale and shift of all batch normalisation from training."""
    for child in module.modules():
        if isinstance(child, _BatchNorm):
            for parameter in child.parameters():
                parameter.requires_grad_(False)


def train_mode(module: nn.Module, *, frozen: bool) -> None:
    """``module.train()``, but for batch normalisation that keeps its running statistics."""
    module.train()
    for child in module.modules():
        if frozen and isinstance(child, _BatchNorm):
            child.eval()
