"""What a run that goes on must have as it had it."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from tests.train.runs.conftest import SMALL, assert_same_weights, noted, said_by
from typer.testing import CliRunner

from resact.cli import app
from resact.errors import RunWriteError, StoreNotFoundError, UsageError
from resact.train.runs.files.folder import RunFolder
from resact.train.runs.training.optimiser import learning_rate

SOME = {"epochs": 2, "width": 0.25, "size": 32}  # enough work for two threads to share


def test_a_run_goes_on_with_the_compute_threads_that_it_was_begun_with(train_tiny, train_cut, tmp_path):
    """Their number decides the last bits: here torch is set to one."""
    runs = tmp_path / "runs"
    train_tiny("one", **SOME)
    train_tiny("two", compute_threads=2, **SOME)
    with pytest.raises(AssertionError):
        assert_same_weights(runs / "one", runs / "two")
    cut = train_cut("cut", compute_threads=2, **SOME)
    assert cut.read_record().compute_threads == 2
    assert torch.get_num_threads() == 1
    assert "on cpu, 2 compute threads" in said_by(train_tiny, name="cut", resume=True)
    assert_same_weights(cut.path, runs / "two")
    assert torch.get_num_threads() == 1, "who computes next has what it had"


def test_another_number_of_compute_threads_is_refused(run, train_tiny):
    with pytest.raises(UsageError, match=r"was started with 1 compute threads, not 2, .*leave out --compute-threads"):
        train_tiny(resume=True, compute_threads=2)
    train_tiny(resume=True, compute_threads=1)


def test_a_run_of_an_older_version_goes_on_and_says_what_it_does_not_know(run, train_tiny):
    saved = json.loads(run.config.read_text())
    del saved["compute_threads"]
    run.config.write_text(json.dumps(saved))
    assert run.read_record().compute_threads is None
    assert "If it was not 1, the last bits" in said_by(train_tiny, resume=True)
    assert "If it was not 3, the last bits" in said_by(train_tiny, resume=True, compute_threads=3)


def test_a_name_that_is_no_run_is_refused_where_there_are_others(run, train_tiny, tmp_path):
    (tmp_path / "runs" / "no-run").mkdir()
    with pytest.raises(UsageError, match=r"there is no run .*resdual: .*runs has a\. .*leave out --resume"):
        train_tiny("resdual", resume=True)
    assert not (tmp_path / "runs" / "resdual").exists()


def test_of_many_runs_the_nearest_are_named(train_tiny, tmp_path):
    for number in range(30):
        (tmp_path / "runs" / f"run-{number}").mkdir(parents=True)
        (tmp_path / "runs" / f"run-{number}" / "config.json").touch()
    with pytest.raises(UsageError, match=r"has run-29, (run-\d+, ){6}run-\d+ and 22 more\."):
        train_tiny("rum-29", resume=True)


def test_one_command_serves_from_the_start(train_tiny, tmp_path):
    """In an empty folder of runs, or where the run's own folder is there."""
    one = SMALL | {"epochs": 1}
    assert "has no run yet, so it starts now" in said_by(train_tiny, name="a", resume=True, **one)
    (tmp_path / "runs" / "b").mkdir()
    assert "has no run yet, so it starts now" in said_by(train_tiny, name="b", resume=True, **one)
    assert_same_weights(tmp_path / "runs" / "a", tmp_path / "runs" / "b")


def test_a_run_that_is_done_goes_on_for_more_epochs(train_tiny, train_cut, tmp_path):
    """Its rates from there on are those of a run of all its epochs, and a kill changes nothing."""
    train_tiny("a", epochs=2)
    said = said_by(train_tiny, name="a", resume=True, epochs=4)
    assert "continues from epoch 2 to 4. Its learning rate had fallen to" in said
    assert "epochs: 4 (2, then 2 more), of 3 steps each" in said
    folder = RunFolder(tmp_path / "runs" / "a")
    record = folder.read_record()
    assert (record.earlier_epochs, record.config.recipe.epochs) == ((2,), 4)
    short, long = RunFolder(train_tiny("b", epochs=2).run).read_record().config.recipe, record.config.recipe
    assert noted(folder.path, "lr") == [
        learning_rate(short if step < 6 else long, step, epoch_steps=3) for step in range(12)
    ]
    header = folder.weights_header()
    assert header is not None
    assert (header.epoch, header.epochs) == (4, 4)
    train_cut("b", after_epoch=3, resume=True, epochs=4)
    train_tiny("b", resume=True)
    assert_same_weights(tmp_path / "runs" / "a", tmp_path / "runs" / "b")


def test_it_can_go_on_for_more_again_and_for_no_fewer(train_tiny, tmp_path):
    train_tiny(epochs=1)
    for epochs in (2, 3):
        assert train_tiny(resume=True, epochs=epochs).epochs == epochs
    record = RunFolder(tmp_path / "runs" / "a").read_record()
    assert record.epochs_in_words == "3 (1, then 1 more, then 1 more)"
    assert type(record).from_text(record.to_text(), "") == record
    with pytest.raises(UsageError, match="--epochs: 3, asked for 2"):
        train_tiny(resume=True, epochs=2)


def test_a_run_that_is_not_done_has_to_end_first(train_cut, train_tiny):
    folder = train_cut(epochs=2)
    before = folder.config.read_bytes()
    with pytest.raises(UsageError, match=r"has trained 1 of its 2 epochs: finish it first \(`resact train"):
        train_tiny(resume=True, epochs=4)
    assert folder.config.read_bytes() == before


def test_a_store_that_has_moved_is_asked_for(train_tiny, tmp_path, tiny_store: Path):
    moved = tmp_path / "moved.zarr"
    shutil.copytree(tiny_store, moved)
    train_tiny(epochs=1, store=moved)
    moved.rename(tmp_path / "there.zarr")
    with pytest.raises(StoreNotFoundError, match=r"is not at .*moved\.zarr any more: say where it is now with --store"):
        train_tiny(resume=True, store=None)
    assert train_tiny(resume=True, store=tmp_path / "there.zarr").epochs == 1


def test_a_folder_that_is_read_only_is_named_with_what_helps_there(run, train_tiny, small_disk):
    runs = small_disk / "runs"
    folder = shutil.copytree(run.path, runs / "a")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    for name, resume in (("new", False), ("a", True)):
        with pytest.raises(RunWriteError, match=r"\(Read-only file system\).* writable, or choose another --runs"):
            train_tiny(name, runs=runs, resume=resume)
    said = CliRunner().invoke(app, ["evaluate", str(folder), "--views", "1"])
    assert "(Read-only file system): name another file with --output" in str(said.exception)
