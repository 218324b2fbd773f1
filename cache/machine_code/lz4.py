"""Encodes and decodes LZ4 frames in Blosc's container, in machine code; Blosc can read all frames written here.

LZ4's time goes into its sequences: each has some literal bytes and a match, which copies earlier bytes. So the encoder
uses no short matches and no matches at short distances: this leaves fewer than a quarter of the sequences, at the cost
of a few more bytes.

The decoder decodes the frames of a clip in one call, without the GIL, and only down to the last row needed. It marks
frames of an unknown form, which are left to Blosc.

A sequence (LZ4's lz4_Block_format): a token, whose upper 4 bits are the number of literals and whose lower 4 bits the
length of the match less 4; where one is 15, bytes follow that are added, up to the first that is not 255; the literals;
the distance of the match, 16 bits. The last sequence ends with its literals. The container: Blosc 1's
README_CHUNK_FORMAT.
"""

import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from numba import int64, uint8, uint16, uint32, uint64, void

from resact.cache.crop import Bounds, Crop
from resact.cache.machine_code.compiled import called, compiled, inlined
from resact.cache.machine_code.vectors import Vector, read, write, zeros_below

_HEADER = 24  # bytes: Blosc's header, the place of the one block, and the block's length
_KIND = 0x01300102  # the first four bytes: versions of Blosc and its LZ4, LZ4 without shuffle, values of 1 byte
_WIDE = 32  # bytes that are copied at a time
_MATCH = 16  # bytes: the shortest match
_NEAR, _FAR = _WIDE, 2**16 - 1  # bytes: distances of matches; a wide copy from nearer would read its own output
_LAST = 64  # bytes at the end of a frame without a match; LZ4 needs 12, wide copies need _MATCH + _WIDE
_TABLE_BITS = 12
_PATIENCE = 5  # after 2 ** 5 positions without a match, the step becomes two, then three ...

_NO_LENGTH = 2**62

_BYTES = Vector(uint8, _WIDE)


