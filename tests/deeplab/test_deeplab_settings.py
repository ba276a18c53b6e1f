"""Configurations: the recipes are the papers', and what is wrong in a file is said."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import deeplab

pytest.importorskip("kornia")

from deeplab.training import Settings, SettingsError, load_settings, recipe_names
from deeplab.training.optimizer import build_optimizer

MINIMAL = """
[data]
name = "folder"
root = "scenes"
[model]
name = "deeplabv3plus_mobilenetv2"
[optimizer]
lr = 0.1
[run]
iterations = 10
"""


@pytest.fixture
def minimal(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(MINIMAL)
    return path


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_builds_its_network(name: str) -> None:
    settings = load_settings(name)
    with torch.device("meta"):
        model = deeplab.build(settings.model.name, **settings.model.options)
    stride = model.output_stride
    if model.config.head == "sum":
        assert all((side - 1) % (2 * stride) == 0 for side in settings.data.window)


@dataclass(frozen=True)
class Protocol:
    """What a paper says of its training.

    Attributes:
        lr: at the start.
        batch: pictures of a step.
        iterations: steps.
        crop: windows, pixels.
        scales: smallest and largest factor, and the distance of factors.
        decay: of weights.
        factors: on the rate and on the decay of: weights, other biases, the classifier's weights
            and its biases. Batch normalisation is left out.
        schedule: poly's power, or the iterations and the factor of a step.
        stride: of the output.
        norm: mode of batch normalisation and its momentum, 1 - decay.
        split: trained on.
    """

    lr: float
    batch: int
    iterations: int
    crop: int = 513
    scales: tuple[float, float, float] = (0.5, 2.0, 0.25)
    decay: float = 1e-4
    factors: tuple[tuple[int, int], ...] = ((1, 1), (1, 1))
    schedule: tuple[float, ...] = (0.9,)
    stride: int = 16
    norm: tuple[str, float] = ("sync", 3e-4)
    split: str = "trainaug"


_CAFFE = {
    "crop": 321, "decay": 5e-4, "factors": ((1, 1), (2, 0), (10, 1), (20, 0)), "stride": 8,
}  # fmt: skip
_V3 = {"lr": 7e-3, "batch": 16, "iterations": 30_000, "factors": ((1, 1), (1, 0))}

# v1: ICLR 2015 and the released solver, batch 30 for 6000 steps. v2: TPAMI 2018, section 4.1 and
# the released solvers. v3: arXiv 1706.05587, section 4.1. v3+: ECCV 2018, section 4, and for
# Cityscapes 4.4; weight decays as in TensorFlow's release.
PROTOCOLS = {
    "deeplabv1_vgg16_voc": Protocol(
        1e-3, 30, 6000, **_CAFFE, scales=(1, 1, 0), schedule=(2000, 0.1), norm=("none", 0)
    ),
    "deeplabv2_vgg16_largefov_voc": Protocol(
        1e-3, 10, 20_000, **_CAFFE, scales=(1, 1, 0), norm=("none", 0)
    ),
    "deeplabv2_vgg16_aspp_l_voc": Protocol(
        1e-3, 10, 20_000, **_CAFFE, scales=(1, 1, 0), norm=("none", 0)
    ),
    "deeplabv2_resnet101_voc": Protocol(
        2.5e-4, 10, 20_000, **{**_CAFFE, "factors": ((1, 1), (10, 1), (20, 0))},
        scales=(0.5, 1.5, 0.25), norm=("frozen", 0),
    ),
    "deeplabv3_resnet101_voc": Protocol(**_V3),
    "deeplabv3_resnet101_voc_stage2": Protocol(
        **{**_V3, "lr": 1e-3}, stride=8, norm=("frozen_statistics", 0), split="trainval"
    ),
    "deeplabv3plus_resnet101_voc": Protocol(**_V3),
    "deeplabv3plus_xception65_voc": Protocol(**_V3, decay=4e-5),
    "deeplabv3plus_mobilenetv2_voc": Protocol(**_V3, decay=4e-5),
    "deeplabv3plus_xception65_cityscapes": Protocol(
        **{**_V3, "iterations": 90_000}, crop=769, decay=4e-5, split="train"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_has_the_papers_numbers(name: str) -> None:
    if name.startswith("camvid"):
        pytest.skip("of no paper")
    wanted, s = PROTOCOLS[name], load_settings(name)
    run, sgd = s.run, s.optimizer
    assert (sgd.lr, sgd.momentum, sgd.nesterov) == (wanted.lr, 0.9, False)
    assert (run.batch_size * run.accumulate, run.iterations) == (wanted.batch, wanted.iterations)
    assert (s.data.crop, s.data.flip, s.data.color_jitter) == (wanted.crop, True, 0)
    assert (*s.data.scales, s.data.scale_step) == wanted.scales
    assert s.data.train == wanted.split
    assert (s.loss.ohem, s.loss.class_weights, sgd.warmup) == (1, "none", 0)
    if len(wanted.schedule) == 1:
        assert (sgd.schedule, sgd.power) == ("poly", *wanted.schedule)
    else:
        assert (sgd.schedule, sgd.step_every, sgd.step_factor) == ("step", *wanted.schedule)

    with torch.device("meta"):
        model = deeplab.build(s.model.name, **s.model.options)
    assert model.output_stride == wanted.stride
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    mode, momentum = wanted.norm
    assert bool(norms) == (mode != "none")
    assert mode in ("none", run.batch_norm)
    assert all(norm.momentum == momentum for norm in norms) or momentum == 0
    of_norms = {id(p) for norm in norms for p in norm.parameters()}
    groups = build_optimizer(model, sgd).param_groups
    found = {
        (group["factor"], group["weight_decay"] / wanted.decay)
        for group in groups
        if any(id(p) not in of_norms for p in group["params"])
    }
    assert found == set(wanted.factors)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_that_has_pictures_to_validate_on_finds_its_best_network(name: str) -> None:
    s = load_settings(name)
    assert s.data.val or name.endswith("stage2")
    assert not s.data.val or 3 <= s.run.iterations / s.run.validate_every <= 20
    assert s.run.iterations % max(s.run.validate_every, 1) == 0


def test_defaults_and_overrides(minimal: Path) -> None:
    plain = load_settings(str(minimal))
    assert plain.optimizer.power == 0.9
    assert plain.data.window == (513, 513)
    changed = load_settings(
        str(minimal),
        ["data.crop=[65, 97]", "run.seed=3", "data.root=a b", "model.options.output_stride=8"],
    )
    assert changed.data.window == (65, 97)
    assert changed.run.seed == 3
    assert changed.data.root == "a b"
    assert changed.model.options == {"output_stride": 8}
    assert isinstance(changed, Settings)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.momentun=0.9", r"unknown key optimizer\.momentun: did you mean optimizer\.mom"),
        ("run.iterations=2.5", r"expected run\.iterations to be int, found 2\.5"),
        ("run.iterations=0", r"run\.iterations >= 1, found 0"),
        ("run.amp=half", r"expected run\.amp to be one of none, bfloat16, float16; found 'half'"),
        ("data.scales=[2.0, 0.5]", r"scales\[0\] <= scales\[1\]"),
        ("data.scales=[2.0]", r"expected data\.scales to be tuple\[float, float\], found \[2\.0\]"),
        ("data.flip=1", r"expected data\.flip to be bool, found 1"),
        ("data.root.x=3", r"data\.root is no table"),
        ("loss.ohem=0", r"0 < loss\.ohem <= 1, found 0"),
        ("optimizer", r"expected table\.key=value, found 'optimizer'"),
        ("extra.x=1", r"unknown key extra"),
        ("model.options=3", r"expected model\.options to be a table, found 3"),
        ("optimizer.momentum=1", r"expected optimizer\.momentum < 1, found 1"),
        ("optimizer.weight_decay=-1", r"expected optimizer\.weight_decay >= 0, found -1"),
        ("optimizer.step_every=0", r"expected optimizer\.step_every >= 1, found 0"),
        ("run.validate_every=-1", r"expected run\.validate_every >= 0, found -1"),
        ("data.workers=-1", r"expected data\.workers >= 0, found -1"),
        ("data.train=", r"expected data\.train to name a split, found ''"),
        ("data.ignore=[256]", r"expected data\.ignore in 0…255, found \(256,\)"),
        ("loss.class_weights=[1, -1]", r"expected loss\.class_weights >= 0, .*found \[1\.0, -1\.0"),
        ("loss.class_weights=[0, 0]", r"one of them > 0, found \[0\.0, 0\.0\]"),
    ],
)
def test_what_is_wrong_is_said(minimal: Path, override: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load_settings(str(minimal), [override])


def test_values_to_ignore_are_a_folders(minimal: Path) -> None:
    with pytest.raises(SettingsError, match=r'data\.ignore with "folder", found .voc2012'):
        load_settings(str(minimal), ["data.name=voc2012", "data.ignore=[3]"])


def test_a_missing_value_a_broken_file_and_no_file(minimal: Path, tmp_path: Path) -> None:
    minimal.write_text(MINIMAL.replace("lr = 0.1", ""))
    with pytest.raises(SettingsError, match=r"run\.toml: optimizer\.lr is missing"):
        load_settings(str(minimal))
    minimal.write_text("data = 3\n" + MINIMAL.replace("[data]", "[other]"))
    with pytest.raises(SettingsError, match="unknown key other"):
        load_settings(str(minimal))
    minimal.write_text("data = 3\n[model]\nname = 'x'")
    with pytest.raises(SettingsError, match=r"expected a table \[data\], found 3"):
        load_settings(str(minimal))
    for broken in (b"[data", b"# \xe9"):
        minimal.write_bytes(broken)
        with pytest.raises(SettingsError, match=r"run\.toml is no TOML: "):
            load_settings(str(minimal))
    with pytest.raises(FileNotFoundError, match="recipes are camvid"):
        load_settings("no_such_recipe")
