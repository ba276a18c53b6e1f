"""What the `densecrf` command refuses: one line, an exit code, nothing written."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_workplace import HEIGHT, WIDTH, Workplace

from densecrf_gpu.cli import main


@pytest.fixture
def work(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


# ---- failures: exit code 1, one line ---------------------------------------------------------


class Bomb:
    """Pickles to a call that leaves a file behind when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt"])
def test_pickles_are_refused_and_not_run(
    work: Workplace, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    trace, path = work.folder / "trace", work.path("bomb" + suffix)
    content = np.array([Bomb(trace)], dtype=object)
    if suffix == ".npy":
        np.save(path, content, allow_pickle=True)
    elif suffix == ".npz":
        np.savez(path, content)
    else:
        torch.save(Bomb(trace), path)
    assert work.refine("--logits", path, "-o", work.path("o.png")) == 1
    error = capsys.readouterr().err
    assert "pickled objects" in error
    assert error.count("\n") == 1
    assert not trace.exists()
    assert not (work.folder / "o.png").exists()


def test_a_bare_pickle_is_refused(work: Workplace, capsys: pytest.CaptureFixture[str]) -> None:
    trace = work.folder / "trace"
    Path(work.path("bomb.pt")).write_bytes(pickle.dumps(Bomb(trace)))
    assert work.refine("--logits", work.path("bomb.pt"), "-o", work.path("o.png")) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert not trace.exists()


def test_labels_of_another_size_are_refused_with_both_sizes(
    work: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = work.save("m.png", work.labels[:10])
    assert work.refine("--labels", mask, "-o", work.path("o.png")) == 1
    error = capsys.readouterr().err
    assert "image.png" in error
    assert "of 30 x 20 pixels as the image, found 30 x 10" in error


def test_logits_larger_than_the_image_are_refused(
    work: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(work.path("x.npy"), np.zeros((3, HEIGHT + 1, WIDTH), np.float32))
    assert work.refine("--logits", work.path("x.npy"), "-o", work.path("o.png")) == 1
    assert "at most 30 x 20 pixels as the image, found 30 x 21" in capsys.readouterr().err


def test_labels_passed_as_logits_are_refused(
    work: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(work.path("x.npy"), work.labels)
    assert work.refine("--logits", work.path("x.npy"), "-o", work.path("o.png")) == 1
    assert "expected logits of floats [C, h, w]" in capsys.readouterr().err


def test_a_label_beyond_the_classes_is_named(
    work: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = work.save("m.png", work.labels)
    assert work.refine("--labels", mask, "-o", work.path("o.png"), "--num-classes", "2") == 1
    assert "[0, 20] = 2" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n\0\0"])
def test_a_broken_image_is_named(
    work: Workplace, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    logits = work.save_logits("x.npy")
    Path(work.image).write_bytes(content)
    assert work.refine("--logits", logits, "-o", work.path("o.png")) == 1
    error = capsys.readouterr().err
    assert "image.png" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt"])
def test_a_broken_array_is_named(
    work: Workplace, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(work.path("x" + suffix)).write_bytes(b"PK\x03\x04 nothing")
    assert work.refine("--logits", work.path("x" + suffix), "-o", work.path("o.png")) == 1
    error = capsys.readouterr().err
    assert "x" + suffix in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("missing", ["image", "logits"])
def test_a_missing_file_is_named(
    work: Workplace, missing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logits = work.save_logits("x.npy")
    Path(work.image if missing == "image" else logits).unlink()
    assert work.refine("--logits", logits, "-o", work.path("o.png")) == 1
    assert "No such file" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_named(
    work: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    out = work.path("image.png/o.png")  # a file stands where the folder should
    assert work.refine("--logits", work.save_logits("x.npy"), "-o", out) == 1
    error = capsys.readouterr().err
    assert "o.png: cannot be written" in error
    assert error.count("\n") == 1


def test_a_failed_write_leaves_what_was_there(work: Workplace) -> None:
    Path(work.path("o.npy")).write_bytes(b"before")
    np.save(work.path("x.npy"), np.full((3, HEIGHT, WIDTH), np.nan, np.float32))
    assert work.refine("--logits", work.path("x.npy"), "-o", work.path("o.npy")) == 1
    assert Path(work.path("o.npy")).read_bytes() == b"before"


# ---- usage: exit code 2, nothing written -----------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--preset", "nonsense"], "expected --preset pydensecrf, deeplab_v1"),
        (["--sxy", "-3"], "bilateral_sxy"),
        (["--output", "logits"], "a .png holds labels"),
    ],
)
def test_options_that_make_no_sense_are_a_usage_error(
    work: Workplace, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logits = work.save_logits("x.npy")
    assert work.refine("--logits", logits, "-o", work.path("o.png"), *options) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--iterations", "many"],
        ["--iterations", "-1"],
        ["--threads", "0"],
        ["--ignore-index", "x"],
        ["--srgb", "1;2"],
        ["--unknown"],
    ],
)
def test_options_that_do_not_parse_exit_with_2(
    work: Workplace, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    source = ["--logits", work.save_logits("x.npy")] if options else []
    with pytest.raises(SystemExit, match="2"):
        work.refine(*source, "-o", work.path("o.png"), *options)
    assert capsys.readouterr().err.count("\n") == 1


def test_one_file_for_several_images_is_a_usage_error(
    work: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    work.save_three()
    images, logits = work.path("images"), work.path("logits")
    assert main(["refine", images, "--logits", logits, "-o", work.path("one.png")]) == 2
    assert "one.png, for 3 images: name a folder or a template" in capsys.readouterr().err


def test_an_empty_folder_is_a_usage_error(
    work: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    (work.folder / "empty").mkdir()
    options = ["--logits", work.path("x.npy"), "-o", work.path("o.png")]
    assert main(["refine", work.path("empty"), *options]) == 2
    assert "no images in" in capsys.readouterr().err


def test_an_image_is_never_overwritten_by_its_result(
    work: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    before = Path(work.image).read_bytes()
    assert work.refine("--logits", work.save_logits("x.npy"), "-o", work.image) == 2
    assert "would overwrite" in capsys.readouterr().err
    assert Path(work.image).read_bytes() == before


def test_two_images_of_one_name_do_not_share_a_result(
    work: Workplace, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [work.save("one/a.png", work.pixels), work.save("two/a.png", work.pixels)]
    options = ["--logits", work.path("logits"), "-o", work.path("out")]
    assert main(["refine", *images, *options]) == 2
    assert "would overwrite" in capsys.readouterr().err
