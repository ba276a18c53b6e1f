"""Checkpoints: each family's forward pass, the published key lists, files and their wrappers.

``tests/data/checkpoint_keys.tar.xz`` holds the lists: of freshly built networks of each family, for
21 classes unless noted, the names, shapes and types of all tensors, one a line, and no weights.
"""

from __future__ import annotations

import argparse
import ast
import collections
import functools
import json
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import families
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import deeplab
from deeplab.checkpoints.families import recognise
from deeplab.checkpoints.names import Renaming

KEY_LISTS = Path(__file__).parents[1] / "data" / "checkpoint_keys.tar.xz"


@functools.cache
def all_lists() -> dict[str, list[tuple[str, tuple[int, ...], torch.dtype]]]:
    lists = {}
    with tarfile.open(KEY_LISTS) as archive:
        for member in archive:
            lines = archive.extractfile(member).read().decode().splitlines()
            fields = (line.split("\t") for line in lines)
            lists[member.name.removesuffix(".txt")] = [
                (key, ast.literal_eval(shape), getattr(torch, dtype))
                for key, shape, dtype in fields
            ]
    return lists


def key_list(name: str) -> dict[str, Tensor]:
    """Zeros of the listed names, shapes and dtypes, of one element each in memory."""
    return {k: torch.zeros((), dtype=dtype).expand(shape) for k, shape, dtype in all_lists()[name]}


def numbered(name: str) -> dict[str, Tensor]:
    """The same, but no two alike: of the i-th tensor all values of input channel c are 4096 i + c.

    Those under a second name, as jfzhang95's MobileNetV2 has them, are repeated.
    """
    state: dict[str, Tensor] = {}
    for i, (key, shape, dtype) in enumerate(all_lists()[name]):
        channels = torch.arange(shape[1] if len(shape) > 1 else 1)
        view = (1, -1, *(1,) * (len(shape) - 2)) if len(shape) > 1 else (1,) * len(shape)
        state[key] = (4096 * i + channels).view(view).to(dtype).expand(shape)
        first = re.sub("(low|high)_level_features", "features", key)
        if "jfzhang" in name:
            state[key] = state[first]
    return state


SIZES = {
    "segmentation_models.pytorch v3": (16, 192),  # takes multiples of 16
    "segmentation_models.pytorch v3+": (16, 192),
    "isht7 v2": (33, 193),  # its sizes are the aligned ones at 32k + 1 only
    "VainF v3+ Xception": (75, 203),  # takes nothing smaller than 71
    "Hugging Face MobileNetV2": (36, 196),  # even ones are padded on one side
}


@pytest.mark.parametrize("name", families.FAMILIES)
def test_a_converted_network_computes_what_the_familys_own_code_does(name: str) -> None:
    weights = families.Weights()
    # Wide, so that the larger rates see more than their centre.
    size = SIZES.get(name, (19, 193))
    images = torch.randn(1, 3, *size, dtype=torch.float64)
    expected = families.FAMILIES[name](weights, images)
    assert_computes(expected, images, *deeplab.convert(weights.state))


@pytest.mark.parametrize(
    "name",
    [
        name
        if name in ("VainF v3+", "jfzhang95 v3+")
        else pytest.param(name, marks=pytest.mark.slow)
        for name in families.OTHER_STRIDES
    ],
)
def test_a_converted_network_computes_the_same_at_its_other_output_stride(name: str) -> None:
    weights, stride = families.Weights(), families.OTHER_STRIDES[name]
    size = (105, 235) if "Xception" in name else SIZES.get(name, (19, 193))
    images = torch.randn(1, 3, *size, dtype=torch.float64)
    expected = families.FAMILIES[name](weights, images, output_stride=stride)
    if "VainF" in name:
        converted = deeplab.convert(weights.state, f"best_voc_os{stride}.pth")
    else:
        converted = deeplab.convert(weights.state, options={"output_stride": stride})
    assert_computes(expected, images, *converted)


def assert_computes(
    expected: Tensor, images: Tensor, state: dict[str, Tensor], config: deeplab.Config
) -> None:
    with torch.device("meta"):
        model = deeplab.DeepLab(config)
    model.load_state_dict(state, assign=True)
    with torch.no_grad():
        scores = model.eval()(images)
    spread = expected.std().item()
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-9 * spread)


LISTS = {
    "tv_deeplabv3_resnet50_aux0": ("aspp", "resnet50", 39.64),
    "tv_deeplabv3_resnet50_aux1": ("aspp", "resnet50", 42.00),
    "tv_deeplabv3_resnet101_aux0": ("aspp", "resnet101", 58.63),
    "tv_deeplabv3_resnet101_aux1": ("aspp", "resnet101", 61.00),
    "tv_deeplabv3_mobilenet_v3_large_aux0": ("aspp", "mobilenetv3_large", 11.025),
    "tv_deeplabv3_mobilenet_v3_large_aux1": ("aspp", "mobilenetv3_large", 11.029),
    "kazuto_deeplabv1_resnet101": ("linear", "resnet101", 42.69),
    "kazuto_deeplabv2_resnet101_msc": ("sum", "resnet101", 44.05),
    "kazuto_deeplabv3_resnet101_msc_os16": ("aspp", "resnet101", 58.04),
    "kazuto_deeplabv3plus_resnet101_msc_os16": ("decoder", "resnet101", 59.34),
    "vainf_deeplabv3_resnet50": ("aspp", "resnet50", 39.64),
    "vainf_deeplabv3_resnet101": ("aspp", "resnet101", 58.63),
    "vainf_deeplabv3_mobilenet": ("aspp", "mobilenetv2", 5.11),
    "vainf_deeplabv3plus_resnet50": ("decoder", "resnet50", 39.76),
    "vainf_deeplabv3plus_resnet101": ("decoder", "resnet101", 58.75),
    "vainf_deeplabv3plus_mobilenet": ("decoder", "mobilenetv2", 5.23),
    "vainf_deeplabv3plus_xception": ("decoder", "xception", 37.05),
    "jfzhang_deeplabv3plus_resnet": ("decoder", "resnet101", 59.34),
    # The list counts the backbone's 1.81 M twice.
    "jfzhang_deeplabv3plus_mobilenet": ("decoder", "mobilenetv2", 5.82),
    "jfzhang_deeplabv3plus_xception": ("decoder", "xception65", 54.71),
    "smp_deeplabv3_resnet50": ("aspp", "resnet50", 39.64),
    "smp_deeplabv3plus_resnet101": ("decoder", "resnet101", 45.67),
    # The list counts the classifier's convolution of 0.41 M, which segments nothing.
    "hf_mobilenetv2_deeplabv3": ("aspp", "mobilenetv2", 2.1136),
}


