"""`kill -9` at random steps, ctrl-C and SIGTERM: the run that goes on ends with the weights of one that was never
disturbed, to the bit, and no step stands twice in `metrics.jsonl`."""

import os
import random
import signal
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import psutil
import pytest
from tests.conftest import GAUNTLET, wait_until
from tests.train.runs.conftest import arguments, assert_same_weights, noted, start

from resact.train.runs.files.history import read_metrics
from resact.train.runs.files.tensors import read_header

KILLS = 100 if GAUNTLET else 5
EPOCHS = 120 if GAUNTLET else 6
SETTINGS = {"batch_size": 1, "epochs": EPOCHS, "modality": "both"}
EPOCH_STEPS = 12  # training videos, one by one
STEPS = EPOCHS * EPOCH_STEPS

pytestmark = pytest.mark.faults


def saved_step(folder: Path) -> int:
    last = folder / "last.ckpt"
    return int(read_header(last)["step"]) if last.exists() else 0


def held_after(folder: Path, step: int, go: Path) -> dict[str, str]:
    """For a training that goes on: it waits after that step, the step before it noted, until `go` is there."""
    return {"HOLD": f"{step - saved_step(folder)}:{go}"}


def wait_for_step(process: ForkServerProcess, folder: Path, step: int) -> None:
    wait_until(lambda: max(noted(folder), default=0) >= step, process)


def wait_for_end(process: ForkServerProcess, code: int) -> None:
    process.join(1800)
    assert process.exitcode == code


def kill_in_the_middle_of_an_epoch(process: ForkServerProcess, folder: Path) -> tuple[int, int]:
    """SIGKILL a training that was frozen first, so that where it was struck is known.

    Returns:
        The last step that it noted, and the step of its checkpoint.
    """
    frozen = psutil.Process(process.pid)
    while True:
        frozen.suspend()
        wait_until(lambda: frozen.status() in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE))
        assert frozen.status() == psutil.STATUS_STOPPED, "it had ended already"
        step = noted(folder)[-1]
        if step % EPOCH_STEPS:
            saved = saved_step(folder)
            process.kill()
            wait_for_end(process, -signal.SIGKILL)
            return step, saved
        frozen.resume()
        time.sleep(0.003)


@pytest.fixture(scope="module")
def undisturbed(tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing befalls, with a checkpoint an epoch."""
    runs = tmp_path_factory.mktemp("undisturbed")
    wait_for_end(start(arguments(tiny_store, runs, "a", **SETTINGS), runs / "output.txt"), 0)
    return runs / "a"


def assert_equal_runs(folder: Path, undisturbed: Path) -> None:
    assert_same_weights(folder, undisturbed)
    assert_same_weights(folder, undisturbed, "best")
    assert noted(folder) == list(range(1, STEPS + 1))
    clocks = {"seconds", "wait_seconds"}
    ours, theirs = (
        [{name: line[name] for name in line.keys() - clocks} for line in read_metrics(run / "metrics.jsonl")]
        for run in (folder, undisturbed)
    )
    assert ours == theirs


def test_kills_at_random_steps_change_nothing(tiny_store: Path, tmp_path: Path, undisturbed: Path, seed: int) -> None:
    rng = random.Random(seed)
    folder, struck, replayed = tmp_path / "a", [0], 0
    words = [
        arguments(tiny_store, tmp_path, "a", "--resume", "--checkpoint-seconds", seconds, **SETTINGS)
        for seconds in (1e9, 1e-9)  # a checkpoint an epoch, or one a step
    ]
    for number in range(KILLS):
        reach = max(1, (STEPS - struck[-1]) // (KILLS - number + 1))
        target = struck[-1] + rng.randint(1, reach)
        # It comes no further than a few steps, to one in the middle of an epoch.
        end = next(step for step in range(target + 2, STEPS) if step % EPOCH_STEPS > 1)
        hold = held_after(folder, end, tmp_path / "never")
        process = start(words[number % 2], tmp_path / f"{number}.txt", hold)
        wait_for_step(process, folder, target)
        step, saved = kill_in_the_middle_of_an_epoch(process, folder)
        assert struck[-1] < step <= end
        struck.append(step)
        replayed += step - saved
    assert replayed > 0, "no kill cost a step that had to be done again"
    wait_for_end(start(words[0], tmp_path / "end.txt"), 0)
    assert_equal_runs(folder, undisturbed)


def test_ctrl_c_and_sigterm_save_first(tiny_store: Path, tmp_path: Path, undisturbed: Path) -> None:
    folder, output = tmp_path / "a", tmp_path / "output.txt"
    words = arguments(tiny_store, tmp_path, "a", "--resume", "--checkpoint-seconds", "1e9", **SETTINGS)
    for number, sign in enumerate((signal.SIGINT, signal.SIGTERM)):
        step, go = number * STEPS // 2 + 1, tmp_path / f"{number}.go"
        process = start(words, output, held_after(folder, step + 1, go))
        wait_for_step(process, folder, step)
        assert process.pid is not None
        os.kill(process.pid, sign)
        go.touch()
        wait_for_end(process, 130)
        last = noted(folder)[-1]
        assert last < STEPS
        assert read_header(folder / "last.ckpt")["step"] == last, "a step was lost"
        said = output.read_text()
        assert (
            f"{sign.name}: stopped after step {last:,}, everything is saved: continue with `resact train --runs "
            f"{tmp_path}" in said
        )
        assert "Traceback" not in said
    wait_for_end(start(words, output), 0)
    assert_equal_runs(folder, undisturbed)
