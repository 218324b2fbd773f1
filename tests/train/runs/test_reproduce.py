from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tests.train.runs.conftest import SMALL, weights_of
from tests.train.runs.untrained import untrained_run

from resact.cache.store import open_store
from resact.errors import Interrupted, UsageError
from resact.train.runs import reproduce as module
from resact.train.runs.files.folder import RunFolder
from resact.train.runs.files.record import InitialWeights
from resact.train.runs.reproduce import plan_runs, reproduce
from resact.train.runs.testing.predictions import PREDICTIONS

TINY = SMALL | {"frames": 5, "epochs": 1, "batch_size": 8}
NAMES = {
    2: ["rgb", "residual-s1", "both-s1-3d-resnet50", "both-s1"],
    3: ["residual-s1", "residual-s2", "residual-s4"],
    4: ["both-s1", "both-s1-no-attention-no-feature-residual", "both-s1-no-attention", "both-s1-no-feature-residual"],
}


def names(tiny_store: Path, tmp_path: Path, **arguments: Any) -> list[str]:
    return [run.name for run in plan_runs(TINY, open_store(tiny_store), tmp_path, **arguments)]


@pytest.mark.parametrize("table", [2, 3, 4])
def test_each_table_has_its_rows(tiny_store, tmp_path, table):
    assert names(tiny_store, tmp_path, tables=[table], seeds=[3]) == [f"paper-{name}-3" for name in NAMES[table]]


def test_nine_distinct_runs_a_seed_a_seed_at_a_time(tiny_store, tmp_path):
    planned = names(tiny_store, tmp_path, tables=[2, 3, 4], seeds=[0, 1, 2])
    assert len(set(planned)) == len(planned) == 27
    assert [name[-1] for name in planned] == ["0"] * 9 + ["1"] * 9 + ["2"] * 9


def test_mistakes_are_told_before_any_work(tiny_store, tmp_path, monkeypatch):
    store = open_store(tiny_store)
    for settings, arguments, words in (
        ({}, {"tables": [5], "seeds": [0]}, "got --tables 5, expected some of 2,3,4"),
        ({}, {"tables": [2], "seeds": [1, 1]}, "expected numbers that differ"),
        ({"modality": "rgb"}, {"tables": [2], "seeds": [0]}, "got modality, which the tables vary"),
        ({"freeze": ("conv1",)}, {"tables": [2], "seeds": [0]}, "got freeze, but the paper trains from scratch"),
        ({"frames": 4}, {"tables": [3], "seeds": [0]}, "got --step 4, expected one below the 4 frames"),
    ):
        with pytest.raises(UsageError, match=words):
            plan_runs(TINY | settings, store, tmp_path, **arguments)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="got several processes"):
        reproduce(TINY, store, tmp_path, console=Console(quiet=True))
    assert list(tmp_path.iterdir()) == []


def test_a_fine_tuned_run_of_a_rows_name_is_none_of_the_papers(tiny_store, tmp_path):
    store = open_store(tiny_store)
    folder = untrained_run(tmp_path / "paper-rgb-0", store, modality="rgb")
    initial = InitialWeights(
        source="/runs/pre/last.safetensors", sha256="ab" * 32, epoch=None, dataset=None, split=None,
        taken=9, copied={}, fresh=(), unused=(),
    )  # fmt: skip
    folder.write_record(replace(folder.read_record(), initial=initial))
    with pytest.raises(
        UsageError, match=r"paper-rgb-0 started from the weights of /runs/pre/last.safetensors, but the paper"
    ):
        plan_runs({}, store, tmp_path, tables=[2], seeds=[0])


