"""The store's format, version 1. Only this module knows it; docs/store.md describes it.

    NAME.zarr/
      zarr.json                    group; its attributes are the settings; written once, never changed
      <array name>/zarr.json       one array per video: uint8 (time, y, x, channel)
      <array name>/0.0.0.0         its only shard: the frames' chunks, then the shard index
      failed/<array name>/         one group per video without usable frames; its attributes say why
      index/zarr.json              names the current generation of the index
      index/<generation>/<column>  derived columns, each a one-chunk array of raw little-endian numbers
      index/journal.jsonl          only during a prep: videos committed since that generation
      index/partial/               only during a prep: files not committed yet
      index/alike.json             which videos look the same; older stores have none (leaks.py)
      index/whole.json             only while the store of a data set that may grow lacks videos: its size (whole.py)

A chunk is one frame: the codec's bytes, then their crc32c. Each `zarr.json` is canonical JSON with a
crc32c of itself, so any flipped bit shows. All numbers are little-endian.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal
from urllib.parse import quote, unquote

import crc32c as _crc32c
import numpy as np
import numpy.typing as npt

from resact.cache import machine_code
from resact.cache.codecs import WORTH_CODE, FrameCodec
from resact.errors import DamagedError, UsageError

FORMAT_VERSION = 1
DOCUMENT = "zarr.json"
SHARD = "0.0.0.0"  # noqa: S104 - a chunk key, no address
INDEX = "index"
FAILED = "failed"
POINTER = f"{INDEX}/{DOCUMENT}"
"""Names the current generation of the index."""
JOURNAL = f"{INDEX}/journal.jsonl"
PARTIAL = f"{INDEX}/partial"
WHOLE = f"{INDEX}/whole.json"
ALIKE = f"{INDEX}/alike.json"

# Chunk keys such as `0.0.0.0`, so that a shard lies beside its document. Not the encoding `default`, whose separator
# is an option: zarr-python takes one flipped bit in that for another separator, finds no shard, and gives black frames.
_KEYS = {"name": "v2"}
_NUMBER_CODECS: list[dict[str, Any]] = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]

CRC_BYTES = 4
SLOT_BYTES = 16  # offset and length of one chunk, uint64 each
_RESERVED = {INDEX, FAILED, DOCUMENT}
_MAX_NAME_BYTES = 240  # under the 255 that file systems allow, with room for a partial file's suffix

Status = Literal["ok", "damaged", "failed"]
READ_ME = "README"
"""The root's first attribute (capitals sort first), which tells people how to read the frames."""
STATUSES: tuple[Status, ...] = ("ok", "damaged", "failed")
MEMBERSHIPS = ("none", "train", "test", "val")
"""Memberships of a video in a split, by code. `val` was added last, so older stores do not have it."""
SIDES = MEMBERSHIPS[1:]


@dataclass(frozen=True, kw_only=True)
class Source:
    """The source file of a video."""

    name: str
    """Path below the data set's root, with forward slashes."""
    bytes: int
    """Size of the file; 0 if it could not be read."""
    sha256: str | None
    """None if the file could not be read."""
    fps: str | None
    """Frames per second as an exact fraction such as `30000/1001`; None if ffmpeg found no video."""
    height: int
    """Pixels before scaling; 0 where ffmpeg found no video."""
    width: int
    """Pixels before scaling; 0 where ffmpeg found no video."""


@dataclass(frozen=True)
class Segment:
    """A part of a source that is a video of its own."""

    start: str
    """Seconds after the source's first frame, as a plain decimal number such as `12.5`."""
    end: str | None
    """Likewise; None for the source's end."""

    def __str__(self) -> str:
        return f"@{self.start}-{self.end or ''}"


@dataclass(frozen=True, kw_only=True, eq=False)
class VideoRecord:
    """Everything that the store knows about one video, except its pixels."""

    video_id: str
    class_name: str
    label: int
    group: str
    """Videos of one group are similar (same scene, same people) and stay on one side of every split."""
    splits: dict[str, str]
    """Split name -> `train`, `val` or `test`; a split without this video is absent."""
    status: Status
    problem: str | None
    """What was wrong, with ffmpeg's message if it came from ffmpeg; None if the status is `ok`."""
    note: str | None = None
    """What a user may want to know although nothing is wrong, such as which of several video tracks was used."""
    segment: Segment | None = None
    """The part of the source that it is; None for all of it."""
    source: Source
    arguments: list[str]
    """ffmpeg's arguments, with the source's path replaced by its name; empty if ffmpeg was not run."""
    height: int
    width: int
    frame_bytes: npt.NDArray[np.uint32]
    """(T,) stored bytes of each frame, crc32c included."""

    @property
    def num_frames(self) -> int:
        """T, the number of stored frames."""
        return len(self.frame_bytes)