@pytest.mark.parametrize("name", LISTS)
def test_every_published_key_is_used_and_has_its_shape(name: str) -> None:
    published = numbered(name)
    state, config = deeplab.convert(published)
    with torch.device("meta"):
        model = deeplab.DeepLab(config)
    wanted = {key: tensor.shape for key, tensor in model.state_dict().items()}
    assert {key: tensor.shape for key, tensor in state.items()} == wanted
    # Each of the file's tensors once, none split or joined.
    unlike = {tensor.min().item() for tensor in state.values()}
    assert len(unlike) == len(wanted)
    assert unlike <= {tensor.min().item() for tensor in published.values()}
    twice = sum(".features." in key for key in published) if "jfzhang" in name else 0
    unread = sum(key.startswith("mobilenet_v2.conv_1x1.") for key in published)
    assert len(wanted) == len(published) - twice - unread
    head, backbone, millions = LISTS[name]
    assert (config.head, config.backbone) == (head, backbone)
    assert config.num_classes == (91 if "v1" in name else 21)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.0051)


CLASSIC = [*range(1280)]  # 1×1, three rates, image pooling
DECODER = [*range(304)]  # 256 of ASPP, 48 of the low level


@pytest.mark.parametrize(
    ("name", "key", "ours", "order"),
    [
        ("vainf_deeplabv3plus_resnet50", "classifier.classifier.0", "decoder.refine.0.conv",
         [*range(48, 304), *range(48)]),
        ("vainf_deeplabv3plus_resnet50", "classifier.aspp.project.0", "aspp.project.conv", CLASSIC),
        ("vainf_deeplabv3_resnet50", "classifier.classifier.0.project.0", "aspp.project.conv",
         CLASSIC),
        ("tv_deeplabv3_resnet50_aux0", "classifier.0.project.0", "aspp.project.conv", CLASSIC),
        ("kazuto_deeplabv3plus_resnet101_msc_os16", "base.fc1.conv", "aspp.project.conv", CLASSIC),
        ("kazuto_deeplabv3plus_resnet101_msc_os16", "base.fc2.conv1.conv",
         "decoder.refine.0.conv", DECODER),
        ("jfzhang_deeplabv3plus_resnet", "decoder.last_conv.0", "decoder.refine.0.conv", DECODER),
        ("smp_deeplabv3plus_resnet101", "decoder.block2.0.1",
         "decoder.refine.0.pointwise.conv", DECODER),
        ("hf_mobilenetv2_deeplabv3", "segmentation_head.conv_projection.convolution",
         "aspp.project.conv", [*range(256, 512), *range(256)]),
    ],
)  # fmt: skip
def test_channels_behind_a_concatenation_come_in_our_order(
    name: str, key: str, ours: str, order: list[int]
) -> None:
    published = numbered(name)
    state, _ = deeplab.convert(published)
    start = published[f"{key}.weight"].min()
    found = state[f"{ours}.weight"][:, :, 0, 0] - start
    assert torch.equal(found, torch.tensor(order, dtype=found.dtype).expand_as(found))


def test_mmsegmentations_pooled_channels_go_behind_the_others() -> None:
    weights = families.Weights()
    families.mmseg_v3(weights, torch.randn(1, 3, 8, 8))
    key = "decode_head.bottleneck.conv.weight"
    weights.state[key] = torch.arange(2560).view(1, -1, 1, 1).expand(512, 2560, 3, 3).float()
    state, _ = deeplab.convert(weights.state)
    order = torch.tensor([*range(512, 2560), *range(512)]).float()
    assert torch.equal(state["aspp.project.conv.weight"][7, :, 1, 2], order)


@pytest.mark.parametrize("name", LISTS)
def test_every_converted_name_leads_back_to_the_published_one(name: str) -> None:
    published = key_list(name)
    family = recognise(published)
    for key in published:
        if not key.startswith(family.unused):
            origin = family.renaming.origins(family.renaming(key))[0]
            assert origin == re.sub("(low|high)_level_features", "features", key) or origin == key


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("tv_fcn_resnet50_aux1", "would need classifier.0.convs.0.0.weight"),
        ("tv_mobilenet_v2", "is a classifier's file.* deeplab.load_backbone"),
        ("tv_resnet101", "is a classifier's file.* deeplab.load_backbone"),
        ("tv_vgg16", "is a classifier's file.* deeplab.load_backbone"),
    ],
)
def test_published_networks_of_other_kinds_are_named_in_the_refusal(
    name: str, nearest: str
) -> None:
    with pytest.raises(deeplab.CheckpointError, match=nearest) as raised:
        deeplab.convert(key_list(name), name)
    assert name in str(raised.value)
    assert len(str(raised.value)) < 1000


