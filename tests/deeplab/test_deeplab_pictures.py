"""Pictures of every kind become RGB of 8 bits, or an error that names them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deeplab.data import LabelError, PictureError
from deeplab.data.labels import read_values
from deeplab.data.pictures import is_turned, read_image

RNG = np.random.default_rng(0)


def _photo(height: int = 24, width: int = 40) -> Image.Image:
    blocks = RNG.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(np.kron(blocks, np.ones((8, 8, 1), np.uint8)))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1"])
def test_pictures_of_every_mode_become_rgb(mode: str, tmp_path: Path) -> None:
    Image.new("RGB", (5, 4), (255, 255, 255)).convert(mode).save(tmp_path / "x.png")
    found = read_image(tmp_path / "x.png")
    assert found.shape == (3, 4, 5)
    assert (found == 255).all()


def test_a_cmyk_photograph_keeps_its_colours(tmp_path: Path) -> None:
    photo = _photo()
    photo.convert("CMYK").save(tmp_path / "größe 日本.jpg", quality=100)
    found = read_image(tmp_path / "größe 日本.jpg").permute(1, 2, 0).numpy()
    assert np.abs(found.astype(int) - np.array(photo)).mean() < 3


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_more_than_8_bits_are_refused(mode: str, tmp_path: Path) -> None:
    kinds = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
    Image.fromarray(np.full((4, 5), 4000, kinds[mode])).save(tmp_path / "x.tif")
    with pytest.raises(
        PictureError, match=rf"x\.tif: expected 8 bits a channel, found mode {mode}"
    ):
        read_image(tmp_path / "x.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_is_turned_where_it_is_asked_for(orientation: int, tmp_path: Path) -> None:
    photo = _photo()
    exif = photo.getexif()
    exif[0x0112] = orientation
    photo.save(tmp_path / "x.png", exif=exif)
    stored = np.array(photo)
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(stored),
    }[orientation]
    np.testing.assert_array_equal(read_image(tmp_path / "x.png").permute(1, 2, 0), stored)
    found = read_image(tmp_path / "x.png", upright=True).permute(1, 2, 0)
    np.testing.assert_array_equal(found, upright)
    assert is_turned(tmp_path / "x.png") == (orientation > 1)


def _refusal(read: Callable[[Path], object], path: Path, error: type[Exception]) -> str | None:
    """What is said of a file; None of one that can be read."""
    try:
        read(path)
    except error as found:
        return str(found)
    return None


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", ["png", "jpeg", "tiff", "webp", "bmp", "ppm"])
def test_a_damaged_file_is_named_whatever_the_damage(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{kind}"
    buffer = io.BytesIO()
    _photo().save(buffer, kind.upper())
    whole = buffer.getvalue()
    said: list[str | None] = []
    for start in range(0, min(len(whole), 400), 4):
        for damaged in (whole[:start], whole[:start] + b"\xff\xfe\x00" + whole[start + 3 :]):
            path.write_bytes(damaged)
            said += [_refusal(read_image, path, PictureError)]
            said += [_refusal(read_values, path, LabelError)]
    refused = [text for text in said if text is not None]
    assert len(refused) > 20
    assert all(str(path) in text and "\n" not in text for text in refused)


def test_a_picture_that_is_not_there_is_another_error(tmp_path: Path) -> None:
    assert not is_turned(tmp_path / "none.png")
    for read in (read_image, read_values):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "none.png")
