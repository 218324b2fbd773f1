"""Columns, the journal, and both together, for arbitrary records."""

import json
import tracemalloc
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cache.conftest import folder_in_memory

import resact.cache.index as index_module
from resact.cache.durable import create_store, store_lock
from resact.cache.files import LocalFiles, open_files
from resact.cache.index import (
    Index,
    Journal,
    TextColumn,
    index_files,
    index_generation,
    read_index,
    read_journal,
    write_index,
)
from resact.cache.layout import INDEX, JOURNAL, Source, VideoRecord, crc32c
from resact.cache.store import open_store
from resact.errors import DamagedError, UsageError

CLASSES, SPLITS = ("Jump", "Walk"), ("1", "2")

texts = st.binary(max_size=12).map(lambda raw: raw.decode("utf-8", "surrogateescape"))


@st.composite
def video_records(draw: st.DrawFn) -> VideoRecord:
    status = draw(st.sampled_from(["ok", "damaged", "failed"]))
    sizes = [] if status == "failed" else draw(st.lists(st.integers(5, 2**32 - 1), min_size=1, max_size=6))
    label = draw(st.integers(0, 1))
    return VideoRecord(
        video_id=draw(st.sampled_from(["a", "b", "b/é", "c\udcff", "ab", "index"])),
        class_name=CLASSES[label],
        label=label,
        group=draw(texts),
        splits=draw(st.dictionaries(st.sampled_from(SPLITS), st.sampled_from(["train", "test"]))),
        status=status,
        problem=None if status == "ok" else draw(texts),
        source=Source(
            name=draw(texts),
            bytes=draw(st.integers(0, 2**63)),
            sha256=draw(st.none() | st.just("0" * 64)),
            fps=draw(st.sampled_from([None, "25/1", "30000/1001"])),
            height=240,
            width=320,
        ),
        arguments=draw(st.lists(texts, max_size=3)),
        height=draw(st.integers(0, 2**16)),
        width=draw(st.integers(0, 2**16)),
        frame_bytes=np.array(sizes, np.uint32),
    )


many = st.lists(video_records(), max_size=6, unique_by=lambda record: record.video_id)


def of(records) -> Index:
    return Index.of(records, CLASSES, SPLITS)


def assert_same(one: Index, other: Index) -> None:
    ours, theirs = one.columns(), other.columns()
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype, name
        assert ours[name].tobytes() == theirs[name].tobytes(), name
    assert one.classes == other.classes


@given(st.lists(texts, max_size=8))
def test_text_column_is_a_sequence(values: list[str]) -> None:
    column = TextColumn.of(values)
    assert list(column) == values
    assert len(column) == len(values)
    assert column[1:] == values[1:]
    assert column[::-2] == values[::-2]
    if values:
        assert column[-1] == values[-1]
        assert column[np.intp(0)] == values[0]
    with pytest.raises(IndexError, match=f"of {len(values)}"):
        column[len(values)]


@settings(max_examples=50)
@given(many)
def test_columns_say_what_the_records_say(records: list[VideoRecord]) -> None:
    index = of(records)
    assert len(index) == len(records)
    encoded = [index.video_id.encoded(row) for row in range(len(index))]
    assert encoded == sorted(encoded)
    assert len(index.frame_bytes) == sum(r.num_frames for r in records)
    for record in records:
        row = index.row_of(record.video_id)
        assert index.video_id[row] == record.video_id
        assert np.array_equal(index.frame_bytes_of(row), record.frame_bytes)
        assert index.status[row] == record.status
        assert index.class_name[row] == record.class_name
        assert index.problem[row] == (record.problem or "")
        assert index.group[row] == record.group
        tail = 16 * record.num_frames + 4 if record.num_frames else 0
        assert index.shard_bytes[row] == int(record.frame_bytes.sum(dtype=np.uint64)) + tail
        for split in SPLITS:
            for side in ("train", "test"):
                member = record.splits.get(split) == side and record.num_frames > 0
                assert (row in index.rows(split, side)) == member


@settings(max_examples=50)
@given(many, many)
def test_merged_equals_the_index_of_all_records(older: list[VideoRecord], newer: list[VideoRecord]) -> None:
    latest = {record.video_id: record for record in [*older, *newer]}
    assert_same(of(older).merged(of(newer)), of(latest.values()))