def test_a_network_of_no_family_is_told_the_nearest_and_what_differs() -> None:
    state = {
        "backbone.0.0.weight": torch.zeros(16, 3, 3, 3),
        "backbone.0.1.weight": torch.zeros(16),
        "pyramid.level3.weight": torch.zeros(4, 16, 1, 1),
    }
    with pytest.raises(deeplab.CheckpointError) as raised:
        deeplab.convert(state, "pyramid.pth")
    assert str(raised.value) == (
        "pyramid.pth is of no known family. Nearest is torchvision MobileNetV3, which has 2 of its "
        "3 keys; it does not have pyramid.level3.weight, and would need "
        "classifier.0.convs.0.0.weight"
    )


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("tv_vgg16", "deeplabv1_vgg16"),
        ("tv_resnet50", "deeplabv3_resnet50"),
        pytest.param("tv_resnet101", "deeplabv3plus_resnet101", marks=pytest.mark.slow),
        ("tv_mobilenet_v2", "deeplabv3plus_mobilenetv2"),
        ("tv_fcn_resnet50_aux0", "deeplabv3_resnet50"),
        pytest.param("tv_fcn_resnet50_aux1", "deeplabv3_resnet50", marks=pytest.mark.slow),
        pytest.param("tv_fcn_resnet101_aux0", "deeplabv3_resnet101", marks=pytest.mark.slow),
        pytest.param("tv_fcn_resnet101_aux1", "deeplabv3_resnet101", marks=pytest.mark.slow),
        ("tv_deeplabv3_resnet50_aux1", "deeplabv3plus_resnet50"),
        ("kazuto_deeplabv1_resnet101", "deeplabv2_resnet101"),
        ("jfzhang_deeplabv3plus_xception", "deeplabv3plus_xception65"),
        ("tv_deeplabv3_mobilenet_v3_large_aux1", "deeplabv3_mobilenetv3_large"),
        ("hf_mobilenetv2_deeplabv3", "deeplabv3plus_mobilenetv2"),
    ],
)
def test_backbones_start_from_published_networks(tmp_path: Path, name: str, model: str) -> None:
    network = deeplab.build(model)
    torch.save(key_list(name), tmp_path / "file.pth")
    head = network.classifier.state_dict()
    head = {key: tensor.clone() for key, tensor in head.items()}
    deeplab.load_backbone(network, tmp_path / "file.pth")
    weights = [p for k, p in network.backbone.named_parameters()]
    assert not any(p.any() for p in weights)
    for key, tensor in network.classifier.state_dict().items():
        # fc6 and fc7 of VGG-16's file are zeros as well, the other heads stay as they were.
        from_vgg = name == "tv_vgg16" and ("fc6" in key or "fc7" in key)
        assert torch.equal(tensor, torch.zeros_like(tensor) if from_vgg else head[key])


@pytest.mark.parametrize(
    ("family", "prefix", "model"),
    [
        (families.torchvision_mobilenetv3, "features.", "deeplabv3_mobilenetv3_large"),
        (families.vainf_xception, "", "deeplabv3plus_xception"),
    ],
    ids=["torchvision's MobileNetV3", "Cadene's Xception"],
)
def test_backbones_start_from_classifiers(tmp_path: Path, family, prefix: str, model: str) -> None:
    weights = families.Weights()
    family(weights, torch.randn(1, 3, 75, 75))
    weights.bn("backbone.bn4", torch.zeros(1, 2048, 1, 1))  # of Cadene's, which VainF's lacks
    state = {
        prefix + key.removeprefix("backbone."): tensor
        for key, tensor in weights.state.items()
        if key.startswith("backbone.") and (".bn4." not in key or not prefix)
    }
    torch.save({**state, "fc.weight": torch.zeros(1000, 2048)}, tmp_path / "classifier.pth")
    network = deeplab.build(model, num_classes=2)
    deeplab.load_backbone(network, tmp_path / "classifier.pth")
    loaded = network.backbone.state_dict()
    # Under whatever names, every tensor has arrived.
    assert sorted(t.sum().item() for t in loaded.values()) == pytest.approx(
        sorted(t.sum().item() for t in state.values())
    )


def tiny() -> deeplab.DeepLab:
    return deeplab.build("deeplabv3plus_mobilenetv2", num_classes=2, output_stride=8).eval()


@pytest.fixture(scope="module")
def vainf() -> dict[str, Tensor]:
    weights = families.Weights()
    families.vainf_mobilenet(weights, torch.randn(1, 3, 33, 33))
    return weights.state


def test_a_saved_network_comes_back_with_its_configuration(tmp_path: Path) -> None:
    model = tiny()
    path = tmp_path / "model.safetensors"
    deeplab.save(model.to(memory_format=torch.channels_last), path)
    loaded = deeplab.load(path)
    assert loaded.config == model.config
    assert not loaded.training
    assert all(p.requires_grad for p in loaded.parameters())
    images = torch.randn(1, 3, 33, 49)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), model(images), rtol=1e-4, atol=1e-5)
    assert deeplab.load(path, output_stride=16).output_stride == 16


def test_a_fused_pyramid_is_saved_as_well(tmp_path: Path) -> None:
    model = deeplab.build("deeplabv2_resnet101", backbone="resnet50", num_classes=2)
    deeplab.save(model, tmp_path / "v2.safetensors")
    loaded = deeplab.load(tmp_path / "v2.safetensors")
    assert loaded.config.scales == (1.0, 0.75, 0.5)
    assert all(torch.equal(a, b) for a, b in zip(
        loaded.state_dict().values(), model.state_dict().values(), strict=True))  # fmt: skip


def test_a_network_saved_in_half_precision_comes_back_in_single(tmp_path: Path) -> None:
    model = tiny().eval()
    for half in (False, True):
        deeplab.save(model, tmp_path / f"{half}.safetensors", half=half)
    sizes = [(tmp_path / f"{half}.safetensors").stat().st_size for half in (False, True)]
    assert sizes[1] < 0.6 * sizes[0]
    assert all(p.dtype == torch.float32 for p in model.parameters())
    loaded = deeplab.load(tmp_path / "True.safetensors")
    assert all(p.dtype == torch.float32 for p in loaded.parameters())
    x = torch.randn(1, 3, 33, 33)
    torch.testing.assert_close(loaded(x), model(x), rtol=0.02, atol=0.02)
    for (key, kept), rounded in zip(
        model.state_dict().items(), loaded.state_dict().values(), strict=True
    ):
        assert torch.equal(rounded, kept if kept.dim() != 4 else kept.half().float()), key


