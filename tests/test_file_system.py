"""`resact doctor FOLDER`: whatever a file system cannot do is named; one that can do all passes."""

import errno
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tests.conftest import fill
from tests.test_doctor import assert_bad

from resact.cache.check import Check
from resact.pipeline import file_system
from resact.pipeline.file_system import check_folder, check_mount

CAN = {"file locks", "renames, links", "syncing", "appending, mapping"}


def by_name(folder: Path) -> dict[str, Check]:
    return {check.name: check for check in check_folder(folder)}


def unsupported(*_: object, **__: object) -> None:
    raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))


def test_a_good_folder_can_do_everything_and_stays_empty(tmp_path: Path) -> None:
    checks = by_name(tmp_path)
    assert {name for name in CAN if checks[name].state == "ok"} == CAN
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_yet_is_measured_above(tmp_path: Path) -> None:
    checks = by_name(tmp_path / "later" / "data")
    assert checks["data folder"].found.endswith(f"(not there yet: measured in {tmp_path}), writable")
    assert not (tmp_path / "later").exists()


def test_a_folder_that_cannot_be_written_to_is_bad(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert_bad(by_name(tmp_path / "file" / "data")["data folder"], "Not a directory")


@pytest.mark.parametrize(
    ("line", "module", "function", "words"),
    [
        ("renames, links", os, "rename", "rename a folder (Operation not supported)"),
        ("renames, links", os, "replace", "rename a file over another (Operation not supported)"),
        ("renames, links", os, "link", "link a file (Operation not supported)"),
        ("syncing", os, "fsync", "sync a file (Operation not supported), sync a folder (Operation not supported)"),
        ("appending, mapping", os, "ftruncate", "append to a file and cut it (Operation not supported)"),
        ("appending, mapping", np, "memmap", "map a file into memory (Operation not supported)"),
    ],
)
def test_each_thing_that_cannot_be_done_is_named(
    line: str, module: object, function: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, function, unsupported)
    checks = by_name(tmp_path)
    assert_bad(checks[line], words)
    assert {name for name in CAN if checks[name].state == "ok"} == CAN - {line}
    assert checks["data folder"].state == "ok"
    assert list(tmp_path.iterdir()) == []


def test_a_sync_of_folders_alone_that_does_not_work_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            unsupported()
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    check = by_name(tmp_path)["syncing"]
    assert check.found == "it cannot sync a folder (Operation not supported)"


def test_a_rename_that_replaces_a_full_folder_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on an object store's mount: there a second worker's video would take the place of the first one's."""
    real = os.rename

    def rename(source: Path, target: Path) -> None:
        if Path(target).is_dir():
            shutil.rmtree(target)
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    check = by_name(tmp_path)["renames, links"]
    assert_bad(check, "it cannot keep a folder from being replaced (it was replaced)")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_locks_that_are_not_there_are_bad(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(file_system.fcntl, "flock", no_locks)
    assert_bad(by_name(tmp_path)["file locks"], f"flock does not work: {os.strerror(number)}")


def test_locks_that_another_process_does_not_see_are_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_system.fcntl, "flock", lambda *_: None)
    assert_bad(by_name(tmp_path)["file locks"], "lets two writers in")


def test_a_lock_that_stays_is_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = subprocess.run

    def refused(*arguments: object, **options: object) -> object:
        run(*arguments, **options)  # type: ignore[call-overload]
        return SimpleNamespace(stdout="refused", stderr="")

    monkeypatch.setattr(subprocess, "run", refused)
    assert_bad(by_name(tmp_path)["file locks"], "while a lock was held: refused; once it was free: refused")


def mountinfo(folder: Path, kind: str, options: str, *, where: str) -> Path:
    """A root, and a mount at `where`, as Linux lists them."""
    path = folder / "mountinfo"
    path.write_text(
        "27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw\n"
        f"40 27 0:39 / {where} rw,relatime shared:2 master:3 - {kind} server:/data rw,{options}\n"
    )
    return path


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("nfs4", "vers=4.2,local_lock=none,addr=10.0.0.1", None),
        ("nfs", "vers=3,local_lock=all", "nfs, local_lock=all: locks do not keep out other hosts"),
        ("nfs", "vers=3,nolock,local_lock=none", "nfs, nolock: locks do not keep out"),
        ("lustre", "flock", None),
        ("lustre", "localflock", "lustre, localflock: locks do not keep out other hosts"),
        ("fuse.rclone", "user_id=0", "fuse.rclone: it renames a folder object by object"),
        ("fuse.sshfs", "user_id=0", None),
    ],
)
def test_what_a_mount_hides_is_a_warning(kind: str, options: str, words: str | None, tmp_path: Path) -> None:
    place = tmp_path / "with space"
    place.mkdir()
    listed = mountinfo(tmp_path, kind, options, where=str(place).replace(" ", "\\040"))
    check = check_mount(place / "below", listed)
    if words is None:
        assert check == Check("file system", "ok", kind)
    else:
        assert_bad(check, words, "warning")
    assert check_mount(tmp_path, listed).found == "ext4"


def test_a_mount_without_a_source(tmp_path: Path) -> None:
    listed = mountinfo(tmp_path, "tmpfs", "size=64k", where=str(tmp_path))
    listed.write_text(listed.read_text().replace("server:/data", ""))
    assert check_mount(tmp_path, listed) == Check("file system", "ok", "tmpfs")


def test_the_kind_of_this_file_system_is_known(small_disk: Path) -> None:
    assert by_name(small_disk)["file system"] == Check("file system", "ok", "tmpfs")


def test_a_slow_disk_is_a_warning_within_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def pass_time(seconds: float) -> float:
        nonlocal now
        now += seconds
        return now

    monkeypatch.setattr(os, "fsync", lambda _: pass_time(3))
    monkeypatch.setattr(file_system.time, "perf_counter", lambda: pass_time(0.001))
    assert_bad(by_name(tmp_path)["disk speed"], "writes 1 MB/s", "warning")
    assert now < 3 * 4  # a file and a folder to try, then one to measure
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_bad(small_disk: Path) -> None:
    fill(small_disk)
    checks = by_name(small_disk)
    assert_bad(checks["disk space"], "0.0 GB free")
    assert any("No space left" in check.found for check in checks.values())
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


@pytest.mark.parametrize(("free", "state"), [(2e12, "ok"), (5e9, "warning"), (2e8, "bad")])
def test_room_for_a_data_set(free: float, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    assert by_name(tmp_path)["disk space"].state == state


@pytest.mark.parametrize(
    ("files", "free", "state"), [(0, 0, "ok"), (1_000_000, 900_000, "ok"), (50_000, 20_000, "warning"), (900, 9, "bad")]
)
def test_room_for_files(files: int, free: int, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status = SimpleNamespace(f_files=files, f_favail=free, f_bavail=0, f_blocks=0, f_bfree=0, f_frsize=4096)
    monkeypatch.setattr(os, "statvfs", lambda _: status)
    check = by_name(tmp_path)["inodes"]
    assert check.state == state
    if state != "ok":
        assert_bad(check, f"room for {free:,} more files", state)