def test_the_tables_from_nothing_stopped_half_way(tiny_store, tmp_path, monkeypatch):
    store, quiet = open_store(tiny_store), Console(quiet=True)
    runs, trained = tmp_path / "runs", []
    evaluate = module._evaluate

    def stopped_in_the_fourth(folder: RunFolder, *rest: Any) -> None:
        trained.append(folder.name)
        if len(trained) == 4:
            raise KeyboardInterrupt
        evaluate(folder, *rest)

    monkeypatch.setattr(module, "_evaluate", stopped_in_the_fourth)
    with pytest.raises(Interrupted, match="stopped in paper-both-s1-0; the same command continues from there"):
        reproduce(TINY, store, runs, threads=1, console=quiet)
    planned = plan_runs(TINY, store, runs, tables=[2, 3, 4], seeds=[0])
    assert [run.status for run in planned] == ["done"] * 3 + ["to evaluate"] + ["to do"] * 5
    assert [run.train_clips for run in planned] == [0] * 4 + [18] * 5, "nothing is held out"
    assert [run.test_clips for run in planned] == [0] * 3 + [60] * 6
    before = {path: path.stat().st_mtime_ns for path in runs.glob("*/last.ckpt")}

    with (tmp_path / "out.txt").open("w") as file:
        result = reproduce(TINY, store, runs, threads=1, console=Console(file=file, width=120))
    assert len(trained) == 3 + 1 + 6
    assert {path: path.stat().st_mtime_ns for path in before} == before, "what was trained was trained again"
    assert len(result["runs"]) == 9
    assert {row["status"] for row in result["runs"]} == {"done"}
    assert all(row["video_top1"] in [pytest.approx(n / 6) for n in range(7)] for row in result["runs"])
    assert result["clips"] == 5 * 18 + 6 * 60
    assert result["hours"] > 0
    text = (tmp_path / "out.txt").read_text()
    assert text.index("6 of 9 runs to do: about") < text.index("run 4 of 9"), "the cost is said first"

    again = reproduce(TINY, store, runs, threads=1, console=quiet)
    assert (again["hours"], again["clips"], again["runs"]) == (None, 0, result["runs"])
    with pytest.raises(UsageError, match=r"other settings \(--epochs: 1, asked for 2\)"):
        reproduce(TINY | {"epochs": 2}, store, runs, console=quiet)


@pytest.mark.faults
def test_a_run_whose_files_are_damaged_is_done_again(tiny_store, tmp_path):
    store, quiet = open_store(tiny_store), Console(quiet=True)
    done = reproduce(TINY, store, tmp_path, tables=[3], threads=1, console=quiet)["runs"]
    folders = [RunFolder(row["run"]) for row in done]
    before = {folder.path: (weights_of(folder.path), (folder.path / "last.ckpt").read_bytes()) for folder in folders}
    predictions, torn, changed = folders
    (predictions.path / PREDICTIONS).write_bytes((predictions.path / PREDICTIONS).read_bytes()[:-9])
    torn.weights("last").write_bytes(b"torn")
    (torn.path / PREDICTIONS).unlink()
    data = bytearray(changed.weights("last").read_bytes())
    data[-9] ^= 1
    changed.weights("last").write_bytes(data)

    planned = plan_runs(TINY, store, tmp_path, tables=[3], seeds=[0])
    assert [run.status for run in planned] == ["to evaluate", "begun", "begun"]
    rows = reproduce(TINY, store, tmp_path, tables=[3], threads=1, console=quiet)["runs"]
    assert rows == done
    for path, (weights, checkpoint) in before.items():
        assert (path / "last.ckpt").read_bytes() == checkpoint, "what the checkpoint had was trained again"
        assert all(torch.equal(tensor, weights[name]) for name, tensor in weights_of(path).items())
    assert {run.status for run in plan_runs(TINY, store, tmp_path, tables=[3], seeds=[0])} == {"done"}


def test_a_dry_run_only_says_what_it_would_cost(tiny_store, tmp_path):
    result = reproduce(TINY, open_store(tiny_store), tmp_path, tables=[3], dry_run=True, console=Console(quiet=True))
    assert {row["status"] for row in result["runs"]} == {"to do"}
    assert result["clips"] == 3 * (18 + 60)
    assert list(tmp_path.iterdir()) == []