def test_own_files_have_one_ending_and_one_version(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ending with \.safetensors, found"):
        deeplab.save(tiny(), tmp_path / "model.pth")
    path = tmp_path / "later.safetensors"
    save_file({"a": torch.zeros(1)}, path, metadata={"format": "deeplab 2"})
    with pytest.raises(deeplab.CheckpointError, match="'deeplab 2', expected 'deeplab 1'"):
        deeplab.load(path)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model_state": state, "best_score": np.float64(0.7), "cur_itrs": 3},
        lambda state: {"state_dict": {f"module.{k}": t for k, t in state.items()}, "epoch": 1},
        lambda state: {"model": state, "args": argparse.Namespace(lr=0.1)},
        lambda state: {"state_dict": {f"model._orig_mod.{k}": t for k, t in state.items()}},
        lambda state: {
            "state_dict": {
                "mean": torch.zeros(1, 3, 1, 1),
                **{f"model.{k}": t for k, t in state.items()},
                "loss_fn.weight": torch.ones(5),
            }
        },
        lambda state: {
            "n_averaged": torch.tensor(3),
            **{f"module.{k}": t for k, t in state.items()},
        },
        lambda state: {k.replace("backbone.", "backbone._orig_mod."): t for k, t in state.items()},
    ],
    ids=[
        *("plain", "VainF", "DataParallel", "torchvision", "Lightning"),
        *("Lightning with buffers", "AveragedModel", "a compiled backbone"),
    ],
)
def test_wrappers_are_taken_off(tmp_path: Path, vainf: dict[str, Tensor], wrap) -> None:
    torch.save(wrap(vainf), tmp_path / "best_deeplabv3plus_mobilenet_voc_os8.pth")
    model = deeplab.load(tmp_path / "best_deeplabv3plus_mobilenet_voc_os8.pth")
    assert model.output_stride == 8  # the name says it
    assert model.config.variant == "vainf"
    first = vainf["classifier.classifier.0.weight"]
    ours = model.decoder.refine[0].conv.weight
    assert torch.equal(ours[:, 256:], first[:, :48])
    assert torch.equal(ours[:, :256], first[:, 48:])


def test_weights_beside_the_network_are_named_where_it_lacks_some(
    tmp_path: Path, vainf: dict[str, Tensor]
) -> None:
    wrapped = {f"model.{k}": t for k, t in vainf.items() if "classifier.3" not in k}
    beside = {"mean": torch.zeros(3), "head.weight": torch.zeros(5, 256, 1, 1)}
    torch.save({**beside, **wrapped}, tmp_path / "file.pth")
    with pytest.raises(deeplab.CheckpointError, match=r"begin otherwise: head\.weight$"):
        deeplab.load(tmp_path / "file.pth")


def test_prefixes_of_safetensors_files_are_taken_off(
    tmp_path: Path, vainf: dict[str, Tensor]
) -> None:
    save_file({f"model.{k}": t for k, t in vainf.items()}, tmp_path / "file_os8.safetensors")
    assert deeplab.load(tmp_path / "file_os8.safetensors").output_stride == 8


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_precision_become_float32(
    tmp_path: Path, vainf: dict[str, Tensor], dtype: torch.dtype
) -> None:
    stored = {k: t.to(dtype) if t.is_floating_point() else t for k, t in vainf.items()}
    torch.save(stored, tmp_path / "family.pth")
    deeplab.save(tiny().to(dtype), tmp_path / "own.safetensors")
    for name in ("family.pth", "own.safetensors"):
        model = deeplab.load(tmp_path / name)
        assert all(p.dtype == torch.float32 for p in model.parameters())
        assert model.backbone.stem.bn.running_mean.dtype == torch.float32
        assert model(torch.randn(1, 3, 33, 33)).dtype == torch.float32


def test_options_win_over_the_familys_defaults(tmp_path: Path, vainf: dict[str, Tensor]) -> None:
    torch.save(vainf, tmp_path / "file_os8.pth")
    model = deeplab.load(tmp_path / "file_os8.pth", output_stride=16, inputs="symmetric")
    assert (model.output_stride, model.config.inputs) == (16, "symmetric")


def test_files_without_batch_counts_load(tmp_path: Path, vainf: dict[str, Tensor]) -> None:
    torch.save({k: t for k, t in vainf.items() if "tracked" not in k}, tmp_path / "old.pth")
    assert deeplab.load(tmp_path / "old.pth").backbone.stem.bn.num_batches_tracked == 0


NUMPY = {
    "float32": np.float32(0.5),
    "int64": np.int64(3),
    "bool": np.bool_(True),
    "string": np.str_("voc"),
    "array": np.zeros((21, 21), np.int64),
    "array of strings": np.array(["sky", "road"]),
}


@pytest.mark.parametrize(
    "beside",
    [
        *NUMPY.values(),
        collections.defaultdict(list, {"loss": [1.0]}),
        collections.OrderedDict(a=1),
        argparse.Namespace(lr=np.float32(0.1), nested=argparse.Namespace(steps=(1, 2))),
        {1, 2},
    ],
    ids=[*NUMPY, "defaultdict", "OrderedDict", "Namespace", "set"],
)
def test_what_training_scripts_keep_beside_the_weights_is_read(
    tmp_path: Path, vainf: dict[str, Tensor], beside: object
) -> None:
    torch.save({"model_state": vainf, "beside": beside}, tmp_path / "file.pth")
    assert deeplab.load(tmp_path / "file.pth").output_stride == 16


