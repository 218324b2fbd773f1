"""The index: one row per video, stored as columns, of which the largest is memory-mapped."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from resact.cache.layout import (
    MEMBERSHIPS,
    SIDES,
    SLOT_BYTES,
    STATUSES,
    VideoRecord,
    crc32c,
    fps_value,
    shard_index_bytes,
)
from resact.errors import DamagedError, UsageError

REBUILD = "run `resact verify STORE --rebuild-index`"


class TextColumn(Sequence[str]):
    """Strings in one UTF-8 block; Python objects are made only for the strings that are read."""

    def __init__(self, utf8: npt.NDArray[np.uint8], ends: npt.NDArray[np.uint64]) -> None:
        self.utf8, self.ends = utf8, ends

    @classmethod
    def of(cls, texts: Iterable[str]) -> Self:
        """Pack strings; undecodable bytes of file names are kept."""
        encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
        ends = np.cumsum([len(text) for text in encoded], dtype=np.uint64)
        return cls(np.frombuffer(b"".join(encoded), np.uint8), ends)

    def encoded(self, row: int) -> bytes:
        """UTF-8 bytes of one row; the index's rows are sorted by them."""
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
    """Columns, sorted by `video_id`. N videos, F stored frames in total."""

    video_id: TextColumn
    group: TextColumn
    problem: TextColumn
    """What was wrong; empty if the status is `ok`."""
    label: npt.NDArray[np.int32]
    """(N,) position of the class in the store's classes."""
    status_code: npt.NDArray[np.uint8]
    """(N,) 0 ok, 1 damaged, 2 failed."""
    num_frames: npt.NDArray[np.uint32]
    """(N,) number of stored frames; 0 for failed videos."""
    height: npt.NDArray[np.uint32]
    width: npt.NDArray[np.uint32]
    source_fps: npt.NDArray[np.float64]
    """(N,) frame rate of the source, in frames per second; NaN if it has no video."""
    source_bytes: npt.NDArray[np.uint64]
    first_frame: npt.NDArray[np.uint64]
    """(N,) where the video's frames begin in `frame_bytes`."""
    frames_crc32c: npt.NDArray[np.uint32]
    """(N,) checksum of the video's part of `frame_bytes`, so that opening does not have to read all of it."""
    frame_bytes: npt.NDArray[np.uint32]
    """(F,) stored bytes of each frame, crc32c included."""
    splits: dict[str, npt.NDArray[np.uint8]]
    """Split name -> (N,) 0 none, 1 train, 2 test, 3 val."""
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
        """(N,) size of each video's shard file, in bytes; 0 for failed videos."""
        ends = np.zeros(len(self.frame_bytes) + 1, np.uint64)
        np.cumsum(self.frame_bytes, dtype=np.uint64, out=ends[1:])
        frames = ends[self.first_frame + self.num_frames] - ends[self.first_frame]
        tails = np.where(self.num_frames > 0, shard_index_bytes(0) + SLOT_BYTES * self.num_frames.astype(np.uint64), 0)
        return np.asarray(frames + tails, np.uint64)

    def video_indices(self, split: str, membership: str) -> npt.NDArray[np.intp]:
        """Indices of the videos with frames that a split calls `train`, `val` or `test`.

        Raises:
            UsageError: no such split or membership.
        """
        if split not in self.splits or membership not in MEMBERSHIPS:
            raise UsageError(
                f"got split {split!r} and {membership!r}, expected one of {', '.join(self.splits)} and one of "
                f"{', '.join(SIDES)}"
            )
        member = self.splits[split] == MEMBERSHIPS.index(membership)
        return np.flatnonzero(member & (self.num_frames > 0))

    def sides(self, split: str) -> dict[str, int]:
        """`train`, `test` and, where the split has any, `val` -> its videos with frames."""
        count = {side: len(self.video_indices(split, side)) for side in SIDES}
        return {side: number for side, number in count.items() if number or side != "val"}

    def video_index(self, video_id: str) -> int:
        """Index of a video in the columns, found by bisection.

        Raises:
            UsageError: no such video.
        """
        wanted = video_id.encode("utf-8", "surrogateescape")
        row = bisect_left(range(len(self)), wanted, key=self.video_id.encoded)
        if row == len(self) or self.video_id.encoded(row) != wanted:
            raise UsageError(f"no video {video_id!r} in the store: `store.index.video_id` lists what it holds")
        return row

    def frame_bytes_of(self, video_index: int) -> npt.NDArray[np.uint32]:
        """(T,) stored bytes of one video's frames.

        Raises:
            DamagedError: this part of the index has changed since it was written.
        """
        part = self._part(video_index)
        if crc32c(part.tobytes()) != self.frames_crc32c[video_index]:
            raise DamagedError(f"the index is damaged at {self.video_id[video_index]!r}: {REBUILD}")
        return part

    def frame_offsets(self, video_index: int, stop: int) -> npt.NDArray[np.int64]:
        """(stop + 1,) byte offsets in the shard of frames 0 to `stop`; the last may be the end of the last frame.

        Raises:
            DamagedError: this part of the index has changed since it was written.
        """
        offsets = np.zeros(stop + 1, np.int64)
        np.cumsum(self.frame_bytes_of(video_index)[:stop], out=offsets[1:])
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
        """The rows of both; for videos in both, the newer row."""
        if not len(newer):
            return self
        ids = (index.video_id.encoded(row) for index in (self, newer) for row in range(len(index)))
        row_of = {video_id: row for row, video_id in enumerate(ids)}
        return Index._gathered([self, newer], np.array([row_of[video_id] for video_id in sorted(row_of)], np.intp))

    def selected(self, video_indices: npt.NDArray[np.intp], classes: tuple[str, ...]) -> "Index":
        """Some of the videos.

        Args:
            video_indices: (M,) their indices, ascending.
            classes: the classes of the new index, all those of these videos; labels become positions in them.
        """
        part = Index._gathered([self], video_indices)
        label_of = np.array([classes.index(name) if name in classes else -1 for name in self.classes], np.int32)
        return replace(part, label=label_of[part.label], classes=classes)

    @classmethod
    def _gathered(cls, indexes: "Sequence[Index]", rows: npt.NDArray[np.intp]) -> Self:
        """Rows of some indexes, counted from the first row of the first index to the last row of the last."""
        places = [(index, row) for index in indexes for row in range(len(index))]
        chosen = [places[row] for row in rows]

        def column(name: str) -> Any:
            columns = [getattr(index, name) for index in indexes]
            if not isinstance(columns[0], TextColumn):
                return np.concatenate(columns)[rows]
            return TextColumn.of(getattr(index, name)[row] for index, row in chosen)

        columns = {f.name: column(f.name) for f in fields(cls) if f.name not in ("frame_bytes", "splits", "classes")}
        columns["first_frame"] = np.cumsum(columns["num_frames"], dtype=np.uint64) - columns["num_frames"]
        return cls(
            **columns,
            frame_bytes=np.concatenate([np.empty(0, np.uint32), *(index._part(row) for index, row in chosen)]),
            splits={s: np.concatenate([index.splits[s] for index in indexes])[rows] for s in indexes[0].splits},
            classes=indexes[0].classes,
        )

    def _part(self, video_index: int) -> npt.NDArray[np.uint32]:
        first = int(self.first_frame[video_index])
        return self.frame_bytes[first : first + int(self.num_frames[video_index])]

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """The columns as stored on disk."""
        flat: dict[str, npt.NDArray[Any]] = {}
        for name, value in vars(self).items():
            if isinstance(value, TextColumn):
                flat |= {f"{name}_utf8": value.utf8, f"{name}_ends": value.ends}
            elif isinstance(value, np.ndarray):
                flat[name] = value
        return flat | {f"split_{name}": codes for name, codes in self.splits.items()}
