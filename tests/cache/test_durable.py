"""Whole or not at all: commits, locks, and processes killed in the middle of them."""

import errno
import itertools
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from tests.cache.conftest import (
    exit_code,
    folder_in_memory,
    forked,
    make_frames,
    make_record,
    make_settings,
    make_store,
    put_video,
    snapshot,
)

import resact.cache.durable as durable_module
from resact.cache.durable import (
    ShardWriter,
    commit_video,
    create_store,
    disk_failure_as_error,
    forget_failure,
    store_lock,
    write_file,
)
from resact.cache.files import LocalFiles
from resact.cache.index import Index
from resact.cache.index_files import read_index, write_index
from resact.cache.journal import Journal
from resact.cache.layout import DOCUMENT, JOURNAL, PARTIAL, READ_ME, array_name, seal, unseal
from resact.cache.settings import StoreSettings
from resact.cache.store import open_store
from resact.cache.verify import read_record, rebuild_index, verify_store
from resact.errors import DiskFullError, StoreError, StoreLockedError, UsageError

KILLS = 200 if os.environ.get("RESACT_GAUNTLET") else 20

VIDEOS = [(f"v{i}", "failed" if i % 5 == 4 else "ok", i % 4 + 1) for i in range(12)]
IMAGES = [make_frames(num_frames, 16, 24, seed) for seed, (_, _, num_frames) in enumerate(VIDEOS)]


def prep(store: Path) -> None:
    """In miniature: goes on where the last one was killed, and compacts the index after every third video."""
    settings = make_settings("zstd")
    create_store(store, settings)
    with store_lock(store):
        classes, splits = settings.dataset.classes, settings.dataset.splits
        index = read_index(LocalFiles(store), classes, splits)
        there, fresh, journal = set(index.video_id), [], Journal(store)
        for (video_id, status, _), frames in zip(VIDEOS, IMAGES, strict=True):
            if video_id in there:
                continue
            fresh.append(put_video(store, settings, make_record(video_id, status), frames))
            journal.append(fresh[-1:])
            if len(fresh) == 3:
                index = index.merged(Index.of(fresh, classes, splits))
                journal.close()
                write_index(store, index)
                fresh = []
        journal.close()
        write_index(store, index.merged(Index.of(fresh, classes, splits)))


def run_prep(store: Path, *, kill_at: int = 0) -> int | None:
    """How many functions of C it called or returned from; None where it was killed at that one.

    Opening, writing, syncing, renaming are such functions.
    """
    done, told = 0, store.with_suffix(".calls")

    def count(frame: object, event: str, function: object) -> None:
        nonlocal done
        done += event in ("c_call", "c_return")
        if done == kill_at != 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted() -> None:
        sys.setprofile(count)
        prep(store)
        sys.setprofile(None)
        told.write_text(str(done))

    code = exit_code(forked(counted))
    assert code == 0 or (kill_at and code == -signal.SIGKILL)
    return int(told.read_text()) if code == 0 else None


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A kill, unlike a power cut, is the same wherever the files are."""
    with folder_in_memory() as folder:
        yield folder


@pytest.mark.faults
def test_killed_at_any_moment_it_ends_with_the_same_bytes(in_memory: Path, seed: int) -> None:
    undisturbed = in_memory / "undisturbed.zarr"
    calls = run_prep(undisturbed)
    assert calls is not None
    expected, everything = snapshot(undisturbed), read_all(undisturbed)
    assert len(everything) == 12

    draw = random.Random(seed)
    stores = (in_memory / f"killed{number}.zarr" for number in itertools.count())
    store, kills, midway = next(stores), 0, 0
    while kills < KILLS:
        if run_prep(store, kill_at=draw.randint(1, calls // 2)) is not None:  # it had little left to do
            assert snapshot(store) == expected
            store = next(stores)
            continue
        kills += 1
        if not (store / "zarr.json").exists():
            continue
        rows = read_all(store)
        midway += 0 < len(rows) < 12
        assert rows.items() <= everything.items()
        if draw.random() < 0.3:
            run_prep(store)
            assert snapshot(store) == expected
            assert verify_store(store, threads=1) == (12, [])
            store = next(stores)
    assert midway >= KILLS // 4
    run_prep(store)
    assert snapshot(store) == expected


def read_all(path: Path) -> dict[str, bytes]:
    """Every listed video's pixels, by resact and by zarr, and only whole arrays beside them."""
    store, group = open_store(path), zarr.open_group(path, mode="r")
    for name, array in group.arrays():
        read_record(LocalFiles(path), store.settings, name, failed=False)
        assert array[:].any()
    rows = {}
    for row, video_id in enumerate(store.index.video_id):
        num_frames = int(store.index.num_frames[row])
        if num_frames:
            frames = store.read(video_id, 0, num_frames)
            assert np.array_equal(frames, group[array_name(video_id)][:])
            rows[video_id] = frames.tobytes()
        else:
            read_record(LocalFiles(path), store.settings, array_name(video_id), failed=True)
            rows[video_id] = store.index.problem[row].encode()
    return rows


