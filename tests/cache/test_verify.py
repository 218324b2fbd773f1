"""What `verify` finds besides flipped bits, and what `--rebuild-index` makes of it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.cache.conftest import make_record, make_settings, put_video, snapshot

from resact.cache.durable import ShardWriter, commit_video, store_lock
from resact.cache.index import Index
from resact.cache.index_files import write_index
from resact.cache.journal import Journal
from resact.cache.layout import array_name, seal, shard_index, unseal, video_document
from resact.cache.store import open_store
from resact.cache.verify import Problem, rebuild_index, verify_store
from resact.errors import DamagedError, StoreNotFoundError


def problems_of(path: Path) -> dict[str | None, str]:
    """Video -> what is wrong with it."""
    return {problem.video_id: problem.problem for problem in verify_store(path, threads=1)[1]}


def test_a_sound_store_has_no_problems_and_is_left_alone(built) -> None:
    before, seen = snapshot(built.path), []
    checked = verify_store(built.path, threads=3, progress=lambda done, total: seen.append((done, total)))
    assert checked == (5, [])
    assert seen == [(number, 5) for number in range(1, 6)]
    assert snapshot(built.path) == before


def test_no_store_is_an_error(tmp_path: Path) -> None:
    for act in (lambda: verify_store(tmp_path, threads=1), lambda: rebuild_index(tmp_path)):
        with pytest.raises(StoreNotFoundError, match="no clip store"):
            act()


def test_a_damaged_root_is_the_only_problem_that_can_be_told(scratch) -> None:
    (scratch.path / "zarr.json").write_bytes(b"{}")
    count, (problem,) = verify_store(scratch.path, threads=1)
    assert count == 0
    assert problem.video_id is None
    assert "without its settings nothing else" in problem.problem
    with pytest.raises(DamagedError):
        rebuild_index(scratch.path)


@pytest.mark.parametrize("name", ["zarr.json", "0.0.0.0"])
def test_a_missing_file_is_named(name: str, scratch) -> None:
    (scratch.path / "wide" / name).unlink()
    assert "wide" in problems_of(scratch.path)
    _, left_out = rebuild_index(scratch.path)
    assert len(left_out) == 1
    assert "wide" not in list(open_store(scratch.path).index.video_id)


def test_a_missing_array_is_named_and_rebuilding_forgets_it(scratch) -> None:
    shutil.rmtree(scratch.path / "wide")
    assert problems_of(scratch.path) == {"wide": "in the index, but its array is gone"}
    assert rebuild_index(scratch.path) == (4, [])
    assert verify_store(scratch.path, threads=1) == (4, [])


@pytest.mark.parametrize("size", [0, 3, 20, 100, -1])
def test_a_cut_shard_is_named(size: int, scratch) -> None:
    shard = scratch.path / "wide" / "0.0.0.0"
    shard.write_bytes(shard.read_bytes()[:size])
    assert list(problems_of(scratch.path)) == ["wide"]


@pytest.mark.parametrize("name", ["stray", "failed/stray", "stray.txt"])
def test_what_is_no_part_of_the_store_is_named(name: str, scratch) -> None:
    if name.endswith(".txt"):
        (scratch.path / name).write_text("hello")
    else:
        (scratch.path / name).mkdir()
    _, problems = verify_store(scratch.path, threads=1)
    assert problems == [Problem(None, f"{name}: not part of the store (left by a killed prep; run prep again)")]


def test_a_video_under_another_name_is_named(scratch) -> None:
    (scratch.path / "wide").rename(scratch.path / "narrow")
    problems = problems_of(scratch.path)
    assert problems.keys() == {"wide", "narrow"}
    assert "not what this store's settings give" in problems["narrow"]


def test_a_frame_whose_checksum_is_right_but_decodes_to_nothing_is_named(scratch) -> None:
    """Only decoding finds what was wrong before the checksum was made."""
    record = scratch.records["wide"]
    with store_lock(scratch.path), ShardWriter(scratch.path, "wide") as writer:
        for _ in range(3):
            writer.append(b"this is no frame at all")
        broken = type(record)(**{**vars(record), "frame_bytes": writer.finish()})
        commit_video(scratch.path, broken, scratch.settings, shard=writer.path)
    rebuild_index(scratch.path)
    problems = problems_of(scratch.path)
    assert list(problems) == ["wide"]
    assert "Zstandard" in problems["wide"]


def test_an_unlisted_array_is_named(scratch) -> None:
    settings = scratch.settings.dataset
    records = [record for record in scratch.records.values() if record.video_id != "wide"]
    with store_lock(scratch.path):
        write_index(scratch.path, Index.of(records, settings.classes, settings.splits))
    problems = problems_of(scratch.path)
    assert list(problems) == ["wide"]
    assert "does not list" in problems["wide"]
    assert rebuild_index(scratch.path) == (5, [])
    assert verify_store(scratch.path, threads=1) == (5, [])


@pytest.mark.parametrize(
    "change",
    [
        {"label": 1},
        {"status": "damaged", "problem": "none really"},
        {"splits": {"1": "test", "2": "test"}},
        {"group": "other"},
        {"height": 18},
        {"frame_bytes": np.array([9, 9, 9], np.uint32)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_an_index_that_says_otherwise_than_the_array_is_named(change: dict, scratch) -> None:
    """Whole and sound in itself, and wrong: no checksum shows that."""
    lie = make_record(**{**vars(scratch.records["wide"]), **change})
    settings = scratch.settings.dataset
    records = [*(r for r in scratch.records.values() if r.video_id != "wide"), lie]
    with store_lock(scratch.path):
        write_index(scratch.path, Index.of(records, settings.classes, settings.splits))
    problems = problems_of(scratch.path)
    assert list(problems) == ["wide"]
    assert "differs from the" in problems["wide"]


def test_a_sealed_document_of_other_settings_is_named(scratch) -> None:
    document = video_document(scratch.records["wide"], make_settings("lz4").frame_codec)
    (scratch.path / "wide" / "zarr.json").write_bytes(seal(document))
    assert problems_of(scratch.path)["wide"].endswith("not what this store's settings give")


def test_a_sealed_document_with_another_number_of_frames_is_named(scratch) -> None:
    path = scratch.path / "wide" / "zarr.json"
    document = unseal(path.read_bytes(), "here")
    document["shape"][0] = 2
    path.write_bytes(seal(document))
    assert list(problems_of(scratch.path)) == ["wide"]


def test_a_shard_whose_index_belongs_to_other_frames_is_named(scratch) -> None:
    shard = scratch.path / "wide" / "0.0.0.0"
    sizes = scratch.records["wide"].frame_bytes
    moved = sizes + np.array([1, -1, 0])
    tail = shard_index(moved.astype(np.uint32))
    shard.write_bytes(shard.read_bytes()[: int(sizes.sum())] + tail)
    assert list(problems_of(scratch.path)) == ["wide"]


def test_a_stopped_prep_is_named_and_its_rows_are_checked(scratch) -> None:
    journal = Journal(scratch.path)
    journal.append([make_record("never committed", "failed")])
    journal.close()
    problems = problems_of(scratch.path)
    assert "run the same prep again" in problems[None]
    assert problems["never committed"] == "in the index, but its array is gone"


def test_a_store_without_index_verifies_as_such_and_rebuilds(scratch) -> None:
    before = snapshot(scratch.path)
    (scratch.path / "index" / "zarr.json").unlink()
    count, (problem,) = verify_store(scratch.path, threads=1)
    assert count == 5
    assert "is missing" in problem.problem
    assert rebuild_index(scratch.path) == (5, [])
    assert snapshot(scratch.path) == before


def test_rebuilding_gives_the_same_index_byte_for_byte(built, tmp_path: Path) -> None:
    built = built.copy(tmp_path / "store.zarr")
    before = snapshot(built.path)
    shutil.rmtree(built.path / "index")
    (built.path / "index").mkdir()
    assert rebuild_index(built.path) == (5, [])
    assert snapshot(built.path) == before


def test_rebuild_leaves_damage_out_and_a_second_commit_brings_it_back(scratch) -> None:
    before = snapshot(scratch.path)
    shard = scratch.path / "wide" / "0.0.0.0"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    count, (problem,) = rebuild_index(scratch.path)
    assert count == 4
    assert problem.video_id == "wide"
    with store_lock(scratch.path):
        put_video(scratch.path, scratch.settings, scratch.records["wide"], scratch.frames["wide"])
    assert rebuild_index(scratch.path) == (5, [])
    assert snapshot(scratch.path) == before


def test_of_a_success_and_its_earlier_failure_the_array_counts(scratch) -> None:
    with store_lock(scratch.path):
        commit_video(scratch.path, make_record("wide", "failed"), scratch.settings, shard=None)
    assert (scratch.path / "failed" / array_name("wide")).exists()
    assert verify_store(scratch.path, threads=1) == (5, [])
    assert rebuild_index(scratch.path) == (5, [])
    index = open_store(scratch.path).index
    assert index.status[index.video_index("wide")] == "ok"
