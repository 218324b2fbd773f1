"""The index: one row a video, as columns, the largest one memory-mapped, and the journal of what came since.

All of it is derived from the arrays (`verify --rebuild-index`). A generation of columns is written whole
beside the current one; replacing `index/zarr.json`, which names it, is the moment of change. Until then the
journal holds the same rows, so that a kill at any point loses nothing.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from resact.cache.durable import sync_folder, write_file, write_synced
from resact.cache.files import Files, read_if_there, require_size
from resact.cache.layout import (
    CRC_BYTES,
    DOCUMENT,
    INDEX,
    JOURNAL,
    MEMBERSHIPS,
    SLOT_BYTES,
    STATUSES,
    Source,
    VideoRecord,
    column_document,
    crc32c,
    fps_value,
    group_document,
    seal,
    shard_index_bytes,
    unseal,
)
from resact.errors import DamagedError, UsageError

_REBUILD = "run `resact verify STORE --rebuild-index`"


class TextColumn(Sequence[str]):
    """Strings in one UTF-8 block; a million of them cost no Python object until one is asked for."""

    def __init__(self, utf8: npt.NDArray[np.uint8], ends: npt.NDArray[np.uint64]) -> None:
        self.utf8, self.ends = utf8, ends

    @classmethod
    def of(cls, texts: Iterable[str]) -> Self:
        """Pack strings; undecodable bytes of file names survive."""
        encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
        ends = np.cumsum([len(text) for text in encoded], dtype=np.uint64)
        return cls(np.frombuffer(b"".join(encoded), np.uint8), ends)

    def encoded(self, row: int) -> bytes:
        """UTF-8 of one row; the index's rows are sorted by it."""
        start = int(self.ends[row - 1]) if row else 0
        return self.utf8[start : int(self.ends[row])].tobytes()

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        return self.encoded(row % len(self)).decode("utf-8", "surrogateescape")