def test_the_store_does_not_depend_on_the_order_of_videos(stores, tmp_path: Path) -> None:
    built = stores["zstd"]
    videos = [(record, built.frames.get(video_id)) for video_id, record in reversed(built.records.items())]
    make_store(tmp_path / "other.zarr", built.settings, videos)
    assert snapshot(tmp_path / "other.zarr") == snapshot(built.path)


def test_nothing_of_this_machine_is_in_the_store(built) -> None:
    for name, data in snapshot(built.path).items():
        assert str(built.path).encode() not in data, name
        assert not (os.uname().nodename.encode() in data and len(os.uname().nodename) > 4), name


def test_create_is_repeatable_and_leaves_no_partial_files(scratch) -> None:
    before = snapshot(scratch.path)
    create_store(scratch.path, scratch.settings)
    assert snapshot(scratch.path) == before
    assert not (scratch.path / PARTIAL).exists()


def test_a_late_second_creator_replaces_nothing(scratch, tmp_path: Path, monkeypatch) -> None:
    """It looked before the store was there, and writes after the first one has finished."""
    before = snapshot(scratch.path)
    real_exists, asked = Path.exists, []

    def not_yet(path: Path) -> bool:
        asked.append(path)
        return len(asked) > 2 and real_exists(path)

    monkeypatch.setattr(Path, "exists", not_yet)
    create_store(scratch.path, make_settings("lz4"))
    monkeypatch.undo()
    with store_lock(scratch.path):
        pass
    assert snapshot(scratch.path) == before


@pytest.mark.parametrize("content", ["folder", "file", "zarr v2"])
def test_create_refuses_what_is_no_store(content: str, tmp_path: Path) -> None:
    path = tmp_path / "x.zarr"
    if content == "file":
        path.write_text("thesis")
    else:
        path.mkdir()
        (path / {"folder": "thesis.tex", "zarr v2": ".zgroup"}[content]).write_text("{}")
    with pytest.raises(UsageError, match=r"x\.zarr is not a clip store \(it holds .*\): choose another --store"):
        create_store(path, make_settings())
    assert not (tmp_path / "x.zarr" / "index").exists()


def test_create_goes_on_where_one_was_killed(tmp_path: Path) -> None:
    create_store(tmp_path / "a.zarr", make_settings())
    (tmp_path / "b.zarr" / PARTIAL).mkdir(parents=True)
    (tmp_path / "b.zarr" / PARTIAL / "zarr.json.torn").write_bytes(b"{")
    create_store(tmp_path / "b.zarr", make_settings())
    for name in ("a", "b"):
        with store_lock(tmp_path / f"{name}.zarr"):
            pass
    assert snapshot(tmp_path / "a.zarr") == snapshot(tmp_path / "b.zarr")


def test_four_creators_at_once_make_one_store(tmp_path: Path) -> None:
    path, (gate, let_go) = tmp_path / "x.zarr", os.pipe()

    def create() -> None:
        os.read(gate, 1)
        create_store(path, make_settings())

    creators = [forked(create) for _ in range(4)]
    os.write(let_go, b"1234")
    assert [exit_code(creator) for creator in creators] == [0] * 4
    create_store(tmp_path / "alone.zarr", make_settings())
    for store in (path, tmp_path / "alone.zarr"):
        with store_lock(store):
            pass
    assert snapshot(path) == snapshot(tmp_path / "alone.zarr")


@pytest.mark.parametrize("moment", ["iterdir", "mkdir"])
def test_a_store_that_another_process_makes_meanwhile_is_taken(moment: str, tmp_path: Path, monkeypatch) -> None:
    path, settings = tmp_path / "x.zarr", make_settings()
    path.mkdir()

    def another_process() -> None:
        create_store(path, settings)
        with store_lock(path):
            put_video(path, settings, make_record("wave_a"), make_frames(2, 16, 24, 0))

    before(Path, moment, another_process, monkeypatch)
    create_store(path, settings)
    assert (path / array_name("wave_a") / DOCUMENT).exists()


