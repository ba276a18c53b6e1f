"""The ``deeplab`` command, end to end in a folder of its own."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from deeplab_networks import picture, tiny_network
from PIL import Image

import deeplab
from deeplab.cli import main
from deeplab.cli.options import Shard
from deeplab.data import open_dataset
from deeplab.labelling import Labelling
from densecrf_gpu import CRFParams

ROOT = Path(__file__).resolve().parents[2]
LABELLING = Labelling(
    ("road", "sky", "car"), ((128, 64, 128), (70, 130, 180), (0, 0, 142)), CRFParams.deeplab_v1()
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set of four pictures, weights, and the working folder."""
    for part in ("data/images/val", "data/labels/val"):
        (tmp_path / part).mkdir(parents=True)
    g = torch.Generator().manual_seed(0)
    for index in range(4):
        pixels = picture(30 + index, 40, seed=index)[0].permute(1, 2, 0).numpy()
        labels = torch.randint(3, (30 + index, 40), generator=g).to(torch.uint8).numpy()
        labels[10:12] = 255
        Image.fromarray(pixels).save(tmp_path / f"data/images/val/{index}.png")
        Image.fromarray(labels).save(tmp_path / f"data/labels/val/{index}.png")
    (tmp_path / "data" / "classes.txt").write_text("road\nsky\ncar\n")
    deeplab.save(tiny_network(), tmp_path / "tiny.safetensors")
    LABELLING.write(tmp_path / "tiny.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(line: str) -> int:
    return main(shlex.split(line))


DATA = "--data folder --root data --weights tiny.safetensors"


@pytest.mark.usefixtures("folder")
def test_eval_prints_and_writes_what_the_library_finds(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(f"eval {DATA} --crf --trimap 1-3,8 --json new/scores.json --plot trimap.png") == 0
    model = deeplab.load("tiny.safetensors")
    dataset = open_dataset("folder", "data", "val")
    expected = deeplab.evaluate(
        deeplab.Segmenter(model),
        dataset,
        3,
        crf=deeplab.CRF(params=CRFParams.deeplab_v1()),
        widths=(1, 2, 3, 8),
    )
    report = json.loads(Path("new/scores.json").read_text())
    assert expected.crf is not None
    assert report["network"]["mean_iou"] == expected.network.scores.mean_iou
    assert report["crf"]["mean_iou"] == expected.crf.scores.mean_iou
    assert report["crf"]["trimap_mean_iou"]["8"] == expected.crf.trimap[3].mean_iou
    assert report["settings"]["crf"]["bilateral_sxy"] == CRFParams.deeplab_v1().bilateral_sxy
    assert report["settings"]["weights"] == "tiny.safetensors"
    assert Path("trimap.png").stat().st_size > 0
    printed = capsys.readouterr().out
    for name in LABELLING.classes:
        assert re.search(rf"^{name} +[\d.]+ +[\d.]+", printed, re.M)


def test_bands_around_void_that_is_not_there_are_said(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (folder / "data" / "labels" / "val").iterdir():
        with Image.open(path) as mask:
            Image.fromarray(np.array(mask) % 3).save(path)
    assert run(f"eval {DATA} --trimap 2") == 0
    assert "--outline labels takes where they change" in capsys.readouterr().err
    assert run(f"eval {DATA} --trimap 2 --outline labels") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("folder")
def test_eval_looks_at_pictures_as_it_is_told() -> None:
    options = "--output-stride 8 --scales 0.5,1 --flip --window 24x20 --dtype bfloat16 --limit 2"
    assert run(f"eval {DATA} {options} --json scores.json") == 0
    settings = json.loads(Path("scores.json").read_text())["settings"]
    assert settings["output_stride"] == 8
    assert settings["scales"] == [0.5, 1.0]
    assert settings["window"] == [20, 24]
    assert settings["limit"] == 2
    assert "crf" not in settings


def test_predict_writes_masks_in_the_colours_of_the_classes(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--weights tiny.safetensors --crf --overlay --probabilities -o out"
    assert run(f"predict data/images/val {options}") == 0
    assert len(list((folder / "out").iterdir())) == 12
    model = deeplab.load("tiny.safetensors")
    images = picture(31, 40, seed=1)
    crf = deeplab.CRF(params=CRFParams.deeplab_v1())
    labels = deeplab.Segmenter(model).labels(images, crf)[0]
    with Image.open("out/1.png") as mask:
        assert mask.getpalette("RGB")[:9] == LABELLING.flat_palette()  # type: ignore[index]
        np.testing.assert_array_equal(np.array(mask), labels.numpy())
    assert np.load("out/1_probabilities.npy").shape == (3, 31, 40)
    assert "data/images/val/1.png -> out/1.png" in capsys.readouterr().out


@pytest.mark.usefixtures("folder")
def test_predict_goes_on_behind_a_broken_picture(capsys: pytest.CaptureFixture[str]) -> None:
    Path("data/images/val/broken.png").write_bytes(b"no picture")
    assert run("predict data/images/val --weights tiny.safetensors -o out -q") == 1
    assert len(list(Path("out").iterdir())) == 4
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "data/images/val/broken.png: not an image" in captured.err
    assert "1 of 5 pictures failed" in captured.err


@pytest.mark.usefixtures("folder")
def test_pictures_that_a_camera_turned_are_said_and_may_be_turned(
    capsys: pytest.CaptureFixture[str],
) -> None:
    photo = Image.new("RGB", (40, 24))
    exif = photo.getexif()
    exif[0x0112] = 6
    photo.save("data/images/val/phone.jpg", exif=exif)
    command = "predict data/images/val --weights tiny.safetensors -o out"
    assert run(command) == 0
    assert "1 of 5 pictures were labelled as stored" in capsys.readouterr().err
    with Image.open("out/phone.png") as mask:
        assert mask.size == (40, 24)
    assert run(f"{command} --upright") == 0
    assert capsys.readouterr().err == ""
    with Image.open("out/phone.png") as mask:
        assert mask.size == (24, 40)


@pytest.mark.slow
def test_torchrun_labels_every_picture_though_one_process_fails_early(folder: Path) -> None:
    """torchrun ends the others as soon as one process leaves with an error."""
    pictures = folder / "many names"
    pictures.mkdir()
    (pictures / "0 broken.png").write_bytes(b"no picture")
    Image.new("RGB", (400, 400)).save(pictures / "1 größe.png")
    Image.new("RGB", (400, 400)).save(pictures / "3 [日本].png")
    Image.new("RGB", (400, 400)).save(pictures / "5.png")
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    line = ["-m", "deeplab", "predict", str(pictures), "--weights", "tiny.safetensors"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    # Process 0 has the broken picture and one that is good, process 1 more than enough to do.
    done = subprocess.run(
        [*program, *line, "-o", "out", "--flip", "--scales", "paper"],
        cwd=folder, env=env, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode != 0
    names = sorted(path.name for path in (folder / "out").iterdir())
    assert names == ["1 größe.png", "3 [日本].png", "5.png"]
    assert "0 broken.png: not an image" in done.stderr
    assert "1 of 4 pictures failed" in done.stderr


@pytest.mark.usefixtures("folder")
def test_a_fault_in_a_reading_process_is_told_in_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("data/images/val/2.png").write_bytes(b"no picture")
    for workers in (0, 1):
        assert run(f"eval {DATA} --workers {workers}") == 1
        said = "deeplab eval: data/images/val/2.png: not an image, or of an unknown format\n"
        assert capsys.readouterr().err == said


@pytest.mark.usefixtures("folder")
def test_predict_shows_a_bar_where_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("predict data/images/val --weights tiny.safetensors -o out --progress") == 0
    assert "4/4" in capsys.readouterr().err


@pytest.mark.usefixtures("folder")
def test_each_process_of_torchrun_predicts_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert Shard.from_environment() == Shard(rank=1, size=2, local_rank=1)
    assert run("predict data/images/val --weights tiny.safetensors -o out") == 0
    assert sorted(path.name for path in Path("out").iterdir()) == ["1.png", "3.png"]


@pytest.mark.usefixtures("folder")
def test_parameters_that_were_searched_are_taken_by_eval(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tune = f"tune-crf {DATA} --limit 2 --rounds 0 --iterations 2 --journal trials.jsonl -o crf.json"
    assert run(f"{tune} --grid deeplab_v1") == 0
    found = CRFParams.load("crf.json")
    assert "288 parameters tried on 2 pictures" in capsys.readouterr().out
    assert run(f"eval {DATA} --crf-params crf.json --json scores.json") == 0
    used = json.loads(Path("scores.json").read_text())["settings"]["crf"]
    assert used["bilateral_sxy"] == found.bilateral_sxy
    trials = len(Path("trials.jsonl").read_text().splitlines())
    assert run(f"{tune} --grid deeplab_v1") == 0
    assert len(Path("trials.jsonl").read_text().splitlines()) == trials


@pytest.mark.usefixtures("folder")
def test_the_values_of_the_search_may_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    values = "--weights-tried 1,2 --sxy 20 --srgb 4.5"
    assert run(f"tune-crf {DATA} --limit 1 --rounds 0 --iterations 1 {values} -o crf.json") == 0
    assert "3 parameters tried on 1 pictures" in capsys.readouterr().out  # and those of the start


@pytest.mark.slow
def test_two_processes_find_what_one_finds(folder: Path) -> None:
    assert run(f"eval {DATA} --crf --trimap 2 --json one.json") == 0
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    line = f"-m deeplab eval {DATA} --crf --trimap 2 --json two.json --threads 1"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*program, *shlex.split(line)], cwd=folder, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("mean class accuracy") == 1
    one, two = (json.loads(Path(name).read_text()) for name in ("one.json", "two.json"))
    for report in (one, two):
        for part in ("network", "crf"):
            del report[part]["seconds_per_image"]
    assert one == two


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("eval --data nothing --root data --weights tiny.safetensors", "among"),
        (f"eval {DATA} --split test", "no split 'test'"),
        (f"eval {DATA} --output-stride 7", "output"),
        (f"eval {DATA} --crf-params nothing", "expected auto, pydensecrf"),
        (f"eval {DATA} --plot x.png", "--plot draws trimap scores"),
        (f"eval {DATA} --device nothing", "--device nothing"),
        (f"eval {DATA} --device meta", "--device meta: expected cpu or cuda"),
        (f"eval {DATA.replace('folder', 'camvid')} --ignore 3", "--ignore is for --data folder"),
        ("predict none*.png --weights tiny.safetensors -o out", "no images in none"),
        ("predict a/x.png b/x.png --weights tiny.safetensors -o out", "would overwrite"),
        (f"eval {DATA} --trimap 2 --plot x.xyz", "--plot x.xyz: expected a suffix among"),
        (f"eval {DATA} --json tiny.json/x.json", "--json tiny.json/x.json: tiny.json cannot be"),
        (f"eval {DATA} --json data", "--json data: expected a file, found a folder"),
        ("predict data/images/val --weights tiny.safetensors -o tiny.json", "cannot be a folder"),
        (f"tune-crf {DATA} -o tiny.json/crf.json", "tiny.json cannot be a folder"),
        (f"tune-crf {DATA} -o crf.txt", "expected -o of a .json file, found crf.txt"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_a_wrong_command_line_is_told_in_one_line(
    line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(line) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.startswith(f"deeplab {line.split()[0]}: ")
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize(
    "options",
    [
        "--scales 0",
        "--scales x",
        "--scales 0.001",
        "--ignore x",
        "--ignore 256",
        "--window 513",
        "--window 0x5",
        "--trimap 0-3",
        "--trimap x",
    ],
)
@pytest.mark.usefixtures("folder")
def test_a_wrong_number_is_told_in_one_line(
    options: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(f"eval {DATA} {options}")
    assert caught.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.usefixtures("folder")
def test_weights_that_are_none_fail_with_their_name(capsys: pytest.CaptureFixture[str]) -> None:
    Path("broken.safetensors").write_bytes(b"nothing")
    assert run("predict data/images/val --weights broken.safetensors -o out") == 1
    assert run("predict data/images/val --weights missing.safetensors -o out") == 1
    printed = capsys.readouterr().err.splitlines()
    assert ["broken.safetensors" in printed[0], "missing.safetensors" in printed[1]] == [True, True]


@pytest.mark.usefixtures("folder")
def test_classes_that_do_not_fit_the_network_are_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("data/classes.txt").write_text("road\nsky\n")
    assert run(f"eval {DATA}") == 2
    assert "2 classes, the network of tiny.safetensors 3" in capsys.readouterr().err
    Labelling.numbered(4).write(Path("tiny.json"))
    assert run(f"eval {DATA}") == 1
    assert "tiny.json names 4 classes, the network has 3" in capsys.readouterr().err


@pytest.mark.usefixtures("folder")
def test_a_label_that_is_no_class_fails_with_its_file(capsys: pytest.CaptureFixture[str]) -> None:
    Image.fromarray(np.full((32, 40), 9, np.uint8)).save("data/labels/val/2.png")
    assert run(f"eval {DATA}") == 1
    assert "2.png" in capsys.readouterr().err


def test_models_are_listed_with_the_papers_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("models") == 0
    printed = capsys.readouterr().out
    assert re.search(r"^deeplabv1_vgg16 +8 +20\.51 M$", printed, re.M)
    assert re.search(r"^deeplabv2_resnet101 +8 +44\.05 M$", printed, re.M)
    assert set(deeplab.MODELS) <= set(printed.split())


def test_multiply_adds_are_the_papers(capsys: pytest.CaptureFixture[str]) -> None:
    # v3+, table 5: 54.2 B with separable convolutions.
    assert run("models deeplabv3plus_xception65 --size 513x513 --output-stride 16") == 0
    found = re.search(r"([\d.]+) G$", capsys.readouterr().out, re.M)
    assert found is not None
    assert float(found[1]) == pytest.approx(54.2, rel=0.005)


@pytest.mark.usefixtures("folder")
def test_a_network_is_timed(capsys: pytest.CaptureFixture[str]) -> None:
    line = "models deeplabv3plus_mobilenetv2 --size 33x17"
    assert run(f"{line} --time --threads 1") == 0
    assert re.search(r"deeplabv3plus_mobilenetv2 .* ms$", capsys.readouterr().out, re.M)
    assert run("models --time") == 2


def test_a_labelling_survives_its_file(tmp_path: Path) -> None:
    for labelling in (LABELLING, Labelling.numbered(4)):
        labelling.write(tmp_path / "x.json")
        assert Labelling.read(tmp_path / "x.json") == labelling
    (tmp_path / "x.json").write_text('{"classes": ["a"]}')
    with pytest.raises(ValueError, match=r"x\.json does not say classes and palette"):
        Labelling.read(tmp_path / "x.json")
    with pytest.raises(ValueError, match="found 1 classes and 0 colours"):
        Labelling(("a",), ())