@pytest.mark.parametrize("core", [b"core", b"_core"])
def test_numpys_numbers_are_read_by_their_names_of_both_major_versions(
    tmp_path: Path, vainf: dict[str, Tensor], core: bytes
) -> None:
    path, beside = tmp_path / "file.pth", [np.float64(0.7), np.int32(1), np.zeros(2)]
    held = {"model_state": vainf, "beside": beside}
    torch.save(held, path, _use_new_zipfile_serialization=False)
    path.write_bytes(re.sub(rb"cnumpy\._?core\.", b"cnumpy." + core + b".", path.read_bytes()))
    assert deeplab.load(path).output_stride == 16


@pytest.mark.parametrize(
    ("beside", "named"),
    [
        (np.array([{}], object), "numpy.dtypes.ObjectDType"),
        (np.datetime64("2026-01-01"), "numpy.dtypes.DateTime64DType"),
        (torch.nn.ReLU(), "torch.nn.modules.activation.ReLU"),
        (print, "print"),
    ],
    ids=["objects", "datetime64", "a module", "a function"],
)
def test_a_type_that_is_refused_is_named(
    tmp_path: Path, vainf: dict[str, Tensor], beside: object, named: str
) -> None:
    torch.save({"model": vainf, "beside": beside}, tmp_path / "file.pth")
    with pytest.raises(deeplab.CheckpointError) as raised:
        deeplab.load(tmp_path / "file.pth")
    assert f"holds more than weights, {named}: if you trust" in str(raised.value)


@pytest.mark.filterwarnings("error")
def test_a_torchscript_file_is_called_one(tmp_path: Path) -> None:
    archive = tmp_path / "file.pt"
    with zipfile.ZipFile(archive, "w") as written:  # as torch.jit.save lays it out
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py", "version"):
            written.writestr(f"file/{name}", b"")
    with pytest.raises(deeplab.CheckpointError, match=r"file\.pt is a TorchScript program"):
        deeplab.load(archive)


def test_other_types_are_refused_unless_allowed(tmp_path: Path, vainf: dict[str, Tensor]) -> None:
    torch.save({"model": vainf, "data": Path("voc")}, tmp_path / "file.pth")
    with pytest.raises(deeplab.CheckpointError, match=r"allow=\[\.\.\.\]") as raised:
        deeplab.load(tmp_path / "file.pth")
    assert "PosixPath" in str(raised.value)
    assert "\n" not in str(raised.value)
    allowed = (type(Path()), "pathlib.PosixPath")
    assert deeplab.load(tmp_path / "file.pth", allow=[allowed]).output_stride == 16


def test_unknown_files_are_told_the_nearest_family(vainf: dict[str, Tensor]) -> None:
    changed = {key.replace("classifier.aspp.convs.0", "other"): t for key, t in vainf.items()}
    with pytest.raises(deeplab.CheckpointError) as raised:
        deeplab.convert(changed, "file.pth")
    message = str(raised.value)
    assert "Nearest is VainF v3+" in message
    assert "other.0.weight" in message
    assert "would need classifier.aspp.convs.0.0.weight" in message


def test_surplus_and_missing_keys_are_named(tmp_path: Path, vainf: dict[str, Tensor]) -> None:
    with pytest.raises(
        deeplab.CheckpointError, match=r"looks like VainF v3\+.*1 of.*extra\.weight"
    ):
        deeplab.convert({**vainf, "extra.weight": torch.zeros(1)})
    short = dict(vainf)
    del short["classifier.aspp.project.1.bias"]
    short["classifier.aspp.project.1.weight"] = torch.zeros(3)
    torch.save(short, tmp_path / "short.pth")
    with pytest.raises(
        deeplab.CheckpointError,
        match=r"1 missing: classifier\.aspp\.project\.1\.bias; "
        r"1 of other shape: classifier\.aspp\.project\.1\.weight is \[3\], expected \[256\]",
    ):
        deeplab.load(tmp_path / "short.pth")


@pytest.mark.parametrize(
    ("cut", "first"),
    [
        ("classifier.classifier.0", "1 missing: classifier.classifier.0.weight"),
        ("classifier.classifier.3", "2 missing: classifier.classifier.3.weight, "),
        ("classifier.project", "5 missing: classifier.project.0.weight, "),
        ("classifier.aspp.project", "5 missing: classifier.aspp.project.0.weight, "),
        ("classifier.aspp.convs.2", "5 missing: classifier.aspp.convs.2.0.weight, "),
        ("backbone.high_level_features.7.", "missing: backbone.high_level_features.7.conv.0.0"),
        ("backbone.", "it holds no resnet50 or resnet101 or mobilenetv2 or xception"),
    ],
)
def test_what_is_missing_is_told_in_the_familys_names(
    tmp_path: Path, vainf: dict[str, Tensor], cut: str, first: str
) -> None:
    torch.save({k: t for k, t in vainf.items() if not k.startswith(cut)}, tmp_path / "file.pth")
    with pytest.raises(deeplab.CheckpointError) as raised:
        deeplab.load(tmp_path / "file.pth")
    assert "file.pth looks like VainF v3+, but " in str(raised.value)
    assert first in str(raised.value)