def encode_lz4(frame_HWC: npt.NDArray[np.uint8]) -> bytes:
    """Encode a frame as one block of LZ4 in Blosc's container; uncompressed if LZ4 saves nothing."""
    frame_HWC = np.ascontiguousarray(frame_HWC)
    size = frame_HWC.nbytes
    out = np.empty(_HEADER + size + size // 255 + 16 + _WIDE, np.uint8)
    table = np.zeros(2**_TABLE_BITS, np.int32)
    packed = _encode(frame_HWC.ctypes.data, size, out.ctypes.data + _HEADER, table.ctypes.data)
    if packed >= size:
        out[_HEADER:][:size] = frame_HWC.reshape(-1)
        packed = size
    out[:_HEADER].view("<u4")[:] = _KIND, size, size, _HEADER + packed, _HEADER - 4, packed
    return out[: _HEADER + packed].tobytes()


def decode_lz4(
    data: memoryview, bounds: Bounds, out_NHWC: npt.NDArray[np.uint8], size: tuple[int, int], crop: Crop
) -> Sequence[int]:
    """`FrameCodec.decode_together` for LZ4."""
    chunks = np.asarray(bounds, np.int64) + np.frombuffer(data, np.uint8).ctypes.data
    failed = np.zeros(len(chunks), np.int64)
    row_bytes, frame_bytes = size[1] * 3, size[0] * size[1] * 3
    memory = None if out_NHWC.shape[1:3] == size else _memory.of(frame_bytes)
    rows, columns = crop.size
    _decode(
        *(chunks.ctypes.data, len(chunks), failed.ctypes.data, out_NHWC.ctypes.data),
        *(frame_bytes, crop.bottom * row_bytes, 0 if memory is None else memory.ctypes.data),
        *(crop.top * row_bytes + crop.left * 3, row_bytes, rows, columns * 3),
    )
    return np.flatnonzero(failed).tolist()


class _Memory(threading.local):
    """Memory for one frame, per thread; it stays in the processor's cache."""

    _bytes = np.empty(0, np.uint8)

    def of(self, size: int) -> npt.NDArray[np.uint8]:
        """At least `size` bytes."""
        if len(self._bytes) < size:
            self._bytes = np.empty(size, np.uint8)
        return self._bytes


_memory = _Memory()


# Both -------------------------------------------------------------------------------------------------------


@inlined
def _copy(target: int, source: int, length: int) -> None:
    """Copies up to 32 bytes more than `length`."""
    write(_BYTES, target, read(_BYTES, source))
    place = _WIDE
    while place < length:
        write(_BYTES, target + place, read(_BYTES, source + place))
        place += _WIDE


@inlined
def _copy_exactly(target: int, source: int, length: int) -> None:
    if length >= _WIDE:  # the last copy overlaps the one before
        place = 0
        while place < length:
            start = min(place, length - _WIDE)
            write(_BYTES, target + start, read(_BYTES, source + start))
            place += _WIDE
    else:
        for place in range(length):
            write(uint8, target + place, read(uint8, source + place))


# The encoder ------------------------------------------------------------------------------------------------


@inlined
def _matches(first: int, here: int, place: int) -> bool:
    """Whether the shortest match begins at `here`, whose first 8 bytes are `first`, with `place`."""
    return first == read(uint64, place) and read(uint64, here + _MATCH - 8) == read(uint64, place + _MATCH - 8)


@called
def _same_before(here: int, distance: int, most: int) -> int:
    """Number of bytes before `here` that equal those `distance` before them."""
    count = 0
    while count < most and read(uint8, here - count - 1) == read(uint8, here - count - 1 - distance):
        count += 1
    return count


@called
def _same_after(here: int, distance: int, last: int) -> int:
    """End of the bytes that equal those `distance` before them; searched up to `last`, or up to 7 bytes more."""
    while here < last:
        differ = read(uint64, here) ^ read(uint64, here - distance)
        if differ != 0:
            return here + (zeros_below(differ) >> 3)
        here += 8
    return here


@called
def _write_match(out: int, start: int, stop: int, distance: int, length: int) -> int:
    """Writes a sequence; returns its end."""
    token, literals = out, stop - start
    out = _write_length(out + 1, literals)
    _copy(out, start, literals)
    out += literals
    write(uint16, out, distance)
    out = _write_length(out + 2, length - 4)
    write(uint8, token, min(literals, 15) << 4 | min(length - 4, 15))
    return out


@called
def _write_literals(out: int, start: int, stop: int) -> int:
    """Writes the last sequence, which has no match; returns its end."""
    literals = stop - start
    write(uint8, out, min(literals, 15) << 4)
    out = _write_length(out + 1, literals)
    _copy_exactly(out, start, literals)
    return out + literals


@called
def _write_length(out: int, length: int) -> int:
    """Writes the part of a length that does not fit into the token; returns its end."""
    left = length - 15
    if left < 0:
        return out
    while left >= 255:
        write(uint8, out, 255)
        out += 1
        left -= 255
    write(uint8, out, left)
    return out + 1


@compiled(int64(int64, int64, int64, int64))
def _encode(frame: int, frame_bytes: int, out: int, table: int) -> int:
    """Returns the number of bytes written, perhaps more than the frame has. `table`: zeros, an int32 per hash."""
    begin, stop = out, frame + frame_bytes
    here = frame
    since = frame  # bytes from here on are not written yet
    misses = 0
    while here < stop - _LAST:
        first = read(uint64, here)
        entry = table + 4 * int64(first * uint64(0x9E3779B97F4A7C15) >> uint64(64 - _TABLE_BITS))
        place = frame + read(uint32, entry)
        distance = here - place
        if distance >= _NEAR:  # a nearer position is kept: it will be far enough later
            write(uint32, entry, here - frame)
        if distance < _NEAR or distance > _FAR or not _matches(first, here, place):
            here += 1 + (misses >> _PATIENCE)
            misses += 1
            continue
        start = here - _same_before(here, distance, min(here - since, place - frame))
        here = _same_after(here + _MATCH, distance, stop - _LAST)
        out = _write_match(out, since, start, distance, here - start)
        since = here
        misses = 0
    return _write_literals(out, since, stop) - begin


# The decoder ------------------------------------------------------------------------------------------------


@inlined
def _read_length(source: int, stop: int, half: int) -> tuple[int, int]:
    """A length, whose start is half of the token, and its end; `_NO_LENGTH` if the bytes end before."""
    length = int64(half)
    if half == 15:
        byte = 255
        while byte == 255:
            if source >= stop:
                return _NO_LENGTH, source
            byte = int64(read(uint8, source))
            source += 1
            length += byte
    return length, source


@called
def _unpack(source: int, stop: int, target: int, end: int, wanted: int) -> bool:
    """Unpacks a block from [source, stop) to [target, end), up to `wanted`; False if the form is unknown."""
    out = target
    while out < wanted:
        if source >= stop:
            return False
        token = read(uint8, source)
        literals, source = _read_length(source + 1, stop, token >> 4)
        left, free = stop - source, end - out
        if left == literals:
            if literals != free:
                return False
            _copy_exactly(out, source, literals)
            return True
        if left < literals + _WIDE or free < literals + _WIDE:
            return False
        _copy(out, source, literals)
        out += literals
        distance = read(uint16, source + literals)
        length, source = _read_length(source + literals + 2, stop, token & 15)
        length += 4
        if end - out < length + _WIDE or distance < _NEAR or distance > out - target:
            return False
        _copy(out, out - distance, length)
        out += length
    return True


@called
def _decode_frame(start: int, stop: int, target: int, frame_bytes: int, wanted: int) -> bool:
    """Whether it was unpacked."""
    packed = stop - start - _HEADER
    if (
        packed < 0
        or read(uint32, start) != _KIND
        or read(uint32, start + 4) != frame_bytes
        or read(uint32, start + 8) != frame_bytes
        or read(uint32, start + 12) != packed + _HEADER
        or read(uint32, start + 16) != _HEADER - 4
        or read(uint32, start + 20) != packed
    ):
        return False
    if packed == frame_bytes:  # stored uncompressed
        _copy_exactly(target, start + _HEADER, wanted)
        return True
    return _unpack(start + _HEADER, stop, target, target + frame_bytes, target + wanted)


@compiled(void(*[int64] * 11))
def _decode(
    chunks: int,
    count: int,
    failed: int,
    out: int,
    frame_bytes: int,
    wanted: int,
    memory: int,
    first: int,
    row_bytes: int,
    rows: int,
    columns: int,
) -> None:
    """Decode the first `wanted` bytes of each frame, into `out` or, through `memory`, to crops in `out`.

    Args:
        chunks: address of the start and end of each chunk, int64.
        count: number of chunks.
        failed: address of an int64 for each chunk: 1 if it is left for Blosc.
        out: address of whole frames or crops.
        frame_bytes: bytes of a frame.
        wanted: bytes of a frame that are needed.
        memory: address of memory for a frame, for crops; 0 for whole frames.
        first: offset of the crop in a frame.
        row_bytes: bytes of a frame's row.
        rows: number of rows of the crop.
        columns: bytes of the crop's row.
    """
    for number in range(count):
        start, stop = read(int64, chunks + 16 * number), read(int64, chunks + 16 * number + 8)
        target = out + number * frame_bytes if memory == 0 else memory
        done = _decode_frame(start, stop, target, frame_bytes, wanted)
        write(int64, failed + 8 * number, 0 if done else 1)
        if done and memory != 0:
            for row in range(rows):
                _copy_exactly(out + (number * rows + row) * columns, memory + first + row * row_bytes, columns)
