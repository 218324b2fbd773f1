"""Trainings in a form that was chosen, named or taken over. Trials are genuine; only their times are not."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tests.conftest import PATIENCE_SECONDS
from tests.train.runs.conftest import SMALL, assert_same_weights, finish_on_two_ranks, noted, said_by
from torch import distributed as dist

from resact.errors import UsageError
from resact.train.runs.distributed import Ranks
from resact.train.runs.files.config import EAGER_FORMS, RunConfig
from resact.train.runs.files.folder import RunFolder
from resact.train.runs.training import kernel_choice, preparation, trials
from resact.train.runs.training.kernel_choice import with_kernels
from resact.train.runs.training.step import TrainStep
from resact.train.runs.training.trials import Trial

SECONDS = {"ncdhw": 0.2, "channels-last": 0.3, "folded": 0.4, "shifted": 0.1}


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The CPU chooses as a GPU does, by genuine trials with scripted times; the forms that were tried."""
    tried: list[str] = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(kernel_choice, "_TIMED_ON", ("cpu",))

    def try_form(config, *arguments):
        def median_seconds(work, *_, **__):
            work()
            return SECONDS[config.kernels]

        tried.append(config.kernels)
        monkeypatch.setattr(trials, "median_seconds", median_seconds)
        return trials.try_form(config, *arguments)

    monkeypatch.setattr(kernel_choice, "try_form", try_form)
    return tried


def config_of(runs: Path, name: str) -> dict:
    return json.loads((runs / name / "config.json").read_text())


def test_chosen_by_timing_or_from_before_or_named_the_weights_are_equal_to_the_bit(timed, train_tiny, tmp_path):
    runs, settings = tmp_path / "runs", {"epochs": 1, "modality": "both", "batch_size": 5}
    before = torch.get_rng_state()
    line = "kernels: shifted, 100.0 ms a step of 5 clips, 2.00 times as fast as eager (timed now; config.json says why "
    assert line + "not fused, shifted+graph)\n" in said_by(train_tiny, "timed", **settings)
    assert timed == [*EAGER_FORMS], "the others are not for a CPU"
    assert "(as timed before, " in said_by(train_tiny, "kept", **settings)
    assert timed == [*EAGER_FORMS]
    assert "kernels:" not in said_by(train_tiny, "named", kernels="shifted", **settings)
    train_tiny("plain", kernels="ncdhw", **settings)
    for name in ("kept", "named"):
        assert_same_weights(runs / "timed", runs / name)
    with pytest.raises(AssertionError):
        assert_same_weights(runs / "timed", runs / "plain")
    torch.set_rng_state(before)

    record = config_of(runs, "timed")
    assert (record["config"]["kernels"], record["config"]["channels_last"]) == ("shifted", True)
    assert record["config"] == config_of(runs, "named")["config"]
    assert config_of(runs, "named")["kernel_choice"] is None
    forms = record["kernel_choice"]["forms"]
    assert {name: form["seconds"] for name, form in forms.items()} == SECONDS | {"fused": None, "shifted+graph": None}
    assert forms["fused"]["left_out"] == "they run on CUDA, and the network is on cpu"
    assert forms["shifted+graph"]["left_out"] == "CUDA graphs need a CUDA device, not cpu"
    assert RunFolder(runs / "kept").read_record().kernel_choice["forms"]["shifted"]["timed"] == "before"


def test_a_form_that_fails_in_its_trial_is_left_out_of_the_run(timed, train_tiny, tmp_path, monkeypatch):
    take_step, taken = TrainStep.__call__, []

    def failing(self, batch, **options):
        if self._config.kernels == "shifted":
            taken.append(batch)
            if len(taken) == 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return take_step(self, batch, **options)

    monkeypatch.setattr(TrainStep, "__call__", failing)
    settings = {"epochs": 1}
    said = said_by(train_tiny, "a", **settings)
    assert len(taken) == 2, "it failed after its first step"
    assert "kernels: ncdhw, 200.0 ms a step of 4 clips (timed now; config.json says why not shifted, " in said
    record = config_of(tmp_path / "runs", "a")
    assert record["config"]["kernels"] == "ncdhw"
    assert record["kernel_choice"]["forms"]["shifted"]["left_out"] == "out of memory"
    train_tiny("b", kernels="ncdhw", **settings)
    assert_same_weights(tmp_path / "runs" / "a", tmp_path / "runs" / "b")