def crc32c(data: bytes | memoryview) -> int:
    """CRC-32C (Castagnoli) of bytes."""
    # The package `crc32c` lets go of the GIL from 32 KiB on. google-crc32c, as fast, never does: of all threads only
    # one could check a frame, which at 18 microseconds a lossless frame is as much as four or five cores decode.
    return int(_crc32c.crc32c(data))


def first_wrong_chunk(data: memoryview, edges: npt.NDArray[np.int64]) -> int | None:
    """The first chunk that does not end in its checksum, or None.

    Args:
        data: chunks, one after another.
        edges: (N + 1,), where each chunk begins in `data`, and where the last one ends.
    """
    too_short = np.flatnonzero(np.diff(edges) < CRC_BYTES)
    if len(too_short):  # for a checksum, even
        first = int(too_short[0])
        before = first_wrong_chunk(data, edges[: first + 1])
        return first if before is None else before
    if len(edges) > WORTH_CODE and machine_code.is_on():
        from resact.cache.machine_code.crc import can_check, first_wrong

        if can_check():
            return first_wrong(data, edges)
    for number, (start, stop) in enumerate(pairwise(edges.tolist())):
        if crc32c(data[start : stop - CRC_BYTES]) != int.from_bytes(data[stop - CRC_BYTES : stop], "little"):
            return number
    return None


def frame_runs(edges: npt.NDArray[np.int64], most_bytes: int) -> Iterator[tuple[int, int]]:
    """All frames in runs [first, stop) of at most so many bytes, or of one frame that has more.

    Args:
        edges: (T + 1,), where each frame begins in the shard, and where the last one ends.
        most_bytes: of a run.
    """
    first = 0
    while first < len(edges) - 1:
        stop = max(first + 1, int(np.searchsorted(edges, edges[first] + most_bytes, "right")) - 1)
        yield first, stop
        first = stop


def array_name(video_id: str) -> str:
    """The node's name for a video: its id, with bytes that are unsafe in a path or in Zarr percent-encoded.

    Raises:
        UsageError: the name would be longer than file systems allow.
    """
    name = quote(video_id.encode("utf-8", "surrogateescape"), safe=" !()+,-.=@[]_")
    if name in _RESERVED or name.startswith((".", "__")):
        name = f"%{ord(name[0]):02X}{name[1:]}"
    if not name or len(name) > _MAX_NAME_BYTES:
        raise UsageError(
            f"video id {video_id!r} makes a file name of {len(name)} bytes, expected 1 to {_MAX_NAME_BYTES}: "
            "rename the video"
        )
    return name


def video_id_of(name: str) -> str:
    """The inverse of `array_name`."""
    return unquote(name, encoding="utf-8", errors="surrogateescape")


def printable(text: str) -> str:
    """Text that a terminal can show: undecodable bytes of file names are escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


# Documents --------------------------------------------------------------------------------------------------


def _canonical(document: dict[str, Any]) -> bytes:
    # Without indentation, because Python's fast encoder knows none.
    return json.dumps(document, sort_keys=True, allow_nan=False).encode("ascii") + b"\n"


def seal(document: dict[str, Any]) -> bytes:
    """A Zarr document as canonical JSON, with its own crc32c as an attribute."""
    attributes = {k: v for k, v in document["attributes"].items() if k != "crc32c"}
    checksum = crc32c(_canonical({**document, "attributes": attributes}))
    return _canonical({**document, "attributes": {**attributes, "crc32c": f"{checksum:08x}"}})


def unseal(data: bytes, where: str) -> dict[str, Any]:
    """Parse a sealed document.

    Raises:
        DamagedError: any byte differs from what `seal` wrote.
    """
    try:
        document = json.loads(data)
        intact = isinstance(document, dict) and seal(document) == data
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        intact = False
    if not intact:
        raise DamagedError(f"{where}: its bytes have changed since they were written (the document's checksum differs)")
    return document  # type: ignore[no-any-return]


def group_document(attributes: dict[str, Any]) -> dict[str, Any]:
    """A Zarr v3 group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def read_me(codec: FrameCodec) -> str:
    """Instructions for people who open the store with zarr. They have no effect on the store's meaning."""
    name = codec.zarr_codecs()[0]["name"]
    if name.startswith("resact."):
        how = (
            f"zarr reads them where resact is installed, which brings the codec {name}; it says 'Unknown codec' where "
            "it is not. Without resact: the file VIDEO/0.0.0.0 is one JPEG a frame, each followed by 4 bytes of "
            "CRC-32C; then the offset and the length of each, as little-endian uint64; then 4 bytes of CRC-32C. "
            "docs/store.md of resact has ten lines of Python for that."
        )
    else:
        how = "Any Zarr v3 reader reads them."
    return (
        "Frames of videos, prepared by resact: one array a video, uint8 (time, y, x, channel), RGB. "
        f"{how} Arrays have different sizes, so xarray opens one at a time, not the group."
    )


