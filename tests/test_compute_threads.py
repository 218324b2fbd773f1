"""How many threads compute, and how they wait."""

import os
import re
import subprocess
import sys
from pathlib import Path

import dask.system
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from resact.cli import app
from resact.cli.compute_threads import set_compute_threads, wait_passively


@pytest.fixture(autouse=True)
def threads_restored():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_environment(monkeypatch):
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def test_the_openmp_that_torch_loads_waits_passively(no_environment):
    """As OpenMP itself reports: it reads the environment once, when it is loaded."""
    command = [sys.executable, "-m", "resact", "cost", "--frames", "2", "--size", "32"]
    environment = os.environ | {"OMP_DISPLAY_ENV": "verbose"}
    said = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stderr
    if "GOMP_SPINCOUNT" not in said:
        pytest.skip("this torch has another OpenMP than GNU's")
    assert re.findall(r"(OMP_WAIT_POLICY|GOMP_SPINCOUNT) = '(\w+)'", said) == [
        ("OMP_WAIT_POLICY", "PASSIVE"),
        ("GOMP_SPINCOUNT", "1000"),
    ]


def test_what_the_user_has_set_stands(no_environment, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    wait_passively()
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    assert "GOMP_SPINCOUNT" not in os.environ


@pytest.mark.parametrize(
    ("asked", "torchs", "cores", "environment", "expected"),
    [
        (None, 8, 8, {}, 8),
        (None, 8, 2, {}, 2),  # a quota of two cores
        (None, 4, 8, {}, 4),  # four cores of two threads each
        (None, 8, 8, {"LOCAL_WORLD_SIZE": "4"}, 2),
        (None, 2, 2, {"LOCAL_WORLD_SIZE": "4"}, 1),
        (None, 3, 8, {"OMP_NUM_THREADS": "3"}, 3),
        (5, 8, 2, {"OMP_NUM_THREADS": "3"}, 5),
    ],
)
def test_one_per_core_unless_told_otherwise(
    no_environment, monkeypatch, asked, torchs, cores, environment, expected
):  # fmt: skip
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(dask.system, "cpu_count", lambda: cores)
    torch.set_num_threads(torchs)
    set_compute_threads(asked, Console(quiet=True))
    assert torch.get_num_threads() == expected


@pytest.mark.parametrize(
    "words",
    [
        ("train", "--store", "nothing.zarr"),
        ("reproduce", "--store", "nothing.zarr"),
        ("evaluate", "nothing"),
        ("predict", "nothing.mp4"),
        ("bench", "train", "--store", "nothing.zarr"),
    ],
    ids=" ".join,
)
def test_every_command_that_computes_takes_a_number(words, monkeypatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, [*words, "--compute-threads", "0"])
    assert result.exit_code == 2
    assert "--compute-threads" in result.output
