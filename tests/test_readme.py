"""What README.md and docs/ tell users to type does run."""

from __future__ import annotations

import re
import shlex
import shutil
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from densecrf_gpu import CRFParams
from densecrf_gpu.cli import main
from densecrf_gpu.demo.scene import coarse_logits, load_scene

ROOT = Path(__file__).resolve().parent.parent
PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)


def commands(page: str) -> list[str]:
    """Indented lines that call the command with files, without comments."""
    with_files = r"(?:refine|fit) (?!IMAGE).*"
    return re.findall(rf"^    (densecrf (?:{with_files}|presets$|info$))", text(page), re.M)


def text(page: str) -> str:
    return (ROOT / page).read_text()


@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in text(page)])
def test_python_blocks_run_one_after_the_other(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    code = blocks(page)
    if any("pydensecrf" in re.findall(r"^import (\w+)", block, re.M) for block in code):
        pytest.importorskip("pydensecrf")
    namespace: dict[str, object] = {}
    for number, block in enumerate(code, start=1):
        exec(compile(block, f"{page}, block {number}", "exec"), namespace)


@pytest.fixture
def files_of_the_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    scene = load_scene()
    logits = coarse_logits(scene.labels)
    small = scene.labels[::4, ::4]
    scribbles = np.where(np.arange(512)[:, None] % 2 == 0, scene.labels, 255).astype(np.uint8)
    photo = files("densecrf_gpu") / "data/astronaut.jpg"
    for folder in ("images", "logits", "probs", "masks"):
        (tmp_path / folder).mkdir()
    (tmp_path / "cat.jpg").write_bytes(photo.read_bytes())
    np.save(tmp_path / "cat.npy", logits)
    Image.fromarray(scene.colors[scene.labels]).save(tmp_path / "scribbles.png")
    Image.fromarray(scribbles).save(tmp_path / "coarse.png")
    for name in ("one", "two"):
        Image.fromarray(scene.image[::4, ::4]).save(tmp_path / "images" / f"{name}.jpg")
        np.save(tmp_path / "logits" / f"{name}.npy", logits)
        probabilities = torch.from_numpy(logits).softmax(0).numpy()
        np.save(tmp_path / "probs" / f"{name}.npy", probabilities)
        for mask in (f"{name}.png", f"{name}_mask.png"):
            Image.fromarray(small).save(tmp_path / "masks" / mask)
    CRFParams.deeplab_v1().save(tmp_path / "crf.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "command", [pytest.param(line, id=line) for page in PAGES for line in commands(page)]
)
@pytest.mark.usefixtures("files_of_the_examples")
def test_commands_run(command: str) -> None:
    assert main(shlex.split(command)[1:]) == 0


@pytest.mark.parametrize("command", [[], ["refine"], ["fit"]])
@pytest.mark.usefixtures("files_of_the_examples")
def test_the_examples_of_the_help_run(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    shown = capsys.readouterr().out.replace("\\\n", " ")
    examples = re.findall(r"^ +(densecrf (?!demo).*?)(?:   .*)?$", shown, re.M)
    assert len(examples) >= 3
    for example in examples:
        assert main(shlex.split(example)[1:]) == 0, example
        for result in ("cat.png", "out", "refined", "fine.png"):
            shutil.rmtree(result, ignore_errors=True)


@pytest.mark.parametrize("page", PAGES)
def test_links_to_files_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text(page)):
        assert (ROOT / page).parent.joinpath(target).exists(), target


def test_the_table_of_presets_holds_their_numbers() -> None:
    for name, preset in CRFParams.presets().items():
        gaussian = f"{preset.gaussian_sxy}, {preset.gaussian_weight}"
        bilateral = f"{preset.bilateral_sxy}, {preset.bilateral_srgb}, {preset.bilateral_weight}"
        row = rf"\| `CRFParams\.{name}\(\)`[^|]*\| {gaussian} \| {bilateral} \|"
        assert re.search(row, text("README.md")), name


def test_the_picture_is_what_the_demo_draws(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (ROOT / "assets/demo.png").stat().st_size <= 400_000
    assert main(["demo", "-o", str(tmp_path / "demo.png")]) == 0
    (before, after) = re.findall(r"^mean +([\d.]+)% +([\d.]+)%", capsys.readouterr().out, re.M)[0]
    assert f"{before} % mean IoU, refined labels at {after} %" in text("README.md")
    with Image.open(ROOT / "assets/demo.png") as shown, Image.open(tmp_path / "demo.png") as drawn:
        assert shown.size == drawn.size
        difference = np.abs(np.array(shown).astype(int) - np.array(drawn))
    assert difference.mean() < 0.5  # of 255; fonts and JPEG decoders differ a little
