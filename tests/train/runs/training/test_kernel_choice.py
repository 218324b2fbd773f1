"""Which kernels a run is trained with: what was asked for, what the device can do, what the probe finds."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tests.conftest import PATIENCE_SECONDS

from resact.errors import ToolError, UsageError
from resact.train.networks.kernel_probe import KernelParity
from resact.train.runs.distributed import Ranks
from resact.train.runs.files.config import RunConfig
from resact.train.runs.training import device_checks

GPU = Ranks(rank=0, world_size=1, device=torch.device("cuda"))
CPU = replace(GPU, device=torch.device("cpu"))
SMALL = {"width": 1 / 16, "depths": (1, 1, 1, 1), "frames": 4, "size": 16, "amp": True}
RIGHT = KernelParity(0.01, 0.012, torch.bfloat16, "conv1's output")
WRONG = KernelParity(0.9, 0.012, torch.bfloat16, "conv1's output")


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch):
    """What the probe was asked, and a way to say what it finds."""
    asked = []
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)

    def finds(found: KernelParity | ToolError) -> list[dict]:
        def probed(_architecture, **options):
            asked.append(options)
            if isinstance(found, ToolError):
                raise found
            return found

        monkeypatch.setattr(device_checks, "probe_kernels", probed)
        return asked

    return finds


@pytest.fixture(autouse=True)
def times(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Of a step, by kernels, which no GPU is needed for."""
    seconds = {"eager": 0.2, "fused": 0.1}
    monkeypatch.setattr(device_checks, "step_seconds", lambda config, device: seconds[config.kernels])
    return seconds


def chosen(ranks: Ranks = GPU, **settings) -> tuple[str, str]:
    console = Console(width=300)
    with console.capture() as said:
        config = device_checks.with_kernels(RunConfig.of(SMALL | settings), ranks, console)
    return config.kernels, said.get()


@pytest.mark.parametrize("kernels", ["auto", "fused"])
def test_fused_where_they_are_right(probe, kernels):
    asked = probe(RIGHT)
    said = "kernels: fused kernels right in bfloat16: conv1's output 1.0e-02 from float64, eager 1.2e-02\n"
    if kernels == "auto":
        said += "kernels: the fused ones: a step of 32 clips takes 100.0 ms with them, 200.0 without\n"
    assert chosen(kernels=kernels) == ("fused", said)
    layout = torch.contiguous_format
    assert asked == [{"device": GPU.device, "dtype": torch.bfloat16, "frames": 4, "size": 16, "memory_format": layout}]


def test_in_float32_only_as_asked(probe):
    asked = probe(RIGHT)
    assert chosen(kernels="fused", amp=False)[0] == "fused"
    assert [options["dtype"] for options in asked] == [torch.float32]
    kernels, said = chosen(kernels="auto", amp=False)
    assert kernels == "eager"
    assert "in float32 they do not use the matrix units" in said


@pytest.mark.parametrize(
    ("found", "settings", "why"),
    [
        (WRONG, {}, "fused kernels wrong in bfloat16: conv1's output 9.0e-01 from float64"),
        (ToolError("the fused kernels fail: OutOfResources: shared memory"), {}, "OutOfResources: shared memory"),
        (RIGHT, {"conv": "dense"}, "the network's are dense"),
        (RIGHT, {"checkpoint_activations": True}, "do not work with --checkpoint-activations"),
    ],
)
def test_eager_where_they_are_not(probe, found, settings, why):
    probe(found)
    kernels, said = chosen(**settings)
    assert kernels == "eager"
    assert "kernels: eager; the fused ones are not used: " in said
    assert why in said
    with pytest.raises(UsageError, match=r"got kernels 'fused', but .*train again with --kernels eager"):
        chosen(**settings, kernels="fused")


def test_eager_where_that_is_quicker(probe, times):
    probe(RIGHT)
    times["fused"] = 0.25
    kernels, said = chosen(kernels="auto")
    assert kernels == "eager"
    assert (
        "kernels: eager; the fused ones are not used: a step of 32 clips takes 250.0 ms with them, 200.0 without"
        in said
    )
    assert chosen(kernels="fused")[0] == "fused"
    times |= {"eager": math.inf}  # more memory than there is
    assert chosen(kernels="auto")[0] == "fused"
    times |= {"fused": math.inf}
    assert chosen(kernels="auto")[0] == "eager"


def test_ranks_share_the_step_that_is_timed(probe, monkeypatch):
    probe(RIGHT)
    asked = []
    monkeypatch.setattr(
        device_checks, "step_seconds", lambda config, device: asked.append((config.recipe.batch_size, device)) or 1.0
    )
    monkeypatch.setattr(Ranks, "any", lambda _self, here: here)
    assert chosen(replace(GPU, world_size=4), batch_size=32)[0] == "eager"  # no quicker
    assert asked == [(8, GPU.device)] * 2


def test_a_steps_time_leaves_no_trace(monkeypatch):
    monkeypatch.undo()
    config = RunConfig.of(SMALL | {"batch_size": 2, "modality": "both"})
    config = replace(config, kernels="eager")
    before = torch.get_rng_state()
    assert 0 < device_checks.step_seconds(config, CPU.device) < math.inf
    assert torch.equal(torch.get_rng_state(), before)

    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(device_checks.StepVariant, "step", fail)
    assert device_checks.step_seconds(config, CPU.device) == math.inf


def test_not_with_compile(probe):
    asked = probe(RIGHT)
    assert chosen(compile=True)[0] == "eager"
    with pytest.raises(UsageError, match="got --kernels fused and --compile, expected one of the two"):
        chosen(compile=True, kernels="fused")
    assert asked == []


def test_eager_as_asked_and_on_a_cpu_without_a_word(probe):
    asked = probe(RIGHT)
    assert chosen(kernels="eager") == ("eager", "")
    assert chosen(CPU) == ("eager", "")
    with pytest.raises(UsageError, match="they run on CUDA, and the network is on cpu"):
        chosen(CPU, kernels="fused")
    assert asked == []


def test_all_devices_take_the_same(probe, monkeypatch):
    probe(RIGHT)
    monkeypatch.setattr(Ranks, "any", lambda _self, _here: True)  # another one says no
    kernels, said = chosen()
    assert kernels == "eager"
    assert "another device cannot use them" in said


def test_a_training_by_the_fused_kernels(tiny_store, tmp_path):
    """In Triton's interpreter, beside one by PyTorch's operations."""
    losses = {}
    for kernels in ("fused", "eager"):
        options = "--width 0.0625 --depths 1,1,1,1 --frames 2 --size 8 --epochs 1 --batch-size 16 --val-groups 0"
        command = [
            sys.executable, "-m", "resact", "train", "--store", tiny_store, "--runs", tmp_path, "--run", kernels,
            "--kernels", kernels, *options.split(), "--modality", "residual",
        ]  # fmt: skip
        environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
        assert done.returncode == 0, done.stderr
        assert ("fused kernels right in float32" in done.stdout) == (kernels == "fused")
        run = tmp_path / kernels
        assert json.loads((run / "config.json").read_text())["config"]["kernels"] == kernels
        lines = [json.loads(line) for line in Path(run / "metrics.jsonl").read_text().splitlines()]
        losses[kernels] = [line["loss"] for line in lines if "loss" in line]
    assert len(losses["fused"]) == len(losses["eager"]) > 1
    assert losses["fused"] == pytest.approx(losses["eager"], rel=1e-4)
