"""The benchmark runs, says what it measured, and keeps it in the form that the README needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("densecrf_gpu")
pytest.importorskip("matplotlib")

from benchmarks import gpu_report, networks, readme
from benchmarks.cases import PARAMS, Size, coarse_logits, photographs
from benchmarks.timing import Contender, Lap, interleave, paired_ratio, summarise

ROOT = Path(__file__).resolve().parent.parent
try:
    photographs()
except FileNotFoundError:
    pytest.skip("there are no photographs to measure on", allow_module_level=True)


def run_benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_WAIT_POLICY": "passive"},
    )


def read_only_json(folder: Path) -> Any:
    (path,) = folder.glob("*.json")
    return json.loads(path.read_text())


def test_quick_run_beside_pydensecrf2(tmp_path: Path) -> None:
    pytest.importorskip("pydensecrf")
    arguments = ("crf", "--quick", "--params", "80/13", "--repeats", "1", "--output", str(tmp_path))
    result = run_benchmarks(*arguments)
    assert result.returncode == 0, result.stderr
    for text in ("160x120x5", "80/13", "pydensecrf2, 1 thread", "densecrf_gpu, 1 thread, warm"):
        assert text in result.stdout
    assert "repetition 1/1" in result.stderr

    document = read_only_json(tmp_path)
    assert (document["benchmark"], document["schema"], document["quick"]) == ("crf", 1, True)
    assert {
        "cpu", "cores", "isa", "caches", "transparent_hugepages", "versions", "build", "date",
        "commit", "load_average",
    } <= document["machine"].keys()  # fmt: skip
    (case,) = document["cases"]
    assert case["size"] == {"width": 160, "height": 120, "classes": 5}
    assert case["agreement"]["labels"] >= 0.9999
    assert case["agreement"]["mean_abs_dq"] < 1e-6
    assert case["vertices"]["bilateral"] > 0
    assert case["vertices"]["spatial"] > 0
    rival, *ours = case["results"]
    assert rival["implementation"] == "pydensecrf2"
    assert {result["cache"] for result in ours} == {"warm", "cold"}
    for measured in case["results"]:
        assert 0 < measured["min_ms"] <= measured["median_ms"]
        assert measured["median_cpu_ms"] > 0
        assert measured["ns_per_pixel_class_iteration"] > 0
        assert measured["speedup"]["median"] > 0
        assert measured["memory"].keys() == {"peak_bytes", "kept_bytes", "first_call_ms", "reset"}
    assert len(list(tmp_path.glob("*.png"))) == 1


def test_cold_run_without_rival_keeps_no_warm_times(tmp_path: Path) -> None:
    result = run_benchmarks(
        "crf", "--quick", "--params", "80/13", "--repeats", "1", "--threads", "1", "--cold",
        "--no-rival", "--no-memory", "--no-plot", "--output", str(tmp_path),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    (case,) = read_only_json(tmp_path)["cases"]
    (ours,) = case["results"]
    assert (ours["cache"], ours["speedup"], ours["memory"]) == ("cold", None, None)


def test_memory_run(tmp_path: Path) -> None:
    result = run_benchmarks("memory", "--quick", "--params", "80/13", "--output", str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert "bytes/(px*class)" in result.stdout
    cases = read_only_json(tmp_path)["cases"]
    assert [case["output"] for case in cases] == ["labels", "probabilities"]
    assert all(case["memory"]["peak_bytes"] > 0 for case in cases)


def test_rehearsal_of_the_gpu_measurement_runs_on_the_cpu_and_says_so(tmp_path: Path) -> None:
    result = run_benchmarks(
        "crf", "--device", "cuda", "--rehearse", "--params", "80/13", "--batches", "1,2",
        "--output", str(tmp_path),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "rehearsed on the CPU" in result.stdout
    document = read_only_json(tmp_path)
    assert (document["device"], document["quick"]) == ("rehearsal", True)
    assert [case["batch"] for case in document["cases"]] == [1, 2]
    for case in document["cases"]:
        assert case["agreement"]["labels_cpu"] == 1.0
        assert case["agreement"]["fault"] is None
        assert case["times"]["latency"]["median_ms"] > 0
        assert case["times"]["iteration_bytes"] > 0
    assert len(list(tmp_path.glob("*.png"))) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_measurement_without_a_gpu_is_refused() -> None:
    result = run_benchmarks("crf", "--device", "cuda")
    assert result.returncode == 1
    assert "torch sees no CUDA device" in result.stderr


def test_options_of_the_other_device_are_refused() -> None:
    assert "of --device cpu" in run_benchmarks("crf", "--device", "cuda", "--cold").stderr
    assert "of --device cuda" in run_benchmarks("crf", "--rehearse").stderr


def gpu_results() -> dict[str, Any]:
    """A document as a full run on a GPU leaves it."""
    about = {"name": "Some GPU", "driver": "1.2.3"}
    case = {
        "picture": "coffee",
        "size": {"width": 100, "height": 50, "classes": 4},
        "params": {"bilateral_sxy": 80.0, "bilateral_srgb": 13.0},
        "batch": 4,
        "vertices": {"bilateral": 1000, "spatial": 900},
        "peers": {"densecrf_gpu_cpu_ms": 20.0, "cpu_threads": 16, "pydensecrf2_ms": 300.0},
        "error": None,
        "times": {
            "latency": {"median_ms": 8.0},
            "queued": {"median_ms": 6.0},
            "build_bilateral": {"median_ms": 2.0},
            "iteration_ms": 0.4,
            "peak_bytes": 5 << 20,
        },
    }
    return {
        "benchmark": "crf",
        "quick": False,
        "device": "cuda",
        "iterations": 10,
        "copy_gb_s": 3000.0,
        "machine": {
            "gpu": about,
            "versions": {"torch": "2.11.0"},
            "date": "2026-01-05T03:04:05+00:00",
            "commit": "fedcba",
        },
        "cases": [case, {**case, "error": "out of memory", "times": None}],
    }


def test_readme_says_that_gpu_results_are_pending_until_there_are_some(tmp_path: Path) -> None:
    crf, _ = full_results()
    (tmp_path / "crf-cpu-2026-01-02.json").write_text(json.dumps(crf))
    assert gpu_report.PENDING in readme.section(tmp_path)
    document = gpu_results()
    (tmp_path / "crf-rehearsal-2026-01-06-quick.json").write_text(
        json.dumps({**document, "device": "rehearsal", "quick": True})
    )
    assert gpu_report.PENDING in readme.section(tmp_path)
    (tmp_path / "crf-cuda-2026-01-05.json").write_text(json.dumps(document))
    section = readme.section(tmp_path)
    assert "pending" not in section
    for part in ("Some GPU", "driver 1.2.3", "2 ms", "1.5 ms", "0.5 ms", "0.1 ms", "5 MiB",
                 "16 threads", "3000 GB/s", "80 ms", "fedcba"):  # fmt: skip
        assert part in section


def test_gradients_run(tmp_path: Path) -> None:
    result = run_benchmarks("gradients", "--quick", "--params", "80/13", "--output", str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert "backward/inference" in result.stdout
    (case,) = read_only_json(tmp_path)["cases"]
    assert list(case["times"]) == ["number, symmetric", "matrix, after"]
    assert all(times["backward_ms"] > 0 for times in case["times"].values())
    assert case["memory"]["step"]["peak_bytes"] > 0


def test_networks_are_counted_and_timed(tmp_path: Path) -> None:
    result = run_benchmarks("networks", "--quick", "--output", str(tmp_path))
    assert result.returncode == 0, result.stderr
    document = read_only_json(tmp_path)
    assert document["size"] == {"width": 65, "height": 65, "classes": 21}
    names = [case["network"] for case in document["cases"]]
    assert names == ["deeplabv3_mobilenetv2", "deeplabv3plus_mobilenetv2"]
    for case in document["cases"]:
        assert case["network"] in result.stdout
        assert case["parameters"] > 2e6
        assert case["multiply_adds"] > 1e7
        times = case["time"]
        assert len(times["all_ms"]) == document["repeats"] == 2
        assert 0 < times["min_ms"] <= times["median_ms"]


def test_table_of_networks_has_our_times_and_the_papers_scores(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="benchmarks networks"):
        networks.section(tmp_path)
    crf, _ = full_results()
    case = {
        "parameters": 12_340_000,
        "multiply_adds": 5_600_000_000,
        "time": {"median_ms": 2000.0, "median_cpu_ms": 1234.0},
        "other_load": 0.5,
    }
    document = {
        **crf,
        "benchmark": "networks",
        "threads": [1],
        "repeats": 5,
        "size": {"width": 513, "height": 513, "classes": 21},
        "cases": [{**case, "network": name} for name in networks.PAPERS],
    }
    document["machine"] = {**document["machine"], "isa": {"torch": "AVX2"}}
    (tmp_path / "networks-cpu-2026-01-02.json").write_text(json.dumps(document))
    section = networks.section(tmp_path)
    row = "| `deeplabv2_resnet101` | 12.34 M | 5.6 G | 1.23 s | 76.35 | 77.69 |"
    for part in (row, "1 thread of Some CPU", "processor time, medians of 5 calls", "0.5 cores"):
        assert part in section


def test_unknown_size_is_refused_with_an_example() -> None:
    result = run_benchmarks("crf", "--sizes", "500x375")
    assert result.returncode == 2
    assert "500x375x21" in result.stderr


def full_results() -> tuple[dict[str, Any], dict[str, Any]]:
    """A speed and a memory document as a full run leaves them."""
    memory = {"peak_bytes": 3 << 20, "kept_bytes": 0, "first_call_ms": 9.0, "reset": True}
    common: dict[str, Any] = {
        "schema": 1,
        "quick": False,
        "device": "cpu",
        "iterations": 10,
        "machine": {
            "cpu": "Some CPU",
            "cores": 2,
            "isa": {"densecrf_gpu": "avx2"},
            "versions": {"torch": "2.13.0"},
            "date": "2026-01-02T03:04:05+00:00",
            "commit": "abcdef",
        },
    }
    case = {
        "picture": "coffee",
        "size": {"width": 100, "height": 50, "classes": 4},
        "params": {"bilateral_sxy": 80.0, "bilateral_srgb": 13.0},
        "vertices": {"bilateral": 1000, "spatial": 900},
        "other_load": 0.5,
    }

    def result(name: str, threads: int, cache: str, ms: float, ratio: float) -> dict[str, Any]:
        return {
            "implementation": name,
            "threads": threads,
            "cache": cache,
            "median_ms": ms,
            "speedup": {"median": ratio, "min": ratio, "max": ratio},
            "memory": memory,
        }

    results = [
        result("pydensecrf2", 1, "none", 80.0, 1.0),
        result("densecrf_gpu", 1, "warm", 10.0, 8.0),
        result("densecrf_gpu", 2, "warm", 5.0, 16.0),
    ]
    crf = {
        **common,
        "benchmark": "crf",
        "cold": False,
        "threads": [1, 2],
        "cases": [{**case, "results": results}],
    }
    footprint = {
        **common,
        "benchmark": "memory",
        "threads": [2],
        "cases": [{**case, "output": "labels", "memory": memory}],
    }
    return crf, footprint


def test_readme_table_is_put_between_the_markers_and_only_there(tmp_path: Path) -> None:
    crf, footprint = full_results()
    (tmp_path / "crf-cpu-2026-01-02.json").write_text(json.dumps(crf))
    (tmp_path / "crf-cpu-2026-01-03-quick.json").write_text(json.dumps({**crf, "quick": True}))
    (tmp_path / "memory-cpu-2026-01-02.json").write_text(json.dumps(footprint))
    page = tmp_path / "README.md"
    page.write_text(f"before\n{readme.BEGIN}\nstale\n{readme.END}\nafter\n")
    assert readme.update(page, readme.section(tmp_path))
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "stale" not in text
    for part in (
        "100×50",
        "80/13",
        "80 ms",
        "**8.0×**",
        "**16.0×**",
        "Some CPU",
        "157.3",
        "0.5 cores",
    ):
        assert part in text
    assert not readme.update(page, readme.section(tmp_path))


def test_readme_without_markers_is_refused_and_unchanged(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text("no markers\n")
    with pytest.raises(ValueError, match="benchmark:begin"):
        readme.update(page, "table")
    assert page.read_text() == "no markers\n"


def test_contenders_take_turns_and_ratios_are_paired() -> None:
    order: list[str] = []

    def contender(name: str, runs: int) -> Contender:
        def call() -> torch.Tensor:
            order.append(name)
            return torch.zeros(1)

        return Contender(name, 1, "none", call, lambda: None, lambda: None, runs)

    clock = iter([10.0, 4.0, 5.0, 6.0, 30.0, 9.0, 10.0, 11.0])
    times = interleave(
        [contender("a", 1), contender("b", 3)],
        2,
        lambda call: (Lap(next(clock), 1.0), call()),
        lambda _contender, _result: None,
        lambda _text: None,
    )
    assert order == ["a", "b", "b", "b"] * 2
    walls = [[[lap.wall for lap in row] for row in rows] for rows in times]
    assert walls == [[[10.0], [30.0]], [[4.0, 5.0, 6.0], [9.0, 10.0, 11.0]]]
    assert paired_ratio(times[0], times[1]) == {"median": 2.5, "min": 2.0, "max": 3.0}
    assert summarise(times[1]) == {
        "median_ms": 7.5,
        "min_ms": 4.0,
        "iqr_ms": 4.5,
        "median_cpu_ms": 1.0,
    }


def test_logits_are_repeatable_and_shaped_as_asked() -> None:
    image = torch.arange(30 * 44 * 3).remainder(251).to(torch.uint8).view(30, 44, 3)
    logits = coarse_logits(image, classes=7)
    assert logits.shape == (7, 30, 44)
    assert torch.equal(logits, coarse_logits(image, classes=7))
    assert not torch.equal(logits, coarse_logits(image, classes=7, seed=1))


def test_parameter_sets_are_named_by_their_bandwidths() -> None:
    assert list(PARAMS) == ["80/13", "67/3", "49/4"]
    assert str(Size.parse("500x375x21")) == "500x375x21"