@settings(max_examples=6)
@given(first=many, second=many)
def test_write_and_read_round_trip(first: list[VideoRecord], second: list[VideoRecord], make_settings) -> None:
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


def test_a_record_survives_the_journal(built, tmp_path: Path) -> None:
    store = tmp_path / "s.zarr"
    create_store(store, built.settings)
    journal = Journal(store)
    journal.append(list(built.records.values())[:2])
    journal.append(list(built.records.values())[2:])
    journal.close()
    again = list(read_journal(LocalFiles(store)))
    assert [r.video_id for r in again] == list(built.records)
    for record in again:
        expected = vars(built.records[record.video_id])
        for key, value in vars(record).items():
            assert np.array_equal(value, expected[key]), key


@pytest.fixture
def journal_store(scratch, make_record):
    """A finished store with two more rows in a journal, one of them of a video that the index lists."""
    rows = [make_record("new", frame_bytes=np.array([9, 8], np.uint32)), make_record("wide", "failed")]
    journal = Journal(scratch.path)
    journal.append(rows)
    journal.close()
    return scratch


def test_the_journal_counts_more_than_the_index(journal_store) -> None:
    index = open_store(journal_store.path).index
    assert len(index) == len(journal_store.records) + 1
    assert index.status[index.row_of("wide")] == "failed"
    assert index.frame_bytes_of(index.row_of("new")).tolist() == [9, 8]


def test_a_journal_replayed_twice_changes_nothing(journal_store) -> None:
    before = open_store(journal_store.path).index
    path = journal_store.path / JOURNAL
    path.write_bytes(path.read_bytes() * 2)
    assert_same(open_store(journal_store.path).index, before)
    with store_lock(journal_store.path):
        write_index(journal_store.path, before)
    path.write_bytes(b"")
    assert_same(open_store(journal_store.path).index, before)


def test_the_journal_goes_only_when_the_index_has_its_rows(journal_store, monkeypatch) -> None:
    """Between the two a kill finds the rows twice; the other way round it would find them nowhere."""
    index, path = open_store(journal_store.path).index, journal_store.path / JOURNAL
    unlink, seen = Path.unlink, []

    def watched(self: Path, missing_ok: bool = False) -> None:
        unlink(self, missing_ok=missing_ok)
        if self == path:
            seen.append(read_index(LocalFiles(journal_store.path), CLASSES, SPLITS))

    with store_lock(journal_store.path):
        monkeypatch.setattr(Path, "unlink", watched)
        write_index(journal_store.path, index)
        monkeypatch.undo()
    assert len(seen) == 1
    assert_same(seen[0], index)


def test_a_torn_line_is_no_record_and_the_next_append_cuts_it(journal_store, make_record) -> None:
    path = journal_store.path / JOURNAL
    data = path.read_bytes()
    first = data.index(b"\n") + 1
    for cut in (first, first + 1, first + 20, len(data) - 1):
        path.write_bytes(data[:cut])
        index = open_store(journal_store.path).index
        assert "new" in list(index.video_id)
        assert index.status[index.row_of("wide")] == "ok"
        journal = Journal(journal_store.path)
        journal.append([make_record("later")])
        journal.close()
        assert [r.video_id for r in read_journal(LocalFiles(journal_store.path))] == ["new", "later"]


@pytest.mark.faults
def test_every_flipped_journal_byte_is_found(journal_store) -> None:
    path = journal_store.path / JOURNAL
    data = path.read_bytes()
    for at in range(len(data) - 1):
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        with pytest.raises(DamagedError, match=r"journal\.jsonl: line [12] does not match its checksum"):
            list(read_journal(LocalFiles(journal_store.path)))


def test_a_failed_append_leaves_nothing(journal_store, make_record, monkeypatch: pytest.MonkeyPatch) -> None:
    path = journal_store.path / JOURNAL
    data = path.read_bytes()
    journal = Journal(journal_store.path)

    def half(descriptor: int, line: bytes) -> int:
        if len(line) < 100:
            raise OSError(28, "No space left on device")
        return real_write(descriptor, line[: len(line) - 50])

    real_write = index_module.os.write
    monkeypatch.setattr(index_module.os, "write", half)
    with pytest.raises(OSError, match="No space left"):
        journal.append([make_record("unlucky")])
    monkeypatch.undo()
    assert path.read_bytes() == data
    journal.append([make_record("lucky")])
    journal.close()
    assert [r.video_id for r in read_journal(LocalFiles(journal_store.path))] == ["new", "wide", "lucky"]