def test_the_lock_is_taken_while_another_process_is_still_creating(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "x.zarr"
    create_store(path, make_settings())
    before(Path, "mkdir", (path / PARTIAL).mkdir, monkeypatch)
    with store_lock(path):
        assert list((path / PARTIAL).iterdir()) == []


def before(cls: type, method: str, act: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Do something just before the next call of a method."""
    real = getattr(cls, method)

    def then(self: Any, *args: Any, **options: Any) -> Any:
        setattr(cls, method, real)
        act()
        return real(self, *args, **options)

    monkeypatch.setattr(cls, method, then)


def test_only_one_process_writes(scratch) -> None:
    hears, says = os.pipe()

    def hold() -> None:
        with store_lock(scratch.path):
            os.write(says, b"held")
            signal.pause()

    holder = forked(hold)
    assert os.read(hears, 4) == b"held"
    (scratch.path / PARTIAL / "theirs").write_bytes(b"in use")
    for attempt in (lambda: store_lock(scratch.path).__enter__(), lambda: rebuild_index(scratch.path)):
        with pytest.raises(StoreLockedError, match="another prep, repair or copy is writing to"):
            attempt()
    assert (scratch.path / PARTIAL / "theirs").exists()
    os.kill(holder, signal.SIGKILL)
    assert exit_code(holder) == -signal.SIGKILL
    with store_lock(scratch.path):  # the kernel let go
        assert list((scratch.path / PARTIAL).iterdir()) == []
    assert not (scratch.path / PARTIAL).exists()


def test_the_lock_sweeps_up_what_killed_attempts_left(scratch) -> None:
    before = snapshot(scratch.path)
    for folder in ("partial/wide.0123", "discarded.0123/wide", "discarded.4567"):
        (scratch.path / "index" / folder).mkdir(parents=True)
        (scratch.path / "index" / folder / "0.0.0.0").write_bytes(b"half")
    with store_lock(scratch.path):
        pass
    assert snapshot(scratch.path) == before


def test_a_writer_left_early_leaves_nothing(scratch) -> None:
    with store_lock(scratch.path):
        with ShardWriter(scratch.path, "new") as writer:
            writer.append(b"frame")
            assert writer.path.exists()
        assert list((scratch.path / PARTIAL).iterdir()) == []
    assert not (scratch.path / "new").exists()


def test_committing_twice_gives_the_same_bytes(scratch) -> None:
    before = snapshot(scratch.path)
    with store_lock(scratch.path):
        for video_id, record in scratch.records.items():
            put_video(scratch.path, scratch.settings, record, scratch.frames.get(video_id))
    assert snapshot(scratch.path) == before


@pytest.mark.parametrize("damage", ["shard byte", "document byte", "no shard", "no document", "extra nothing"])
def test_committing_again_repairs_a_damaged_video(damage: str, scratch) -> None:
    before = snapshot(scratch.path)
    node = scratch.path / "wide"
    victim = node / ("0.0.0.0" if "shard" in damage else "zarr.json")
    if damage.endswith("byte"):
        data = bytearray(victim.read_bytes())
        data[100] ^= 1
        victim.write_bytes(data)
    elif damage.startswith("no"):
        victim.unlink()
    else:
        victim.unlink()
        (node / "0.0.0.0").unlink()
    with store_lock(scratch.path):
        put_video(scratch.path, scratch.settings, scratch.records["wide"], scratch.frames["wide"])
    assert snapshot(scratch.path) == before


def test_another_source_replaces_the_video_whole(scratch) -> None:
    frames = make_frames(7, 10, 12, 99)
    with store_lock(scratch.path):
        put_video(scratch.path, scratch.settings, scratch.records["wide"], frames)
        assert list((scratch.path / PARTIAL).iterdir()) == []
    rebuild_index(scratch.path)
    assert np.array_equal(open_store(scratch.path).read("wide", 0, 7), frames)
    assert verify_store(scratch.path, threads=1) == (5, [])


def test_a_store_whose_words_for_people_are_of_another_version_is_written_to(scratch) -> None:
    document = unseal((scratch.path / DOCUMENT).read_bytes(), "here")
    document["attributes"][READ_ME] = "other words"
    (scratch.path / DOCUMENT).write_bytes(seal(document))
    with store_lock(scratch.path):
        put_video(scratch.path, scratch.settings, scratch.records["wide"], make_frames(7, 10, 12, 99))
    rebuild_index(scratch.path)
    assert verify_store(scratch.path, threads=1) == (5, [])


def test_a_store_made_anew_is_not_written_to(scratch) -> None:
    before = snapshot(scratch.path)
    with store_lock(scratch.path), pytest.raises(StoreError, match="was replaced by another store"):
        put_video(scratch.path, make_settings("zstd", fps="25"), scratch.records["wide"], scratch.frames["wide"])
    assert snapshot(scratch.path) == before


def test_a_worker_left_behind_cannot_commit_after_the_sweep(scratch) -> None:
    before = snapshot(scratch.path)
    with store_lock(scratch.path):
        writer = ShardWriter(scratch.path, "late")
        writer.append(b"frame")
        frame_bytes = writer.finish()
    record = make_record("late", height=2, width=2, frame_bytes=frame_bytes)
    with pytest.raises(StoreError, match="another prep has taken over"):
        commit_video(scratch.path, record, scratch.settings, shard=writer.path)
    writer.__exit__(None, None, None)
    assert snapshot(scratch.path) == before


def test_forget_failure(scratch) -> None:
    forget_failure(scratch.path, "index")
    forget_failure(scratch.path, "never failed")
    assert sorted(p.name for p in (scratch.path / "failed").iterdir()) == ["zarr.json"]
    assert not list((scratch.path / "index").glob("discarded.*"))


def test_two_forget_a_failure_at_once(scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver, and a worker that was cut off and has come back."""
    discard, calls = durable_module._discard, []

    def second(*arguments: Path) -> None:
        calls.append(discard(*arguments))
        discard(*arguments)

    monkeypatch.setattr(durable_module, "_discard", second)
    forget_failure(scratch.path, "index")
    assert calls == [None]
    assert sorted(p.name for p in (scratch.path / "failed").iterdir()) == ["zarr.json"]


def test_write_file_replaces_whole_or_links_once(scratch) -> None:
    with store_lock(scratch.path):
        write_file(scratch.path, "index/note", [b"one"])
        write_file(scratch.path, "index/note", [b"two"])
        with pytest.raises(FileExistsError):
            write_file(scratch.path, "index/note", [b"three"], publish=os.link)
        assert (scratch.path / "index/note").read_bytes() == b"two"
        assert list((scratch.path / PARTIAL).iterdir()) == []


def test_every_file_is_synced_before_its_name_and_its_folder_after(scratch, monkeypatch) -> None:
    """Without the right order of fsync and rename, a power cut leaves names without bytes."""
    events: list[tuple[str, str]] = []
    real_fsync, real_rename = os.fsync, Path.rename

    def fsync(descriptor: int) -> None:
        events.append(("sync", Path(f"/proc/self/fd/{descriptor}").resolve().name))
        real_fsync(descriptor)

    def rename(self: Path, target: Path) -> Path:
        events.append(("rename", Path(target).name))
        return real_rename(self, target)

    monkeypatch.setattr(durable_module.os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)
    with store_lock(scratch.path):
        (scratch.path / "wide").rename(scratch.path / "index" / "aside")
        events.clear()
        put_video(scratch.path, scratch.settings, scratch.records["wide"], scratch.frames["wide"])
    kinds = [name if kind == "sync" else kind for kind, name in events[:5]]
    assert kinds[:2] == ["0.0.0.0", "zarr.json"]
    assert kinds[2].startswith("wide.")
    assert events[3:5] == [("rename", "wide"), ("sync", scratch.path.name)]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_clear_error(number: int, tmp_path: Path) -> None:
    message = r"no room left for .*: everything committed is intact; make room"
    with pytest.raises(DiskFullError, match=message), disk_failure_as_error(tmp_path):
        raise OSError(number, "full")
    with pytest.raises(PermissionError), disk_failure_as_error(tmp_path):
        raise PermissionError(errno.EACCES, "not yours")


def make_and_lock(store: Path, settings: StoreSettings) -> None:
    with disk_failure_as_error(store):
        create_store(store, settings)
        with store_lock(store):
            pass


@pytest.mark.parametrize(
    ("function", "error"),
    [
        ("fcntl.flock", OSError(errno.ENOLCK, "No locks available")),
        ("os.link", PermissionError(errno.EPERM, "Operation not permitted")),
        ("os.fsync", OSError(errno.ENOTSUP, "Operation not supported")),
    ],
)
def test_what_the_file_system_cannot_do_is_one_clear_error(
    function: str, error: OSError, scratch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    store = tmp_path / "my store.zarr"
    monkeypatch.setattr(f"resact.cache.durable.{function}", fail)
    message = r"cannot do what writing there needs \(.*\): `resact doctor '.*my store\.zarr'` names it"
    with pytest.raises(StoreError, match=message):
        make_and_lock(store, scratch.settings)
    assert not list((store / PARTIAL).iterdir())


def test_a_full_disk_leaves_no_part_of_a_file(scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = snapshot(scratch.path)
    with store_lock(scratch.path):
        monkeypatch.setattr(durable_module.os, "fsync", full)
        with pytest.raises(DiskFullError), disk_failure_as_error(scratch.path):
            write_file(scratch.path, "zarr.json", [b"new"])
        assert list((scratch.path / PARTIAL).iterdir()) == []
        monkeypatch.undo()
    assert snapshot(scratch.path) == before
    assert not (scratch.path / JOURNAL).exists()