@dataclass(frozen=True, kw_only=True, eq=False)
class Index:
    """Columns, sorted by `video_id`; N rows, F stored frames in all, S splits."""

    video_id: TextColumn
    group: TextColumn
    problem: TextColumn
    """Empty where status is `ok`."""
    label: npt.NDArray[np.int32]
    """(N,) place of the class among the store's classes."""
    status_code: npt.NDArray[np.uint8]
    """(N,) 0 ok, 1 damaged, 2 failed."""
    num_frames: npt.NDArray[np.uint32]
    """(N,) stored frames; 0 where failed."""
    height: npt.NDArray[np.uint32]
    width: npt.NDArray[np.uint32]
    source_fps: npt.NDArray[np.float64]
    """(N,) frames a second of the source; NaN where it holds no video."""
    source_bytes: npt.NDArray[np.uint64]
    first_frame: npt.NDArray[np.uint64]
    """(N,) where the video's frames begin in `frame_bytes`."""
    frames_crc32c: npt.NDArray[np.uint32]
    """(N,) checksum of the video's part of `frame_bytes`, so that opening need not read all of it."""
    frame_bytes: npt.NDArray[np.uint32]
    """(F,) stored bytes of each frame, crc32c included."""
    splits: dict[str, npt.NDArray[np.uint8]]
    """Split name -> (N,) 0 none, 1 train, 2 test."""
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.video_id)

    @property
    def class_name(self) -> list[str]:
        """(N,) the class of each video."""
        return [self.classes[label] for label in self.label]

    @property
    def status(self) -> list[str]:
        """(N,) `ok`, `damaged` (kept; `problem` says what ffmpeg recovered from) or `failed` (no frames)."""
        return [STATUSES[code] for code in self.status_code]

    @property
    def shard_bytes(self) -> npt.NDArray[np.uint64]:
        """(N,) size of each video's shard file; 0 where failed."""
        ends = np.zeros(len(self.frame_bytes) + 1, np.uint64)
        np.cumsum(self.frame_bytes, dtype=np.uint64, out=ends[1:])
        frames = ends[self.first_frame + self.num_frames] - ends[self.first_frame]
        tails = np.where(self.num_frames > 0, shard_index_bytes(0) + SLOT_BYTES * self.num_frames.astype(np.uint64), 0)
        return np.asarray(frames + tails, np.uint64)

    def rows(self, split: str, membership: str) -> npt.NDArray[np.intp]:
        """Rows with frames that a split calls `train` or `test`.

        Raises:
            UsageError: no such split or membership.
        """
        if split not in self.splits or membership not in MEMBERSHIPS:
            raise UsageError(
                f"got split {split!r} and {membership!r}, expected one of {', '.join(self.splits)} and train or test"
            )
        member = self.splits[split] == MEMBERSHIPS.index(membership)
        return np.flatnonzero(member & (self.num_frames > 0))

    def row_of(self, video_id: str) -> int:
        """The row of a video, by bisection.

        Raises:
            UsageError: no such video.
        """
        wanted = video_id.encode("utf-8", "surrogateescape")
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if self.video_id.encoded(middle) < wanted:
                low = middle + 1
            else:
                high = middle
        if low == len(self) or self.video_id.encoded(low) != wanted:
            raise UsageError(f"no video {video_id!r} in the store: `store.index.video_id` lists what it holds")
        return low

    def frame_bytes_of(self, row: int) -> npt.NDArray[np.uint32]:
        """(T,) stored bytes of one video's frames.

        Raises:
            DamagedError: this part of the index has changed since it was written.
        """
        first = int(self.first_frame[row])
        part = self.frame_bytes[first : first + int(self.num_frames[row])]
        if crc32c(part.tobytes()) != self.frames_crc32c[row]:
            raise DamagedError(f"the index is damaged at {self.video_id[row]!r}: {_REBUILD}")
        return part

    def frame_offsets(self, row: int, stop: int) -> npt.NDArray[np.int64]:
        """(stop + 1,) where in the shard frame 0, 1, ... `stop` of a video begins; the last one may be where all end.

        Raises:
            DamagedError: this part of the index has changed since it was written.
        """
        offsets = np.zeros(stop + 1, np.int64)
        np.cumsum(self.frame_bytes_of(row)[:stop], out=offsets[1:])
        return offsets

    @classmethod
    def of(cls, records: Iterable[VideoRecord], classes: tuple[str, ...], splits: tuple[str, ...]) -> Self:
        """Columns from records."""
        rows = sorted(records, key=lambda r: r.video_id.encode("utf-8", "surrogateescape"))
        num_frames = np.array([r.num_frames for r in rows], np.uint32)
        return cls(
            video_id=TextColumn.of(r.video_id for r in rows),
            group=TextColumn.of(r.group for r in rows),
            problem=TextColumn.of(r.problem or "" for r in rows),
            label=np.array([r.label for r in rows], np.int32),
            status_code=np.array([STATUSES.index(r.status) for r in rows], np.uint8),
            num_frames=num_frames,
            height=np.array([r.height for r in rows], np.uint32),
            width=np.array([r.width for r in rows], np.uint32),
            source_fps=np.array([fps_value(r.source.fps) if r.source.fps else np.nan for r in rows], np.float64),
            source_bytes=np.array([r.source.bytes for r in rows], np.uint64),
            first_frame=np.cumsum(num_frames, dtype=np.uint64) - num_frames,
            frames_crc32c=np.array([crc32c(r.frame_bytes.tobytes()) for r in rows], np.uint32),
            frame_bytes=np.concatenate([np.empty(0, np.uint32), *(r.frame_bytes for r in rows)]),
            splits={s: np.array([MEMBERSHIPS.index(r.splits.get(s, "none")) for r in rows], np.uint8) for s in splits},
            classes=classes,
        )

    def merged(self, newer: "Index") -> "Index":
        """The rows of both; where both have a video, the newer one's row."""
        if not len(newer):
            return self
        replaced = {newer.video_id.encoded(row) for row in range(len(newer))}
        kept = np.array([row for row in range(len(self)) if self.video_id.encoded(row) not in replaced], np.intp)
        ids = [self.video_id.encoded(r) for r in kept] + [newer.video_id.encoded(r) for r in range(len(newer))]
        order = np.array(sorted(range(len(ids)), key=ids.__getitem__), np.intp)

        def join(name: str) -> Any:
            old, new = getattr(self, name), getattr(newer, name)
            if isinstance(old, TextColumn):
                texts = [old[r] for r in kept] + list(new)
                return TextColumn.of(texts[i] for i in order)
            return np.concatenate([old[kept], new])[order]

        columns = {f.name: join(f.name) for f in fields(self) if f.name not in ("frame_bytes", "splits", "classes")}
        parts = [self._part(r) for r in kept] + [newer._part(r) for r in range(len(newer))]
        columns["first_frame"] = np.cumsum(columns["num_frames"], dtype=np.uint64) - columns["num_frames"]
        return Index(
            **columns,
            frame_bytes=np.concatenate([np.empty(0, np.uint32), *(parts[i] for i in order)]),
            splits={s: np.concatenate([self.splits[s][kept], newer.splits[s]])[order] for s in self.splits},
            classes=self.classes,
        )

    def _part(self, row: int) -> npt.NDArray[np.uint32]:
        first = int(self.first_frame[row])
        return self.frame_bytes[first : first + int(self.num_frames[row])]

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """The columns as they lie on the disk."""
        flat: dict[str, npt.NDArray[Any]] = {}
        for name in (f.name for f in fields(self) if f.name not in ("splits", "classes")):
            value = getattr(self, name)
            flat |= (
                {f"{name}_utf8": value.utf8, f"{name}_ends": value.ends}
                if isinstance(value, TextColumn)
                else {name: value}
            )
        return flat | {f"split_{name}": codes for name, codes in self.splits.items()}


