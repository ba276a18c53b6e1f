"""The normalisations that networks were trained with, and the checks of their inputs."""

from __future__ import annotations

import torch
from torch import Tensor

# By scheme: whether the network sees BGR; mean and standard deviation of its channels in 0...255.
_SCHEMES = {
    "imagenet": (False, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "caffe": (True, (104.008, 116.669, 122.675), (1.0, 1.0, 1.0)),
    "symmetric": (False, (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
}
SCHEMES = tuple(_SCHEMES)


def normalize(images: Tensor, scheme: str, full: float | None = None) -> Tensor:
    """Turns RGB pictures into what a network was trained on.

    ``"imagenet"``: mean and standard deviation of ImageNet; torchvision and most of PyTorch.
    ``"caffe"``: BGR in 0...255 minus a mean; v1, v2 and their conversions. ``"symmetric"``:
    [-1, 1]; TensorFlow's Xception and MobileNet.

    Args:
        images: ``[..., 3, H, W]``, RGB, uint8 or floating; left as it is.
        scheme: one of the three.
        full: the value of full intensity, 1.0 or 255.0: required of floating images, which do not
            say it; 255 for uint8.

    Returns:
        The same shape; float32 for uint8, otherwise the images' dtype. Gradients flow.

    Raises:
        TypeError: the images are neither uint8 nor floating.
        ValueError: there are not three channels, ``full`` is missing, or the scheme is unknown.
    """
    if not isinstance(images, Tensor) or not (
        images.dtype == torch.uint8 or images.is_floating_point()
    ):
        found = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"expected images to be a uint8 or floating tensor, found {found}")
    if images.dim() < 3 or images.shape[-3] != 3:
        raise ValueError(f"expected images [..., 3, H, W], found {list(images.shape)}")
    if images.dtype == torch.uint8:
        images, full = images.float(), 255.0 if full is None else full
    if full is None or full <= 0:
        raise ValueError(f"floating images need full=1.0 or full=255.0, found {full}")
    if scheme not in _SCHEMES:
        raise ValueError(f"expected scheme to be one of {SCHEMES}, found {scheme!r}")
    bgr, mean, std = _SCHEMES[scheme]
    planes = (images * (255.0 / full)).unbind(-3)
    if bgr:
        planes = planes[::-1]
    # Plane by plane: a tensor of constants would have to be sent to the device each time.
    return torch.stack([(p - m) / s for p, m, s in zip(planes, mean, std, strict=True)], -3)


def check_images(images: Tensor, smallest: int, weight: Tensor | None) -> None:
    """Raises TypeError or ValueError unless ``images`` is ``[B, 3, H, W]`` of the weight's dtype.

    Autocast casts images and weights of every floating dtype but float64.
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"expected images to be a tensor, found {type(images).__name__}")
    if not images.is_floating_point():
        raise TypeError(f"expected normalised floating images, found {images.dtype}: see normalize")
    if images.dim() != 4 or images.shape[1] != 3:
        raise ValueError(f"expected images [B, 3, H, W], found {list(images.shape)}")
    if weight is not None and images.dtype != weight.dtype and not _casts(images, weight):
        raise TypeError(
            f"expected images to be {weight.dtype} as the weights, found {images.dtype}"
        )
    if images.shape[2] < smallest or images.shape[3] < smallest:
        found = f"{images.shape[2]}×{images.shape[3]}"
        raise ValueError(f"expected images of {smallest}×{smallest} pixels or more, found {found}")


def _casts(*operands: Tensor) -> bool:
    """Whether autocast gives the operands of a convolution one dtype."""
    device = operands[0].device.type
    return (
        torch.amp.is_autocast_available(device)
        and torch.is_autocast_enabled(device)
        and all(x.dtype != torch.float64 for x in operands)
    )
