"""`kill -9` of the driver, of a worker and of ffmpeg, at random moments: the store opens, holds only whole videos, and
prep ends with the bytes that an undisturbed one gives."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import zarr
from tests.commands import call
from tests.conftest import GAUNTLET, PATIENCE_SECONDS, wait_until
from tests.pipeline.conftest import StoppingFfmpeg, Tree, prep_arguments, tree_of

from resact.cache.store import open_store

KILLS = 200 if GAUNTLET else 12
VIDEOS = 32
NEARLY_ALL = VIDEOS - 3
"""There, a prep waits: a strike, whenever it comes, cannot come too late."""

Send = Callable[[int, int], None]

pytestmark = pytest.mark.faults


@pytest.fixture
def ffmpeg(tmp_path: Path) -> StoppingFfmpeg:
    return StoppingFfmpeg(tmp_path / "ffmpeg", tmp_path / "ucf101.zarr", videos=NEARLY_ALL)


@contextmanager
def running_prep(root: Path, store: Path, ffmpeg: StoppingFfmpeg, **options: int) -> Iterator[psutil.Popen]:
    """A prep under way, two workers."""
    arguments = prep_arguments(root, store, "--workers", 2, "--ffmpeg", ffmpeg.path)
    command = [sys.executable, "-m", "resact", *map(str, arguments)]
    with psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **options) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def journal_lines(store: Path) -> int:
    journal = store / "index" / "journal.jsonl"
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def done(store: Path) -> int:
    """Committed videos, as the store's files say."""
    return len(open_store(store).index) if (store / "zarr.json").exists() else 0


def wait_until_at_work(process: psutil.Popen, store: Path, already: int, rng: random.Random) -> None:
    """Until a few more videos are committed, and then a moment longer."""
    wanted = already + rng.randint(1, 4)
    wait_until(lambda: already + journal_lines(store) >= wanted, process)
    time.sleep(rng.random() * 0.05)


def kill_frozen(process: psutil.Process) -> bool:
    """SIGKILL a process after freezing it, so that it was surely alive and at work when it was struck."""
    try:
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE))
        if process.status() == psutil.STATUS_STOPPED:
            process.kill()
            return True
    except psutil.NoSuchProcess:
        pass
    return False


def at_work(process: psutil.Popen) -> tuple[list[psutil.Process], list[psutil.Process]]:
    """Workers with a video in hand, and their ffmpegs; none, where processes come and go while we look."""
    try:
        parents = {child: child.parent() for child in process.children(recursive=True)}
        ffmpegs = [child for child in parents if child.name().startswith("ffmpeg")]
    except psutil.NoSuchProcess:
        return [], []
    return [parents[child] for child in ffmpegs if parents[child] in parents], ffmpegs


def strike(process: psutil.Popen, what: str, rng: random.Random) -> None:
    """Kill the driver, a worker or an ffmpeg."""
    if what == "driver":
        assert kill_frozen(process)
        return

    def struck() -> bool:
        workers, ffmpegs = at_work(process)
        targets = workers if what == "worker" else ffmpegs
        return bool(targets) and kill_frozen(rng.choice(targets))

    wait_until(struck, process)


def assert_only_whole_videos(store: Path, undisturbed: Tree) -> None:
    """Plain zarr opens the store, and each array that it shows is whole, to the byte."""
    for name, array in zarr.open_group(str(store), mode="r").arrays():
        assert array.shape[0] > 0
        for file in ("zarr.json", "0.0.0.0"):
            assert tree_of(store / name)[file] == undisturbed[f"{name}/{file}"]
    index = open_store(store).index
    for row in range(len(index)):
        assert (store / index.video_id[row] / "0.0.0.0").stat().st_size == index.shard_bytes[row]


