"""The demonstration: its hand-drawn mask, its scenario, its picture."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from densecrf_gpu import CRFParams, crf_refine
from densecrf_gpu.cli import main
from densecrf_gpu.demo import PRESET
from densecrf_gpu.demo.figure import colorize
from densecrf_gpu.demo.scene import CLASSES, coarse_logits, intersection_over_union, load_scene

SAMPLES = 8  # a side of a pixel, with which the polygons are rasterised


def test_the_mask_is_the_drawn_polygons() -> None:
    drawing = json.loads((files("densecrf_gpu") / "data/astronaut_polygons.json").read_text())
    width, height = drawing["size"]
    canvas = Image.new("L", (width * SAMPLES, height * SAMPLES))
    pen = ImageDraw.Draw(canvas)
    for polygon in drawing["polygons"]:
        # Pillow counts from the centre of the first pixel, the file from its corner.
        points = [(x * SAMPLES - 0.5, y * SAMPLES - 0.5) for x, y in polygon["points"]]
        pen.polygon(points, fill=drawing["classes"].index(polygon["class"]))
    samples = np.array(canvas).reshape(height, SAMPLES, width, SAMPLES)
    shares = [(samples == label).mean(axis=(1, 3)) for label in range(len(CLASSES))]
    drawn = np.argmax(shares, axis=0)
    # Pillow's releases differ in a sample or two on an edge.
    assert (drawn != load_scene().labels).mean() < 1e-4


def test_the_polygons_follow_the_outlines_closely() -> None:
    drawing = json.loads((files("densecrf_gpu") / "data/astronaut_polygons.json").read_text())
    vertices = sum(len(polygon["points"]) for polygon in drawing["polygons"])
    assert vertices == 357
    assert tuple(drawing["classes"]) == CLASSES


def test_the_coarse_logits_repeat() -> None:
    labels = load_scene().labels
    first, again = coarse_logits(labels), coarse_logits(labels)
    np.testing.assert_array_equal(first, again)
    assert first.shape == (5, 32, 32)
    assert (coarse_logits(labels, seed=1) != first).any()


def test_without_noise_a_pure_cell_is_sure_of_its_class() -> None:
    labels = load_scene().labels
    logits = coarse_logits(labels, noise=0)
    assert logits.max() == 6
    assert logits.min() == 0
    np.testing.assert_allclose(logits.sum(axis=0), 6, rtol=1e-6)


def test_intersection_over_union_counts_pixels() -> None:
    truth = np.array([[0, 1, 2, 3, 4, 4]])
    guess = np.array([[0, 1, 2, 3, 4, 0]])
    np.testing.assert_allclose(intersection_over_union(guess, truth), [1 / 2, 1, 1, 1, 1 / 2])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_refinement_raises_every_score_whatever_the_seed(seed: int) -> None:
    scene = load_scene()
    logits = coarse_logits(scene.labels, seed=seed)
    params = CRFParams.presets()[PRESET]
    coarse, refined = (
        crf_refine(logits, scene.image, params, iterations=iterations, output="labels")
        for iterations in (0, 10)
    )
    before = intersection_over_union(coarse, scene.labels)
    after = intersection_over_union(refined, scene.labels)
    assert (after > before).all()
    assert after.mean() > before.mean() + 0.08
    assert after.mean() > 0.93


def test_colorize_tints_classes_and_fades_the_background() -> None:
    image = np.full((2, 4, 3), 128, np.uint8)
    labels = np.array([[0, 0, 1, 1], [0, 0, 1, 1]])
    colors = np.array([[0, 0, 0], [255, 0, 0]], np.uint8)
    shown = colorize(image, labels, colors)
    assert shown[0, 0].min() > 200  # light grey
    assert (shown[0, 1] == 255).all()  # the line
    assert shown[0, 3, 0] > 2 * shown[0, 3, 1]  # red


def test_the_command_draws_a_picture_and_prints_the_scores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "-o", str(tmp_path / "new" / "demo.png")]) == 0
    with Image.open(tmp_path / "new" / "demo.png") as picture:
        assert picture.size == (1352, 436)
    output = capsys.readouterr().out
    for word in ("device", "threads", "time", "coarse", "refined", "mean", *CLASSES):
        assert word in output