def index_files(index: Index) -> tuple[str, dict[str, bytes]]:
    """The generation's name, and its files by path below the store."""
    blobs = {name: b"".join(parts) for name, parts in _column_files(index)}
    blobs[DOCUMENT] = seal(group_document({}))
    generation = index_generation(index)
    return generation, {f"{INDEX}/{generation}/{name}": blob for name, blob in blobs.items()}


def index_generation(index: Index) -> str:
    """The name that follows from what the index holds; no column is copied for it."""
    digest = sha256()
    for name, parts in _column_files(index):
        for part in (name.encode(), b"\0", *parts):
            digest.update(part)
    return digest.hexdigest()[:16]


def _column_files(index: Index) -> Iterator[tuple[str, Sequence[bytes | memoryview]]]:
    """Path below the generation, and what the file is made of; sorted by path."""
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
    """`index/zarr.json`: which generation counts, and the sizes that its columns have."""
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
    """Make `index` the store's current one and drop the journal, whose rows it has to contain."""
    generation, files = index_files(index)
    folder = store / INDEX / generation
    in_use = folder.exists()  # then readers may have its files mapped: each is replaced whole
    for name, blob in files.items():
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        if in_use:
            write_file(store, name, blob)
        else:
            write_synced(store / name, blob)
    for named in sorted({(store / name).parent for name in files}, reverse=True):
        sync_folder(named)
    sync_folder(folder.parent)
    write_file(store, f"{INDEX}/{DOCUMENT}", pointer_document(generation, index))
    (store / JOURNAL).unlink(missing_ok=True)
    for old in (store / INDEX).iterdir():
        if old.is_dir() and len(old.name) == len(generation) and old.name != generation:
            shutil.rmtree(old)
    sync_folder(store / INDEX)