def video_document(record: VideoRecord, codec: FrameCodec) -> dict[str, Any]:
    """The document of one video's array, or of a failed video's group."""
    attributes = {
        "video_id": record.video_id,
        "class_name": record.class_name,
        "label": record.label,
        "group": record.group,
        "splits": record.splits,
        "status": record.status,
        "problem": record.problem,
        "source": vars(record.source),
        "arguments": record.arguments,
    }
    if record.note is not None:
        attributes["note"] = record.note
    if record.segment is not None:
        attributes["segment"] = vars(record.segment)
    if record.status == "failed":
        return group_document(attributes)
    frame = [1, record.height, record.width, 3]
    shape = [record.num_frames, *frame[1:]]
    sharding = {
        "chunk_shape": frame,
        "codecs": [*codec.zarr_codecs(), {"name": "crc32c"}],
        "index_codecs": _NUMBER_CODECS,
        "index_location": "end",
    }
    array = _array_document(shape, "uint8", shape, [{"name": "sharding_indexed", "configuration": sharding}])
    return {**array, "dimension_names": ["time", "y", "x", "channel"], "attributes": attributes}


def video_record(document: dict[str, Any], frame_bytes: npt.NDArray[np.uint32]) -> VideoRecord:
    """The inverse of `video_document`; `frame_bytes` comes from the shard's index."""
    attributes = {k: v for k, v in document["attributes"].items() if k != "crc32c"}
    source = Source(**attributes.pop("source"))
    segment = attributes.pop("segment", None)
    height, width = document["shape"][1:3] if document["node_type"] == "array" else (0, 0)
    return VideoRecord(
        **attributes,
        segment=segment and Segment(**segment),
        source=source,
        height=height,
        width=width,
        frame_bytes=frame_bytes,
    )


def column_document(dtype: np.dtype[Any], length: int) -> dict[str, Any]:
    """The document of an index column, a one-chunk array: raw numbers, then their crc32c."""
    return _array_document([length], dtype.name, [max(length, 1)], _NUMBER_CODECS)


def _array_document(
    shape: list[int], data_type: str, chunk_shape: list[int], codecs: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": data_type,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk_shape}},
        "chunk_key_encoding": _KEYS,
        "fill_value": 0,
        "codecs": codecs,
        "storage_transformers": [],
        "attributes": {},
    }


# Shards -----------------------------------------------------------------------------------------------------


def shard_index(frame_bytes: npt.NDArray[np.uint32]) -> bytes:
    """The tail of a shard: (offset, length) of each chunk, then their crc32c."""
    slots = np.empty((len(frame_bytes), 2), "<u8")
    slots[:, 1] = frame_bytes
    slots[:, 0] = np.cumsum(slots[:, 1]) - slots[:, 1]
    table = slots.tobytes()
    return table + crc32c(table).to_bytes(CRC_BYTES, "little")


def shard_index_bytes(num_frames: int) -> int:
    """Length of a shard's tail."""
    return num_frames * SLOT_BYTES + CRC_BYTES


def parse_shard_index(tail: bytes, shard_bytes: int, where: str) -> npt.NDArray[np.uint32]:
    """Stored bytes of each frame, from a shard's tail.

    Raises:
        DamagedError: wrong checksum, the chunks do not follow each other without gaps, or a chunk is empty.
    """
    table, checksum = tail[:-CRC_BYTES], tail[-CRC_BYTES:]
    if crc32c(table) != int.from_bytes(checksum, "little"):
        raise DamagedError(f"{where}: checksum of the shard index does not match")
    frame_bytes = np.frombuffer(table, "<u8").reshape(-1, 2)[:, 1].astype(np.uint32)
    if shard_index(frame_bytes) != tail or int(frame_bytes.sum(dtype=np.uint64)) + len(tail) != shard_bytes:
        raise DamagedError(f"{where}: {shard_bytes} bytes, not the size that its index says")
    if (frame_bytes <= CRC_BYTES).any():
        raise DamagedError(f"{where}: its index says that a frame has no more bytes than its checksum")
    return frame_bytes


_FRACTION = re.compile(r"(\d+)(?:/(\d*[1-9]\d*))?")


def fps_value(fps: str) -> float:
    """Frames per second as a float, from an exact fraction such as `25/1` or `30000/1001`."""
    match = _FRACTION.fullmatch(fps)
    if match is None:
        raise UsageError(f"got frame rate {fps!r}, expected a fraction such as 15 or 30000/1001")
    return int(match[1]) / int(match[2] or 1)
