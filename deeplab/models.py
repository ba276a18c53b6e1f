"""DeepLab: a backbone and a head, run at one scale or several."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .aspp import ASPP, SummedASPP
from .backbones import build_backbone
from .config import Config
from .decoder import AuxiliaryHead, Decoder
from .inputs import check_images, normalize
from .layers import conv3x3, init_classifier, init_weights, ratio, rescale, resize, set_batch_norm


class DeepLab(nn.Module):
    """DeepLab v1, v2, v3 or v3+, as its configuration says.

    Pictures of any size, odd ones and single pixels included, in batches of any size: where batch
    normalisation meets a single value per channel, it does not train on it (``BatchNorm2d``).

    Args:
        config: what to build; ``build`` makes the papers' networks by name.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self._config = config
        self.backbone = build_backbone(config)
        channels = self.backbone.channels
        self.aspp: ASPP | None = None
        self.neck: nn.Module | None = None
        self.decoder: Decoder | None = None
        self.classifier: nn.Conv2d | SummedASPP
        if config.head == "sum":
            self.classifier = SummedASPP(
                channels.high,
                config.num_classes,
                branches=len(config.rates),
                kernel=config.fov_kernel,
                hidden=config.fov_hidden,
            )
        elif config.head == "linear":
            self.classifier = nn.Conv2d(channels.high, config.num_classes, 1)
            init_classifier(self.classifier)
        else:
            self._build_aspp(config)
        self.auxiliary = (
            AuxiliaryHead(channels.mid, config.num_classes) if config.auxiliary else None
        )
        set_batch_norm(self, eps=config.bn_eps, momentum=config.bn_momentum)
        set_batch_norm(self.backbone, eps=config.backbone_bn_eps, momentum=config.bn_momentum)
        self._set_strides(config)

    def _build_aspp(self, config: Config) -> None:
        width = config.aspp_channels
        self.aspp = ASPP(
            self.backbone.channels.high,
            width,
            branches=len(config.rates),
            separable=config.separable,
            project_kernel=config.project_kernel,
        )
        if config.neck:
            self.neck = conv3x3(width, width, separable=config.separable)
            init_weights(self.neck)
        if config.head == "decoder":
            self.decoder = Decoder(
                self.backbone.channels.low,
                width,
                low_channels=config.low_channels,
                refinements=config.refinements,
                separable=config.separable,
                align_corners=config.align_corners,
            )
        self.classifier = nn.Conv2d(width, config.num_classes, 1)
        init_classifier(self.classifier)

    @property
    def config(self) -> Config:
        """What was built, with the output stride now in force."""
        return self._config

    @property
    def output_stride(self) -> int:
        """Size of the input over that of the backbone's last map."""
        return self._config.output_stride

    def set_output_stride(self, output_stride: int) -> None:
        """Changes strides and rates in place, keeping all weights (v3, section 4.1).

        Raises:
            ValueError: the backbone or the head's rates do not allow that output stride; the
                network stays as it was, as after any other failure.
        """
        config = dataclasses.replace(self._config, output_stride=output_stride)
        try:
            self._set_strides(config)
        except BaseException:
            self._set_strides(self._config)
            raise
        self._config = config

    def _set_strides(self, config: Config) -> None:
        self.backbone.set_output_stride(config.output_stride)
        rates = config.rates_for(config.output_stride)
        if isinstance(self.classifier, SummedASPP):
            self.classifier.set_rates(rates)
        if self.aspp is not None:
            self.aspp.set_rates(rates)

    def head_from(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the head takes from a classifier of ImageNet: fc6 and fc7 on VGG-16, or nothing."""
        if not isinstance(self.classifier, SummedASPP):
            return {}
        return {f"classifier.{key}": t for key, t in self.classifier.from_vgg(state).items()}

    def normalize(self, images: Tensor, full: float | None = None) -> Tensor:
        """RGB pictures as this network wants them, see ``deeplab.normalize``."""
        return normalize(images, self._config.inputs, full)

    def scores(self, images: Tensor) -> Tensor:
        """Class scores at one scale and at the network's own stride: 4 with a decoder.

        ``images`` are as in ``forward``; the result is ``[B, num_classes, h, w]``.
        """
        self._check(images)
        return self._scores(images)[0]

    def fused_scores(self, images: Tensor) -> Tensor:
        """Class scores of all scales at the network's own stride, ``[B, num_classes, h, w]``.

        ``forward`` enlarges them to the size of ``images``, which are as there.
        """
        self._check(images)
        return self._fused(self._maps(images)[0])

    def _check(self, images: Tensor) -> None:
        weight = next(self.backbone.parameters(), None)  # replicas of DataParallel have none
        check_images(images, self.backbone.smallest, weight)

    def _maps(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """The scores at each scale, at their own sizes, and the backbone's middle level."""
        first, mid = self._scores(images)
        align = self._config.align_corners
        others = (rescale(images, ratio(scale), align) for scale in self._config.scales[1:])
        return [first, *map(self.scores, others)], mid

    def _fused(self, maps: list[Tensor]) -> Tensor:
        """Their maximum at the size of the first (v2, MSC)."""
        return maps[0] if len(maps) == 1 else torch.stack(self._as_first(maps)).amax(0)

    def _as_first(self, maps: list[Tensor]) -> list[Tensor]:
        first, *rest = maps
        return [first, *(resize(m, first.shape[2:], self._config.align_corners) for m in rest)]

    def _scores(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The scores, and the backbone's middle level."""
        levels = self.backbone(images)
        x = levels.high
        if self.aspp is not None:
            x = F.dropout(self.aspp(x), self._config.dropout, self.training)
            if self.neck is not None:
                x = self.neck(x)
            if self.decoder is not None:
                x = self.decoder(x, levels.low)
        return self.classifier(x), levels.mid

    @overload
    def forward(self, images: Tensor, *, training_maps: Literal[False] = ...) -> Tensor: ...

    @overload
    def forward(self, images: Tensor, *, training_maps: Literal[True]) -> tuple[Tensor, ...]: ...

    def forward(
        self, images: Tensor, *, training_maps: bool = False
    ) -> Tensor | tuple[Tensor, ...]:
        """Class scores (logits) at the size of the images.

        Gradients flow to images and weights.

        Args:
            images: ``[B, 3, H, W]``, normalised, of the weights' dtype; under autocast any
                floating one but float64.
            training_maps: the maps that the paper's losses look at instead. v1 and v2: the scores
                at the output stride, to be compared with every stride-th label; with several
                scales the fused scores come first, then those of each scale, at the size of the
                first unless 1 / scale is whole, when they keep their own size and are to be
                compared with every (stride / scale)-th label. v3 and v3+: the scores at the size
                of the images, then the auxiliary ones if there are any.

        Returns:
            ``[B, num_classes, H, W]``, or the maps.

        Raises:
            TypeError: the images are not a tensor of such a dtype.
            ValueError: their shape is another.
        """
        self._check(images)
        size, align = images.shape[2:], self._config.align_corners
        maps, mid = self._maps(images)
        fused = self._fused(maps)
        if not training_maps:
            return resize(fused, size, align)
        if len(maps) > 1:
            own_size = [ratio(s).numerator == 1 for s in self._config.scales]
            resized = self._as_first(maps)
            kept = (m if own else r for m, r, own in zip(maps, resized, own_size, strict=True))
            return (fused, *kept)
        if self._config.head == "sum":
            return (fused,)
        auxiliary = () if self.auxiliary is None else (resize(self.auxiliary(mid), size, align),)
        return (resize(fused, size, align), *auxiliary)
