"""The journal, and what it counts beside the index."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests.cache.conftest import make_record
from tests.cache.rows import CLASSES, SPLITS, assert_same

import resact.cache.journal as journal_module
from resact.cache.durable import create_store, store_lock
from resact.cache.files import LocalFiles
from resact.cache.index_files import read_index, write_index
from resact.cache.journal import Journal, read_journal
from resact.cache.layout import JOURNAL, crc32c
from resact.cache.store import open_store
from resact.errors import DamagedError


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
def journal_store(scratch):
    """A finished store with two more rows in a journal, one of them of a video that the index lists."""
    rows = [make_record("new", frame_bytes=np.array([9, 8], np.uint32)), make_record("wide", "failed")]
    journal = Journal(scratch.path)
    journal.append(rows)
    journal.close()
    return scratch


def test_the_journal_counts_more_than_the_index(journal_store) -> None:
    index = open_store(journal_store.path).index
    assert len(index) == len(journal_store.records) + 1
    assert index.status[index.video_index("wide")] == "failed"
    assert index.frame_bytes_of(index.video_index("new")).tolist() == [9, 8]


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


def test_a_torn_line_is_no_record_and_the_next_append_cuts_it(journal_store) -> None:
    path = journal_store.path / JOURNAL
    data = path.read_bytes()
    first = data.index(b"\n") + 1
    for cut in (first, first + 1, first + 20, len(data) - 1):
        path.write_bytes(data[:cut])
        index = open_store(journal_store.path).index
        assert "new" in list(index.video_id)
        assert index.status[index.video_index("wide")] == "ok"
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


def test_a_failed_append_leaves_nothing(journal_store, monkeypatch: pytest.MonkeyPatch) -> None:
    path = journal_store.path / JOURNAL
    data = path.read_bytes()
    journal = Journal(journal_store.path)

    def half(descriptor: int, line: bytes) -> int:
        if len(line) < 100:
            raise OSError(28, "No space left on device")
        return real_write(descriptor, line[: len(line) - 50])

    real_write = journal_module.os.write
    monkeypatch.setattr(journal_module.os, "write", half)
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


def test_a_journal_line_is_its_checksum_and_json(journal_store) -> None:
    for line in (journal_store.path / JOURNAL).read_bytes().splitlines():
        checksum, text = line.split(b" ", 1)
        assert int(checksum, 16) == crc32c(text)
        assert json.loads(text)["video_id"] in ("new", "wide")