def read_index(files: Files, classes: tuple[str, ...], splits: tuple[str, ...]) -> Index:
    """Read the current generation and add the journal's rows.

    Only `frame_bytes`, by far the largest column, is mapped, and checked video by video when it is used. The others
    take a hundred bytes a video; mapped, each would hold a file descriptor.

    Raises:
        DamagedError: missing, truncated or changed columns or journal lines.
    """
    where = f"{files}/{INDEX}"
    journal = read_journal(files)
    head = _read_pointer(files)
    try:
        if "generation" not in head:  # a prep that has not got that far yet
            return Index.of(journal, classes, splits)
        base = f"{INDEX}/{head['generation']}"

        def column(name: str, dtype: Any, length: int) -> npt.NDArray[Any]:
            if not length:
                return np.empty(0, dtype)
            numbers, data = np.dtype(dtype).newbyteorder("<"), files.read(f"{base}/{name}/0")
            require_size(f"{base}/{name}/0", len(data), length * numbers.itemsize + CRC_BYTES)
            if crc32c(memoryview(data)[:-CRC_BYTES]) != int.from_bytes(data[-CRC_BYTES:], "little"):
                raise DamagedError(f"{where}: column {name} does not match its checksum: {_REBUILD}")
            return np.frombuffer(data, numbers, length)

        n = head["videos"]
        texts: dict[str, Any] = {
            name: TextColumn(
                column(f"{name}_utf8", np.uint8, head["text_bytes"][name]),
                column(f"{name}_ends", np.uint64, n),
            )
            for name in _TEXT
        }
        numbers: dict[str, Any] = {name: column(name, dtype, n) for name, dtype in _NUMBERS.items()}
        index = Index(
            **texts,
            **numbers,
            frame_bytes=files.map(f"{base}/frame_bytes/0", np.dtype("<u4"), head["frames"], CRC_BYTES)
            if head["frames"]
            else np.empty(0, np.uint32),
            splits={name: column(f"split_{name}", np.uint8, n) for name in splits},
            classes=classes,
        )
    except FileNotFoundError as error:
        # Unless a prep has just replaced the generation.
        if _read_pointer(files) != head:
            return read_index(files, classes, splits)
        raise DamagedError(f"{error.filename} is missing: {_REBUILD}") from None
    except KeyError as error:
        raise DamagedError(f"{where}: {error} is missing: {_REBUILD}") from None
    return index.merged(Index.of(journal, classes, splits))


def _read_pointer(files: Files) -> dict[str, Any]:
    name = f"{INDEX}/{DOCUMENT}"
    try:
        attributes: dict[str, Any] = unseal(files.read(name), f"{files}/{name}")["attributes"]
    except FileNotFoundError:
        raise DamagedError(f"{files}/{name} is missing: {_REBUILD}") from None
    return attributes


# Journal ----------------------------------------------------------------------------------------------------


class Journal:
    """What was committed since the last generation: one checksummed JSON line a video, the driver's work."""

    def __init__(self, store: Path) -> None:
        self._path = store / JOURNAL
        self._descriptor: int | None = None

    def append(self, records: Sequence[VideoRecord]) -> None:
        """Write and sync; on failure (a full disk) nothing of it stays."""
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            _cut_torn_line(self._path)
            sync_folder(self._path.parent)
        before = os.fstat(self._descriptor).st_size
        try:
            data = b"".join(_line(record) for record in records)
            while data:
                data = data[os.write(self._descriptor, data) :]
            os.fsync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, before)
            raise

    def close(self) -> None:
        """Let go of the file, which `write_index` then removes."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _line(record: VideoRecord) -> bytes:
    row = vars(record) | {"source": vars(record.source), "frame_bytes": record.frame_bytes.tolist()}
    text = json.dumps(row, sort_keys=True).encode("ascii")
    return f"{crc32c(text):08x} ".encode() + text + b"\n"


def _cut_torn_line(path: Path) -> None:
    """A kill in the middle of an append leaves a last line without its end; the video is done again."""
    data = path.read_bytes()
    os.truncate(path, data.rfind(b"\n") + 1)


def read_journal(files: Files) -> Iterator[VideoRecord]:
    """The journal's records, later ones of a video replacing earlier ones; a torn last line is not one.

    Raises:
        DamagedError: a line does not match its checksum.
    """
    # None while no prep is under way, or once it has put the rows into the index.
    lines = (read_if_there(files, JOURNAL) or b"").split(b"\n")
    records = {}
    for number, line in enumerate(lines[:-1], start=1):
        checksum, _, text = line.partition(b" ")
        if checksum != f"{crc32c(text):08x}".encode():
            raise DamagedError(f"{files}/{JOURNAL}: line {number} does not match its checksum: {_REBUILD}")
        row = json.loads(text)
        row |= {"source": Source(**row["source"]), "frame_bytes": np.array(row["frame_bytes"], np.uint32)}
        records[row["video_id"]] = VideoRecord(**row)
    return iter(records.values())
