"""The journal: the videos committed since the index was last written."""

import json
import os
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np

from resact.cache.durable import sync_folder
from resact.cache.files import Files, read_if_there
from resact.cache.index import REBUILD
from resact.cache.layout import JOURNAL, Segment, Source, VideoRecord, crc32c
from resact.errors import DamagedError


class Journal:
    """Videos committed since the last index generation: one JSON line per video, with a checksum."""

    def __init__(self, store: Path) -> None:
        self._path = store / JOURNAL
        self._descriptor: int | None = None

    def append(self, records: Sequence[VideoRecord]) -> None:
        """Write and sync records; if that fails (full disk), none of them is kept."""
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            # A kill in the middle of an append leaves a last line without its end; the video is done again.
            os.truncate(self._path, self._path.read_bytes().rfind(b"\n") + 1)
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
        """Close the file, which `write_index` then removes."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _line(record: VideoRecord) -> bytes:
    row = vars(record) | {
        "segment": record.segment and vars(record.segment),
        "source": vars(record.source),
        "frame_bytes": record.frame_bytes.tolist(),
    }
    text = json.dumps(row, sort_keys=True).encode("ascii")
    return f"{crc32c(text):08x} ".encode() + text + b"\n"


def read_journal(files: Files) -> Iterator[VideoRecord]:
    """The journal's records; a later record of a video replaces an earlier one, and an incomplete last line is ignored.

    Raises:
        DamagedError: a line does not match its checksum.
    """
    # None while no prep is under way, or once it has put the rows into the index.
    lines = BytesIO(read_if_there(files, JOURNAL) or b"")  # one by one: the journal of a large prep has 100 MB
    records = {}
    for number, line in enumerate(lines, start=1):
        if not line.endswith(b"\n"):
            break
        checksum, _, text = line[:-1].partition(b" ")
        if checksum != f"{crc32c(text):08x}".encode():
            raise DamagedError(f"{files}/{JOURNAL}: line {number} does not match its checksum: {REBUILD}")
        row = json.loads(text)
        segment = row.get("segment")  # which journals of older versions have not
        row |= {
            "segment": segment and Segment(**segment),
            "source": Source(**row["source"]),
            "frame_bytes": np.array(row["frame_bytes"], np.uint32),
        }
        records[row["video_id"]] = VideoRecord(**row)
    return iter(records.values())
