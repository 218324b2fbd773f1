"""Where `copy_store` writes: what survives a power cut, and what a full disk or a bucket that refuses leaves."""

import errno
from pathlib import Path
from typing import Any

import pytest

from resact.cache import copy_target, durable
from resact.cache.address import open_files
from resact.cache.copy import copy_store
from resact.cache.copy_target import BucketTarget, FolderTarget
from resact.cache.durable import sync_folder
from resact.cache.layout import DOCUMENT
from resact.cache.verify import PART_BYTES
from resact.errors import DiskFullError, StoreError


def test_a_disk_too_full_for_the_new_folder_is_said_to_be_full(
    stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, *_: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(DiskFullError, match=r"no room left for .*new/a.zarr \([\d,]+ bytes free\)"):
        copy_store(stores["zstd"].path, tmp_path / "new" / "a.zarr")


def test_of_a_large_file_that_a_bucket_refuses_no_part_is_kept(bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    target, parts, begun = BucketTarget(open_files("s3://bucket/a.zarr")), [bytes(PART_BYTES)] * 3, []

    def refuse(file: Any) -> None:
        begun.append(bucket.call_s3("list_multipart_uploads", Bucket="bucket").get("Uploads", []))
        raise PermissionError("no right to complete it")

    monkeypatch.setattr(type(bucket.open("bucket/x", "wb")), "commit", refuse)
    with pytest.raises(StoreError, match="no right to complete it"):
        target.put("v/shard", parts, 3 * PART_BYTES)
    assert len(begun[0]) == 1
    assert bucket.call_s3("list_multipart_uploads", Bucket="bucket").get("Uploads", []) == []


def test_every_name_is_synced_before_the_copy_is_a_store(
    stores, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut, a root document that is there must not name what is not."""
    target, put, sync, synced, unsynced = tmp_path / "a.zarr", FolderTarget.put, sync_folder, {}, []

    def names(folder: Path) -> set[str]:
        return {entry.name for entry in folder.iterdir()} - {"partial"}

    def sync_and_note(folder: Path) -> None:
        sync(folder)
        synced[folder] = names(folder)

    def look_and_put(self: FolderTarget, name: str, parts: Any, size: int) -> Any:
        if name == DOCUMENT:
            folders = [path for path in (target, *target.rglob("*")) if path.is_dir() and path.name != "partial"]
            assert len(folders) > 10
            unsynced.append([folder for folder in folders if synced.get(folder) != names(folder)])
        return put(self, name, parts, size)

    for module in (copy_target, durable):
        monkeypatch.setattr(module, "sync_folder", sync_and_note)
    monkeypatch.setattr(FolderTarget, "put", look_and_put)
    copy_store(stores["lz4"].path, target)
    assert unsynced == [[]]
