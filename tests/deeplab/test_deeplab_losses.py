"""Losses, labels at the networks' strides, class weights, parameter groups, schedules."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import deeplab
from deeplab.data import LabelReport

pytest.importorskip("kornia")

from deeplab.training.losses import median_frequency, pixel_losses, shrink_labels, targets
from deeplab.training.optimizer import build_optimizer, learning_rate, parameter_groups
from deeplab.training.settings import OptimizerSettings


def test_v1_looks_at_every_eighth_label() -> None:
    labels = torch.arange(41 * 41).reshape(1, 41, 41) % 21
    config = deeplab.model_config("deeplabv1_vgg16")
    (wanted,) = targets([torch.zeros(1, 21, 6, 6)], labels, config)
    assert torch.equal(wanted, labels[:, ::8, ::8])


def test_v2_has_four_losses_with_the_labels_of_their_strides() -> None:
    model = deeplab.build("deeplabv2_resnet101", num_classes=3).eval()
    labels = torch.randint(0, 3, (1, 81, 81))
    maps = model(torch.randn(1, 3, 81, 81), training_maps=True)
    wanted = targets(maps, labels, model.config)
    assert [w.shape[1] for w in wanted] == [11, 11, 11, 6]
    assert torch.equal(wanted[3], labels[:, ::16, ::16])
    enlarged = F.interpolate(maps[3], size=(11, 11), mode="bilinear", align_corners=True)
    fused = torch.stack([maps[1], maps[2], enlarged]).amax(0)
    torch.testing.assert_close(maps[0], fused)


def test_v3_looks_at_every_label() -> None:
    model = deeplab.build("deeplabv3plus_mobilenetv2", num_classes=3, auxiliary=True)
    labels = torch.randint(0, 3, (2, 30, 37))
    maps = model(torch.randn(2, 3, 30, 37), training_maps=True)
    assert len(maps) == 2
    assert all(torch.equal(w, labels) for w in targets(maps, labels, model.config))


def test_a_window_that_does_not_fit_the_stride_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"window of 40×40 does not fit scores of 6×6 at stride 8"):
        shrink_labels(torch.zeros(1, 40, 40).long(), (6, 6), 8)


def test_the_loss_is_torchs_cross_entropy() -> None:
    scores, labels = torch.randn(2, 4, 5, 6), torch.randint(0, 4, (2, 5, 6))
    labels[0, :2] = 255
    weights = torch.tensor([1.0, 2.0, 0.5, 3.0])
    for w in (None, weights):
        total, count = pixel_losses(scores, labels, weights=w)
        wanted = F.cross_entropy(scores, labels, w, ignore_index=255)
        torch.testing.assert_close(total / count, wanted)


def test_a_picture_all_void_has_no_loss() -> None:
    scores = torch.randn(1, 4, 3, 3, requires_grad=True)
    for keep in (1.0, 0.25):
        total, count = pixel_losses(scores, torch.full((1, 3, 3), 255), keep=keep)
        assert total == 0
        assert count == 0
        total.backward()


def test_hard_example_mining_keeps_the_largest_losses() -> None:
    scores, labels = torch.randn(2, 4, 5, 6), torch.randint(0, 4, (2, 5, 6))
    labels[1] = 255
    total, count = pixel_losses(scores, labels, keep=0.2)
    each = F.cross_entropy(scores, labels, ignore_index=255, reduction="none")[0].flatten()
    assert count == 6
    torch.testing.assert_close(total, each.sort(descending=True).values[:6].sum())


def test_median_frequency_weighs_rare_classes_up() -> None:
    report = LabelReport(
        "x", ("a", "b", "c", "d"), 2, [80, 15, 5, 0], [2, 2, 1, 0], [100, 100, 50, 0]
    )
    # Frequencies 0.8, 0.15, 0.1: their median is 0.15.
    assert median_frequency(report) == pytest.approx([0.15 / 0.8, 1.0, 1.5, 1.0])


@pytest.mark.parametrize(
    ("name", "classifier"), [("deeplabv1_vgg16", "fc8"), ("deeplabv2_resnet101", "branches")]
)
def test_the_papers_groups_are_1_2_10_and_20(name: str, classifier: str) -> None:
    settings = OptimizerSettings(lr=1e-3, weight_decay=5e-4, classifier_lr=10, bias_lr=2)
    with torch.device("meta"):
        model = deeplab.build(name)
    if name == "deeplabv2_resnet101":
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.requires_grad_(False)
    found = {}
    for group in parameter_groups(model, settings):
        for parameter in group["params"]:
            found[id(parameter)] = (group["factor"], group["weight_decay"])
    for key, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert id(parameter) not in found
            continue
        last, bias = classifier in key, key.endswith("bias")
        assert found[id(parameter)] == (10**last * 2**bias, 0.0 if bias else 5e-4), key


def test_every_trained_parameter_is_in_one_group() -> None:
    settings = OptimizerSettings(lr=1.0, head_lr=5, classifier_lr=10)
    model = deeplab.build("deeplabv3plus_mobilenetv2", auxiliary=True)
    groups = parameter_groups(model, settings)
    ids = [id(p) for group in groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
    assert {group["factor"] for group in groups} == {1, 5, 10}
    norms = {
        id(p)
        for m in model.modules()
        if isinstance(m, torch.nn.BatchNorm2d)
        for p in m.parameters()
    }
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    assert not norms & decayed


def test_the_optimiser_scales_the_rate_by_the_groups_factor() -> None:
    from deeplab.training.optimizer import set_learning_rate

    model = deeplab.build("deeplabv3plus_mobilenetv2")
    optimizer = build_optimizer(model, OptimizerSettings(lr=1.0, classifier_lr=10))
    set_learning_rate(optimizer, 0.5)
    assert {group["lr"] for group in optimizer.param_groups} == {0.5, 5.0}


def test_schedules() -> None:
    poly = OptimizerSettings(lr=2.0)
    assert learning_rate(poly, 0, 100) == 2.0
    assert learning_rate(poly, 75, 100) == pytest.approx(2.0 * 0.25**0.9)
    step = OptimizerSettings(lr=1.0, schedule="step", step_every=10)
    assert [learning_rate(step, i, 30) for i in (9, 10, 25)] == pytest.approx([1.0, 0.1, 0.01])
    warm = OptimizerSettings(lr=1.0, schedule="constant", warmup=10)
    assert [learning_rate(warm, i, 30) for i in (0, 5, 10)] == pytest.approx([0.1, 0.55, 1.0])