def test_a_journal_that_vanishes_while_it_is_read_is_none(scratch, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prep that ends at this moment has put the rows into the index before it removed the journal."""
    monkeypatch.setattr(LocalFiles, "exists", lambda *_: True)
    assert list(read_journal(LocalFiles(scratch.path))) == []


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


def test_frame_sizes_are_mapped_and_checked_video_by_video(scratch) -> None:
    """Opening reads none of `frame_bytes`, and a damaged part of it harms its own video only."""
    index = open_store(scratch.path).index
    assert isinstance(index.frame_bytes.base, np.memmap)
    (column,) = (scratch.path / "index").glob("*/frame_bytes/0")
    row = index.row_of("wide")
    damaged = bytearray(column.read_bytes())
    damaged[4 * int(index.first_frame[row])] ^= 1
    column.write_bytes(damaged)
    store = open_store(scratch.path)
    with pytest.raises(DamagedError, match="the index is damaged at 'wide': run `resact verify"):
        store.read("wide", 0, 1)
    for video_id, pixels in scratch.pixels.items():
        if video_id != "wide":
            assert np.array_equal(store.read(video_id, 0, 1), pixels[:1])


class TouchedFrames:
    """In place of a column: which of its entries were asked for."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.touched = values, 0

    def __getitem__(self, key: slice) -> np.ndarray:
        part = self.values[key]
        self.touched += len(part)
        return part

    def __array__(self, *args, **kwargs):
        raise AssertionError("the whole column was read")


def test_drawing_a_clip_touches_one_videos_sizes_and_few_names(make_record, monkeypatch) -> None:
    count = 5_000
    sizes = np.array([7, 8, 9], np.uint32)
    index = of(make_record(f"v{i:05d}", frame_bytes=sizes) for i in range(count))
    frames = TouchedFrames(index.frame_bytes)
    object.__setattr__(index, "frame_bytes", frames)
    asked = []
    encoded = TextColumn.encoded
    monkeypatch.setattr(TextColumn, "encoded", lambda self, row: asked.append(row) or encoded(self, row))
    for i in (0, 1, 2_500, count - 1):
        asked.clear()
        frames.touched = 0
        row = index.row_of(f"v{i:05d}")
        assert row == i
        assert len(asked) <= 15
        assert index.frame_bytes_of(row).tolist() == [7, 8, 9]
        assert frames.touched == 3


def test_rows_of_an_unknown_split_are_refused(built) -> None:
    index = open_store(built.path).index
    for split, side in (("3", "train"), ("1", "validation")):
        with pytest.raises(
            UsageError, match=f"got split '{split}' and '{side}', expected one of 1, 2 and train or test"
        ):
            index.rows(split, side)


def test_remote_columns_are_checked_alike(scratch) -> None:
    import fsspec

    system = fsspec.filesystem("memory")
    system.put(f"{scratch.path}/", "/remote.zarr", recursive=True)
    try:
        files = open_files("memory://remote.zarr")
        assert_same(read_index(files, CLASSES, SPLITS), open_store(scratch.path).index)
        (column,) = (path for path in system.find("/remote.zarr") if path.endswith("/label/0"))
        data = bytearray(system.cat_file(column))
        data[0] ^= 1
        system.pipe_file(column, bytes(data))
        with pytest.raises(DamagedError, match="column label does not match its checksum"):
            read_index(files, CLASSES, SPLITS)
        system.rm(column)
        with pytest.raises(
            DamagedError, match=r"^memory://remote\.zarr/index/\w+/label/0 is missing: run `resact verify"
        ):
            read_index(files, CLASSES, SPLITS)
    finally:
        system.rm("/remote.zarr", recursive=True)


def test_a_journal_line_is_its_checksum_and_json(journal_store) -> None:
    for line in (journal_store.path / JOURNAL).read_bytes().splitlines():
        checksum, text = line.split(b" ", 1)
        assert int(checksum, 16) == crc32c(text)
        assert json.loads(text)["video_id"] in ("new", "wide")


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
