"""Compiles the device code with CUDA 12.4, the oldest toolkit that the sources are written for.

Usage: python -m tools.cuda_12_4. The compiler is NVRTC 12.4 and the assembler ptxas 12.4, from the
wheels that NVIDIA publishes; they are fetched once, into build/cuda-12.4. There is no nvcc 12.4
among them, so what runs on the host is left out: the standard library is a stand-in of
declarations, csrc/cuda/launch.h one that names kernels without launching them, and of the runtime
only the names are looked up in the headers of 12.4.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from zipfile import ZipFile

from tools.native import CUDA_EMBEDDING, ROOT, sources

FOLDER = Path("build/cuda-12.4")
WHEELS = (
    "nvidia-cuda-nvrtc-cu12==12.4.127",
    "nvidia-cuda-nvcc-cu12==12.4.131",
    "nvidia-cuda-runtime-cu12==12.4.127",
)
RUNTIME_HEADERS = "cuda_runtime/include"
ARCHS = ("75", "80", "86", "89", "90")  # those of setup.py's list that 12.4 knows

# What host code asks of the standard library, as declarations: it is parsed and never run.
_STD = {
    "cstdint": """
typedef signed char int8_t; typedef unsigned char uint8_t;
typedef short int16_t; typedef unsigned short uint16_t;
typedef int int32_t; typedef unsigned int uint32_t;
typedef long int64_t; typedef unsigned long uint64_t;
""",
    "cstddef": "typedef unsigned long size_t;",
    "string": """
#include <cstddef>
namespace std {
struct string { string(const char*); const char* c_str() const; };
string operator+(const string&, const string&);
string to_string(long);
}
""",
    "stdexcept": """
#include <string>
namespace std {
struct runtime_error { runtime_error(const string&); };
struct invalid_argument { invalid_argument(const string&); };
}
""",
    "vector": """
#include <cstddef>
namespace std {
template <typename T> struct vector {
  vector(); explicit vector(size_t); vector(size_t, const T&);
  T* begin(); T* end(); const T* begin() const; const T* end() const;
  T& front(); T& back(); const T& front() const; const T& back() const;
  T& operator[](size_t); const T& operator[](size_t) const;
  size_t size() const; bool empty() const; T* data(); const T* data() const;
  void push_back(const T&);
  template <typename... A> T& emplace_back(A&&... a) { return *new T(static_cast<A&&>(a)...); }
};
}
""",
    "algorithm": """
namespace std {
template <typename T> constexpr const T& max(const T& a, const T& b) { return a < b ? b : a; }
template <typename T> constexpr const T& min(const T& a, const T& b) { return b < a ? b : a; }
template <typename I, typename F> bool any_of(I, I, F);
}
""",
    "utility": "namespace std { template <typename T> void swap(T&, T&); }",
    "cmath": """