@pytest.mark.parametrize(
    ("name", "cut", "missing"),
    [
        ("tv_deeplabv3_resnet50_aux0", "classifier.4", "classifier.4.weight"),
        ("tv_deeplabv3_resnet50_aux0", "classifier.1", "classifier.1.weight"),
        ("tv_deeplabv3_resnet50_aux0", "backbone.layer3", "backbone.layer3.0.conv1.weight"),
        ("kazuto_deeplabv2_resnet101_msc", "base.aspp.c2", "base.aspp.c2.weight"),
        ("kazuto_deeplabv3_resnet101_msc_os16", "base.fc2", "base.fc2.weight"),
        ("jfzhang_deeplabv3plus_resnet", "decoder.last_conv.4", "decoder.last_conv.4.weight"),
        ("jfzhang_deeplabv3plus_xception", "aspp.aspp3", "aspp.aspp3.atrous_conv.weight"),
        ("smp_deeplabv3plus_resnet101", "decoder.aspp.1", "decoder.aspp.1.0.weight"),
        ("hf_mobilenetv2_deeplabv3", "segmentation_head.conv_pool",
         "segmentation_head.conv_pool.convolution.weight"),
    ],
)  # fmt: skip
def test_no_family_becomes_a_smaller_network_where_parts_are_missing(
    name: str, cut: str, missing: str
) -> None:
    state = {k: t for k, t in key_list(name).items() if not k.startswith(cut)}
    with pytest.raises(deeplab.CheckpointError, match=f"missing: {re.escape(missing)}"):
        deeplab.convert(state, name)


def _without_bottleneck(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: t for k, t in state.items() if not re.search(r"layer\d\.\d\.(conv|bn)3", k)}


def _deeper(state: dict[str, Tensor]) -> dict[str, Tensor]:
    more = {
        f"encoder.layer{layer}.{i}.{leaf}": state[f"encoder.layer{layer}.1.{leaf}"]
        for layer, units in ((2, range(4, 8)), (3, range(6, 36)))
        for i in units
        for leaf in ("conv1.weight", "conv2.weight", "conv3.weight")
    }
    return {**state, **more}


def _one_unit_less(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: t for k, t in state.items() if not k.startswith("encoder.layer3.5.")}


def _first_conv2(*shape: int) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {**state, "encoder.layer1.0.conv2.weight": torch.zeros(shape)}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (_without_bottleneck, "ResNet-34"),
        (_deeper, "ResNet-152"),
        (_one_unit_less, "a ResNet of 3 + 4 + 5 + 3 units"),
        (_first_conv2(128, 4, 3, 3), "a ResNeXt"),
        (_first_conv2(128, 128, 3, 3), "a wide ResNet"),
    ],
)
def test_other_resnets_are_refused_by_name(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], found: str
) -> None:
    state = change(key_list("smp_deeplabv3_resnet50"))
    with pytest.raises(deeplab.CheckpointError) as raised:
        deeplab.convert(state, "model.pth")
    assert str(raised.value) == (
        "model.pth looks like segmentation_models.pytorch v3, but its backbone is "
        f"{found}, expected resnet50 or resnet101"
    )


def test_an_encoder_of_another_kind_is_refused_with_its_names() -> None:
    state = {
        k.replace("encoder.layer", "encoder.features."): t
        for k, t in key_list("smp_deeplabv3_resnet50").items()
    }
    with pytest.raises(deeplab.CheckpointError, match=r"no resnet50 .*encoder\.features\.1\.0"):
        deeplab.convert(state)


def test_smps_classification_head_is_left_out() -> None:
    more = {"classification_head.3.weight": torch.zeros(4, 2048)}
    state, _ = deeplab.convert({**key_list("smp_deeplabv3_resnet50"), **more})
    assert len(state) == 362


def test_a_wrong_type_of_tensor_is_refused(vainf: dict[str, Tensor]) -> None:
    key = "classifier.project.0.weight"
    with pytest.raises(deeplab.CheckpointError, match=f"1 not floating: {key} is int8"):
        deeplab.convert({**vainf, key: vainf[key].to(torch.int8)})


def test_tensors_without_values_are_refused(tmp_path: Path, vainf: dict[str, Tensor]) -> None:
    torch.save({k: t.to("meta") for k, t in vainf.items()}, tmp_path / "meta.pth")
    with pytest.raises(deeplab.CheckpointError, match="names and shapes, but no values"):
        deeplab.load(tmp_path / "meta.pth")


def test_a_file_that_shares_no_name_with_any_family_is_told_all_of_them() -> None:
    with pytest.raises(deeplab.CheckpointError) as raised:
        deeplab.convert({"a.b": torch.zeros(1)}, "other.pth")
    assert str(raised.value).startswith("other.pth is of no known family (torchvision, ")
    assert str(raised.value).endswith("): it has a.b")


@pytest.mark.parametrize("name", ["deeplabv3plus_mobilenetv2", "deeplabv1_vgg16"])
def test_own_names_without_a_configuration_are_told_what_to_do(tmp_path: Path, name: str) -> None:
    with torch.device("meta"):
        state = deeplab.build(name, num_classes=2).state_dict()
    state = {k: torch.zeros((), dtype=t.dtype).expand(t.shape) for k, t in state.items()}
    for held in (state, {"settings": "{}", "model": state}):
        torch.save(held, tmp_path / "last.pt")
        with pytest.raises(deeplab.CheckpointError, match=r"this package's names.*deeplab\.save"):
            deeplab.load(tmp_path / "last.pt")


def test_a_backbone_starts_from_own_names_without_a_configuration(tmp_path: Path) -> None:
    model, other = tiny(), tiny()
    torch.save({"model": model.state_dict()}, tmp_path / "last.pt")
    deeplab.load_backbone(other, tmp_path / "last.pt")
    pairs = zip(model.backbone.parameters(), other.backbone.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def _compiled_backbone(model: deeplab.DeepLab) -> deeplab.DeepLab:
    model.backbone = torch.compile(model.backbone)
    return model


@pytest.mark.parametrize(
    "wrap",
    [
        torch.compile,
        torch.nn.DataParallel,
        lambda model: torch.compile(torch.nn.DataParallel(model)),
        torch.optim.swa_utils.AveragedModel,
        _compiled_backbone,
    ],
    ids=["compiled", "DataParallel", "both", "AveragedModel", "a compiled backbone"],
)
def test_a_wrapped_network_is_saved_as_what_it_wraps(tmp_path: Path, wrap) -> None:
    model = tiny()
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    deeplab.save(wrap(model), tmp_path / "model.safetensors")
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert set(file.keys()) == set(state)
    loaded = deeplab.load(tmp_path / "model.safetensors").state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in state.items())


