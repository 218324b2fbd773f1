"""Files within a bound: the longest unused go first, a kill does no harm, and processes do not disturb each other."""

import fcntl
import os
import signal
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from tests.cache.conftest import exit_code, folder_in_memory, forked
from tests.conftest import PATIENCE_SECONDS, fill

from resact.cache.bounded_folder import BoundedFolder, NoRoomError
from resact.errors import DiskFullError, StoreError

MAX = 1000


@pytest.fixture
def folder() -> Iterator[Path]:
    with folder_in_memory() as path:
        yield path / "cache"


def names(folder: Path) -> set[str]:
    return {f"{path.parent.name}{path.name}" for path in folder.glob("*/*")}


def contents(name: str, num_bytes: int) -> bytes:
    return (name.encode() * num_bytes)[:num_bytes]


def put(bounded: BoundedFolder, name: str, num_bytes: int = 300) -> bool:
    """Whether this call wrote it; what is there then is whole."""
    wrote = []

    def fill(descriptor: int) -> bool:
        wrote.append(name)
        half = num_bytes // 2
        data = memoryview(contents(name, num_bytes))
        bounded.write(descriptor, 0, data[:half])
        bounded.write(descriptor, half, data[half:])
        return True

    descriptor = bounded.add(name, num_bytes, fill)
    assert descriptor is not None
    assert bounded.read(descriptor, 0, num_bytes + 9) == contents(name, num_bytes)
    os.close(descriptor)
    return bool(wrote)


def is_there(bounded: BoundedFolder, name: str) -> bool:
    descriptor = bounded.find(name)
    if descriptor is not None:
        os.close(descriptor)
    return descriptor is not None


def counted(folder: Path) -> int:
    return int.from_bytes((folder / "bytes").read_bytes(), "little")


