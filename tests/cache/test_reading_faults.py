"""What becomes of a read when the shard or the file system changes under an open store: a named error, never pixels."""

import errno
import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.held import held, left_behind

import resact.cache.codecs as codecs_module
from resact.cache.store import open_store
from resact.errors import DamagedError, StoreError, StoreNotFoundError, UsageError

SHARD = "0.0.0.0"


@pytest.mark.parametrize("row", [-1, 5])
def test_a_row_that_is_not_there_is_refused(row: int, built) -> None:
    with pytest.raises(UsageError, match=rf"got video_index {row}, expected 0 <= video_index < 5"):
        open_store(built.path).read_frames(row, 0, 1)


# The kernel gives less than asked for -----------------------------------------------------------------------


def test_reads_that_the_kernel_cuts_short_go_on_where_they_stopped(built, monkeypatch: pytest.MonkeyPatch) -> None:
    pread, spans = os.pread, []

    def short(descriptor: int, count: int, offset: int) -> bytes:
        spans.append((offset, offset + count))
        return pread(descriptor, min(count, 97), offset)

    store = open_store(built.path)
    monkeypatch.setattr(os, "pread", short)
    for video_id, pixels in built.pixels.items():
        assert np.array_equal(store.read(video_id, 0, len(pixels)), pixels)
    assert len(spans) > 3 * len(built.pixels)


def test_one_pread_a_clip(built, monkeypatch: pytest.MonkeyPatch) -> None:
    pread, calls = os.pread, []
    store = open_store(built.path)
    monkeypatch.setattr(os, "pread", lambda *arguments: calls.append(arguments) or pread(*arguments))
    opened: list[str] = []
    os_open = os.open
    monkeypatch.setattr(os, "open", lambda path, *rest: opened.append(str(path)) or os_open(path, *rest))
    sizes = built.records["wide"].frame_bytes
    store.read("wide", 1, 3)
    assert [call[1:] for call in calls] == [(int(sizes[1:3].sum()), int(sizes[0]))]
    assert opened == [f"{built.path}/wide/{SHARD}"]  # no metadata is looked at


# The shard changes under an open store ----------------------------------------------------------------------


def test_a_deleted_shard_is_damage_by_name(built, tmp_path: Path) -> None:
    built = built.copy(tmp_path / "store.zarr")
    store = open_store(built.path)
    assert store.read("wide", 0, 1).any()
    (built.path / "wide" / SHARD).unlink()
    with pytest.raises(DamagedError, match="wide: its shard is missing: run `resact verify"):
        store.read("wide", 0, 1)
    assert store.read("one frame", 0, 1).any()  # its neighbours are none the worse


def test_a_shard_overwritten_under_an_open_store_is_damage(built, tmp_path: Path, seed: int) -> None:
    built = built.copy(tmp_path / "store.zarr")
    store, shard = open_store(built.path), built.path / "wide" / SHARD
    other = (built.path / "Jump%2Fv_Jump_g01_c01" / SHARD).read_bytes()
    size = shard.stat().st_size
    for data in (other, bytes(size), np.random.default_rng(seed).bytes(size)):
        shard.write_bytes(data)
        out = np.full((3, 16, 50, 3), 77, np.uint8)
        with pytest.raises(DamagedError, match=r"wide: (frame 0 does not match|its shard ends before)"):
            store.read("wide", 0, 3, out=out)
        assert (out == 77).all()  # nothing was decoded


def test_a_frame_that_is_whole_but_of_another_shape_is_damage(built) -> None:
    store = open_store(built.path)
    store = replace(store, index=replace(store.index, height=store.index.height + 2))
    with pytest.raises(DamagedError, match=r"wide: frame 1 is not a .* of \(18, 50, 3\): its header gives"):
        store.read("wide", 1, 3)


def test_shards_damaged_while_threads_read_never_give_wrong_pixels(built, tmp_path: Path) -> None:
    built = built.copy(tmp_path / "store.zarr")
    store, shard = open_store(built.path), built.path / "wide" / SHARD
    data, wrong, errors = shard.read_bytes(), [], []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            try:
                if not np.array_equal(store.read("wide", 0, 3), built.pixels["wide"]):
                    wrong.append(1)
            except DamagedError as error:
                errors.append(str(error))

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    random = np.random.default_rng(0)
    while len(errors) < 40:
        damaged = bytearray(data)
        damaged[random.integers(len(data) - 64)] ^= 1 << int(random.integers(8))
        shard.write_bytes(damaged)
        shard.write_bytes(data)
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert all(error.startswith("wide: ") for error in errors)


# The file system goes away ----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EACCES, errno.EMFILE, errno.ETIMEDOUT])
@pytest.mark.parametrize(("call", "fine"), [("open", 0), ("pread", 0), ("pread", 1)])
def test_a_file_system_that_fails_is_an_error_by_name(
    call: str, fine: int, code: int, built, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, or in the middle of a read that the kernel has cut short."""
    store = open_store(built.path)
    assert store.read("wide", 0, 3).any()
    calls, before, pread = [], held(), os.pread

    def fail(*arguments: object) -> bytes:
        calls.append(arguments)
        if len(calls) > fine:
            raise OSError(code, os.strerror(code))
        descriptor, _, offset = arguments
        return pread(descriptor, 50, offset)

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fail)
        with pytest.raises(StoreError, match=f"wide: cannot read its shard .*{os.strerror(code)}") as caught:
            store.read("wide", 0, 3)
    assert len(calls) == fine + 1
    assert not isinstance(caught.value, DamagedError)  # `verify` would not help
    assert not left_behind(before)
    assert np.array_equal(store.read("wide", 0, 3), built.pixels["wide"])  # and when it is back, all is well


def test_a_store_whose_file_system_is_gone_says_so(built, tmp_path: Path) -> None:
    (tmp_path / "mount").mkdir()
    built = built.copy(tmp_path / "mount" / "store.zarr")
    store = open_store(built.path)
    (tmp_path / "mount").rename(tmp_path / "unmounted")
    (tmp_path / "mount").mkdir()
    with pytest.raises(StoreNotFoundError, match="wide: cannot read its shard, the whole store is gone"):
        store.read("wide", 0, 1)
    with pytest.raises(StoreNotFoundError, match="no clip store at"):
        open_store(built.path)


@pytest.mark.parametrize("name", ["zarr.json", "index/zarr.json", "num_frames/0"])
def test_opening_a_store_that_cannot_be_read_is_an_error_by_name(
    name: str, built, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failed = Path.open, []

    def fail(self: Path, *arguments: object, **options: object):
        if str(self).endswith(name):
            failed.append(self)
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(StoreError, match=r"cannot read the store at .*Permission denied"):
        open_store(built.path)
    assert failed
    monkeypatch.undo()
    assert len(open_store(built.path).index) == 5


def test_blosc_leaves_threads_to_us() -> None:
    assert codecs_module.blosc.use_threads is False
