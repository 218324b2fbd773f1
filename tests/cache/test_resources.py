"""What an open store holds: mappings that are read when they are used, and nothing once it is let go."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from tests.cache.conftest import make_record
from tests.cache.rows import of
from tests.conftest import GAUNTLET
from tests.held import held, left_behind

from resact.cache.durable import store_lock
from resact.cache.index_files import write_index
from resact.cache.store import open_store

FRAMES = 4096  # of each synthetic video: 16 KiB of the column, four pages


def resident_bytes(store: Path, file: str) -> int:
    """How much of a store's mapped file is in this process's memory."""
    entries = Path("/proc/self/smaps").read_text().split("VmFlags")
    (entry,) = [entry for entry in entries if str(store) in entry and file in entry]
    return int(entry.partition("\nRss:")[2].split()[0]) * 1024


def test_opening_reads_none_of_the_frame_table_and_a_clip_little(scratch) -> None:
    sizes = np.full(FRAMES, 1000, np.uint32)
    index = of(make_record(f"v{row:04d}", frame_bytes=sizes) for row in range(1000))
    with store_lock(scratch.path):
        write_index(scratch.path, index)
    index = open_store(scratch.path).index
    assert resident_bytes(scratch.path, "/frame_bytes/0") == 0
    assert index.frame_offsets(500, 10).tolist() == list(range(0, 11_000, 1000))
    touched = resident_bytes(scratch.path, "/frame_bytes/0")
    assert 0 < touched <= 1 << 22  # of 16 MB: the kernel maps up to a huge page along


@pytest.mark.faults
def test_opening_and_letting_go_leaves_nothing_behind(built) -> None:
    message = pickle.dumps(open_store(built.path))
    before = held()
    for number in range(10_000 if GAUNTLET else 300):
        store = pickle.loads(message) if number % 2 else open_store(built.path)
        store.read("wide", number % 3, 3)
        if number == 10:
            assert held()["mappings"] > before["mappings"]  # what is counted is there while it is open
        del store
        if number % 100 == 0:
            assert not left_behind(before)
    assert not left_behind(before)


def test_a_clip_outlives_its_store_and_so_does_a_column(built) -> None:
    before = held()
    store = open_store(built.path)
    clip, sizes = store.read("wide", 0, 3), store.index.frame_bytes
    expected = sizes.tolist()
    del store
    assert np.array_equal(clip, built.pixels["wide"])
    assert sizes.tolist() == expected
    del sizes
    assert not left_behind(before)


def test_many_stores_in_one_process_hold_a_descriptor_and_a_mapping_each(stores) -> None:
    before = held()
    opened = [open_store(built.path) for built in stores.values() for _ in range(50)]
    folders = [str(built.path) for built in stores.values()]
    targets = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.exists()]
    assert sum(target.startswith(folder) for target in targets for folder in folders) == 150
    assert held()["mappings"] == before["mappings"] + 150
    for store in opened:
        assert store.read("wide", 0, 1).any()
    del opened, store
    assert not left_behind(before)