def taken(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*/*"))


def test_the_longest_unused_go_first(folder: Path) -> None:
    bounded = BoundedFolder(folder, MAX)
    for name in ("aa1", "bb2", "cc3"):
        assert put(bounded, name)
        assert not put(bounded, name)
    assert is_there(bounded, "aa1")
    assert put(bounded, "dd4")
    assert names(folder) == {"aa1", "cc3", "dd4"}
    assert not is_there(bounded, "bb2")
    assert counted(folder) == taken(folder) == 900


def test_a_smaller_bound_holds_from_the_start(folder: Path) -> None:
    bounded = BoundedFolder(folder, MAX)
    for name in ("aa1", "bb2", "cc3"):
        put(bounded, name)
    BoundedFolder(folder, 650)
    assert names(folder) == {"bb2", "cc3"}
    assert counted(folder) == 600


def test_what_does_not_fit_removes_nothing(folder: Path) -> None:
    bounded = BoundedFolder(folder, MAX)
    put(bounded, "aa1")
    with pytest.raises(NoRoomError, match="1,001 bytes do not fit into the 1,000 of"):
        put(bounded, "bb2", MAX + 1)
    # Nor does it where those that are being written, which cannot go, leave no room.
    with pytest.raises(NoRoomError):
        bounded.add("cc3", 600, lambda _: put(bounded, "dd4", 500))
    assert names(folder) == {"aa1"}
    assert counted(folder) == 300


def test_for_what_can_never_fit_no_file_is_looked_at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for again with each of its clips, and there may be many files."""
    bounded, looked = BoundedFolder(folder, MAX), []
    monkeypatch.setattr(bounded, "_files", lambda: looked.append(1) or iter(()))
    with pytest.raises(NoRoomError):
        put(bounded, "aa1", MAX + 1)
    assert looked == []
    assert put(bounded, "bb2", MAX - 1)
    assert put(bounded, "cc3", 2)
    assert looked == [1]


def test_a_file_that_is_not_to_be_kept_leaves_nothing(folder: Path) -> None:
    bounded = BoundedFolder(folder, MAX)
    assert bounded.add("aa1", 300, lambda _: False) is None

    def breaks(_: int) -> bool:
        raise ConnectionResetError("the server is gone")

    with pytest.raises(ConnectionResetError):
        bounded.add("aa1", 300, breaks)
    assert names(folder) == set()
    assert counted(folder) == 0
    assert put(bounded, "aa1")


def test_an_open_file_is_read_on_after_it_went(folder: Path) -> None:
    bounded = BoundedFolder(folder, MAX)
    put(bounded, "aa1")
    descriptor = bounded.find("aa1")
    assert descriptor is not None
    assert bounded.remove("aa1")
    assert not bounded.remove("aa1")
    assert bounded.read(descriptor, 100, 400) == contents("aa1", 300)[100:]
    os.close(descriptor)
    assert counted(folder) == 0


def test_threads_that_want_the_same_file_write_it_once(folder: Path) -> None:
    bounded = BoundedFolder(folder, MAX)
    wrote = []

    def fill(descriptor: int) -> bool:
        wrote.append(1)
        bounded.write(descriptor, 0, memoryview(contents("aa1", 300)))
        return True

    def want() -> None:
        os.close(bounded.add("aa1", 300, fill))

    def slowly(descriptor: int) -> bool:
        for thread in threads:
            thread.start()
        return fill(descriptor)

    threads = [threading.Thread(target=want) for _ in range(4)]
    os.close(bounded.add("aa1", 300, slowly))
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert wrote == [1]
    assert names(folder) == {"aa1"}
    assert counted(folder) == 300


def test_a_user_may_empty_the_folder_meanwhile(folder: Path) -> None:
    bounded = BoundedFolder(folder, MAX)
    put(bounded, "aa1")

    def emptied(descriptor: int) -> bool:
        for path in [*folder.glob("*/*"), folder / "bytes"]:
            path.unlink()
        bounded.write(descriptor, 0, memoryview(contents("bb2", 300)))
        return True

    os.close(bounded.add("bb2", 300, emptied))
    assert put(bounded, "cc3")
    assert names(folder) == {"cc3"}
    assert counted(folder) == 300


@pytest.mark.parametrize("kept", [True, False])
def test_what_another_writes_after_a_user_emptied_the_folder_is_left_to_it(folder: Path, kept: bool) -> None:
    bounded, begun, ended = BoundedFolder(folder, MAX), threading.Event(), threading.Event()

    def slowly(descriptor: int) -> bool:
        begun.set()
        assert ended.wait(PATIENCE_SECONDS)
        bounded.write(descriptor, 0, memoryview(contents("aa1", 300)))
        return True

    def emptied(_: int) -> bool:
        (folder / "aa" / "1.part").unlink()
        other.start()
        assert begun.wait(PATIENCE_SECONDS)
        return kept

    other = threading.Thread(target=lambda: os.close(bounded.add("aa1", 300, slowly)))
    descriptor = bounded.add("aa1", 300, emptied)
    if descriptor is not None:
        os.close(descriptor)
    while_written = names(folder)
    ended.set()
    other.join(PATIENCE_SECONDS)
    assert while_written == {"aa1.part"}
    assert names(folder) == {"aa1"}
    assert (folder / "aa" / "1").read_bytes() == contents("aa1", 300)


def test_a_user_may_empty_the_folder_while_room_is_made(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(BoundedFolder(folder, MAX), "aa1")
    scandir, files = os.scandir, BoundedFolder._files

    def gone(path: Path) -> list[os.DirEntry[str]]:
        entries = list(scandir(path))
        if path == folder:
            (folder / "aa").rename(folder.parent / "gone")
        return entries

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", gone)
        BoundedFolder(folder, MAX)
    assert (folder.parent / "gone" / "1").exists()
    assert counted(folder) == 0

    def removed(self: BoundedFolder) -> Iterator[object]:
        for file in files(self):
            file[0].unlink()
            yield file

    (folder / "bb").mkdir()
    (folder / "bb" / "2.part").write_bytes(bytes(300))
    with monkeypatch.context() as patched:
        patched.setattr(BoundedFolder, "_files", removed)
        BoundedFolder(folder, MAX)
    assert names(folder) == set()
    assert counted(folder) == 0


def test_the_folder_is_somebody_elses(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match=r"cannot use the cache in .*file \(.*\): name another folder of your own"):
        BoundedFolder(tmp_path / "file", MAX)
    assert (tmp_path / "file").read_text() == "mine"


def test_the_disk_is_full(small_disk: Path) -> None:
    bounded = BoundedFolder(small_disk, 1 << 40)
    put(bounded, "aa1")
    words = f"the disk of the cache in {small_disk} is full"
    with pytest.raises(DiskFullError, match=words):
        put(bounded, "bb2", 100 << 20)
    assert names(small_disk) == {"aa1"}
    assert counted(small_disk) == 300
    (small_disk / "bytes").unlink()
    fill(small_disk)
    with pytest.raises(DiskFullError, match=words):
        BoundedFolder(small_disk, 1 << 40)


# Kills ------------------------------------------------------------------------------------------------------

_CALLS = {
    os: ("open", "close", "pwrite", "ftruncate", "posix_fallocate", "utime", "unlink", "rename"),
    fcntl: ("flock",),
}


def _work_until_killed(folder: Path, at: int) -> None:
    """Everything that a cache does, killed before its system call number `at`."""
    made = 0

    def killing(call):
        def called(*arguments, **options):
            nonlocal made
            if made == at:
                os.kill(os.getpid(), signal.SIGKILL)
            made += 1
            return call(*arguments, **options)

        return called

    for module, calls in _CALLS.items():
        for name in calls:
            setattr(module, name, killing(getattr(module, name)))
    bounded = BoundedFolder(folder, MAX)
    put(bounded, "dd4", 400)  # makes room
    is_there(bounded, "cc3")
    bounded.remove("dd4")
    put(bounded, "ee5")


def test_those_that_live_on_take_over_from_a_killed_process(folder: Path) -> None:
    bounded = BoundedFolder(folder, MAX)
    for name in ("aa1", "bb2"):
        killed = forked(lambda name=name: bounded.add(name, 300, lambda _: os.kill(os.getpid(), signal.SIGKILL)))
        assert exit_code(killed) == -signal.SIGKILL
    assert names(folder) == {"aa1.part", "bb2.part"}
    assert counted(folder) == taken(folder) == 600
    assert put(bounded, "aa1")
    assert names(folder) == {"aa1", "bb2.part"}
    assert counted(folder) == taken(folder) == 600
    assert put(bounded, "cc3", 500)  # needs the room
    assert names(folder) == {"aa1", "cc3"}
    assert counted(folder) == taken(folder) == 800


@pytest.mark.faults
def test_killed_before_any_system_call(folder: Path) -> None:
    at, left = 0, 0
    while True:
        for path in folder.glob("*/*"):
            path.unlink()
        bounded = BoundedFolder(folder, MAX)
        for name in ("aa1", "bb2", "cc3"):
            put(bounded, name)
        code = exit_code(forked(partial(_work_until_killed, folder, at)))
        assert counted(folder) >= taken(folder)
        assert taken(folder) <= MAX
        left += any(path.suffix == ".part" for path in folder.glob("*/*"))
        for path in folder.glob("*/*"):
            if path.suffix != ".part":
                name = f"{path.parent.name}{path.name}"
                assert path.read_bytes() == contents(name, 400 if name == "dd4" else 300)
        bounded = BoundedFolder(folder, MAX)
        assert not [name for name in names(folder) if name.endswith(".part")]
        assert counted(folder) == taken(folder)
        for name in ("dd4", "ff6"):
            put(bounded, name, 400 if name == "dd4" else 300)
        assert counted(folder) == taken(folder) <= MAX
        if code == 0:
            break
        assert code == -signal.SIGKILL
        at += 1
    assert at > 30
    assert left > 5
