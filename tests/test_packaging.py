"""What is shipped and how it is built: the wheel, its libraries, the errors of setup.py."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from importlib.metadata import metadata
from pathlib import Path

import numpy as np
import pytest
import setuptools

import densecrf_gpu

ROOT = Path(__file__).resolve().parent.parent
TIERS = ["avx512", "avx2", "baseline"]  # the best first


def run(command: list[str | Path], **kwargs: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, **kwargs)  # type: ignore[call-overload, no-any-return]


def python(code: str, **environment: str) -> str:
    """The output of a fresh interpreter in the repository."""
    result = run([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **environment})
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this source tree; objects that are current are not compiled again."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps"]
    result = run([*command, "-w", folder, ROOT])
    assert result.returncode == 0, result.stdout + result.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's contents, away from the source tree."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_wheel_serves_every_python_from_3_10(wheel: Path) -> None:
    name, version, tag = wheel.name.split("-", maxsplit=2)
    assert (name, version) == ("densecrf_gpu", densecrf_gpu.__version__)
    assert tag.startswith("cp310-abi3-")


def test_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    folders = {name.partition("/")[0] for name in names}
    assert folders == {
        "deeplab",
        "densecrf_gpu",
        f"densecrf_gpu-{densecrf_gpu.__version__}.dist-info",
    }
    libraries = {name for name in names if name.endswith(".so")}
    assert "densecrf_gpu/_C.abi3.so" in libraries
    assert libraries <= {"densecrf_gpu/_C.abi3.so", "densecrf_gpu/_CUDA.abi3.so"}
    assert {"deeplab/py.typed", "densecrf_gpu/py.typed"} <= set(names)
    for folder in ("demo", "weights"):
        data = {f"deeplab/{folder}/{path.name}" for path in (ROOT / "deeplab" / folder).glob("*.*")}
        assert data <= set(names)
    data = {f"densecrf_gpu/data/{path.name}" for path in (ROOT / "densecrf_gpu/data").iterdir()}
    assert data <= set(names)
    recipes = {path.name for path in (ROOT / "deeplab/training/recipes").glob("*.toml")}
    assert recipes
    assert {f"deeplab/training/recipes/{name}" for name in recipes} <= set(names)


def test_wheel_works_without_the_source_tree(installed: Path, tmp_path: Path) -> None:
    code = "import densecrf_gpu; print(densecrf_gpu.__file__, densecrf_gpu.build_info()['cpu_isa'])"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    result = run([sys.executable, "-c", code], cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr
    file, isa = result.stdout.split()
    assert Path(file).is_relative_to(installed)
    assert isa in TIERS


def test_libraries_need_no_cuda(installed: Path) -> None:
    for library in installed.rglob("*.so"):
        needed = [
            line for line in run(["readelf", "-d", library]).stdout.splitlines() if "NEEDED" in line
        ]
        assert needed
        assert not [line for line in needed if "cuda" in line or "nv" in line]


def test_version_is_the_installed_one() -> None:
    assert metadata("densecrf-gpu")["Version"] == densecrf_gpu.__version__


@pytest.mark.parametrize("tier", TIERS)
def test_no_symbol_of_a_tier_can_be_merged_with_another_tiers(tier: str) -> None:
    """The linker keeps one copy of equal weak symbols, and AVX-512 code must not be that copy.

    So whatever the objects of a tier let others see must carry the tier's name; the one exception
    is the pointer to the exception handler, which is data.
    """
    objects = sorted((ROOT / "build/objects" / tier).rglob("*.o"))
    if not objects:
        pytest.skip(f"build/objects has no objects for {tier}: built elsewhere, or another machine")
    listing = run(["nm", "-C", "--defined-only", "--extern-only", *objects]).stdout
    symbols = [line.split(maxsplit=2)[2] for line in listing.splitlines() if line.count(" ") >= 2]
    assert symbols
    foreign = {symbol for symbol in symbols if f"densecrf::{tier}::" not in symbol}
    assert foreign <= {"DW.ref.__gxx_personality_v0"}


def test_import_costs_less_than_50_ms_beyond_torch(tmp_path: Path) -> None:
    """Of the processor, with the bytecode that an installed package has."""
    code = (
        "import time, torch; start = time.process_time(); import densecrf_gpu;"
        "print(time.process_time() - start)"
    )
    bytecode = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path)}
    assert min(float(python(code, **bytecode)) for _ in range(4)) < 0.050


def test_import_loads_neither_pillow_nor_the_command_line() -> None:
    code = (
        "import torch, sys; old = set(sys.modules); import densecrf_gpu;"
        "print(*set(sys.modules) - old)"
    )
    new = python(code).split()
    assert not [
        name for name in new if name.startswith(("PIL", "tqdm", "argparse", "densecrf_gpu.cli"))
    ]


INFER = """
import sys, numpy as np, torch
from densecrf_gpu import CRFParams, build_info, crf_refine
generator = torch.Generator().manual_seed(0)
image = torch.randint(256, (3, 41, 53), generator=generator, dtype=torch.uint8)
dtype = getattr(torch, sys.argv[1])
logits = torch.randn(5, 41, 53, generator=generator, dtype=torch.float64).to(dtype)
np.save(sys.argv[2], crf_refine(logits, image, CRFParams.pydensecrf(), iterations=5).numpy())
print(build_info()["cpu_isa"])
"""


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("float64", 1e-12)])
def test_every_tier_gives_the_same_result(tmp_path: Path, dtype: str, tolerance: float) -> None:
    best = densecrf_gpu.build_info()["cpu_isa"]
    if os.environ.get("DENSECRF_ISA"):
        pytest.skip("DENSECRF_ISA forces one tier already")
    results = {}
    for tier in TIERS[TIERS.index(str(best)) :]:
        file = tmp_path / f"{tier}.npy"
        environment = {**os.environ, "DENSECRF_ISA": tier}
        result = run([sys.executable, "-c", INFER, dtype, file], cwd=ROOT, env=environment)
        assert result.returncode == 0, result.stderr
        assert result.stdout.strip() == tier
        results[tier] = np.load(file)
    for tier, q in results.items():
        np.testing.assert_allclose(q, results["baseline"], rtol=0, atol=tolerance, err_msg=tier)


def setup_py(arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {k: v for k, v in os.environ.items() if k not in ("CXX", "DENSECRF_CUDA")}
    command = [sys.executable, *arguments]
    return run(command, cwd=ROOT, env={**variables, **environment})


def assert_one_sentence(result: subprocess.CompletedProcess[str], sentence: str) -> None:
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("densecrf_gpu: ")
    assert sentence in last


BUILD = ["setup.py", "-q", "build_ext"]


def test_build_without_compiler_says_so() -> None:
    assert_one_sentence(
        setup_py(BUILD, CXX="no-such-compiler"), "CXX=no-such-compiler is not to be found"
    )
    assert_one_sentence(setup_py(BUILD, PATH=""), "apt install g++, or set CXX")


def test_build_without_torch_says_so(tmp_path: Path) -> None:
    # Without site-packages (-S), but with setuptools.
    site = Path(setuptools.__file__).parent.parent
    for pattern in ("setuptools", "setuptools-*.dist-info", "_distutils_hack"):
        for folder in site.glob(pattern):
            (tmp_path / folder.name).symlink_to(folder)
    result = setup_py(["-S", *BUILD], PYTHONPATH=str(tmp_path))
    assert_one_sentence(
        result, "needs torch, and this Python sees none: install torch >= 2.10 first"
    )
    assert "pip install --no-build-isolation ." in result.stderr


def test_build_with_an_old_torch_says_so(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").touch()
    (tmp_path / "torch-2.9.1.dist-info").mkdir()
    record = "Metadata-Version: 2.1\nName: torch\nVersion: 2.9.1\n"
    (tmp_path / "torch-2.9.1.dist-info/METADATA").write_text(record)
    result = setup_py(BUILD, PYTHONPATH=str(tmp_path))
    assert_one_sentence(result, "needs torch >= 2.10, but torch 2.9.1 is installed")


def test_build_that_demands_cuda_without_nvcc_says_so(tmp_path: Path) -> None:
    result = setup_py(BUILD, DENSECRF_CUDA="1", CUDA_HOME=str(tmp_path))
    assert_one_sentence(result, "DENSECRF_CUDA=1 demands CUDA, but ")
    assert_one_sentence(setup_py(BUILD, DENSECRF_CUDA="yes"), "must be 0, 1 or unset, got 'yes'")


def test_cuda_is_built_by_default_where_torch_has_it(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").touch()
    (tmp_path / "torch-2.11.0.dist-info").mkdir()
    record = "Metadata-Version: 2.1\nName: torch\nVersion: 2.11.0\n"
    (tmp_path / "torch-2.11.0.dist-info/METADATA").write_text(record)
    toolkit = tmp_path / "cuda/bin"
    toolkit.mkdir(parents=True)
    (toolkit / "nvcc").touch()
    places = {"PYTHONPATH": str(tmp_path), "CUDA_HOME": str(toolkit.parent)}
    program = "import runpy; print(runpy.run_path('setup.py')['WHY'])"
    for version, reason in (("'13.0'", f"nvcc in {toolkit.parent}"), ("None", "a CPU build")):
        (tmp_path / "torch/version.py").write_text(f"cuda: Optional[str] = {version}\n")
        assert (
            reason in setup_py(["-c", program, "-q", "--version"], **places).stdout.splitlines()[-1]
        )
