"""The index's files, written, read, missing and damaged."""

import tracemalloc
from dataclasses import replace
from hashlib import sha256
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from tests.cache.conftest import folder_in_memory, make_settings
from tests.cache.rows import CLASSES, SPLITS, assert_same, many, of

from resact.cache.durable import create_store, store_lock
from resact.cache.files import LocalFiles
from resact.cache.index_files import index_files, index_generation, read_index, write_index
from resact.cache.journal import Journal
from resact.cache.layout import INDEX, JOURNAL, VideoRecord
from resact.cache.store import open_store
from resact.errors import DamagedError, StoreError


@settings(max_examples=6)
@given(first=many, second=many)
def test_write_and_read_round_trip(first: list[VideoRecord], second: list[VideoRecord]) -> None:
    with folder_in_memory() as folder:
        store = folder / "s.zarr"
        create_store(store, make_settings())
        with store_lock(store):
            write_index(store, of(first))
            assert_same(read_index(LocalFiles(store), CLASSES, SPLITS), of(first))
            before = {p.name for p in (store / "index").iterdir()}
            write_index(store, of(first))
            assert {p.name for p in (store / "index").iterdir()} == before
            journal = Journal(store)
            journal.append(second)
            journal.close()
            latest = of({record.video_id: record for record in [*first, *second]}.values())
            assert_same(read_index(LocalFiles(store), CLASSES, SPLITS), latest)
            write_index(store, latest)
            assert not (store / JOURNAL).exists()
        assert_same(read_index(LocalFiles(store), CLASSES, SPLITS), latest)
        assert len(list((store / "index").iterdir())) == 2


def test_a_missing_column_is_damage_and_names_the_way_out(scratch) -> None:
    for column in sorted((scratch.path / "index").glob("*/*/0")):
        data = column.read_bytes()
        column.unlink()
        with pytest.raises(DamagedError, match=rf"{column.parent.name}/0 is missing: run `resact verify"):
            open_store(scratch.path)
        column.write_bytes(data[:-1])
        with pytest.raises(DamagedError, match=rf"{column.parent.name}/0: {len(data) - 1} bytes, expected"):
            open_store(scratch.path)
        column.write_bytes(data)
    open_store(scratch.path)


def test_a_missing_pointer_is_damage(scratch) -> None:
    (scratch.path / "index" / "zarr.json").unlink()
    with pytest.raises(DamagedError, match=r"index/zarr\.json is missing: run `resact verify"):
        open_store(scratch.path)


def test_a_generation_replaced_while_it_is_read_is_read_again(scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader has the old pointer; by the time it reads the columns, the old generation is gone."""
    newer = of([scratch.records["wide"]])
    real_read, calls = LocalFiles.read, []

    def replaced_first(self, *args):
        calls.append(args[0])
        if len(calls) == 4:  # the journal, the pointer and a column have been read
            write_index(scratch.path, newer)
        return real_read(self, *args)

    with store_lock(scratch.path):
        monkeypatch.setattr(LocalFiles, "read", replaced_first)
        index = read_index(LocalFiles(scratch.path), CLASSES, SPLITS)
    assert len(calls) > 4
    assert_same(index, newer)


def test_an_index_replaced_each_time_that_it_is_read_is_an_error(scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    read, turns = LocalFiles.read, cycle([of([scratch.records["wide"]]), of(scratch.records.values())])

    def replaced_first(self, name: str) -> bytes:
        if name.endswith("/0"):
            write_index(scratch.path, next(turns))
        return read(self, name)

    with store_lock(scratch.path):
        monkeypatch.setattr(LocalFiles, "read", replaced_first)
        with pytest.raises(StoreError, match=r"scratch.zarr/index was replaced 10 times while it was read: run the"):
            read_index(LocalFiles(scratch.path), CLASSES, SPLITS)


def test_frame_sizes_are_mapped_and_checked_video_by_video(scratch) -> None:
    """Opening reads none of `frame_bytes`, and a damaged part of it harms its own video only."""
    index = open_store(scratch.path).index
    assert isinstance(index.frame_bytes.base, np.memmap)
    (column,) = (scratch.path / "index").glob("*/frame_bytes/0")
    video_index = index.video_index("wide")
    damaged = bytearray(column.read_bytes())
    damaged[4 * int(index.first_frame[video_index])] ^= 1
    column.write_bytes(damaged)
    store = open_store(scratch.path)
    with pytest.raises(DamagedError, match="the index is damaged at 'wide': run `resact verify"):
        store.read("wide", 0, 1)
    for video_id, pixels in scratch.pixels.items():
        if video_id != "wide":
            assert np.array_equal(store.read(video_id, 0, 1), pixels[:1])


def test_writing_the_same_index_again_leaves_the_files_that_readers_have_mapped(scratch) -> None:
    mapped = open_store(scratch.path).index
    before = {path: path.stat().st_ino for path in (scratch.path / "index").rglob("0")}
    with store_lock(scratch.path):
        write_index(scratch.path, mapped)
    assert all(path.stat().st_ino != inode for path, inode in before.items()), "a mapped file was written over"
    assert mapped.frame_bytes.sum() == open_store(scratch.path).index.frame_bytes.sum()


@settings(max_examples=50)
@given(many)
def test_the_generation_is_the_digest_of_its_files(records) -> None:
    generation, files = index_files(index := of(records))
    digest = sha256()
    for path in sorted(files):
        base, folder, name = path.split("/", 2)
        assert (base, folder) == (INDEX, generation)
        if "/" in name:  # the folder's own document is the same for all
            digest.update(name.encode() + b"\0" + files[path])
    assert index_generation(index) == generation == digest.hexdigest()[:16]


def test_the_generation_is_found_without_copies(tmp_path: Path) -> None:
    whole = np.memmap(tmp_path / "column", "<u4", "w+", shape=(4_000_000,))
    index = replace(of([]), frame_bytes=whole.view(np.ndarray))
    tracemalloc.start()
    index_generation(index)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000, "a copy of the largest column takes 16 MB"
