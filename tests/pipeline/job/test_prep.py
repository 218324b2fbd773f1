"""What prep does besides surviving: it refuses, estimates, resumes, and gives the same bytes however it is run."""

import fcntl
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import zarr
from tests.commands import call, error_of
from tests.conftest import PATIENCE_SECONDS, wait_until
from tests.pipeline.conftest import StoppingFfmpeg, Tree, last_json, prep_arguments, resact, tree_of
from tests.prepped import at_15_fps, prepped

from resact.cache.codecs import build_codec
from resact.cache.store import open_store
from resact.cache.verify import verify_store
from resact.errors import SettingsError, StoreLockedError, UsageError
from resact.pipeline.datasets.ucf101 import UCF101
from resact.pipeline.job.estimate import estimate
from resact.pipeline.job.plan import prep_job


def test_two_workers_give_the_bytes_of_one_process(ucf101: Path, tmp_path: Path, undisturbed: Tree) -> None:
    store = tmp_path / "s.zarr"
    run = resact(*prep_arguments(ucf101, store, "--workers", 2))
    assert run.returncode == 0, run.stderr
    assert "dashboard: http://" in run.stderr
    assert tree_of(store) == undisturbed
    summary = last_json(run)
    arrays = list(zarr.open_group(str(store), mode="r").arrays())
    assert set(summary) >= {"videos", "written", "skipped", "damaged", "failed", "frames", "bytes", "seconds"}
    assert (summary["videos"], summary["written"], summary["frames"]) == (
        32,
        32,
        sum(a.shape[0] for _, a in arrays),
    )
    assert 32 * 23 <= int(str(summary["frames"])) <= 32 * 25
    assert summary["bytes"] == sum(p.stat().st_size for p in store.glob("*/0.0.0.0"))


def test_an_existing_dask_cluster_gives_the_same_bytes(ucf101: Path, tmp_path: Path, undisturbed: Tree) -> None:
    from distributed import LocalCluster

    store = tmp_path / "s.zarr"
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        assert call(*prep_arguments(ucf101, store, "--scheduler", cluster.scheduler_address)).exit_code == 0
    assert tree_of(store) == undisturbed


def test_a_limit_can_be_raised_until_the_store_is_whole(ucf101: Path, tmp_path: Path, undisturbed: Tree) -> None:
    store = tmp_path / "s.zarr"
    first = last_json(call(*prep_arguments(ucf101, store, "--limit", 5, "--workers", 0)))
    assert first["written"] == 5
    assert "5 of 13,320 videos" in call("info", store).stdout
    second = last_json(call(*prep_arguments(ucf101, store, "--workers", 0)))
    assert (second["written"], second["skipped"]) == (27, 5)
    assert tree_of(store) == undisturbed
    third = call(*prep_arguments(ucf101, store))
    assert (last_json(third)["written"], last_json(third)["skipped"]) == (0, 32)
    assert "nothing to do" in third.stderr
    assert tree_of(store) == undisturbed


@pytest.fixture
def store(undisturbed_store: Path, tmp_path: Path) -> Path:
    """A copy of the undisturbed one."""
    shutil.copytree(undisturbed_store, tmp_path / "s.zarr")
    return tmp_path / "s.zarr"


def test_a_video_whose_array_is_gone_is_done_again(ucf101: Path, store: Path, undisturbed: Tree) -> None:
    shutil.rmtree(store / "v_Biking_g02_c02")
    assert "its array is gone" in call("verify", store).stdout
    assert last_json(call(*prep_arguments(ucf101, store, "--workers", 0)))["written"] == 1
    assert tree_of(store) == undisturbed


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--fps", "10", "--fps: store '15', asked for '10'"),
        ("--codec", "lz4", "--codec: store 'jpeg', asked for 'lz4'"),
        ("--short-side", "128", "--short-side: store 256, asked for 128"),
        ("--classes", "Biking", "classes: store ('Biking', 'Carphone'), asked for ('Biking',)"),
    ],
)
def test_other_settings_are_refused_side_by_side(
    ucf101: Path, store: Path, undisturbed: Tree, option: str, value: str, words: str
) -> None:
    others = prep_arguments(ucf101, store)
    if option == "--classes":  # which adds up where it is repeated
        del others[others.index(option) : others.index(option) + 2]
    error = error_of(*others, option, value)
    assert isinstance(error, SettingsError)
    assert words in str(error)
    assert tree_of(store) == undisturbed