def test_files_of_compiled_networks_that_were_saved_with_their_prefix_load(tmp_path: Path) -> None:
    model = tiny()
    state = {f"_orig_mod.{key}": tensor for key, tensor in model.state_dict().items()}
    metadata = {"format": "deeplab 1", "config": model.config.to_json()}
    save_file(state, tmp_path / "old.safetensors", metadata=metadata)
    assert deeplab.load(tmp_path / "old.safetensors").config == model.config


def test_nothing_but_a_deeplab_is_saved(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="expected a DeepLab, found ReLU"):
        deeplab.save(torch.nn.ReLU(), tmp_path / "model.safetensors")


def test_an_own_file_whose_tensors_or_configuration_do_not_fit_is_refused(tmp_path: Path) -> None:
    model, path = tiny(), tmp_path / "model.safetensors"
    for config, message in (
        (model.config.to_json().replace('"decoder"', '"aspp"'), "do not fit"),
        (model.config.to_json().replace('"mobilenetv2"', '"resnet9"'), "no readable configuration"),
    ):
        metadata = {"format": "deeplab 1", "config": config}
        save_file(model.state_dict(), path, metadata=metadata)
        with pytest.raises(deeplab.CheckpointError, match=message):
            deeplab.load(path)


def test_an_unknown_option_is_told_the_nearest(tmp_path: Path, vainf: dict[str, Tensor]) -> None:
    torch.save(vainf, tmp_path / "file.pth")
    deeplab.save(tiny(), tmp_path / "own.safetensors")
    for name in ("file.pth", "own.safetensors"):
        with pytest.raises(TypeError, match=r"'output_strid' is no option.*output_stride\?"):
            deeplab.load(tmp_path / name, output_strid=8)
    with pytest.raises(ValueError, match="does not read fov_hidden") as raised:
        deeplab.load(tmp_path / "file.pth", fov_hidden=8)
    assert not isinstance(raised.value, deeplab.CheckpointError)


def test_tensors_under_two_names_must_be_equal() -> None:
    weights = families.Weights()
    families.jfzhang_mobilenet(weights, torch.randn(1, 3, 33, 33))
    deeplab.convert(weights.state)
    weights.state["backbone.low_level_features.0.0.weight"] = torch.zeros(32, 3, 3, 3)
    with pytest.raises(deeplab.CheckpointError, match=r"features\.0\.0\.weight repeats"):
        deeplab.convert(weights.state)


