"""Configurations: the recipes are the papers', and what is wrong in a file is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import deeplab

pytest.importorskip("kornia")

from deeplab.training import Settings, SettingsError, load_settings, recipe_names

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


def test_the_recipes_have_the_papers_numbers() -> None:
    def numbers(name: str) -> tuple[object, ...]:
        s = load_settings(name)
        batch = s.run.batch_size * s.run.accumulate
        return s.optimizer.lr, batch, s.run.iterations, s.data.crop, s.data.scales, s.run.batch_norm

    assert numbers("deeplabv1_vgg16_voc") == (1e-3, 30, 6000, 321, (1, 1), "train")
    assert numbers("deeplabv2_resnet101_voc") == (2.5e-4, 10, 20000, 321, (0.5, 1.5), "frozen")
    for name in ("deeplabv3_resnet101_voc", "deeplabv3plus_resnet101_voc"):
        assert numbers(name) == (7e-3, 16, 30000, 513, (0.5, 2.0), "sync")
    stage2 = numbers("deeplabv3_resnet101_voc_stage2")
    assert stage2 == (1e-3, 16, 30000, 513, (0.5, 2.0), "frozen_statistics")


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
