"""What prep survives besides kills: a full disk, and every kind of broken video."""

import ctypes
import os
import random
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import zarr
from tests.commands import call
from tests.conftest import PATIENCE_SECONDS, fill, wait_until
from tests.pipeline.conftest import (
    FFMPEG,
    StoppingFfmpeg,
    Tree,
    fake_ffmpeg,
    last_json,
    prep_arguments,
    resact,
    tree_of,
)
from tests.pipeline.job.test_repair import flip
from tests.pipeline.videos import H264, prep_files, quadrants, write_video
from tests.prepped import at_15_fps

from resact.cache.codecs import JpegFrames, build_codec
from resact.cache.durable import ShardWriter, create_store, store_lock
from resact.cache.layout import SHARD
from resact.cache.store import open_store
from resact.errors import ToolError
from resact.pipeline.datasets.ucf101 import UCF101
from resact.pipeline.job.plan import prep_job
from resact.pipeline.job.task import Trouble, prep_video

pytestmark = pytest.mark.faults


def test_a_disk_that_fills_up_stops_prep_with_one_error_and_resume_works(
    ucf101: Path, small_disk: Path, tmp_path: Path, undisturbed: Tree
) -> None:
    store = small_disk / "ucf101.zarr"
    ffmpeg = StoppingFfmpeg(tmp_path / "ffmpeg", store, videos=5)
    arguments = prep_arguments(ucf101, store, "--workers", 2, "--ffmpeg", ffmpeg.path)
    command = [sys.executable, "-m", "resact", *map(str, arguments)]
    with psutil.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        journal = store / "index" / "journal.jsonl"
        wait_until(lambda: journal.exists() and journal.read_bytes().count(b"\n") >= 3, process)
        filler = fill(small_disk)  # another program takes the rest of the disk
        ffmpeg.let_on()
        _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 1
    assert errors.count("no room left") == 1
    assert "Traceback" not in errors
    assert 0 < len(open_store(store).index) < 32
    for name, _ in zarr.open_group(str(store), mode="r").arrays():
        assert tree_of(store / name)["0.0.0.0"] == undisturbed[f"{name}/0.0.0.0"]
    filler.unlink()
    assert call(*prep_arguments(ucf101, store, "--workers", 0)).exit_code == 0
    assert tree_of(store) == undisturbed


