"""A run from its beginning to its end."""

import re
from importlib import metadata
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from tests.train.runs.conftest import SMALL, arguments, assert_same_weights, build_store, noted, said_by
from typer.testing import CliRunner

from resact.cli import app
from resact.errors import DivergedError, RunLockedError, RunNotFoundError, UsageError
from resact.train.runs.files import history
from resact.train.runs.files.folder import RunFolder
from resact.train.runs.files.history import read_metrics
from resact.train.runs.files.tensors import read_tensors
from resact.train.runs.training import train as training
from resact.train.runs.training.optimiser import learning_rate

EPOCH_STEPS = 3  # 12 training videos, in batches of 4


def test_a_run_leaves_what_the_design_says(done):
    result, _ = done
    folder = RunFolder(result.run)
    assert (result.run, result.epochs, result.steps) == (str(folder.path), 3, 3 * EPOCH_STEPS)
    assert result.clips_per_second > 0
    assert 0 <= result.data_wait_share < 1
    assert {path.name for path in folder.path.iterdir() if "tfevents" not in path.name} == {
        "config.json", "metrics.jsonl", "last.ckpt", "previous.ckpt", "last.safetensors", "best.safetensors", "lock",
    }  # fmt: skip
    assert len(list(folder.path.glob("events.out.tfevents.*"))) == 1
    record = folder.read_record()
    assert (record.train_videos, record.val_videos, len(record.held_out)) == (12, 6, 3)
    assert (record.config.split, record.config.flip, record.config.amp) == ("split1", True, False)
    assert record.classes == ("Jump", "Run", "Walk")
    assert record.provenance["versions"]["torch"] == metadata.version("torch")  # without +cu130 and the like
    assert type(record).from_text(record.to_text(), "") == record
    network, header = folder.read_network()
    assert network.architecture == record.architecture
    assert (header.epoch, header.epochs, header.step) == (3, 3, 9)
    assert header.val_video_top1 == result.video_top1
    _, best = folder.read_network("best")
    assert (best.epoch, best.val_video_top1) == (result.best_epoch, result.best_video_top1)
    lines = read_metrics(folder.metrics)
    assert noted(folder.path) == list(range(1, 10))
    epochs = [line for line in lines if line["kind"] == "epoch"]
    assert [line["epoch"] for line in epochs] == [0, 1, 2]
    assert max(line["val_video_top1"] for line in epochs) == result.best_video_top1
    first = [line for line in lines if line["kind"] == "step" and line["epoch"] == 0]
    assert sum(line["loss"] * line["clips"] for line in first) / 12 == pytest.approx(epochs[0]["loss"], abs=1e-6)


def test_weights_depend_on_the_seed_and_not_on_activation_checkpointing(train_tiny, tmp_path):
    for name, settings in (("a", {}), ("b", {"checkpoint_activations": True}), ("c", {"seed": 1})):
        train_tiny(name, epochs=1, **settings)
    runs = tmp_path / "runs"
    assert_same_weights(runs / "a", runs / "b")
    with pytest.raises(AssertionError):
        assert_same_weights(runs / "a", runs / "c")


def test_repeated_frames_are_told_where_residuals_of_step_1_suffer(train_tiny, tmp_path):
    store = build_store(tmp_path / "slow.zarr", source_fps="10")
    note = "note: of the training list, 12 of 12 videos have fewer than 15 frames a second: 33 % of their frames"
    for name, told, settings in (
        ("a", True, {"step": 1}),
        ("b", False, {"step": 2}),
        ("c", False, {"modality": "rgb"}),
    ):
        assert (note in said_by(train_tiny, name, store=store, epochs=1, **settings)) == told


def test_it_learns(train_tiny):
    result = train_tiny(epochs=15, dropout=0.0, lr=0.05, warmup_epochs=1, modality="rgb", flip=False)
    assert result.best_video_top1 >= 5 / 6