def test_files_that_are_no_checkpoints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        deeplab.load(tmp_path / "none.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(deeplab.CheckpointError, match="holds a list"):
        deeplab.load(tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "epoch.pth")
    with pytest.raises(deeplab.CheckpointError, match="holds no tensors"):
        deeplab.load(tmp_path / "epoch.pth")
    torch.save({"weight": torch.zeros(9)}, tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    for damaged in (b"", b"garbage", whole[: len(whole) // 2]):
        (tmp_path / "damaged.pth").write_bytes(damaged)
        with pytest.raises(deeplab.CheckpointError, match=r"damaged\.pth is no checkpoint"):
            deeplab.load(tmp_path / "damaged.pth")
    (tmp_path / "bad.safetensors").write_bytes(b"no")
    with pytest.raises(deeplab.CheckpointError, match="is no safetensors file"):
        deeplab.load(tmp_path / "bad.safetensors")


def test_a_backbone_of_another_kind_is_refused(tmp_path: Path, vainf: dict[str, Tensor]) -> None:
    torch.save(vainf, tmp_path / "file.pth")
    with pytest.raises(deeplab.CheckpointError, match="and the backbone vgg16 do not fit"):
        deeplab.load_backbone(deeplab.build("deeplabv1_vgg16"), tmp_path / "file.pth")


def test_the_renaming_language() -> None:
    renaming = Renaming(
        [
            ("a<n>.[x|y].b<i>", "[u|v].<n-1>.<i+1>"),
            ("a1.[x|y]", "s.[u|v]"),
            ("p.[0|1].[2|3]", "q.[a|b].[c|d]"),
        ]
    )
    assert renaming("a12.y.b3.weight") == "v.11.4.weight"
    assert renaming("a1.x.running_mean") == "s.u.running_mean"
    assert renaming("p.1.2.bias") == "q.b.c.bias"
    assert renaming("p.1.2.other") is None
    assert renaming("aXy.b.weight") is None


def transformers_network(**options: object) -> torch.nn.Module:
    """MobileNetV2 with random weights and running statistics, in evaluation mode."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.MobileNetV2Config(num_labels=5, **options)
    network = transformers.MobileNetV2ForSemanticSegmentation(config).eval()
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith(("running_mean", "normalization.bias")):
                tensor.normal_(std=0.1)
            elif name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif name.endswith("convolution.weight"):
                tensor.normal_(std=(2 / tensor[0].numel()) ** 0.5)
    return network


@pytest.mark.parametrize("size", [(36, 196), (33, 129), (1, 65)])
def test_transformers_mobilenet_computes_the_same_logits(size: tuple[int, int]) -> None:
    network = transformers_network(output_stride=8).double()
    state, config = deeplab.convert(network.state_dict())
    model = deeplab.DeepLab(config).double().eval()
    model.load_state_dict(state)
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        expected = network(pixel_values=images).logits
        scores = model.scores(images)
    spread = expected.std().item()
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-9 * spread)


@pytest.mark.parametrize(
    "options",
    [{"output_stride": 16, "layer_norm_eps": 1e-2}, {"tf_padding": False}],
    ids=["stride and eps", "defaults and padding"],
)
def test_a_config_json_beside_the_file_is_followed(
    tmp_path: Path, options: dict[str, object]
) -> None:
    network = transformers_network(**options)
    network.save_pretrained(tmp_path)
    model = deeplab.load(tmp_path / "model.safetensors")
    assert model.output_stride == options.get("output_stride", 32)
    images = torch.randn(1, 3, 64, 98)
    with torch.no_grad():
        expected = network(pixel_values=images).logits
        scores = model.scores(images)
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-4 * expected.std().item())
    assert deeplab.load(tmp_path / "model.safetensors", output_stride=8).output_stride == 8


# All arguments, as save_pretrained of segmentation_models.pytorch 0.6 writes them.
SMP_CONFIG = {
    "_model_class": "DeepLabV3Plus",
    "activation": None,
    "aux_params": None,
    "classes": 5,
    "decoder_aspp_dropout": 0.25,
    "decoder_aspp_separable": True,
    "decoder_atrous_rates": [6, 12, 18],
    "decoder_channels": 256,
    "encoder_depth": 5,
    "encoder_name": "resnet50",
    "encoder_output_stride": 8,
    "encoder_weights": None,
    "in_channels": 3,
    "upsampling": 4,
}


def test_smps_config_json_is_followed(tmp_path: Path) -> None:
    weights, images = families.Weights(), torch.randn(1, 3, 16, 192)
    expected = families.smp_v3plus(weights, images, output_stride=8, rates=(6, 12, 18))
    save_file(weights.state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(SMP_CONFIG))
    model = deeplab.load(tmp_path)  # the folder, as its from_pretrained takes it
    assert (model.output_stride, model.config.rates) == (8, (6, 12, 18))
    assert model.config.dropout == 0.25
    with torch.no_grad():
        scores = model(images)
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-4 * expected.std().item())
    assert deeplab.load(tmp_path, output_stride=16).output_stride == 16


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("DeepLabV3Plus", {"encoder_output_stride": 8, "decoder_atrous_rates": (6, 12, 18)}),
        ("DeepLabV3Plus", {"decoder_channels": 128, "upsampling": 1}),
        ("DeepLabV3Plus", {"aux_params": {"classes": 3}}),
        ("DeepLabV3", {"encoder_output_stride": 16, "decoder_atrous_rates": (3, 6, 9)}),
    ],
    ids=["stride and rates", "channels and no enlarging", "classification head", "v3"],
)
def test_networks_of_smp_itself_compute_the_same(
    tmp_path: Path, model: str, options: dict[str, object]
) -> None:
    smp = pytest.importorskip("segmentation_models_pytorch", reason="smp is not installed")
    network = getattr(smp, model)("resnet50", encoder_weights=None, classes=5, **options).eval()
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_mean"):
                tensor.normal_(std=0.1)
            elif name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif tensor.dim() == 4:
                tensor.normal_(std=(2 / tensor[0].numel()) ** 0.5)
    network.save_pretrained(tmp_path)
    ours, images = deeplab.load(tmp_path), torch.randn(1, 3, 32, 320)
    with torch.no_grad():
        expected = network(images)
        scores = (ours.scores if options.get("upsampling") == 1 else ours)(images)
    expected = expected[0] if isinstance(expected, tuple) else expected
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-4 * expected.std().item())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("encoder_name", "resnet34"),
        ("encoder_depth", 4),
        ("in_channels", 4),
        ("decoder_aspp_separable", False),
    ],
)
def test_what_smps_config_json_asks_for_beyond_the_supported_is_named(
    tmp_path: Path, key: str, value: object
) -> None:
    torch.save({"decoder.aspp.0.convs.0.0.weight": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps({**SMP_CONFIG, key: value}))
    with pytest.raises(deeplab.CheckpointError, match=f"expected {key} .*, found {value!r}"):
        deeplab.load(tmp_path)


def test_a_config_json_of_wrong_values_is_the_files_fault(tmp_path: Path) -> None:
    torch.save(key_list("smp_deeplabv3plus_resnet101"), tmp_path / "pytorch_model.bin")
    for change in ({"encoder_output_stride": 7}, {"decoder_atrous_rates": "6,12,18"}):
        (tmp_path / "config.json").write_text(json.dumps({**SMP_CONFIG, **change}))
        with pytest.raises(deeplab.CheckpointError, match="is no network: expected"):
            deeplab.load(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors or pytorch_model\.bin in"):
        deeplab.load(tmp_path)


@pytest.mark.parametrize("text", ['{"hidden_act": "gelu"}', "{", "[1]"])
def test_a_config_json_that_does_not_fit_is_refused(tmp_path: Path, text: str) -> None:
    weights = families.Weights()
    families.hugging_face_mobilenet(weights, torch.randn(1, 3, 8, 8))
    save_file(weights.state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(
        deeplab.CheckpointError, match=r"config\.json is no configuration of Hug.* supported"
    ):
        deeplab.load(tmp_path / "model.safetensors")


@pytest.mark.parametrize(("stride", "smallest"), [(8, 103), (16, 71), (32, 7)])
def test_vainfs_xception_names_the_smallest_image_it_takes(stride: int, smallest: int) -> None:
    with torch.device("meta"):
        model = deeplab.build(
            "deeplabv3plus_xception", variant="vainf", output_stride=stride
        ).eval()
    assert model.backbone.smallest == smallest
    assert model(torch.empty(1, 3, smallest, smallest, device="meta")).shape[2:] == (smallest,) * 2
    # One pixel less and nothing is left of the map.
    with pytest.raises(RuntimeError):
        model.backbone(torch.empty(1, 3, smallest - 1, 200, device="meta"))
    with pytest.raises(ValueError, match=f"{smallest}×{smallest} pixels or more"):
        model(torch.empty(1, 3, smallest - 1, 200, device="meta"))
