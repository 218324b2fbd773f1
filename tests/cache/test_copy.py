"""`copy_store`: equal bytes, checked on the way, no store before it is whole, and what it refuses."""

import json
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.cache.conftest import (
    Built,
    Place,
    Requests,
    folder_in_memory,
    make_record,
    make_settings,
    make_store,
    put_video,
    snapshot,
)
from tests.cache.web_server import serve
from tests.conftest import fill

from resact.cache.address import open_files
from resact.cache.copy import CopyProgress, copy_store
from resact.cache.copy_target import BucketTarget, FolderTarget
from resact.cache.durable import store_lock
from resact.cache.index import Index
from resact.cache.index_files import write_index
from resact.cache.journal import Journal
from resact.cache.layout import DOCUMENT, JOURNAL, POINTER, SHARD, array_name
from resact.cache.leaks import ALIKE_NOTE, Alike
from resact.cache.store import open_store
from resact.cache.verify import verify_store
from resact.cache.whole import Whole
from resact.errors import (
    DamagedError,
    DiskFullError,
    ResactError,
    SettingsError,
    StoreError,
    StoreLockedError,
    StoreNotFoundError,
    UsageError,
)

WITH_FRAMES = 4  # of `VIDEOS`
JUMP = "Jump/v_Jump_g01_c01"
GROUP = b'{"zarr_format": 3, "node_type": "group", "attributes": {}}'


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with folder_in_memory() as folder:
        yield folder


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "folder":
        return Place(str(tmp_path / "new" / "a.zarr"))
    request.getfixturevalue("bucket")
    return Place("s3://bucket/a.zarr")


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]


def test_to_a_bucket_and_back_gives_the_same_bytes(stores, bucket, tmp_path: Path) -> None:
    built, told = stores["jpeg"], list[CopyProgress]()
    result = copy_store(built.path, "s3://bucket/a.zarr/", tell=told.append)
    shards = sum(len((built.path / array_name(v) / SHARD).read_bytes()) for v in built.pixels)
    assert (result.videos, result.copied, result.there) == (len(built.records), WITH_FRAMES, 0)
    assert result.bytes == result.copied_bytes == shards
    assert max(now.videos for now in told) == len(built.records)
    assert max(now.copied_bytes for now in told) == max(now.bytes for now in told) == told[-1].total_bytes == shards
    copy_store("s3://bucket/a.zarr", "s3://bucket/deep/b.zarr")
    copy_store("s3://bucket/deep/b.zarr", tmp_path / "b.zarr")
    assert snapshot(tmp_path / "b.zarr") == snapshot(built.path)
    assert not (tmp_path / "b.zarr" / "index" / "partial").exists()


def test_a_video_is_four_requests_to_an_empty_bucket(stores, bucket, requests: Requests) -> None:
    """Two that put its files, and two that ask for their ETags."""
    copy_store(stores["jpeg"].path, "s3://bucket/a.zarr")
    of_video = [line for line in requests.take() if "/a.zarr/wide/" in line]
    assert of_video == [
        f"{method} /bucket/a.zarr/wide/{name}" for name in (SHARD, DOCUMENT) for method in ("PUT", "HEAD")
    ]


def test_from_a_web_server_and_within_the_machine(stores, tmp_path: Path) -> None:
    copy_store(stores["jpeg"].path, tmp_path / "a.zarr")
    with serve(tmp_path) as web:
        copy_store(f"{web.address}/a.zarr", f"file://{tmp_path}/b.zarr")
    assert snapshot(tmp_path / "b.zarr") == snapshot(tmp_path / "a.zarr") == snapshot(stores["jpeg"].path)


def test_a_second_copy_moves_only_what_is_missing_or_differs(stores, place: Place) -> None:
    source = stores["lz4"].path
    copy_store(source, place.url)
    result = copy_store(source, place.url)
    assert (result.copied, result.there, result.copied_bytes) == (0, WITH_FRAMES, 0)
    whole = snapshot(source)
    (column,) = (name for name in whole if name.endswith("/label/0"))
    place.remove(f"wide/{SHARD}")
    place.write(f"one frame/{SHARD}", flipped(whole[f"one frame/{SHARD}"], 20))  # of the same size
    place.write(f"{array_name(JUMP)}/{SHARD}", whole[f"{array_name(JUMP)}/{SHARD}"][:-9])
    place.write(f"wide/{DOCUMENT}", flipped(whole[f"wide/{DOCUMENT}"], 20))
    place.write(column, b"")
    result = copy_store(source, place.url)
    assert (result.copied, result.there) == (3, 1)
    assert result.copied_bytes == sum(len(whole[f"{name}/{SHARD}"]) for name in ("wide", "one frame", array_name(JUMP)))
    assert place.files() == whole


