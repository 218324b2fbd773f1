"""The index on disk: each generation of columns is written completely beside the current one.

Replacing `index/zarr.json`, which names the generation, switches to it. Until then the journal holds the same rows, so
a kill at any point loses nothing. The index is derived from the arrays (`verify --rebuild-index`).
"""

import shutil
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from resact.cache.durable import sync_folder, write_file, write_synced
from resact.cache.files import Files, require_size
from resact.cache.index import REBUILD, Index, TextColumn
from resact.cache.journal import read_journal
from resact.cache.layout import (
    CRC_BYTES,
    DOCUMENT,
    INDEX,
    JOURNAL,
    POINTER,
    column_document,
    crc32c,
    group_document,
    seal,
    unseal,
)
from resact.errors import DamagedError, StoreError

_TRIES = 10  # to read an index that prep replaces meanwhile; prep takes longer to make the next one


def index_files(index: Index) -> tuple[str, dict[str, bytes]]:
    """The generation's name, and its files by path below the store."""
    blobs = {name: b"".join(parts) for name, parts in _column_files(index)}
    blobs[DOCUMENT] = seal(group_document({}))
    generation = index_generation(index)
    return generation, {f"{INDEX}/{generation}/{name}": blob for name, blob in blobs.items()}


def index_generation(index: Index) -> str:
    """The generation's name, derived from the index's contents without copying a column."""
    digest = sha256()
    for name, parts in _column_files(index):
        for part in (name.encode(), b"\0", *parts):
            digest.update(part)
    return digest.hexdigest()[:16]


def _column_files(index: Index) -> Iterator[tuple[str, Sequence[bytes | memoryview]]]:
    """Path below the generation, and the parts of the file's contents; sorted by path."""
    columns = index.columns()
    paths = {f"{name}/{file}": name for name, values in columns.items() for file in (DOCUMENT, *["0"][: len(values)])}
    for path in sorted(paths):
        values = columns[paths[path]]
        if path.endswith(f"/{DOCUMENT}"):
            yield path, [seal(column_document(values.dtype, len(values)))]
        else:
            data = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).view(np.uint8).data
            yield path, [data, crc32c(data).to_bytes(CRC_BYTES, "little")]


def pointer_document(generation: str, index: Index) -> bytes:
    """`index/zarr.json`: names the current generation and the sizes of its columns."""
    attributes = {"generation": generation, "videos": len(index), "frames": len(index.frame_bytes)}
    attributes["text_bytes"] = {name: len(getattr(index, name).utf8) for name in _TEXT}
    return seal(group_document(attributes))


_TEXT = ("video_id", "group", "problem")
_NUMBERS: dict[str, Any] = {
    "label": np.int32,
    "status_code": np.uint8,
    "num_frames": np.uint32,
    "height": np.uint32,
    "width": np.uint32,
    "source_fps": np.float64,
    "source_bytes": np.uint64,
    "first_frame": np.uint64,
    "frames_crc32c": np.uint32,
}


def write_index(store: Path, index: Index) -> None:
    """Make `index` the store's current index, and delete the journal, whose rows it must contain."""
    generation, files = index_files(index)
    folder = store / INDEX / generation
    in_use = folder.exists()  # readers may have mapped its files, so each is replaced as a whole
    for name, blob in files.items():
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        if in_use:
            write_file(store, name, [blob])
        else:
            write_synced(store / name, [blob])
    for named in sorted({(store / name).parent for name in files}, reverse=True):
        sync_folder(named)
    sync_folder(folder.parent)
    write_file(store, POINTER, [pointer_document(generation, index)])
    (store / JOURNAL).unlink(missing_ok=True)
    for old in (store / INDEX).iterdir():
        if old.is_dir() and len(old.name) == len(generation) and old.name != generation:
            shutil.rmtree(old)
    sync_folder(store / INDEX)


def read_index(files: Files, classes: tuple[str, ...], splits: tuple[str, ...]) -> Index:
    """Read the current generation and add the journal's rows.

    Only `frame_bytes`, by far the largest column, is memory-mapped, and checked video by video when used. The others
    take a hundred bytes per video; if mapped, each would hold a file descriptor.

    Raises:
        DamagedError: missing, truncated or changed columns or journal lines.
        StoreError: prep has replaced the generation each time that it was read.
    """
    for _ in range(_TRIES):
        journal, head = read_journal(files), _read_pointer(files)
        added = Index.of(journal, classes, splits)
        try:
            # Without a generation, prep has not written an index yet.
            return _read_generation(files, head, classes, splits).merged(added) if "generation" in head else added
        except FileNotFoundError as error:
            if _read_pointer(files) == head:
                raise DamagedError(f"{error.filename} is missing: {REBUILD}") from None
        except KeyError as error:
            raise DamagedError(f"{files}/{INDEX}: {error} is missing: {REBUILD}") from None
    raise StoreError(f"{files}/{INDEX} was replaced {_TRIES} times while it was read: run the command again")


def _read_generation(files: Files, head: dict[str, Any], classes: tuple[str, ...], splits: tuple[str, ...]) -> Index:
    base, n = f"{INDEX}/{head['generation']}", head["videos"]

    def column(name: str, dtype: Any, length: int = n) -> npt.NDArray[Any]:
        if not length:
            return np.empty(0, dtype)
        numbers, data = np.dtype(dtype).newbyteorder("<"), files.read(f"{base}/{name}/0")
        require_size(f"{base}/{name}/0", len(data), length * numbers.itemsize + CRC_BYTES)
        if crc32c(memoryview(data)[:-CRC_BYTES]) != int.from_bytes(data[-CRC_BYTES:], "little"):
            raise DamagedError(f"{files}/{INDEX}: column {name} does not match its checksum: {REBUILD}")
        return np.frombuffer(data, numbers, length)

    texts: dict[str, Any] = {
        name: TextColumn(column(f"{name}_utf8", np.uint8, head["text_bytes"][name]), column(f"{name}_ends", np.uint64))
        for name in _TEXT
    }
    numbers: dict[str, Any] = {name: column(name, dtype) for name, dtype in _NUMBERS.items()}
    frames = head["frames"]
    return Index(
        **texts,
        **numbers,
        frame_bytes=files.map(f"{base}/frame_bytes/0", np.dtype("<u4"), frames, CRC_BYTES)
        if frames
        else np.empty(0, np.uint32),
        splits={name: column(f"split_{name}", np.uint8) for name in splits},
        classes=classes,
    )


def _read_pointer(files: Files) -> dict[str, Any]:
    try:
        attributes: dict[str, Any] = unseal(files.read(POINTER), f"{files}/{POINTER}")["attributes"]
    except FileNotFoundError:
        raise DamagedError(f"{files}/{POINTER} is missing: {REBUILD}") from None
    return attributes