def test_a_resumed_run_keeps_its_form(timed, train_tiny, train_cut, tmp_path, monkeypatch):
    train_tiny("whole", epochs=2)
    train_cut("a", epochs=2)
    timed.clear()
    monkeypatch.setitem(SECONDS, "folded", 0.01)  # would be chosen now
    monkeypatch.setattr(kernel_choice, "KeptTrials", None)  # nor is what was kept asked
    train_tiny("a", resume=True, kernels="auto")
    assert timed == []
    assert config_of(tmp_path / "runs", "a")["config"]["kernels"] == "shifted"
    assert_same_weights(tmp_path / "runs" / "a", tmp_path / "runs" / "whole")
    with pytest.raises(UsageError, match="kernels: 'shifted', asked for 'folded'"):
        train_tiny("a", resume=True, kernels="folded")
    with pytest.raises(UsageError, match="kernels: 'shifted', asked for 'graph'"):
        train_tiny("a", resume=True, kernels="graph")
    with pytest.raises(UsageError, match="expected one of the two: leave --no-channels-last out"):
        train_tiny("a", resume=True, channels_last=False)


@pytest.mark.parametrize("form", ["folded+graph", "fused"])
def test_a_resumed_run_whose_form_is_not_to_be_had_says_the_way_out(train_cut, train_tiny, monkeypatch, form):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    folder = train_cut("a", epochs=2)
    record = folder.read_record()
    provenance = record.provenance | {"device": "NVIDIA H200"}
    folder.write_record(replace(record, config=record.config.in_form(form), provenance=provenance))
    weights = folder.weights("last").read_bytes()
    for asked in ({}, {"kernels": "auto"}, {"kernels": form}):
        with pytest.raises(UsageError) as error:
            train_tiny("a", resume=True, **asked)
        assert str(error.value).startswith(f"the run was begun with kernels {form!r}, but ")
        assert str(error.value).endswith(
            "; continue it on a device like the one it was begun on (NVIDIA H200), or start another --run with "
            "--kernels eager"
        )
    assert folder.weights("last").read_bytes() == weights


def test_a_run_of_an_older_version_is_continued_by_plain_pytorch(timed, train_cut, train_tiny, tmp_path):
    train_tiny("whole", epochs=2, kernels="eager")
    folder = train_cut("a", epochs=2, kernels="eager")
    record = json.loads(folder.config.read_text())
    record["config"] |= {"kernels": "auto"}  # before there were others
    del record["kernel_choice"]
    folder.config.write_text(json.dumps(record))
    train_tiny("a", resume=True)
    assert timed == []
    assert_same_weights(folder.path, tmp_path / "runs" / "whole")


def test_steps_to_come_and_their_sizes(train_tiny, monkeypatch):
    asked = []

    def noting(config, *arguments, **options):
        asked.append((options["steps"], options["sizes"], options["begun_on"]))
        return with_kernels(config, *arguments, **options)

    monkeypatch.setattr(preparation, "with_kernels", noting)
    train_tiny("a", epochs=2, batch_size=4, val_groups=0)  # 18 clips: steps of 3 and 4
    train_tiny("a", resume=True)
    train_tiny("b", epochs=1, batch_size=6, val_groups=0)
    assert asked == [(10, 2, None), (10, 2, "cpu"), (3, 1, None)]


def choose_as_rank(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    os.environ["XDG_CACHE_HOME"] = str(folder / f"cache{rank}")
    tried = []

    def try_form(config, *_):
        tried.append(config.kernels)
        return Trial(seconds=0.1) if config.kernels == "folded" else Trial(left_out="wrong")

    kernel_choice.try_form, kernel_choice._TIMED_ON = try_form, ("cpu",)
    ranks = Ranks(rank=rank, world_size=2, device=torch.device("cpu"))
    outcome = []
    for asked in ("auto", "compiled"):
        try:
            chosen = with_kernels(RunConfig.of(SMALL | {"kernels": asked}), ranks, Console(quiet=True), steps=9)
            outcome.append(chosen.config.kernels)
        except UsageError as error:
            outcome.append(str(error))
    # Another kind of device, which only its own rank can ask.
    Ranks.device_name = property(lambda ranks: f"GPU {ranks.rank}")  # type: ignore[assignment]
    kernel_choice.parity_obstacle = lambda *_: f"wrong on {rank}"
    chosen = with_kernels(RunConfig.of(SMALL), ranks, Console(quiet=True), steps=9)
    unlike = [chosen.config.kernels, chosen.record["chosen"], chosen.record["not_everywhere"]]
    (folder / f"{rank}.json").write_text(json.dumps({"outcome": outcome, "tried": tried, "unlike": unlike}))
    dist.destroy_process_group()


def test_the_first_rank_chooses_for_all(tmp_path):
    finish_on_two_ranks(choose_as_rank, tmp_path)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["outcome"] == second["outcome"]
    assert first["outcome"][0] == "folded"
    assert "got kernels 'compiled', but it cannot be used here (" in first["outcome"][1]
    assert first["tried"] == [*EAGER_FORMS, "folded+compiled", *EAGER_FORMS]
    assert second["tried"] == []
    assert not (tmp_path / "cache1").exists()
    assert first["unlike"] == second["unlike"] == ["eager", "eager", "GPU 1: wrong on 1"]


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
        losses[kernels] = noted(run, "loss")
    assert len(losses["fused"]) == len(losses["eager"]) > 1
    assert losses["fused"] == pytest.approx(losses["eager"], rel=1e-4)