def test_a_store_that_cannot_fit_is_refused_before_it_starts(ucf101: Path, small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(bytes(56 << 20))
    run = resact(*prep_arguments(ucf101, small_disk / "ucf101.zarr"))
    assert run.returncode == 1
    assert "are free: make room" in run.stderr
    assert "dashboard" not in run.stderr


def test_a_worker_whose_encoder_is_another_stops_prep_before_it_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a cluster of hosts with different versions: the driver's comes first, the worker's second."""
    versions = iter(["simplejpeg 1", "simplejpeg 2"])
    monkeypatch.setattr(JpegFrames, "library", lambda _: next(versions))
    video = write_video(tmp_path / "good.mkv", quadrants(5), *H264)
    with pytest.raises(ToolError, match=r"has simplejpeg 2, but .* made with simplejpeg 1: install the same"):
        prep_files(tmp_path, [video])
    assert not list(tmp_path.rglob("0.0.0.0"))
    assert next(versions, None) is None


def cut_between_frames(avi: bytes) -> bytes:
    """Half an AVI, cut exactly where a chunk ends, which ffmpeg by itself takes for a whole file."""
    position = avi.index(b"movi") + 4
    while position < len(avi) // 2:
        (size,) = struct.unpack("<I", avi[position + 4 : position + 8])
        position += 8 + size + size % 2
    return avi[:position]


@pytest.fixture
def broken(ucf101: Path, tmp_path: Path) -> Path:
    """The small data set, with one video of each kind of damage."""
    root = tmp_path / "broken"
    shutil.copytree(ucf101, root)
    folder = root / "UCF-101" / "Biking"
    videos = sorted(folder.iterdir())
    whole = videos[0].read_bytes()
    videos[1].write_bytes(b"")
    videos[2].write_bytes(random.Random(0).randbytes(50_000))
    videos[3].unlink()
    videos[3].symlink_to(root / "nowhere.avi")
    videos[4].write_bytes(whole[: len(whole) // 2 + 11])
    videos[5].write_bytes(cut_between_frames(whole))
    hurt = bytearray(whole)
    for position in range(len(hurt) // 3, len(hurt) // 2, 997):
        hurt[position] ^= 0x55
    videos[6].write_bytes(hurt)
    videos[7].unlink()
    videos[7].mkdir()
    videos[8].chmod(0)
    shutil.copy(videos[0], folder / "v_Biking_g99_c01.avi")
    shutil.copy(videos[0], folder / "holiday.avi")
    videos[9].write_text("#EXTM3U\nhttp://localhost/video.ts\n")
    subprocess.run(
        [FFMPEG, "-v", "error", "-y", "-f", "lavfi", "-i", "sine=duration=2", "-f", "avi", videos[10]],
        check=True,
    )
    return root


def without_root_privilege() -> None:
    """Root reads files whatever their mode; a process that has dropped this capability does not."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        assert libc.prctl(24, capability, 0, 0, 0) == 0  # PR_CAPBSET_DROP


def test_every_kind_of_broken_video_is_listed_and_the_others_are_unharmed(
    broken: Path, tmp_path: Path, undisturbed: Tree
) -> None:
    store = tmp_path / "broken.zarr"
    options = {"preexec_fn": without_root_privilege} if os.geteuid() == 0 else {}
    run = resact(*prep_arguments(broken, store, "--workers", 2), **options)
    assert run.returncode == 3, run.stderr
    index = open_store(store).index
    status = {index.video_id[row]: (index.status[row], index.problem[row]) for row in range(len(index))}
    expected = {
        "v_Biking_g01_c02": ("failed", "the file is empty"),
        "v_Biking_g01_c03": ("failed", "Invalid data found"),
        "v_Biking_g01_c04": ("failed", "a link to a file that is not there"),
        "v_Biking_g02_c01": ("damaged", "bytes that its header announces"),
        "v_Biking_g02_c02": ("damaged", "bytes that its header announces"),
        "v_Biking_g02_c03": ("damaged", "damaged"),
        "v_Biking_g02_c04": ("failed", "Is a directory"),
        "v_Biking_g03_c01": ("failed", "Permission denied"),
        "v_Biking_g03_c02": ("failed", ""),
        "v_Biking_g03_c03": ("failed", ""),
        "Biking/v_Biking_g99_c01.avi": ("failed", "no video of this name"),
        "Biking/holiday.avi": ("failed", "no video of this name"),
    }
    for video_id, (kind, words) in expected.items():
        assert status[video_id][0] == kind, status[video_id]
        assert words in status[video_id][1]
        assert status[video_id][1]
        assert video_id in run.stderr
    assert {v for v, (kind, _) in status.items() if kind != "ok"} == set(expected)
    summary = last_json(run)
    assert (summary["videos"], summary["failed"], summary["damaged"]) == (34, 9, 3)
    frames = dict(zip(index.video_id, index.num_frames, strict=True))
    assert frames["v_Biking_g01_c01"] == 24
    assert 16 < frames["v_Biking_g02_c01"] < 22  # half the bytes hold 19 frames: the first is the largest
    assert 16 < frames["v_Biking_g02_c02"] < 22
    unharmed = [v for v, (kind, _) in status.items() if kind == "ok"]
    for name in unharmed:
        assert tree_of(store / name)["0.0.0.0"] == undisturbed[f"{name}/0.0.0.0"]

    assert last_json(call("verify", store, "--json")) == {"videos": 34, "bad": [], "repaired": [], "not_repaired": []}
    info = last_json(call("info", store, "--json"))
    assert len(info["failed"]) == 9
    assert len(info["damaged"]) == 3

    again = tmp_path / "again.zarr"
    resact(*prep_arguments(broken, again, "--workers", 0), **options)
    assert tree_of(again) == tree_of(store)


def test_retry_failed_does_a_mended_video_and_gives_the_undisturbed_bytes(
    ucf101: Path, tmp_path: Path, undisturbed: Tree
) -> None:
    root, store = tmp_path / "root", tmp_path / "ucf101.zarr"
    shutil.copytree(ucf101, root)
    video = root / "UCF-101" / "Carphone" / "v_Carphone_g02_c02.avi"
    whole = video.read_bytes()
    video.write_bytes(b"")
    prep = prep_arguments(root, store, "--workers", 0)
    assert call(*prep).exit_code == 3
    video.write_bytes(whole)
    skipped = call(*prep)
    assert skipped.exit_code == 3
    assert last_json(skipped)["written"] == 0
    assert call(*prep, "--retry-failed").exit_code == 0
    assert tree_of(store) == undisturbed


def test_a_video_that_takes_too_long_is_failed_and_ffmpeg_is_gone(ucf101: Path, tmp_path: Path) -> None:
    log = tmp_path / "processes"
    endless = fake_ffmpeg(
        tmp_path / "ffmpeg",
        f'case "$*" in *Biking_g01_c01*) echo $$ >> {log}; exec sleep 7200;; *) exec {FFMPEG} "$@";; esac',
    )
    run = call(*prep_arguments(ucf101, tmp_path / "s.zarr", "--workers", 0, "--timeout", "1", "--ffmpeg", endless))
    assert run.exit_code == 3
    assert "v_Biking_g01_c01" in run.stderr
    assert "not decoded within 1 s" in run.stderr
    left = [int(pid) for pid in log.read_text().split() if psutil.pid_exists(int(pid))]
    assert not left


def test_a_video_whose_ffmpeg_is_killed_each_time_is_failed_and_can_be_retried(
    ucf101: Path, tmp_path: Path, undisturbed: Tree
) -> None:
    log, store = tmp_path / "runs", tmp_path / "s.zarr"
    deadly = fake_ffmpeg(
        tmp_path / "ffmpeg",
        f'case "$*" in *Biking_g01_c01*) echo x >> {log}; kill -9 $$;; *) exec {FFMPEG} "$@";; esac',
    )
    run = call(*prep_arguments(ucf101, store, "--workers", 0, "--ffmpeg", deadly))
    assert run.exit_code == 3
    assert "v_Biking_g01_c01: ffmpeg was killed by SIGKILL each of 5 times" in run.stderr
    assert log.read_text().count("x") >= 5
    assert call(*prep_arguments(ucf101, store, "--workers", 0, "--retry-failed")).exit_code == 0
    assert tree_of(store) == undisturbed


def test_a_worker_whose_attempt_was_swept_away_commits_nothing(
    ucf101: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, library = UCF101.load(ucf101, classes=["Biking"]), build_codec("jpeg").library()
    store = tmp_path / "s.zarr"
    job = prep_job(dataset, at_15_fps(256), "jpeg", library=library, store=store, ffmpeg=None, timeout=600)
    create_store(store, job.settings)
    finish = ShardWriter.finish

    def finish_late(writer: ShardWriter) -> object:
        with store_lock(store):  # the prep that came after sweeps the attempt away
            pass
        return finish(writer)

    monkeypatch.setattr(ShardWriter, "finish", finish_late)
    outcome = prep_video(job, dataset.videos[0])
    assert isinstance(outcome, Trouble)
    assert "another prep has taken over" in outcome.message
    assert not (store / dataset.videos[0].video_id).exists()


def test_odd_names_and_pipes_are_listed_and_the_others_are_unharmed(
    ucf101: Path, tmp_path: Path, undisturbed: Tree
) -> None:
    root, store = tmp_path / "root", tmp_path / "s.zarr"
    shutil.copytree(ucf101, root)
    folder = os.fsencode(root / "UCF-101" / "Biking")
    for name in (b"bad\xff.avi", "\u6f22".encode() * 70 + b".avi", b"line\nbreak.avi"):
        Path(os.fsdecode(folder + b"/" + name)).write_bytes(b"no video")
    (root / "UCF-101" / "Carphone" / "v_Carphone_g01_c01.avi").unlink()
    os.mkfifo(root / "UCF-101" / "Carphone" / "v_Carphone_g01_c01.avi")
    run = call(*prep_arguments(root, store, "--workers", 0))
    assert run.exit_code == 3
    assert "not a regular file" in run.stderr
    assert last_json(run)["failed"] == 4
    assert "31 of 13,320 videos" in str(last_json(call("info", store, "--json"))["partial"])
    for name in ("v_Biking_g01_c01", "v_Carphone_g04_c04"):
        assert tree_of(store / name)["0.0.0.0"] == undisturbed[f"{name}/0.0.0.0"]


def test_a_damaged_frame_is_mended_by_rebuilding_the_index_and_prepping(
    ucf101: Path, undisturbed_store: Path, tmp_path: Path, undisturbed: Tree
) -> None:
    store = tmp_path / "s.zarr"
    shutil.copytree(undisturbed_store, store)
    flip(store / "v_Biking_g01_c03" / SHARD)
    assert call("verify", store).exit_code == 1
    assert "left out: v_Biking_g01_c03" in call("verify", store, "--rebuild-index").stdout
    assert last_json(call(*prep_arguments(ucf101, store, "--workers", 0)))["written"] == 1
    assert tree_of(store) == undisturbed
    assert call("verify", store).exit_code == 0
