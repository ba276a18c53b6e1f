"""The `densecrf` command, end to end in a temporary folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from cli_workplace import HEIGHT, WIDTH, Workplace
from PIL import Image

from densecrf_gpu import CRFParams, crf_refine
from densecrf_gpu.cli import main
from densecrf_gpu.cli.masks import voc_palette


@pytest.fixture
def work(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


# ---- what goes in and what comes out ---------------------------------------------------------


def test_logits_become_the_labels_that_crf_refine_gives(work: Workplace) -> None:
    assert work.refine("--logits", work.save_logits("x.npy"), "-o", work.path("out.png")) == 0
    expected = crf_refine(work.logits, work.pixels, output="labels")
    np.testing.assert_array_equal(work.read("out.png"), expected)


def test_a_png_from_logits_has_the_palette_of_voc(work: Workplace) -> None:
    work.refine("--logits", work.save_logits("x.npy"), "-o", work.path("out.png"))
    with Image.open(work.path("out.png")) as image:
        assert image.mode == "P"
        colors = np.reshape(image.getpalette("RGB"), (-1, 3))
    np.testing.assert_array_equal(colors[:3], [[0, 0, 0], [128, 0, 0], [0, 128, 0]])


def test_the_palette_of_a_mask_is_kept(work: Workplace) -> None:
    palette = np.array([[10, 20, 30], [200, 100, 0], [0, 250, 5], [1, 2, 3]])
    mask = work.save("mask.png", work.labels, palette)
    assert work.refine("--labels", mask, "-o", work.path("out.png")) == 0
    with Image.open(work.path("out.png")) as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.reshape(image.getpalette("RGB"), (-1, 3))[:4], palette)
    np.testing.assert_array_equal(work.read("out.png"), work.labels)


def test_a_grey_mask_stays_grey(work: Workplace) -> None:
    assert work.refine("--labels", work.save("m.png", work.labels), "-o", work.path("o.png")) == 0
    with Image.open(work.path("o.png")) as image:
        assert image.mode == "L"
    np.testing.assert_array_equal(work.read("o.png"), work.labels)


def test_unknown_pixels_of_a_mask_are_filled_in(work: Workplace) -> None:
    holes = work.labels.copy()
    holes[8:12, 12:18] = 255
    assert work.refine("--labels", work.save("m.png", holes), "-o", work.path("o.png")) == 0
    np.testing.assert_array_equal(work.read("o.png"), work.labels)


def test_another_index_may_mean_unknown(work: Workplace) -> None:
    holes = work.labels + 1
    holes[8:12, 12:18] = 9
    mask = work.save("m.png", holes)
    options = ("--ignore-index", "9", "--num-classes", "4")
    assert work.refine("--labels", mask, "-o", work.path("o.png"), *options) == 0
    np.testing.assert_array_equal(work.read("o.png"), work.labels + 1)


def test_a_binary_mask_stays_0_and_255(work: Workplace) -> None:
    mask = work.save("m.png", np.where(work.labels > 0, 255, 0).astype(np.uint8))
    assert work.refine("--labels", mask, "-o", work.path("o.png"), "--binary") == 0
    np.testing.assert_array_equal(work.read("o.png"), np.where(work.labels > 0, 255, 0))


def test_a_mask_of_0_and_255_asks_what_it_means(
    work: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = work.save("m.png", np.where(work.labels > 0, 255, 0).astype(np.uint8))
    assert work.refine("--labels", mask, "-o", work.path("o.png")) == 1
    error = capsys.readouterr().err
    assert "holds only 0 and 255" in error
    assert "--binary" in error


def test_colour_scribbles_spread_over_the_black(work: Workplace) -> None:
    colors = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    scribbles = colors[work.labels]
    scribbles[::2] = 0
    mask = work.save("scribbles.png", scribbles)
    assert work.refine("--labels", mask, "-o", work.path("o.png")) == 0
    with Image.open(work.path("o.png")) as image:
        painted = np.array(image.convert("RGB"))
    np.testing.assert_array_equal(painted, colors[work.labels])


def test_scribbles_with_a_palette_are_read_by_color(work: Workplace) -> None:
    palette = np.array([[0, 0, 0], [64, 128, 0], [9, 9, 9], [0, 64, 0], [64, 0, 128]])
    indices = np.array([3, 1, 4], np.uint8)[work.labels]
    expected = palette[indices]
    indices[::2] = 0
    mask = work.save("scribbles.png", indices, palette)
    assert work.refine("--labels", mask, "--by-color", "-o", work.path("o.png")) == 0
    with Image.open(work.path("o.png")) as image:
        np.testing.assert_array_equal(np.array(image.convert("RGB")), expected)


def test_a_photograph_is_not_taken_for_labels(
    work: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert work.refine("--labels", work.image, "-o", work.path("o.png")) == 1
    assert "colour for each of 2 to 255 labels" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt"])
def test_labels_may_come_as_an_array(work: Workplace, suffix: str) -> None:
    path = work.path("labels" + suffix)
    if suffix == ".npy":
        np.save(path, work.labels)
    elif suffix == ".npz":
        np.savez(path, labels=work.labels)
    else:
        torch.save(torch.from_numpy(work.labels), path)
    assert work.refine("--labels", path, "-o", work.path("o.png")) == 0
    np.testing.assert_array_equal(work.read("o.png"), work.labels)


@pytest.mark.parametrize("suffix", [".npz", ".pt"])
def test_one_of_several_entries_is_named_by_key(
    work: Workplace, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = work.path("x" + suffix)
    if suffix == ".npz":
        np.savez(path, logits=work.logits, other=np.zeros(3))
    else:
        torch.save({"logits": torch.from_numpy(work.logits), "other": torch.zeros(3)}, path)
    options = ("--logits", path, "-o", work.path("o.png"))
    assert work.refine(*options) == 1
    assert "holds logits, other: choose one with --key" in capsys.readouterr().err
    assert work.refine(*options, "--key", "logits") == 0


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt"])
def test_the_suffix_chooses_the_file_and_probabilities(work: Workplace, suffix: str) -> None:
    logits, out = work.save_logits("x.npy"), work.path("out" + suffix)
    assert work.refine("--logits", logits, "-o", out) == 0
    if suffix == ".npy":
        result = np.load(out)
    elif suffix == ".npz":
        result = np.load(out)["probabilities"]
    else:
        result = torch.load(out, weights_only=True).numpy()
    np.testing.assert_array_equal(result, crf_refine(work.logits, work.pixels))


def test_output_labels_may_be_an_array(work: Workplace) -> None:
    options = ("-o", work.path("out.npy"), "--output", "labels")
    assert work.refine("--logits", work.save_logits("x.npy"), *options) == 0
    result = np.load(work.path("out.npy"))
    np.testing.assert_array_equal(result, crf_refine(work.logits, work.pixels, output="labels"))


def test_probabilities_go_in(work: Workplace) -> None:
    probabilities = torch.from_numpy(work.logits).softmax(0)
    torch.save(probabilities, work.path("p.pt"))
    assert work.refine("--probabilities", work.path("p.pt"), "-o", work.path("out.npy")) == 0
    expected = crf_refine(probabilities.numpy(), work.pixels, input="probabilities")
    np.testing.assert_array_equal(np.load(work.path("out.npy")), expected)


def test_a_batch_axis_of_one_is_dropped(work: Workplace) -> None:
    np.save(work.path("x.npy"), work.logits[None])
    assert work.refine("--logits", work.path("x.npy"), "-o", work.path("out.npy")) == 0
    assert np.load(work.path("out.npy")).shape == work.logits.shape


def test_coarse_logits_are_enlarged(work: Workplace) -> None:
    np.save(work.path("x.npy"), work.logits[:, ::5, ::5])
    assert work.refine("--logits", work.path("x.npy"), "-o", work.path("o.png")) == 0
    assert work.read("o.png").shape == (HEIGHT, WIDTH)


def test_half_precision_logits_are_taken(work: Workplace) -> None:
    torch.save(torch.from_numpy(work.logits).bfloat16(), work.path("x.pt"))
    assert work.refine("--logits", work.path("x.pt"), "-o", work.path("out.npy")) == 0
    assert np.load(work.path("out.npy")).dtype == np.float32


def test_an_overlay_shows_the_labels_on_the_image(work: Workplace) -> None:
    mask = work.save("m.png", work.labels, voc_palette())
    options = ("-o", work.path("o.png"), "--overlay", work.path("look.png"))
    assert work.refine("--labels", mask, *options) == 0
    look = work.read("look.png")
    assert look.shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_array_equal(look[:, 9], 255)  # where label 0 ends
    blend = (0.5 * work.pixels + 0.5 * voc_palette()[work.labels]).astype(np.uint8)
    np.testing.assert_array_equal(look[5, 5], blend[5, 5])


def test_a_grey_image_of_16_bits_is_read_in_its_range(work: Workplace) -> None:
    grey = work.pixels[..., 0]
    work.image = work.save("deep.png", grey.astype(np.uint16) * 257)
    logits = work.save_logits("x.npy")
    options = ("--logits", logits, "-o", work.path("out.npy"), "--image-range", "65535")
    assert work.refine(*options) == 0
    expected = crf_refine(work.logits, grey)
    np.testing.assert_allclose(np.load(work.path("out.npy")), expected, atol=1e-3)


# ---- parameters ------------------------------------------------------------------------------


def test_a_preset_and_changes_of_it_reach_crf_refine(work: Workplace) -> None:
    logits, out = work.save_logits("x.npy"), work.path("out.npy")
    options = ("--preset", "deeplab_v2_vgg", "--sxy", "20,10", "--srgb", "8")
    more = ("--gaussian-weight", "0", "--iterations", "3", "--normalization", "after")
    assert work.refine("--logits", logits, "-o", out, *options, *more) == 0
    params = CRFParams(
        gaussian_sxy=3,
        gaussian_weight=0,
        bilateral_sxy=(20, 10),
        bilateral_srgb=8,
        bilateral_weight=4,
    )
    expected = crf_refine(work.logits, work.pixels, params, iterations=3, normalization="after")
    np.testing.assert_array_equal(np.load(out), expected)


def test_gt_prob_reaches_crf_refine(work: Workplace) -> None:
    mask = work.save("m.png", work.labels)
    options = ("-o", work.path("out.npy"), "--gt-prob", "0.9")
    assert work.refine("--labels", mask, *options) == 0
    expected = crf_refine(work.labels, work.pixels, input="labels", num_classes=3, gt_prob=0.9)
    np.testing.assert_array_equal(np.load(work.path("out.npy")), expected)


def test_threads_are_set(work: Workplace) -> None:
    before = torch.get_num_threads()
    try:
        logits = work.save_logits("x.npy")
        work.refine("--logits", logits, "-o", work.path("o.png"), "--threads", "1")
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


# ---- many files ------------------------------------------------------------------------------


def test_folders_go_to_a_folder(work: Workplace) -> None:
    work.save_three()
    images, logits, out = work.path("images"), work.path("logits"), work.path("out")
    assert main(["refine", images, "--logits", logits, "-o", out]) == 0
    assert sorted(path.name for path in Path(out).iterdir()) == ["a.png", "b.png", "c.png"]


def test_globs_go_by_templates(work: Workplace) -> None:
    work.save_three()
    logits, out = work.path("logits/{stem}.npy"), work.path("out/{stem}_refined.pt")
    assert main(["refine", work.path("images/[ab].png"), "--logits", logits, "-o", out]) == 0
    names = sorted(path.name for path in (work.folder / "out").iterdir())
    assert names == ["a_refined.pt", "b_refined.pt"]


def test_a_failure_names_its_file_and_the_others_go_on(
    work: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    work.save_three()
    (work.folder / "logits" / "b.npy").unlink()
    images, logits, out = work.path("images"), work.path("logits"), work.path("out")
    assert main(["refine", images, "--logits", logits, "-o", out]) == 1
    assert sorted(path.name for path in Path(out).iterdir()) == ["a.png", "c.png"]
    error = capsys.readouterr().err
    assert "b.png" in error
    assert "1 of 3 images failed" in error
    assert "Traceback" not in error


def test_progress_draws_a_bar(work: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    work.save_three()
    images, logits, out = work.path("images"), work.path("logits"), work.path("out")
    assert main(["refine", images, "--logits", logits, "-o", out, "--progress"]) == 0
    captured = capsys.readouterr()
    assert "3/3" in captured.err
    assert captured.out == ""


def test_quiet_prints_nothing(work: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    work.refine("--logits", work.save_logits("x.npy"), "-o", work.path("o.png"), "-q")
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


# ---- the other commands ----------------------------------------------------------------------


def test_presets_lists_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets"]) == 0
    output = capsys.readouterr().out
    assert all(name in output for name in CRFParams.presets())


def test_info_says_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    from densecrf_gpu import __version__

    assert main(["info"]) == 0
    assert __version__ in capsys.readouterr().out


@pytest.mark.parametrize("command", [[], ["refine"], ["presets"], ["info"], ["demo"]])
def test_help_is_given(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--help"])
    assert "usage: densecrf" in capsys.readouterr().out
