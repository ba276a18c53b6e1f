"""Prediction of files: what is written, what fails, and what travels to the device and back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from deeplab_networks import Brightness, picture, tiny_network
from device_copies import DEVICE, DeviceCopies, on_device
from PIL import Image
from test_no_reading import RefuseReading
from torch import Tensor, nn

import deeplab
from deeplab.labelling import Labelling
from deeplab.prediction import Job, Predictor, draw_overlay, plan, run
from deeplab.segmenter import CRF, Segmenter
from densecrf_gpu import CRFParams, checks, inputs, kernels
from densecrf_gpu.backends import CUDA_BUILT
from densecrf_gpu.cli.errors import FileError

LABELLING = Labelling(("dark", "bright"), ((10, 20, 30), (200, 100, 0)))


def write_pictures(folder: Path, count: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{index}.png" for index in range(count)]
    for index, path in enumerate(paths):
        Image.fromarray(picture(20 + index, 30, seed=index)[0].permute(1, 2, 0).numpy()).save(path)
    return paths


def test_masks_overlays_and_probabilities_are_those_of_the_segmenter(tmp_path: Path) -> None:
    paths = write_pictures(tmp_path / "in", 7)
    jobs = plan(paths, tmp_path / "out", overlay=True, probabilities=True)
    segmenter = Segmenter(Brightness())
    predictor = Predictor(segmenter, LABELLING, overlay=True, probabilities=True)
    outcomes = list(run(jobs, predictor, LABELLING))
    assert [job for job, _ in outcomes] == jobs
    assert all(error is None for _, error in outcomes)
    for index, job in enumerate(jobs):
        images = picture(20 + index, 30, seed=index)
        labels = segmenter.labels(images)[0]
        assert job.mask is not None
        assert job.overlay is not None
        assert job.probabilities is not None
        with Image.open(job.mask) as mask:
            assert mask.mode == "P"
            assert mask.getpalette("RGB")[:6] == [10, 20, 30, 200, 100, 0]  # type: ignore[index]
            np.testing.assert_array_equal(np.array(mask), labels.numpy())
        with Image.open(job.overlay) as overlay:
            expected = draw_overlay(images[0], labels, LABELLING.colors())
            np.testing.assert_array_equal(np.array(overlay), expected.numpy())
        stored = torch.from_numpy(np.load(job.probabilities))
        assert torch.equal(stored, segmenter.probabilities(images)[0].half())


def test_a_failed_picture_does_not_stop_the_others(tmp_path: Path) -> None:
    paths = write_pictures(tmp_path / "in", 3)
    paths[1].write_text("no picture")
    missing = tmp_path / "in" / "missing.png"
    jobs = plan([*paths, missing], tmp_path / "out", overlay=False, probabilities=False)
    outcomes = dict(run(jobs, Predictor(Segmenter(Brightness()), LABELLING), LABELLING))
    assert [outcomes[job] is None for job in jobs] == [True, False, True, False]
    assert "not an image" in str(outcomes[jobs[1]])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.png", "2.png"]


def test_a_result_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (path,) = write_pictures(tmp_path / "in", 1)
    (tmp_path / "out").write_text("a file, no folder")
    jobs = plan([path], tmp_path / "out", overlay=False, probabilities=False)
    ((_, error),) = run(jobs, Predictor(Segmenter(Brightness()), LABELLING), LABELLING)
    assert isinstance(error, FileError)


def test_an_overlay_tints_and_draws_lines_between_classes() -> None:
    image = torch.full((3, 2, 4), 100, dtype=torch.uint8)
    labels = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1]])
    overlay = draw_overlay(image, labels, LABELLING.colors())
    assert overlay[0, 0].tolist() == [55, 60, 65]
    assert overlay[0, 1].tolist() == [255, 255, 255]
    assert overlay[1, 3].tolist() == [150, 100, 50]


def test_results_that_would_overwrite_each_other_are_refused(tmp_path: Path) -> None:
    paths = [tmp_path / "a" / "x.jpg", tmp_path / "b" / "x.jpg"]
    with pytest.raises(FileError, match=r"x\.png would overwrite"):
        plan(paths, tmp_path / "out", overlay=False, probabilities=False)


def test_results_that_would_overwrite_a_picture_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"x\.png would overwrite"):
        plan([tmp_path / "x.png"], tmp_path, overlay=False, probabilities=False)


def test_more_than_256_classes_are_stored_with_16_bits(tmp_path: Path) -> None:
    class Many(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            scores = torch.zeros(1, 300, *images.shape[2:])
            scores[:, 299] = 1
            return scores

    (path,) = write_pictures(tmp_path / "in", 1)
    labelling = Labelling.numbered(300)
    jobs = plan([path], tmp_path / "out", overlay=False, probabilities=False)
    ((job, error),) = run(jobs, Predictor(Segmenter(Many()), labelling), labelling)
    assert error is None
    assert isinstance(job, Job)
    with Image.open(tmp_path / "out" / "0.png") as mask:
        assert (np.array(mask) == 299).all()


@pytest.mark.parametrize(
    "segmenter",
    [
        pytest.param({}, id="one pass"),
        pytest.param({"scales": (0.5, 1.0), "flip": True}, id="scales and flip"),
        pytest.param({"window": (40, 30)}, id="windows"),
    ],
)
def test_the_picture_goes_to_the_device_once_and_each_result_comes_back_once(
    segmenter: dict[str, object],
) -> None:
    network = on_device(tiny_network())
    predictor = Predictor(
        Segmenter(network, **segmenter),  # type: ignore[arg-type]
        Labelling.numbered(3),
        device=DEVICE,
        overlay=True,
        probabilities=True,
    )
    with DeviceCopies() as copies:
        predictor(picture(50, 60)[0])
    assert copies.to_device == [(3, 50, 60)]
    assert copies.to_host == [(50, 60), (50, 60, 3), (3, 50, 60)]


def test_labels_alone_are_one_copy_back() -> None:
    predictor = Predictor(
        Segmenter(on_device(tiny_network())), Labelling.numbered(3), device=DEVICE
    )
    with DeviceCopies() as copies:
        predictor(picture(33, 47)[0])
    assert (copies.to_device, copies.to_host) == ([(3, 33, 47)], [(33, 47)])


def test_a_hidden_way_to_the_host_would_be_seen() -> None:
    class Leaking(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.cpu().to(images.device)

    predictor = Predictor(Segmenter(Leaking()), Labelling.numbered(3), device=DEVICE)
    with DeviceCopies() as copies:
        predictor(picture(5, 6)[0])
    assert copies.to_host == [(1, 3, 5, 6), (5, 6)]


def test_the_crf_is_given_scores_and_picture_on_the_device() -> None:
    @dataclass(frozen=True, kw_only=True)
    class OnDevice(CRF):
        def __call__(self, scores: Tensor, images: Tensor, output: str = "labels") -> Tensor:
            assert scores.device == images.device == DEVICE
            return scores.argmax(1)

    crf = OnDevice(params=CRFParams.pydensecrf())
    network = on_device(tiny_network())
    predictor = Predictor(Segmenter(network), Labelling.numbered(3), crf=crf, device=DEVICE)
    with DeviceCopies() as copies:
        predictor(picture(33, 47)[0])
    assert (copies.to_device, copies.to_host) == ([(3, 33, 47)], [(33, 47)])


@pytest.mark.parametrize("probabilities", [False, True])
def test_nothing_between_picture_and_labels_is_read_by_the_host(
    probabilities: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Network, scales, windows, CRF and drawing, told that values are not at hand, as on CUDA."""
    for module in (checks, inputs, kernels):
        monkeypatch.setattr(module, "values_at_hand", lambda tensor: False)
    predictor = Predictor(
        Segmenter(tiny_network(), scales=(0.5, 1.0), flip=True, window=(40, 30)),
        Labelling.numbered(3),
        crf=CRF(params=CRFParams.pydensecrf()),
        overlay=True,
        probabilities=probabilities,
    )
    with RefuseReading():
        found = predictor(picture(50, 60)[0])
    assert found.labels.shape == (50, 60)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("refined", [False, True])