def test_without_held_out_groups_there_is_no_best(train_tiny, tmp_path):
    result = train_tiny(val_groups=0, epochs=1)
    assert (result.video_top1, result.best_epoch, result.best_video_top1) == (None, None, None)
    assert not (tmp_path / "runs" / "a" / "best.safetensors").exists()
    assert RunFolder(tmp_path / "runs" / "a").read_record().train_videos == 18


@pytest.mark.parametrize(
    "settings",
    [
        {"modality": "both", "step": 2},
        {"modality": "rgb", "amp": True},
        {"network": "3d-resnet50", "channels_last": True, "clip_norm": 0.5},
        {"attention": False, "feature_residual": False, "checkpoint_activations": True},
    ],
    ids=str,
)
def test_every_switch_trains(train_tiny, tmp_path, settings):
    result = train_tiny(epochs=1, **settings)
    assert result.epochs == 1
    record = RunFolder(result.run).read_record()
    assert {name: record.config.settings[name] for name in settings} == settings


def test_a_loss_that_is_no_number_stops_with_a_report(train_tiny, tmp_path):
    with pytest.raises(DivergedError, match=r"the loss is (nan|inf) at step \d+ \(epoch 1, learning rate") as caught:
        train_tiny(lr=1e30, warmup_epochs=0, val_groups=0, epochs=2, checkpoint_seconds=0.0)
    report = str(caught.value)
    step = int(report.split("at step ")[1].split(" ")[0])
    assert noted(tmp_path / "runs" / "a") == list(range(1, step)), "the bad step stands among the good ones"
    assert report.count("v_") == 4, "each clip of the step is named"
    recipe = RunFolder(tmp_path / "runs" / "a").read_record().config.recipe
    assert f"learning rate {learning_rate(recipe, step - 1, epoch_steps=5):.6g}" in report
    weights, progress = read_tensors(tmp_path / "runs" / "a" / "last.ckpt")
    assert progress["step"] == step - 1, "the checkpoint is from before"
    assert len(weights) > 1


def _error(train_tiny, **arguments):
    with pytest.raises(UsageError) as caught:
        train_tiny(**arguments)
    return str(caught.value)


def test_wrong_combinations_are_told_before_any_work(train_tiny, tmp_path):
    runs = tmp_path / "runs"
    assert "got --step 4, expected one below the 4 frames" in _error(train_tiny, step=4)
    assert "got 'split9'" in _error(train_tiny, split="split9").replace("split 'split9'", "'split9'")
    assert "got --val-groups 3, but split1 has no more training groups" in _error(train_tiny, val_groups=3)
    assert "got --network 3d-resnet50 with --conv dense, --attention" in _error(
        train_tiny, network="3d-resnet50", attention=True
    )
    assert "expected the name of one folder" in _error(train_tiny, name="a/b")
    assert "a whole number of 1 or more" in _error(train_tiny, epochs=0)
    assert not runs.exists(), "something was begun"
    lacking = build_store(tmp_path / "one.zarr", groups=1)
    assert "split1 has no training video of Jump, Run, Walk" in _error(train_tiny, store=lacking)
    alone = build_store(tmp_path / "alone.zarr", classes=("Run",))
    assert "alone.zarr with the class Run alone, expected two or more" in _error(train_tiny, store=alone)
    assert not runs.exists()


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--threads", "0", "greater than or equal to 1|x>=1"),
        ("--checkpoint-seconds", "0", "got --checkpoint-seconds 0, expected a number above 0"),
        ("--checkpoint-seconds", "-1", "got --checkpoint-seconds -1, expected"),
        ("--checkpoint-seconds", "nan", "got --checkpoint-seconds nan, expected"),
        ("--arch", "foo", "got --network 'foo', expected p3d-resnet50, 3d-resnet50 or PACKAGE"),
        ("--conv", "foo", "got --conv 'foo', expected separable or dense"),
    ],
)
def test_wrong_options_are_told_before_the_runs_folder_is_made(tiny_store, tmp_path, option, value, words):
    done = CliRunner().invoke(app, arguments(tiny_store, tmp_path / "runs", "a", option, value))
    assert done.exit_code == 2 or isinstance(done.exception, UsageError)
    assert re.search(words, " ".join(done.output.split()) or str(done.exception))
    assert not (tmp_path / "runs").exists()


