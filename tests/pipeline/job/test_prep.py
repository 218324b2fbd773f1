"""What prep does besides surviving: it refuses, estimates, resumes, and gives the same bytes however it is run."""

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import zarr
from tests.conftest import PATIENCE_SECONDS, wait_until
from tests.pipeline.conftest import StoppingFfmpeg, Tree, last_json, prep_arguments, resact, tree_of

from resact.cache.store import open_store
from resact.cache.verify import verify_store


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
        run = resact(*prep_arguments(ucf101, store, "--scheduler", cluster.scheduler_address))
    assert run.returncode == 0, run.stderr
    assert tree_of(store) == undisturbed


def test_a_limit_can_be_raised_until_the_store_is_whole(ucf101: Path, tmp_path: Path, undisturbed: Tree) -> None:
    store = tmp_path / "s.zarr"
    first = resact(*prep_arguments(ucf101, store, "--limit", 5, "--workers", 0))
    assert last_json(first)["written"] == 5
    assert "5 of 13,320 videos" in resact("info", store).stdout
    second = resact(*prep_arguments(ucf101, store, "--workers", 0))
    assert (last_json(second)["written"], last_json(second)["skipped"]) == (27, 5)
    assert tree_of(store) == undisturbed
    third = resact(*prep_arguments(ucf101, store))
    assert (last_json(third)["written"], last_json(third)["skipped"]) == (0, 32)
    assert "nothing to do" in third.stderr
    assert tree_of(store) == undisturbed


def test_a_video_whose_array_is_gone_is_done_again(ucf101: Path, tmp_path: Path, undisturbed: Tree) -> None:
    store = tmp_path / "s.zarr"
    assert resact(*prep_arguments(ucf101, store, "--workers", 0)).returncode == 0
    shutil.rmtree(store / "v_Biking_g02_c02")
    assert "its array is gone" in resact("verify", store).stdout
    assert last_json(resact(*prep_arguments(ucf101, store, "--workers", 0)))["written"] == 1
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
    ucf101: Path, tmp_path: Path, option: str, value: str, words: str
) -> None:
    store = tmp_path / "s.zarr"
    assert resact(*prep_arguments(ucf101, store, "--limit", 1, "--workers", 0)).returncode == 0
    before = tree_of(store)
    others = prep_arguments(ucf101, store)
    if option == "--classes":  # which adds up where it is repeated
        del others[others.index(option) : others.index(option) + 2]
    run = resact(*others, option, value)
    assert run.returncode == 1
    assert words in run.stderr
    assert tree_of(store) == before


def test_a_store_that_another_process_writes_to_is_refused(ucf101: Path, tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    assert resact(*prep_arguments(ucf101, store, "--limit", 1, "--workers", 0)).returncode == 0
    with (store / "zarr.json").open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        run = resact(*prep_arguments(ucf101, store, "--limit", 2, "--workers", 0))
    assert run.returncode == 1
    assert "another prep, repair or copy is writing to" in run.stderr
    assert resact(*prep_arguments(ucf101, store, "--limit", 2, "--workers", 0)).returncode == 0


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
    run = resact(*prep_arguments(ucf101, tmp_path))
    assert run.returncode == 2
    assert "is not a clip store (it holds thesis.tex" in run.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_estimate_is_near_the_size(ucf101: Path, tmp_path: Path) -> None:
    for codec in ("jpeg", "lz4"):
        store = tmp_path / f"{codec}.zarr"
        run = resact(*prep_arguments(ucf101, store, "--codec", codec, "--workers", 0))
        estimate = float(run.stderr.split("about ")[1].split(" GB")[0]) * 1e9
        assert 0.7 < estimate / float(str(last_json(run)["bytes"])) < 1.4


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
    import os
    import pty

    plain = resact(*prep_arguments(ucf101, tmp_path / "a.zarr", "--workers", 0))
    assert "\x1b[" not in plain.stderr
    leader, follower = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "resact",
        *map(str, prep_arguments(ucf101, tmp_path / "b.zarr", "--workers", 0)),
    ]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=follower, env={**os.environ, "TERM": "xterm"}
    ) as process:
        os.close(follower)
        shown = b""
        while process.poll() is None or b"32/32" not in shown:
            try:
                shown += os.read(leader, 1 << 16)
            except OSError:
                break
    os.close(leader)
    assert process.returncode == 0
    assert b"32/32" in shown
    assert b"frames/s" in shown
