"""What the package says about itself."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import densecrf_gpu
from densecrf_gpu import backends


def test_build_info_names_versions_and_backends() -> None:
    info = densecrf_gpu.build_info()
    assert info["version"] == densecrf_gpu.__version__
    assert info["torch"] == torch.__version__
    assert info["cpu_isa"] in ("avx512", "avx2", "baseline")
    assert info["num_threads"] == torch.get_num_threads()
    assert info["cuda_built"] is backends.CUDA_BUILT


def test_all_public_names_exist() -> None:
    for name in densecrf_gpu.__all__:
        assert hasattr(densecrf_gpu, name)


def test_import_loads_neither_pillow_nor_the_command_line() -> None:
    code = (
        "import sys, densecrf_gpu; "
        "print([m for m in sys.modules if m in ('PIL', 'matplotlib', 'densecrf_gpu.cli')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(backends.CUDA_BUILT, reason="there is a CUDA backend")
def test_cuda_tensors_without_cuda_backend_are_refused_with_the_cure() -> None:
    with pytest.raises(RuntimeError, match=r"built without its CUDA library.*setup\.py"):
        backends.require_backend(torch.device("cuda", 0))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_backend_without_a_driver_says_so_at_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backends, "CUDA_BUILT", True)
    with pytest.raises(RuntimeError, match=r"on cuda:0, but torch .* finds no GPU with a driver"):
        backends.require_backend(torch.device("cuda", 0))


LOOKED_FOR = """
import sys, torch
torch.version.cuda = {cuda!r}
looked_for = []
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("densecrf_gpu._"):
            looked_for.append(name)
        if name == "densecrf_gpu._CUDA":
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Watch())
import densecrf_gpu
print(*looked_for, densecrf_gpu.backends.CUDA_BUILT)
"""


@pytest.mark.parametrize(
    ("cuda", "expected"),
    [(None, "densecrf_gpu._C False"), ("13.0", "densecrf_gpu._C densecrf_gpu._CUDA False")],
)
def test_the_cuda_library_is_loaded_on_a_cuda_torch_alone(cuda: str | None, expected: str) -> None:
    command = [sys.executable, "-c", LOOKED_FOR.format(cuda=cuda)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected


def test_a_cuda_library_that_does_not_load_says_for_which_torch_to_build_it() -> None:
    code = LOOKED_FOR.format(cuda="13.0").replace(
        'raise ModuleNotFoundError(f"No module named {name!r}", name=name)',
        'raise ImportError("libtorch_cuda.so: cannot open shared object file")',
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "densecrf_gpu._CUDA exists but does not load under torch" in done.stderr
    assert "libtorch_cuda.so" in done.stderr


def test_other_devices_are_refused() -> None:
    with pytest.raises(RuntimeError, match="cpu or cuda, found mps"):
        backends.require_backend(torch.device("mps"))


def test_package_that_was_not_built_says_how_to_build_it() -> None:
    # A finder in front of all others hides the library.
    code = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name == "densecrf_gpu._C":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hide())
import densecrf_gpu
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "densecrf_gpu has not been built" in done.stderr
    assert "python setup.py build_ext --inplace" in done.stderr
