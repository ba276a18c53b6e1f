"""Atrous spatial pyramid pooling: summed scores (v1, v2) and concatenated features (v3, v3+)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import AtrousSeparableConv, ConvBN, conv3x3, init_classifier, init_weights, set_atrous


class FovBranch(nn.Module):
    """fc6 – fc7 – fc8 of VGG-16 as convolutions: k×k at a rate, 1×1, 1×1 to the classes (v1).

    ``[B, inputs, h, w]`` to scores ``[B, num_classes, h, w]``; dropout of 0.5 behind fc6 and fc7.
    """

    def __init__(self, inputs: int, num_classes: int, *, kernel: int, hidden: int) -> None:
        super().__init__()
        self.fc6 = nn.Conv2d(inputs, hidden, kernel)
        self.fc7 = nn.Conv2d(hidden, hidden, 1)
        self.fc8 = nn.Conv2d(hidden, num_classes, 1)
        init_weights(self)
        init_classifier(self.fc8)

    def set_atrous(self, rate: int) -> None:
        """Sets the rate of fc6."""
        set_atrous(self.fc6, rate)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, inputs, h, w]`` to ``[B, num_classes, h, w]``."""
        x = F.dropout(F.relu(self.fc6(x)), 0.5, self.training)
        x = F.dropout(F.relu(self.fc7(x)), 0.5, self.training)
        scores: Tensor = self.fc8(x)
        return scores


class SummedASPP(nn.Module):
    """ASPP of v2 (figure 7): one classifier per rate, their scores summed.

    LargeFOV is the pyramid of a single rate. With ``hidden`` channels each branch is fc6 – fc7 –
    fc8, on VGG-16; without, a single convolution to the classes, on ResNet-101.
    """

    def __init__(
        self, inputs: int, num_classes: int, *, branches: int, kernel: int = 3, hidden: int = 0
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList()
        for _ in range(branches):
            if hidden:
                branch: nn.Module = FovBranch(inputs, num_classes, kernel=kernel, hidden=hidden)
            else:
                conv = nn.Conv2d(inputs, num_classes, kernel)
                init_classifier(conv)
                branch = conv
            self.branches.append(branch)

    def set_rates(self, rates: Sequence[int]) -> None:
        """Sets one rate per branch."""
        for branch, rate in zip(self.branches, rates, strict=True):
            if isinstance(branch, FovBranch):
                branch.set_atrous(rate)
            elif isinstance(branch, nn.Conv2d):
                set_atrous(branch, rate)

    def from_vgg(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """fc6 and fc7 of every branch, taken from VGG-16's classifier (v2, section 4.1).

        ``state`` has torchvision's names: ``classifier.0`` is fc6 ``[4096, 512 · 7 · 7]`` and
        ``classifier.3`` fc7 ``[4096, 4096]``. Of their filters every n-th is kept, and of the 7×7
        taps evenly spaced ones from border to border: 3×3 at rate 12 and 4×4 at rate 8 see with
        them what 7×7 at rate 4 sees there. Nothing where there is no such classifier, and of
        torchvision's VGG without one, whose numbers are nan.
        """
        names = [f"classifier.{n}.{leaf}" for n in (0, 3) for leaf in ("weight", "bias")]
        first = self.branches[0]
        if not isinstance(first, FovBranch) or not all(name in state for name in names):
            return {}
        weight6, bias6, weight7, bias7 = (state[name] for name in names)
        (hidden, inputs, kernel, _), filters = first.fc6.weight.shape, len(bias6)
        fits = weight6.shape == (filters, inputs * 49) and weight7.shape == (filters, filters)
        if not fits or hidden > filters or kernel > 7 or not bias6.isfinite().all():
            return {}
        kept = torch.arange(hidden) * filters // hidden
        taps = torch.linspace(0, 6, kernel).round().long() if kernel > 1 else torch.tensor([3])
        weight6 = weight6[kept].reshape(hidden, inputs, 7, 7)[:, :, taps][:, :, :, taps]
        branch = {
            "fc6.weight": weight6,
            "fc6.bias": bias6[kept],
            "fc7.weight": weight7[kept][:, kept, None, None],
            "fc7.bias": bias7[kept],
        }
        numbers = range(len(self.branches))
        return {f"branches.{i}.{key}": tensor for i in numbers for key, tensor in branch.items()}

    def forward(self, x: Tensor) -> Tensor:
        """``[B, inputs, h, w]`` to scores ``[B, num_classes, h, w]``."""
        scores: Tensor = self.branches[0](x)
        for branch in list(self.branches)[1:]:
            scores = scores + branch(x)
        return scores


class ASPP(nn.Module):
    """ASPP of v3 (figure 5): 1×1, three atrous 3×3 and the image-level feature, side by side.

    Args:
        inputs: channels.
        channels: of each branch and of the result.
        branches: number of atrous 3×3 convolutions.
        separable: form of the 3×3 convolutions, see ``conv3x3``.
        project_kernel: size of the kernel that joins the branches; 1 in the paper.
    """

    def __init__(
        self,
        inputs: int,
        channels: int = 256,
        *,
        branches: int = 3,
        separable: str = "none",
        project_kernel: int = 1,
    ) -> None:
        super().__init__()
        self.pointwise = ConvBN(inputs, channels)
        self.atrous = nn.ModuleList(
            conv3x3(inputs, channels, separable=separable) for _ in range(branches)
        )
        self.image_pool = ConvBN(inputs, channels)
        self.project = ConvBN((branches + 2) * channels, channels, project_kernel)
        init_weights(self)

    def set_rates(self, rates: Sequence[int]) -> None:
        """Sets one rate per atrous convolution."""
        for conv, rate in zip(self.atrous, rates, strict=True):
            assert isinstance(conv, ConvBN | AtrousSeparableConv)
            conv.set_atrous(rate)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, inputs, h, w]`` to ``[B, channels, h, w]``."""
        # Enlarging a single pixel bilinearly repeats it.
        image = self.image_pool(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
        pyramid = [self.pointwise(x), *(conv(x) for conv in self.atrous), image]
        out: Tensor = self.project(torch.cat(pyramid, 1))
        return out