#define NAN __int_as_float(0x7fffffff)
#define HUGE_VAL __longlong_as_double(0x7ff0000000000000)
namespace std {
using ::abs; using ::ceil; using ::exp; using ::exp2; using ::fabs; using ::floor; using ::ldexp;
using ::log; using ::log2; using ::rint; using ::round; using ::sqrt;
}
""",
    "cuda_runtime.h": "",  # NVRTC has all that device code needs of it
}

_LAUNCH = """
#include "device.h"
namespace densecrf::cuda {
using Stream = cudaStream_t;
template <typename... P, typename... A>
void launch(Stream, void (*kernel)(P...), int64_t, int, const A&... arguments) {
  void (*volatile named)(P...) = kernel;  // which makes the compiler emit it
  static_cast<void>(named);
  (static_cast<void>(static_cast<P>(arguments)), ...);
}
template <typename... P, typename... A>
bool launch_cooperative(Stream stream, void (*kernel)(P...), int64_t blocks, int threads,
                        const A&... arguments) {
  launch(stream, kernel, blocks, threads, arguments...);
  return true;
}
template <typename... P> int64_t cooperative_blocks(void (*)(P...), int);
void set_bytes(Stream, void*, int, size_t);
void copy_bytes(Stream, void*, const void*, size_t);
void read_bytes(Stream, void*, const void*, size_t);
void wait(Stream);
int64_t grid_blocks(int64_t, int64_t, int);
int64_t tile_blocks(int64_t, int);
}
"""


class Compiler:
    """NVRTC, by its C interface."""

    def __init__(self, nvidia: Path) -> None:
        (library,) = (nvidia / "cuda_nvrtc/lib").glob("libnvrtc.so.*")
        self._library = ctypes.CDLL(str(library.resolve()))
        # Headers by name come before files, also before a sibling of the file that includes them.
        declared = {**_STD, "launch.h": _LAUNCH}
        self._headers = {name: f"#pragma once\n{text}\n" for name, text in declared.items()}
        self._options = [
            "-std=c++20",
            "-Icsrc",
            "-Icsrc/cuda",
            f"-I{nvidia / RUNTIME_HEADERS}",
            "-default-device",  # host functions are compiled too, and dropped
            "-Dthrow=(void)",
        ]

    def ptx(self, source: Path) -> str:
        """The PTX of all kernels of a source file, for the oldest GPU and all later ones.

        Raises:
            SystemExit: the compiler refuses it; its words are printed.
        """
        options = [*self._options, f"-arch=compute_{ARCHS[0]}"]
        options += ["-fmad=false"] if source.name in CUDA_EMBEDDING else []
        program = ctypes.c_void_p()
        self._call(
            "nvrtcCreateProgram",
            ctypes.byref(program),
            source.read_bytes(),
            str(source).encode(),
            len(self._headers),
            _strings(self._headers.values()),
            _strings(self._headers),
        )
        status = self._library.nvrtcCompileProgram(program, len(options), _strings(options))
        log = self._text(program, "ProgramLog").strip()
        if status:
            sys.exit(f"{log}\ndensecrf_gpu: NVRTC 12.4 refuses {source}")
        return self._text(program, "PTX")

    def _text(self, program: ctypes.c_void_p, what: str) -> str:
        size = ctypes.c_size_t()
        self._call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        self._call(f"nvrtcGet{what}", program, text)
        return text.value.decode()

    def _call(self, function: str, *arguments: object) -> None:
        if status := getattr(self._library, function)(*arguments):
            sys.exit(f"densecrf_gpu: {function} failed with {status}")


def _strings(texts: Iterable[str]) -> ctypes.Array[ctypes.c_char_p]:
    encoded = [text.encode() for text in texts]
    return (ctypes.c_char_p * len(encoded))(*encoded)


def fetch() -> Path:
    """The folder of the unpacked wheels."""
    unpacked = FOLDER / "nvidia"
    if not (FOLDER / "complete").exists():
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
        download = ["download", "--no-deps", "--only-binary", ":all:", "-d", str(FOLDER), *WHEELS]
        subprocess.run([*pip, *download], check=True)
        for wheel in FOLDER.glob("*.whl"):
            with ZipFile(wheel) as archive:
                archive.extractall(FOLDER)
            wheel.unlink()
        (unpacked / "cuda_nvcc/bin/ptxas").chmod(0o755)
        (FOLDER / "complete").touch()
    return unpacked


def compile_source(source: Path, nvidia: Path) -> int:
    """Compiles a source file and assembles it for every architecture; the number of its kernels."""
    ptx = Compiler(nvidia).ptx(source)
    path = FOLDER / f"{source.stem}.ptx"
    path.write_text(ptx)
    for arch in ARCHS:
        ptxas = str(nvidia / "cuda_nvcc/bin/ptxas")
        command = [ptxas, f"-arch=sm_{arch}", str(path), "-o", os.devnull]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{done.stderr}\ndensecrf_gpu: ptxas 12.4 refuses {source}")
    return ptx.count(".entry ")


def unknown_calls(headers: Path) -> list[str]:
    """What csrc names of the CUDA runtime and its headers of 12.4 do not."""
    texts = [
        path.read_text() for folder in ("cuda", "torch") for path in Path("csrc", folder).iterdir()
    ]
    named = {name for text in texts for name in re.findall(r"\bcuda[A-Z]\w*", text)}
    known = "\n".join(path.read_text(errors="replace") for path in headers.glob("*.h"))
    return sorted(name for name in named if not re.search(rf"\b{name}\b", known))


def main() -> None:
    """Compiles everything and says what it took."""
    os.chdir(ROOT)
    nvidia = fetch()
    if unknown := unknown_calls(nvidia / RUNTIME_HEADERS):
        sys.exit(f"densecrf_gpu: CUDA 12.4 has no {', '.join(unknown)}")
    found = sources("csrc/cuda", ".cu")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # NVRTC takes one at a time
        kernels = sum(pool.map(compile_source, found, [nvidia] * len(found)))
    print(f"CUDA 12.4 compiles {kernels} kernels for sm_{', '.join(ARCHS)}")


if __name__ == "__main__":
    main()
