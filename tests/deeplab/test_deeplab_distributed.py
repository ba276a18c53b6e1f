"""Two processes train what one does, on the halves of its batches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import scenes
import torch
import torch.distributed as dist

import deeplab

pytest.importorskip("kornia")

from deeplab.training.batch_norm import SyncBatchNorm

ROOT = Path(__file__).resolve().parents[2]

CONFIG = """
[data]
name = "folder"
root = "{root}"
crop = 33
workers = 0
[model]
name = "deeplabv3plus_mobilenetv2"
options = {{ bn_momentum = 0.1, dropout = 0.0 }}
[optimizer]
lr = 0.02
[run]
iterations = 4
batch_size = 4
log_every = 1
save_every = 2
validate_every = 4
tensorboard = false
batch_norm = "sync"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(CONFIG.format(root=scenes.write_folder(tmp_path / "scenes")))
    return path


# `deeplab train` in a process that gets a SIGTERM when iteration STOP_AFTER ends, or when process
# STOP_IN has validated the first picture.
COMMAND = """
import os, signal, sys
from deeplab.cli import main
from deeplab.training.report import Report
step = Report.step
def stop(self, done=[0]):
    step(self)
    done[0] += 1
    if done[0] == int(os.environ["STOP_AFTER"]):
        os.kill(os.getpid(), signal.SIGTERM)
Report.step = stop
from deeplab.training import validation
class Matrix(validation.ConfusionMatrix):
    def update(self, *labels):
        super().update(*labels)
        if os.environ["STOP_IN"] == os.environ.get("RANK"):
            os.kill(os.getpid(), signal.SIGTERM)
validation.ConfusionMatrix = Matrix
code = main(sys.argv[1:])
sys.exit(0 if code == 130 else code)
"""


