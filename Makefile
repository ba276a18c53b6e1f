# `make test` and `make demo` set up .venv, build and run; `make help` lists the rest.
#
# The environment is made once and extended where a target needs more; stamp files in .venv say what is done.

PYTHON ?= python3
# torch comes first and alone, so that nothing else picks one. Where pip's own configuration offers only CUDA
# builds, name another one: make TORCH=<a wheel file, or any requirement>.
TORCH ?= torch==2.13.0
PYDENSECRF ?= pydensecrf2==1.1
ARM64_CXX ?= aarch64-linux-gnu-g++

export PIP_DISABLE_PIP_VERSION_CHECK := 1

VENV := .venv
BIN := $(VENV)/bin
NATIVE := setup.py $(shell find csrc tools -type f 2>/dev/null)
CXX_FILES = $(shell find csrc tests/cpp -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

.DELETE_ON_ERROR:
.PHONY: help build test test-all demo bench lint format types sanitize arm64-check cuda-build gpu-carry gpu-check wheel clean distclean

help:  ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# ---- the environment --------------------------------------------------------------------------------------

$(BIN)/python:
	@$(PYTHON) tools/make_venv.py $(VENV)

$(VENV)/.torch: | $(BIN)/python
	@echo "installing $(TORCH) (make TORCH=... names another)"
	$(BIN)/pip install -q "$(TORCH)"
	@touch $@

# The package itself, editable, with what `densecrf` and the demo need.
$(VENV)/.base: $(VENV)/.torch pyproject.toml
	$(BIN)/pip install -q "setuptools>=77"
	$(BIN)/pip install -q --no-build-isolation -e '.[cli]'
	@touch $@

# The benchmarks are tested too.
$(VENV)/.test: $(VENV)/.base
	$(BIN)/pip install -q --no-build-isolation -e '.[cli,test,bench]'
	@touch $@

# The reference implementation has no wheels. Where it cannot be compiled, its stored results stand in.
$(VENV)/.parity: $(VENV)/.base
	@$(BIN)/pip install -q "$(PYDENSECRF)" || echo "$(PYDENSECRF) cannot be built here: only its stored results are compared"
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	$(BIN)/pip install -q --no-build-isolation -e '.[cli,dev]'
	@touch $@

# ---- the extension modules --------------------------------------------------------------------------------

$(VENV)/.built: $(VENV)/.base $(NATIVE)
	$(BIN)/python setup.py -q build_ext --inplace
	@touch $@

$(VENV)/.whitebox: $(VENV)/.test $(VENV)/.built
	$(BIN)/python setup.py -q build_whitebox
	@touch $@

build: $(VENV)/.built $(VENV)/.whitebox  ## build densecrf_gpu and the white-box test module in place

# ---- what one runs ----------------------------------------------------------------------------------------

test: build $(VENV)/.parity  ## set up, build, run the tests that are not slow
	$(BIN)/python -m pytest -m "not slow" $(PYTEST_ARGS)

test-all: build $(VENV)/.parity  ## the same with the slow tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

demo: $(VENV)/.built  ## set up, build, run the two demonstrations
	$(BIN)/python -m densecrf_gpu demo $(DEMO_ARGS)
	$(BIN)/python -m deeplab demo

bench: $(VENV)/.built $(VENV)/.test $(VENV)/.parity  ## check, then time the CRF against its rivals
	$(BIN)/python -m benchmarks crf $(BENCH_ARGS)

lint: $(VENV)/.dev  ## ruff and clang-format, changing nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)

format: $(VENV)/.dev  ## rewrite all files in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

types: $(VENV)/.dev $(VENV)/.test  ## mypy --strict on the package and the benchmarks
	$(BIN)/mypy

# The C++ tests need no torch and no .venv. TSAN wants a fixed address space layout, where that is allowed.
sanitize:  ## the C++ tests under ASAN + UBSAN, then under TSAN
	$(PYTHON) tools/native.py --folder build/asan --run "" \
	  --flags="-O1 -g1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all"
	$(PYTHON) tools/native.py --folder build/tsan --flags="-O1 -g1 -fsanitize=thread" \
	  --run "$$(setarch $$(uname -m) -R true 2>/dev/null && echo setarch $$(uname -m) -R)"

# Cross-compiles the CPU backend and its tests, and runs them where qemu can.
arm64-check:  ## the C++ tests for arm64, run by qemu-aarch64 where it is installed
	@command -v $(ARM64_CXX) >/dev/null || \
	  { echo "$(ARM64_CXX) is not installed: apt install g++-aarch64-linux-gnu" >&2; exit 1; }
	CXX=$(ARM64_CXX) $(PYTHON) tools/native.py --folder build/arm64 --flags="-static" --cpu-only \
	  $$(command -v qemu-aarch64 >/dev/null && echo --run qemu-aarch64)

cuda-build: $(VENV)/.base  ## compile for all GPUs with nvcc and CUDA 12.4, check the kernels; needs no GPU
ifeq ($(wildcard csrc/cuda/*.cu),)
	@echo "these sources have no csrc/cuda/*.cu: nothing to build for CUDA"
else
	DENSECRF_CUDA=1 $(BIN)/python setup.py -q build_ext
	$(BIN)/python -m tools.cuda_resources
	$(BIN)/python -m tools.cuda_module
	$(BIN)/python -m tools.cuda_12_4
endif

# Where the GPU is there may be no registry: what its Python does not have travels in this folder.
CARRY ?= .gpu-carry
OUT ?= build/gpu-check/out

gpu-carry: $(VENV)/.base  ## fill CARRY (.gpu-carry) with what gpu-check wants from the network
	$(BIN)/python -m tools.gpu_check.carry $(CARRY)

# With PYTHON as it is: no .venv. Run again, it goes on where it stopped.
gpu-check:  ## on a machine with a GPU: build, test, sanitize, stress, benchmark; results in OUT
	$(PYTHON) -m tools.gpu_check $(if $(wildcard $(CARRY)),--carry $(CARRY)) --out $(OUT) $(GPU_CHECK_ARGS)

wheel: $(VENV)/.base  ## one abi3 wheel in dist/
	$(BIN)/pip wheel -q --no-build-isolation --no-deps -w dist .
	@ls dist

clean:  ## remove what was built
	rm -rf build dist *.egg-info densecrf_gpu/*.so tests/_whitebox*.so tests/_emulated*.so
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	rm -f $(VENV)/.built $(VENV)/.whitebox
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean  ## and the environment
	rm -rf $(VENV)
