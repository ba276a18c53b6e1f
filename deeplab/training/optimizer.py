"""Parameter groups, the optimiser and its learning rates as the papers set them."""

from __future__ import annotations

import torch
from torch import nn

from deeplab.aspp import FovBranch, SummedASPP
from deeplab.models import DeepLab

from .settings import OptimizerSettings


def classifiers(model: DeepLab) -> list[nn.Module]:
    """The convolutions that give the scores: fc8 of v1 and v2, the last 1×1 of v3 and v3+."""
    found: list[nn.Module] = [model.classifier]
    if isinstance(model.classifier, SummedASPP):
        found = [b.fc8 if isinstance(b, FovBranch) else b for b in model.classifier.branches]
    if model.auxiliary is not None:
        found.append(model.auxiliary.classifier)
    return found


def parameter_groups(model: DeepLab, settings: OptimizerSettings) -> list[dict[str, object]]:
    """The trained parameters, by factor on the learning rate and by weight decay.

    With ``classifier_lr = 10`` and ``bias_lr = 2``, v1's and v2's: weights of the backbone at 1,
    its biases at 2, weights of the classifier at 10, its biases at 20, biases without decay. Every
    group says its factor under ``"factor"``.
    """
    last = {id(p) for module in classifiers(model) for p in module.parameters()}
    backbone = {id(p) for p in model.backbone.parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for module in model.modules():
        norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            factor = settings.head_lr
            if id(parameter) in backbone:
                factor = 1.0
            elif id(parameter) in last:
                factor = settings.classifier_lr
            bias = name == "bias" and not norm
            if bias:
                factor *= settings.bias_lr
            decays = settings.decay_norms if norm else settings.decay_biases or not bias
            decay = settings.weight_decay if decays else 0.0
            groups.setdefault((factor, decay), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "factor": factor}
        for (factor, decay), parameters in groups.items()
    ]


def build_optimizer(model: DeepLab, settings: OptimizerSettings) -> torch.optim.SGD:
    """SGD over ``parameter_groups``."""
    return torch.optim.SGD(
        parameter_groups(model, settings),
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
    )


def learning_rate(settings: OptimizerSettings, iteration: int, iterations: int) -> float:
    """The rate of a step, from 0, before the groups' factors."""
    rate = settings.lr
    if settings.schedule == "poly":
        rate *= (1 - iteration / iterations) ** settings.power
    elif settings.schedule == "step":
        rate *= settings.step_factor ** (iteration // settings.step_every)
    if iteration < settings.warmup:
        rate *= 0.1 + 0.9 * iteration / settings.warmup
    return rate


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Gives every group the rate times its factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