def test_the_run_knows_its_store_from_any_folder(train_tiny, tmp_path, tiny_store, monkeypatch):
    monkeypatch.chdir(tiny_store.parent)
    result = train_tiny(epochs=1, store=tiny_store.name)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert RunFolder(result.run).read_record().store.path == str(tiny_store)
    done = CliRunner().invoke(app, ["evaluate", result.run, "--views", "1"])
    assert done.exception is None, done.output
    assert f"from {tiny_store}" in done.output


def test_a_run_is_only_gone_on_with_as_it_was(run, train_tiny, tmp_path):
    before = {path: path.read_bytes() for path in run.path.iterdir()}
    assert "already exists: continue it with --resume" in _error(train_tiny)
    assert "other settings (--step: 1, asked for 2)" in _error(train_tiny, resume=True, step=2)
    assert "--lr: 0.02, asked for 0.03" in _error(train_tiny, resume=True, lr=0.03)
    other = build_store(tmp_path / "other.zarr", seed=1)
    assert "is not the store that" in _error(train_tiny, resume=True, store=other)
    assert {path: path.read_bytes() for path in run.path.iterdir()} == before
    same = train_tiny(resume=True, step=1, epochs=3)
    assert (same.epochs, same.clips_per_second) == (3, None)
    done = CliRunner().invoke(app, ["train", "--runs", str(tmp_path / "runs"), "--run", "a", "--resume"])
    assert "steps, all trained before (more --epochs extend the run)" in done.output


def test_resuming_finds_the_store_and_begins_what_is_not_there(train_tiny, tmp_path, tiny_store, monkeypatch):
    result = train_tiny("new", resume=True, **SMALL | {"epochs": 1})
    assert result.epochs == 1
    monkeypatch.setenv("RESACT_DATA", str(tmp_path / "nothing"))
    assert train_tiny("new", resume=True, store=None).epochs == 1


def test_two_trainings_never_write_one_run(run, train_tiny):
    with run.lock(), pytest.raises(RunLockedError, match="another training is writing to"):
        train_tiny(resume=True)
    assert train_tiny(resume=True).epochs == 3


def test_a_folder_without_a_run_says_so(tmp_path):
    with pytest.raises(RunNotFoundError, match="no run at"):
        RunFolder(tmp_path).read_record()


def test_plain_lines_without_a_terminal(done):
    _, text = done
    assert "12 training videos (0.0% shorter than a clip), 6 held out; epochs: 3, of 3 steps each, on cpu" in text
    assert text.count("validation top-1") == 3
    assert "\x1b" not in text


def test_a_live_line_on_a_terminal(train_tiny):
    text = StringIO()
    train_tiny(epochs=2, console=Console(file=text, width=200, force_terminal=True))
    for words in ("epoch 2/2 step 3/3 loss", "top-1", "clips/s", "waiting", "0:00:00 left"):
        assert words in text.getvalue()


def test_without_tensorboard_a_run_has_no_events_and_a_line_says_so(train_tiny, tmp_path, monkeypatch):
    for module in (history, training):
        monkeypatch.setattr(module, "has_tensorboard", lambda: False)
    assert "`pip install tensorboard` adds them" in said_by(train_tiny, epochs=1)
    assert not list((tmp_path / "runs" / "a").glob("events*"))
    assert len((tmp_path / "runs" / "a" / "metrics.jsonl").read_text().splitlines()) > 1


def test_tensorboard_has_the_same_numbers(done):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = Path(done[0].run)
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [event.value for event in events.Scalars("step/loss")] == pytest.approx(noted(folder, "loss"))
