"""The layer in two processes learns what it learns in one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from problems import assert_near

HERE = Path(__file__).resolve().parent


def run(arguments: list[str], path: Path) -> dict[str, dict[str, torch.Tensor]]:
    folders = [str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(folders), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments, str(HERE / "ddp_worker.py"), str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return torch.load(path, weights_only=True)


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    two = run(launcher, tmp_path / "two.pt")
    one = run([], tmp_path / "one.pt")
    assert two.keys() == one.keys()
    for settings, values in one.items():
        assert len(values) == (10 if settings == "bandwidths=True" else 8)
        for name, value in values.items():
            assert_near(two[settings][name], value, 1e-12)
        assert values["grad crf.weights"].abs().max() > 0