def test_no_reader_opens_what_is_not_whole(stores, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened after each file that is put: only the last makes it a store."""
    source, opened, messages = stores["zstd"].path, [], set()
    kind = BucketTarget if "://" in place.url else FolderTarget
    put = kind.put

    def put_and_look(self: Any, name: str, parts: Any, size: int) -> Any:
        done = put(self, name, parts, size)
        try:
            opened.append((name, open_store(place.url)))
        except StoreNotFoundError as error:
            opened.append((name, None))
            messages.add(str(error).partition(", ")[2])
        return done

    monkeypatch.setattr(kind, "put", put_and_look)
    copy_store(source, place.url)
    assert len(opened) >= len(snapshot(source)) - 1  # a folder's pointer is put by other means
    assert [name for name, store in opened if store is not None] == [DOCUMENT] == [opened[-1][0]]
    assert messages == {"but the beginning of a copy: run the same `resact copy` again to finish it"}
    monkeypatch.setattr(kind, "put", put)
    place.remove(DOCUMENT)
    with pytest.raises(StoreNotFoundError, match="the beginning of a copy"):
        verify_store(place.url, threads=1)
    assert copy_store(source, place.url).copied == 0
    assert verify_store(place.url, threads=1) == (5, [])


@pytest.mark.parametrize(
    ("remote", "name", "at", "problem"),
    [
        (False, f"wide/{SHARD}", 100, "wide: frame 0 does not match its checksum"),
        (True, f"wide/{SHARD}", 100, "wide: frame 0 does not match its checksum"),
        (True, f"wide/{SHARD}", -1, "wide: its shard does not end with the index of its frames"),
        (True, f"wide/{SHARD}", None, "wide: its shard does not end with the index of its frames"),  # a byte too many
        (False, f"wide/{DOCUMENT}", 50, "wide: .*its bytes have changed since they were written"),
    ],
)
def test_a_flipped_byte_in_the_source_is_named_and_not_copied(
    scratch: Built, bucket, tmp_path: Path, name: str, at: int | None, problem: str, remote: bool
) -> None:
    path = scratch.path / name
    data = path.read_bytes()
    path.write_bytes(data + b"\0" if at is None else flipped(data, at % len(data)))
    source, target = str(scratch.path), "s3://bucket/a.zarr"
    if remote:
        bucket.put(source, "bucket/source.zarr", recursive=True)
        source, target = "s3://bucket/source.zarr", str(tmp_path / "a.zarr")
    place = Place(target)
    with pytest.raises(DamagedError, match=f"1 videos of {source} are damaged, so the copy is not finished .{problem}"):
        copy_store(source, target)
    there = place.files()
    assert not any(file.startswith(f"wide/{SHARD}") and name.endswith(SHARD) for file in there)
    assert f"wide/{DOCUMENT}" not in there
    assert f"one frame/{DOCUMENT}" in there
    with pytest.raises(StoreNotFoundError):
        open_store(target)
    path.write_bytes(data)
    if remote:
        bucket.put(str(path), f"bucket/source.zarr/{name}")
    copy_store(source, target)
    assert place.files() == snapshot(scratch.path)


@pytest.mark.parametrize("place", ["folder"], indirect=True)
def test_a_missing_shard_is_named(scratch: Built, place: Place) -> None:
    (scratch.path / "wide" / SHARD).unlink()
    with pytest.raises(DamagedError, match=r"wide: .*No such file or directory"):
        copy_store(scratch.path, place.url)


@pytest.mark.parametrize(
    ("place", "name"), [("folder", SHARD), ("bucket", SHARD), ("folder", DOCUMENT)], indirect=["place"]
)
def test_a_target_that_gives_back_other_bytes_is_no_store(
    stores, place: Place, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = BucketTarget if "://" in place.url else FolderTarget
    put = kind.put

    def put_flipped(self: Any, name_: str, parts: Any, size: int) -> Any:
        data = b"".join(parts)
        put(self, name_, [flipped(data, 10) if name_ == f"wide/{name}" else data], size)
        return "0" * 32

    monkeypatch.setattr(kind, "put", put_flipped)
    with pytest.raises(StoreError, match=f"wide/{name} gives back other bytes than were written"):
        copy_store(stores["zstd"].path, place.url)
    assert DOCUMENT not in place.files()


def test_where_the_etag_is_no_md5_the_bytes_are_read_back(stores, bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of buckets that encrypt."""
    size_and_md5, source = BucketTarget.size_and_md5, stores["zstd"].path

    def other(self: BucketTarget, name: str) -> tuple[int, str | None] | None:
        there = size_and_md5(self, name)
        return there and (there[0], "0" * 32)

    monkeypatch.setattr(BucketTarget, "size_and_md5", other)
    assert copy_store(source, "s3://bucket/a.zarr").copied == WITH_FRAMES
    assert copy_store(source, "s3://bucket/a.zarr").there == WITH_FRAMES
    shard = f"bucket/a.zarr/wide/{SHARD}"
    bucket.pipe_file(shard, flipped(bucket.cat_file(shard), 30))
    assert copy_store(source, "s3://bucket/a.zarr").copied == 1


def test_a_large_video_is_never_in_memory(bucket, tmp_path: Path) -> None:
    """To a bucket it goes in several requests."""
    path, noise = tmp_path / "large.zarr", np.random.default_rng(0).integers(0, 256, (60, 512, 683, 3), np.uint8)
    make_store(path, make_settings("zstd"), [(make_record("v"), noise)])
    copy_store(path, tmp_path / "warm.zarr")
    tracemalloc.start()
    try:
        copy_store(path, tmp_path / "local.zarr")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 30 << 20
    copy_store(path, "s3://bucket/a.zarr")
    assert "-" in bucket.info(f"bucket/a.zarr/v/{SHARD}")["ETag"]  # of several parts
    assert copy_store(path, "s3://bucket/a.zarr").there == 1
    copy_store("s3://bucket/a.zarr", tmp_path / "back.zarr")
    assert snapshot(tmp_path / "back.zarr") == snapshot(tmp_path / "local.zarr") == snapshot(path)


def test_a_full_disk_is_one_error_and_the_copy_goes_on(
    stores, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, filler = FolderTarget.put, []

    def put_until_full(self: FolderTarget, name: str, parts: Any, size: int) -> Any:
        if name.startswith("wide/") and not filler:
            filler.append(fill(small_disk))
        return put(self, name, parts, size)

    monkeypatch.setattr(FolderTarget, "put", put_until_full)
    target = small_disk / "a.zarr"
    with pytest.raises(DiskFullError, match=r"no room left for .*run the same command again"):
        copy_store(stores["zstd"].path, target)
    assert not (target / DOCUMENT).exists()
    filler[0].unlink()
    copy_store(stores["zstd"].path, target)
    assert snapshot(target) == snapshot(stores["zstd"].path)


def rebuilt(path: Path, built: Built, ids: list[str], **dataset: Any) -> None:
    """A store as prep would make it from some of the videos, and with other settings of the data set."""
    settings = replace(built.settings, dataset=replace(built.settings.dataset, **dataset))
    records = [replace(r, label=settings.dataset.classes.index(r.class_name)) for r in map(built.records.get, ids)]
    make_store(path, settings, [(record, built.frames.get(record.video_id)) for record in records])


@pytest.mark.parametrize("place", ["folder"], indirect=True)
def test_a_part_by_classes_is_what_prep_would_make_of_them(stores, place: Place, tmp_path: Path) -> None:
    built = stores["lz4"]
    ids = [video_id for video_id, record in built.records.items() if record.class_name == "Walk"]
    assert {built.records[video_id].status for video_id in ids} == {"ok", "damaged", "failed"}
    rebuilt(tmp_path / "part.zarr", built, ids, classes=("Walk",))
    result = copy_store(built.path, place.url, classes=["Walk"])
    assert result.partial == f"not the whole of sample: {len(ids) - 1} of 9 videos, 1 of 3 classes"
    assert place.files() == snapshot(tmp_path / "part.zarr")
    store = open_store(place.url)
    assert store.partial == result.partial
    assert np.array_equal(store.read(ids[0], 0, 1), built.pixels[ids[0]][:1])
    with pytest.raises(SettingsError, match=f"{place.url} holds another store .*they differ in classes"):
        copy_store(built.path, place.url)


@pytest.mark.parametrize("place", ["folder"], indirect=True)
def test_a_part_by_split_and_the_whole_after_it(stores, place: Place) -> None:
    built = stores["lz4"]
    result = copy_store(built.path, place.url, split="2", membership="test")  # of which the failed video is not
    assert (result.videos, result.partial) == (4, "not the whole of sample: 4 of 9 videos, 2 of 3 classes")
    assert verify_store(place.url, threads=1) == (4, [])
    result = copy_store(built.path, place.url)
    assert (result.videos, result.copied, result.there) == (5, 0, 4)
    assert place.files() == snapshot(built.path)
    with pytest.raises(UsageError, match=f"{place.url} holds index, which is not to be copied from"):
        copy_store(built.path, place.url, split="2")


def test_a_part_of_a_store_that_may_grow_says_so(stores, tmp_path: Path) -> None:
    """And names the copies among its own videos alone."""
    built, source = stores["zstd"], tmp_path / "folder.zarr"
    rebuilt(source, built, list(built.records), videos=None, all_classes=None)
    pairs = [Alike(first="one frame", second="wide", same_file=True), Alike(first=JUMP, second="wide", same_file=False)]
    with store_lock(source):
        ALIKE_NOTE.write(source, pairs)
    assert copy_store(source, tmp_path / "whole.zarr").partial == open_store(source).partial
    assert open_store(tmp_path / "whole.zarr").whole is None
    of_class = built.records["wide"].class_name
    copy_store(source, tmp_path / "part.zarr", classes=[of_class])
    part = open_store(tmp_path / "part.zarr")
    assert part.whole == Whole(videos=5, classes=2)
    assert "1 of 2 classes" in (part.partial or "")
    held = set(part.index.video_id)
    assert ALIKE_NOTE.read(part.files) == [pair for pair in pairs if {pair.first, pair.second} <= held] != pairs
    copy_store(tmp_path / "part.zarr", tmp_path / "again.zarr")
    assert open_store(tmp_path / "again.zarr").partial == part.partial


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ["Wlak"]}, "got class 'Wlak', expected one of the 2 in .*, such as Walk"),
        ({"split": "3"}, "got --split 3, expected one of 1, 2"),
        ({"membership": "test"}, "got --membership test without a split: name it with --split"),
        ({"split": "1", "membership": "none"}, "got --membership none, expected one of train, test, val$"),
        ({"split": "1", "membership": "val"}, "got --split 1 --membership val, of which .* has no video"),
    ],
)
def test_a_part_that_is_none_is_refused(stores, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        copy_store(stores["zstd"].path, tmp_path / "a.zarr", **options)
    assert not (tmp_path / "a.zarr").exists()


def test_an_older_copy_is_brought_up_to_date(
    stores, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers have the old store until the new one is whole; a failed video that prep has tried again is replaced."""
    built, source = stores["zstd"], tmp_path / "source.zarr"
    rebuilt(source, built, ["one frame", "wide", "index"])
    copy_store(source, place.url)
    with store_lock(source):
        again = make_record("index", height=24, width=32)
        fresh = [
            put_video(source, built.settings, again, built.frames["one frame"]),
            put_video(source, built.settings, built.records[JUMP], built.frames[JUMP]),
        ]
        (source / "failed" / array_name("index") / DOCUMENT).unlink()
        (source / "failed" / array_name("index")).rmdir()
        write_index(source, open_store(source).index.merged(Index.of(fresh, ("Jump", "Walk"), ("1", "2"))))
    kind = BucketTarget if "://" in place.url else FolderTarget
    put, seen = kind.put, []

    def put_and_look(self: Any, *arguments: Any) -> Any:
        done = put(self, *arguments)
        seen.append(json.loads(open_files(place.url).read(POINTER))["attributes"]["videos"])
        return done

    monkeypatch.setattr(kind, "put", put_and_look)
    assert copy_store(source, place.url).copied == 2
    assert seen[:-1] == [3] * (len(seen) - 1)
    assert seen[-1] == 4
    assert place.files() == snapshot(source)
    rebuilt(tmp_path / "older.zarr", built, ["one frame", "wide"])
    with pytest.raises(UsageError, match=f"{place.url} holds .*which is not to be copied from .*: it is newer"):
        copy_store(tmp_path / "older.zarr", place.url)


def other_settings(place: Place, stores) -> None:
    for name, data in snapshot(stores["jpeg"].path).items():
        place.write(name, data)


def other_copy(place: Place, stores) -> None:
    copy_store(stores["zstd"].path, place.url, classes=["Walk"])
    place.remove(DOCUMENT)


def prep_under_way(place: Place, stores) -> None:
    copy_store(stores["zstd"].path, place.url)
    place.write(JOURNAL, b"")


@pytest.mark.parametrize("place", ["folder"], indirect=True)
@pytest.mark.parametrize(
    ("prepared", "kind", "message"),
    [
        (other_settings, SettingsError, "holds another store than is to be copied from .*they differ in --codec"),
        (other_copy, UsageError, "holds the beginning of another copy than of"),
        (prep_under_way, StoreError, "a prep of .* is under way, or was stopped: finish it first, or name another"),
        (lambda place, _: place.write("a", b"x"), UsageError, r"which is not empty and no store \(it holds a\)"),
        (lambda place, _: place.write(DOCUMENT, GROUP), StoreNotFoundError, "is a Zarr group, but not a clip store"),
    ],
)
def test_a_target_with_something_else_is_refused_and_left_as_it_is(
    stores, place: Place, prepared: Any, kind: type[ResactError], message: str
) -> None:
    prepared(place, stores)
    before = place.files()
    with pytest.raises(kind, match=message):
        copy_store(stores["zstd"].path, place.url)
    assert place.files() == before


def test_a_bucket_with_something_else_is_refused(stores, bucket) -> None:
    bucket.pipe_file("bucket/a.zarr/holiday/1.jpg", b"x")
    with pytest.raises(UsageError, match=r"s3://bucket/a.zarr to copy to, which is not empty .*it holds holiday"):
        copy_store(stores["zstd"].path, "s3://bucket/a.zarr")
    assert bucket.find("bucket") == ["bucket/a.zarr/holiday/1.jpg"]


def test_places_that_take_no_copy(scratch: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for target in ("scratch.zarr", scratch.path / "inside", tmp_path):
        with pytest.raises(UsageError, match="expected two places of which none is in the other"):
            copy_store(scratch.path, target)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"expected a folder or a new name: it is a file"):
        copy_store(scratch.path, tmp_path / "file")
    with pytest.raises(UsageError, match=r"got https://h/a.zarr to copy to, expected a folder or a bucket"):
        copy_store(scratch.path, "https://h/a.zarr")
    Journal(scratch.path).append([scratch.records["wide"]])
    with pytest.raises(StoreError, match=r"a prep of .* is under way, or was stopped: finish it first, then copy"):
        copy_store(scratch.path, tmp_path / "a.zarr")
    assert not (tmp_path / "a.zarr").exists()


def test_one_copy_at_a_time_writes_to_a_folder(stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put, target, refused = FolderTarget.put, tmp_path / "a.zarr", []

    def put_while_another_tries(self: FolderTarget, *arguments: Any) -> Any:
        if not refused:
            refused.append(True)
            with pytest.raises(StoreLockedError, match="another prep, repair or copy is writing to"):
                copy_store(stores["zstd"].path, target)
        return put(self, *arguments)

    monkeypatch.setattr(FolderTarget, "put", put_while_another_tries)
    copy_store(stores["zstd"].path, target)
    assert refused
    assert verify_store(target, threads=1) == (5, [])


def test_a_bucket_that_is_not_there_is_one_line(stores, bucket) -> None:
    with pytest.raises(StoreError, match=r"cannot write to s3://none/a.zarr, as its bucket does not exist"):
        copy_store(stores["zstd"].path, "s3://none/a.zarr")
