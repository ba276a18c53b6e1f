"""Evaluation over a data set equals a computation by hand; reports say what was found."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch
from deeplab_networks import Brightness, picture, tiny_network
from PIL import Image
from torch import Tensor, nn

from deeplab.evaluation import Evaluation, evaluate
from deeplab.reporting import as_json, plot_trimap, table, write_json
from deeplab.segmenter import CRF, Segmenter
from deeplab.tuning import CachedScores, spread
from densecrf_gpu import CRFParams
from densecrf_gpu.fit import evaluate_crf

CRF_USED = CRF(params=CRFParams.deeplab_v2_vgg())


class Pictures:
    """Three pictures of different sizes, their labels partly void."""

    ignore_index = 255

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, str]:
        image = picture(24 + 5 * index, 30 - index, seed=index)[0]
        labels = (image.float().mean(0) + 20 * torch.randn(image.shape[1:]) > 128).long()
        labels[:3] = 255
        return image, labels, str(index)


class Stored(list[tuple[Tensor, Tensor, str]]):
    """The same each time they are looked at."""

    ignore_index = 255


@pytest.fixture
def pictures() -> Stored:
    source = Pictures()
    return Stored(source[index] for index in range(len(source)))


def iou_by_hand(predictions: list[Tensor], labels: list[Tensor], classes: int) -> list[float]:
    found = torch.cat([p.flatten() for p in predictions])
    truth = torch.cat([t.flatten() for t in labels])
    found, truth = found[truth != 255], truth[truth != 255]
    result = []
    for c in range(classes):
        either = ((found == c) | (truth == c)).sum().item()
        both = ((found == c) & (truth == c)).sum().item()
        result.append(both / either if either else math.nan)
    return result


def test_scores_with_and_without_crf_are_those_of_counting_by_hand(pictures: Stored) -> None:
    segmenter = Segmenter(Brightness())
    found = evaluate(segmenter, pictures, 2, crf=CRF_USED)
    labels = [label for _, label, _ in pictures]
    alone = [segmenter.labels(image[None])[0] for image, _, _ in pictures]
    refined = [segmenter.labels(image[None], CRF_USED)[0] for image, _, _ in pictures]
    assert found.crf is not None
    assert found.images == 3
    assert found.network.scores.iou.tolist() == pytest.approx(iou_by_hand(alone, labels, 2))
    assert found.crf.scores.iou.tolist() == pytest.approx(iou_by_hand(refined, labels, 2))
    assert found.network.scores.pixels == sum(int((t != 255).sum()) for t in labels)


def test_a_tiny_deeplab_is_scored_as_by_hand(pictures: Stored) -> None:
    segmenter = Segmenter(tiny_network(), scales=(0.5, 1.0), flip=True)
    found = evaluate(segmenter, pictures, 3)
    alone = [segmenter.labels(image[None])[0] for image, _, _ in pictures]
    expected = iou_by_hand(alone, [label for _, label, _ in pictures], 3)
    assert found.network.scores.iou.tolist() == pytest.approx(expected, nan_ok=True)
    assert found.crf is None


def test_the_network_runs_once_a_picture(pictures: Stored) -> None:
    calls = []

    class Counting(Brightness):
        def forward(self, images: Tensor) -> Tensor:
            calls.append(1)
            return super().forward(images)

    evaluate(Segmenter(Counting()), pictures, 2, crf=CRF_USED)
    assert len(calls) == 3


def test_labels_are_compared_at_their_own_size(pictures: Stored) -> None:
    class Coarse(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return Brightness()(images)[:, :, ::8, ::8]

    segmenter = Segmenter(Coarse())
    found = evaluate(segmenter, pictures, 2)
    alone = [segmenter.labels(image[None])[0] for image, _, _ in pictures]
    expected = iou_by_hand(alone, [label for _, label, _ in pictures], 2)
    assert found.network.scores.iou.tolist() == pytest.approx(expected)


def test_another_number_of_classes_is_refused(pictures: Stored) -> None:
    with pytest.raises(ValueError, match="expected scores of 3 classes, found 2 for 0"):
        evaluate(Segmenter(Brightness()), pictures, 3)


@pytest.fixture
def evaluation(pictures: Stored) -> Evaluation:
    segmenter = Segmenter(Brightness())
    return evaluate(segmenter, pictures, 2, crf=CRF_USED, widths=(1, 4), outline="labels")


def test_the_table_has_every_score_and_the_gain(evaluation: Evaluation) -> None:
    text = table(evaluation, ["dark", "bright"])
    assert evaluation.crf is not None
    before = 100 * evaluation.network.scores.mean_iou
    after = 100 * evaluation.crf.scores.mean_iou
    assert f"{before:>10.2f}{after:>10.2f}{after - before:>+10.2f}" in text
    for word in ("dark", "bright", "pixel accuracy", "mean IoU within 4 px", "3 pictures"):
        assert word in text


def test_the_json_has_every_score(evaluation: Evaluation, tmp_path: Path) -> None:
    write_json(
        tmp_path / "new" / "scores.json", as_json(evaluation, ["dark", "bright"], {"flip": True})
    )
    report = json.loads((tmp_path / "new" / "scores.json").read_text())
    assert report["settings"] == {"flip": True}
    assert report["network"]["mean_iou"] == evaluation.network.scores.mean_iou
    assert list(report["crf"]["iou"]) == ["dark", "bright"]
    assert list(report["crf"]["trimap_mean_iou"]) == ["1", "4"]


def test_a_class_that_occurs_nowhere_has_no_number(pictures: Stored) -> None:
    class Third(Brightness):
        def forward(self, images: Tensor) -> Tensor:
            return torch.cat([super().forward(images), -9 * torch.ones_like(images[:, :1])], 1)

    found = evaluate(Segmenter(Third()), pictures, 3)
    assert as_json(found, ["a", "b", "c"], {})["network"]["iou"]["c"] is None
    assert re.search(r"^c +–$", table(found, ["a", "b", "c"]), re.M)


def test_the_plot_is_a_picture(evaluation: Evaluation, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot_trimap(evaluation, tmp_path / "new" / "trimap.png")
    with Image.open(tmp_path / "new" / "trimap.png") as image:
        assert image.size == (900, 600)
    with pytest.raises(ValueError, match="trimap bands, found none"):
        plot_trimap(Evaluation(evaluation.network, None, (), 3), tmp_path / "x.png")


@pytest.mark.parametrize("flip", [False, True])
def test_a_search_on_kept_scores_sees_what_evaluation_sees(pictures: Stored, flip: bool) -> None:
    segmenter = Segmenter(tiny_network(classes=2), flip=flip)
    kept = CachedScores(segmenter, pictures, range(3))
    found = evaluate(segmenter, pictures, 2, crf=CRF_USED)
    assert found.crf is not None
    alone = evaluate_crf(kept, None)
    refined = evaluate_crf(kept, CRF_USED.params)
    slack = 5e-3 if flip else 1e-12  # averaged scores are kept in half precision
    assert alone.miou == pytest.approx(found.network.scores.mean_iou, abs=slack)
    assert refined.miou == pytest.approx(found.crf.scores.mean_iou, abs=slack)


def test_a_subset_is_spread_evenly() -> None:
    assert spread(10, 3) == [0, 3, 6]
    assert spread(3, 100) == [0, 1, 2]