def test_kills_leave_a_whole_store_and_resume_gives_the_same_bytes(
    ucf101: Path, tmp_path: Path, undisturbed: Tree, ffmpeg: StoppingFfmpeg, seed: int
) -> None:
    rng = random.Random(seed)
    store = tmp_path / "ucf101.zarr"
    struck = dict.fromkeys(("driver", "worker", "ffmpeg"), 0)
    while sum(struck.values()) < KILLS:
        what = min(struck, key=lambda kind: struck[kind])
        already = done(store)
        if already > NEARLY_ALL - 6:
            assert call(*prep_arguments(ucf101, store, "--workers", 0)).exit_code == 0
            assert tree_of(store) == undisturbed
            subprocess.run(["rm", "-r", store], check=True)
            already = 0
        ffmpeg.stop_again()
        with running_prep(ucf101, store, ffmpeg) as process:
            wait_until_at_work(process, store, already, rng)
            for _ in range(1 if what == "driver" else 3):  # fewer than the tries that one video has
                strike(process, what, rng)
                struck[what] += 1
            ffmpeg.let_on()
            if what == "driver":
                process.wait()
                assert journal_lines(store) > 0
                assert done(store) < VIDEOS, "the kill came after the work"
            else:
                # Each strike froze a process with a video in hand, so that it was mid-work; prep has to cope alone.
                _, errors = process.communicate(timeout=PATIENCE_SECONDS)
                assert process.returncode == 0, errors
                assert tree_of(store) == undisturbed
        assert_only_whole_videos(store, undisturbed)
    assert call(*prep_arguments(ucf101, store, "--workers", 0)).exit_code == 0
    assert tree_of(store) == undisturbed


def test_a_worker_left_behind_by_a_killed_driver_does_no_harm(
    ucf101: Path, tmp_path: Path, undisturbed: Tree, ffmpeg: StoppingFfmpeg
) -> None:
    rng = random.Random(0)
    store = tmp_path / "ucf101.zarr"
    with running_prep(ucf101, store, ffmpeg) as process:
        wait_until_at_work(process, store, 0, rng)
        left_behind: list[psutil.Process] = []
        wait_until(lambda: left_behind or left_behind.extend(at_work(process)[0][:1]), process)
        left_behind[0].send_signal(signal.SIGSTOP)
        process.kill()
        process.wait()
    assert done(store) < VIDEOS
    try:
        with running_prep(ucf101, store, ffmpeg) as second:
            wait_until_at_work(second, store, done(store), rng)
            assert left_behind[0].status() == psutil.STATUS_STOPPED, "it did not outlive its driver"
            left_behind[0].send_signal(signal.SIGCONT)  # goes on with its video, beside the new prep's workers
            ffmpeg.let_on()
            _, errors = second.communicate(timeout=PATIENCE_SECONDS)
            assert second.returncode == 0, errors
        left_behind[0].wait(timeout=PATIENCE_SECONDS)
    finally:
        if left_behind[0].is_running():
            left_behind[0].kill()
    assert tree_of(store) == undisturbed


@pytest.mark.parametrize(("number", "send"), [(signal.SIGTERM, os.kill), (signal.SIGINT, os.killpg)])
def test_an_interrupt_leaves_a_resumable_store_and_no_process(
    ucf101: Path, tmp_path: Path, undisturbed: Tree, ffmpeg: StoppingFfmpeg, number: signal.Signals, send: Send
) -> None:
    """A terminal sends ctrl-C to the whole process group."""
    store = tmp_path / "ucf101.zarr"
    with running_prep(ucf101, store, ffmpeg, process_group=0) as process:
        wait_until_at_work(process, store, 0, random.Random(1))
        children = process.children(recursive=True)
        send(process.pid, number)
        _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130
    assert b"the same command continues from here" in errors
    assert b"Traceback" not in errors
    assert 0 < done(store) < VIDEOS
    _, alive = psutil.wait_procs(children, timeout=PATIENCE_SECONDS)
    assert not alive
    assert call(*prep_arguments(ucf101, store, "--workers", 0)).exit_code == 0
    assert tree_of(store) == undisturbed