def test_a_gpu_copies_the_picture_there_and_the_labels_back(refined: bool) -> None:
    if refined and not CUDA_BUILT:
        pytest.skip("densecrf_gpu was built without CUDA")
    crf = CRF(params=CRFParams.pydensecrf()) if refined else None
    network = Segmenter(tiny_network().cuda())
    predictor = Predictor(network, Labelling.numbered(3), crf=crf, device="cuda")
    image = picture(64, 64)[0]
    predictor(image)
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        predictor(image)
    names = [event.name for event in profile.events() or []]
    assert sum("Memcpy DtoH" in name for name in names) == 1
    # The CRF's weights are numbers of the host's.
    assert sum("Memcpy HtoD" in name for name in names) <= (4 if refined else 1)


def test_labels_follow_the_crf(tmp_path: Path) -> None:
    images = picture(30, 40)
    segmenter = Segmenter(Brightness())
    crf = CRF(params=CRFParams.deeplab_v2_vgg())
    predictor = Predictor(segmenter, LABELLING, crf=crf, probabilities=True)
    found = predictor(images[0])
    refined = crf(segmenter.scores(images), images, "probabilities")[0]
    assert found.probabilities is not None
    assert torch.equal(found.probabilities, refined.half())
    assert torch.equal(found.labels.long(), refined.argmax(0))
    assert (found.labels != segmenter.labels(images)[0]).any()


def test_a_deeplab_labels_a_picture_end_to_end(tmp_path: Path) -> None:
    (path,) = write_pictures(tmp_path / "in", 1)
    labelling = Labelling.numbered(3)
    network = deeplab.build("deeplabv3_mobilenetv2", num_classes=3, aspp_channels=8)
    jobs = plan([path], tmp_path / "out", overlay=False, probabilities=False)
    ((_, error),) = run(jobs, Predictor(Segmenter(network), labelling), labelling)
    assert error is None
