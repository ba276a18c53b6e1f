"""What every operator is told about itself beyond its kernels: fakes, autograd, autocast, vmap."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NoReturn, ParamSpec, TypeVar

import torch
from torch import Tensor

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")

# What csrc/torch/cuda_call.h says where torch had no memory for it.
_NO_MEMORY = "CUDA out of memory"


def register_fake(name: str) -> Callable[[_Function], _Function]:
    """``torch.library.register_fake`` with types."""
    decorate: Callable[[_Function], _Function]
    decorate = torch.library.register_fake(f"densecrf_gpu::{name}")
    return decorate


def computes_in_float32(name: str) -> None:
    """Under autocast, gives an operator its floating tensors in float32; float64 stays."""
    for device in ("cpu", "cuda"):
        torch.library.register_autocast(f"densecrf_gpu::{name}", device, torch.float32)


def refuse_vmap(name: str, instead: str) -> None:
    """Makes an operator refuse ``torch.vmap`` with a word on what to do."""

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise NotImplementedError(f"densecrf_gpu::{name} cannot be vmapped: {instead}")

    torch.library.register_vmap(f"densecrf_gpu::{name}", refuse)


def reports_lack_of_memory(
    function: Callable[_Parameters, _Result],
) -> Callable[_Parameters, _Result]:
    """Makes a call that finds no memory on the GPU raise ``torch.cuda.OutOfMemoryError``.

    An operator behind the stable ABI can raise RuntimeError alone.
    """

    @functools.wraps(function)
    def call(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        try:
            return function(*args, **kwargs)
        except RuntimeError as error:
            text = str(error)
            if isinstance(error, torch.OutOfMemoryError) or _NO_MEMORY not in text:
                raise
            raise torch.OutOfMemoryError(text) from error

    return call


def records_gradients(*tensors: Tensor) -> bool:
    """Whether autograd has to record what is done to ``tensors``."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def refuse_gradients(caller: str, *tensors: Tensor) -> None:
    """Raises RuntimeError if autograd would have to record what ``caller`` does to ``tensors``."""
    if records_gradients(*tensors):
        _raise_not_differentiable(caller)


def _raise_not_differentiable(caller: str) -> NoReturn:
    raise RuntimeError(
        f"{caller} is not differentiable: call it under torch.no_grad() or "
        "torch.inference_mode(), or pass tensor.detach()"
    )


def declare_not_differentiable(name: str) -> None:
    """Makes a direct call of ``torch.ops.densecrf_gpu.<name>`` refuse gradients as well."""

    def refuse(*_: Any, **__: Any) -> NoReturn:
        _raise_not_differentiable(f"densecrf_gpu::{name}")

    torch.library.register_autograd(f"densecrf_gpu::{name}", refuse, setup_context=refuse)


def declare_once_differentiable(name: str, of: str) -> None:
    """Makes an operator that computes gradients refuse to be differentiated itself.

    The refusal comes with the second backward, not with the first: ``create_graph=True`` is
    legitimate where the second derivative goes another way.
    """

    def keep_nothing(*_: Any, **__: Any) -> None:
        return None

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise RuntimeError(
            f"the gradient of {of} cannot be differentiated again (densecrf_gpu::{name})"
        )

    torch.library.register_autograd(f"densecrf_gpu::{name}", refuse, setup_context=keep_nothing)