def _train(
    config: Path,
    folder: Path,
    processes: int,
    *options: str,
    stop_after: int = 0,
    stop_in: int = -1,
) -> None:
    """``deeplab train``, under ``torchrun`` where there are several processes."""
    script = config.with_name("command.py")
    script.write_text(COMMAND)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [
        sys.executable, *(launcher if processes > 1 else []), str(script), "train",
        str(config), "-o", str(folder), "--device", "cpu", "--threads", "1", *options,
    ]  # fmt: skip
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
        "STOP_AFTER": str(stop_after), "STOP_IN": str(stop_in),
    }  # fmt: skip
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def _history(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return deeplab.load(folder / "last.safetensors").state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("extra", [(), ("--set", "run.accumulate=2", "--set", "loss.auxiliary=1")])
def test_two_processes_train_what_one_does(
    config: Path, tmp_path: Path, extra: tuple[str, ...]
) -> None:
    """One step, whose update is compared: with synchronised batch normalisation it is the same.

    Exactly so in the classifier. Below it, rounding turns the gradient of a few ReLUs on or off.
    """
    once = ("--set", "run.iterations=1", "--set", "data.crop=65", *extra)
    _train(config, tmp_path / "none", 1, *once, "--set", "optimizer.lr=0")
    _train(config, tmp_path / "one", 1, *once)
    _train(config, tmp_path / "two", 2, *once)
    one, two = _history(tmp_path / "one"), _history(tmp_path / "two")
    assert len(one) == len(two) == 2
    assert one[0]["loss"] == pytest.approx(two[0]["loss"], rel=1e-5)
    assert one[1] == pytest.approx(two[1], abs=0.01)
    before, after, others = (_weights(tmp_path / name) for name in ("none", "one", "two"))
    for part, tolerance in (("classifier.", 1e-4), ("decoder.", 0.05), ("backbone.", 0.05)):
        keys = [key for key in before if key.startswith(part) and "num_batches" not in key]
        update = torch.cat([(after[key] - before[key]).flatten() for key in keys])
        error = torch.cat([(others[key] - after[key]).flatten() for key in keys])
        assert update.norm() > 0
        assert error.norm() < tolerance * update.norm()


@pytest.mark.slow
def test_two_processes_go_on_to_the_bit(config: Path, tmp_path: Path) -> None:
    """A scheduler ends the run, with SIGTERM to both, in the middle, whatever is logged."""
    log = ("--set", "run.log_every=4")
    _train(config, tmp_path / "whole", 2, *log)
    _train(config, tmp_path / "parts", 2, *log, stop_after=2)
    held = torch.load(tmp_path / "parts" / "last.pt", weights_only=True)
    assert (held["iterations"], held["world"]) == (3, 2)  # they agree in the step behind
    _train(config, tmp_path / "parts", 2, *log, "--resume")
    whole, parts = _weights(tmp_path / "whole"), _weights(tmp_path / "parts")
    assert [key for key in whole if not torch.equal(whole[key], parts[key])] == []
    assert _history(tmp_path / "parts") == _history(tmp_path / "whole")


@pytest.mark.slow
def test_one_of_two_processes_stops_a_validation(config: Path, tmp_path: Path) -> None:
    """It saves all that was trained; the validation is done once the run goes on."""
    options = ("--set", "data.val=train", "--set", "run.validate_every=3")
    _train(config, tmp_path / "whole", 2, *options)
    _train(config, tmp_path / "parts", 2, *options, stop_in=1)
    held = torch.load(tmp_path / "parts" / "last.pt", weights_only=True)
    assert (held["iterations"], held["validated"]) == (3, 0)
    assert not any("miou" in line for line in _history(tmp_path / "parts"))
    _train(config, tmp_path / "parts", 2, *options, "--resume")
    assert _history(tmp_path / "parts") == _history(tmp_path / "whole")


@pytest.mark.slow
def test_torchrun_may_be_terminated(config: Path, tmp_path: Path) -> None:
    """It ends its processes and those that read pictures, and waits half a minute for them."""
    run = tmp_path / "run"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
        "-m", "deeplab", "train", str(config), "-o", str(run), "--device", "cpu", "--threads", "1",
        "--set", "data.workers=1", "--set", "run.iterations=100000", "--set", "run.save_every=9999",
        "--set", "run.validate_every=0",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 120
        while not (run / "history.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        process.terminate()
        _, said = process.communicate(timeout=60)
    held = torch.load(run / "last.pt", weights_only=True)
    assert held["iterations"] == _history(run)[-1]["iteration"], said[-2000:]
    assert f"interrupted after {held['iterations']} iterations, all saved" in said


@pytest.mark.slow
def test_two_processes_without_synchronisation_train_too(config: Path, tmp_path: Path) -> None:
    _train(config, tmp_path / "run", 2, "--set", "run.batch_norm=train", "--set", "run.ema=0.9")
    assert _history(tmp_path / "run")[-1]["iteration"] == 4


def _normalise(rank: int, folder: str) -> None:
    """One process of the test below: its half of a batch through synchronised normalisation."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    given = torch.load(f"{folder}/given.pt")
    norm = SyncBatchNorm(5, momentum=0.1).double()
    norm.load_state_dict(given["state"])
    x = given["x"].chunk(2)[rank].clone().requires_grad_()
    out = norm(x)
    out.backward(given["gradient"].chunk(2)[rank])
    found = {
        "out": out.detach(), "x": x.grad, "weight": norm.weight.grad, "bias": norm.bias.grad,
        "state": norm.state_dict(),
    }  # fmt: skip
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_synchronised_normalisation_is_that_of_the_whole_batch(tmp_path: Path) -> None:
    whole = torch.nn.BatchNorm2d(5, momentum=0.1).double()
    torch.nn.init.normal_(whole.weight)
    torch.nn.init.normal_(whole.bias)
    x = torch.randn(4, 5, 3, 2, dtype=torch.float64, requires_grad=True)
    gradient = torch.randn_like(x)
    given = {"state": dict(whole.state_dict()), "x": x.detach(), "gradient": gradient}
    torch.save(given, tmp_path / "given.pt")
    torch.multiprocessing.spawn(_normalise, (str(tmp_path),), nprocs=2)
    halves = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]

    out = whole(x)
    out.backward(gradient)
    torch.testing.assert_close(torch.cat([half["out"] for half in halves]), out.detach())
    torch.testing.assert_close(torch.cat([half["x"] for half in halves]), x.grad)
    torch.testing.assert_close(halves[0]["weight"] + halves[1]["weight"], whole.weight.grad)
    torch.testing.assert_close(halves[0]["bias"] + halves[1]["bias"], whole.bias.grad)
    for half in halves:
        for key, tensor in whole.state_dict().items():
            torch.testing.assert_close(half["state"][key], tensor)