def test_a_store_that_something_else_writes_to_is_refused(ucf101: Path, store: Path) -> None:
    with (store / "zarr.json").open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        error = error_of(*prep_arguments(ucf101, store))
    assert isinstance(error, StoreLockedError)
    assert "another prep, repair or copy is writing to" in str(error)
    assert call(*prep_arguments(ucf101, store)).exit_code == 0


def test_two_preps_that_start_at_once_make_one_whole_store(ucf101: Path, tmp_path: Path, undisturbed: Tree) -> None:
    store = tmp_path / "s.zarr"
    command = [sys.executable, "-m", "resact", *map(str, prep_arguments(ucf101, store, "--workers", 0))]
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate(timeout=PATIENCE_SECONDS)[1] for process in both]
    codes = [process.returncode for process in both]
    assert 0 in codes, errors
    assert all(code == 0 or "another prep" in error for code, error in zip(codes, errors, strict=True)), errors
    assert tree_of(store) == undisturbed


def test_a_folder_that_is_no_store_is_left_alone(ucf101: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    error = error_of(*prep_arguments(ucf101, tmp_path))
    assert isinstance(error, UsageError)
    assert "is not a clip store (it holds thesis.tex" in str(error)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_estimate_is_near_the_size(ucf101: Path, tmp_path: Path) -> None:
    dataset, decode = UCF101.load(ucf101, classes=["Biking"]), at_15_fps(128)
    for codec in ("jpeg", "lz4"):
        path, library = tmp_path / f"{codec}.zarr", build_codec(codec).library()
        job = prep_job(dataset, decode, codec, library=library, store=path, ffmpeg=None, timeout=600)
        told = estimate(job, dataset.videos)
        assert told is not None
        assert 0.7 < told.bytes / int(prepped(dataset, decode, codec, path).index.shard_bytes.sum()) < 1.4


def test_a_growing_store_can_be_read_and_verified(ucf101: Path, tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    ffmpeg = StoppingFfmpeg(tmp_path / "ffmpeg", store, videos=5)
    arguments = prep_arguments(ucf101, store, "--workers", 1, "--ffmpeg", ffmpeg.path)
    command = [sys.executable, "-m", "resact", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        journal = store / "index" / "journal.jsonl"
        wait_until(lambda: journal.exists() and journal.read_bytes().count(b"\n") == 5, process)
        opened = open_store(store)
        assert len(opened.index) == 5
        video_id = opened.index.video_id[0]
        plain = zarr.open_group(str(store), mode="r")
        assert (opened.read(video_id, 3, 9) == plain[video_id][3:9]).all()  # type: ignore[index]
        videos, (unfinished,) = verify_store(store, threads=1)
        assert videos == 5
        assert unfinished.problem.startswith("a prep is under way, or was stopped")
        ffmpeg.let_on()
        while process.poll() is None:  # at any moment: nothing else looks bad
            assert {*verify_store(store, threads=1)[1]} <= {unfinished}
    assert process.returncode == 0
    assert verify_store(store, threads=1) == (32, [])


def test_plain_lines_without_a_terminal_and_a_bar_with_one(ucf101: Path, tmp_path: Path) -> None:
    few = ("--limit", 3, "--workers", 0)
    plain = resact(*prep_arguments(ucf101, tmp_path / "a.zarr", *few))
    assert "\x1b[" not in plain.stderr
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "resact", *map(str, prep_arguments(ucf101, tmp_path / "b.zarr", *few))]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=follower, env={**os.environ, "TERM": "xterm"}
    ) as process:
        os.close(follower)
        shown = b""
        while process.poll() is None or b"3/3" not in shown:
            try:
                shown += os.read(leader, 1 << 16)
            except OSError:
                break
    os.close(leader)
    assert process.returncode == 0
    assert b"3/3" in shown
    assert b"frames/s" in shown
