"""Decodes JPEG frames in machine code; it must equal libjpeg-turbo, as `codecs.JpegFrames` uses it, bit for bit.

One call decodes the crops of a clip's frames, without the GIL. Rows below the crop are not decoded; for the rest around
it, only the entropy code is read.

It handles baseline JPEG with 4:2:0 subsampling, as in stores, and leaves everything else to libjpeg-turbo: other
segments, and bytes that no encoder writes. An MCU is 16x16 pixels (ITU-T T.81, A.2).
"""

import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import int32, int64, types, uint8, void

from resact.cache.crop import Bounds, Crop
from resact.cache.machine_code.compiled import called, compiled, inlined
from resact.cache.machine_code.jpeg_entropy import SPARE, UNITS, Stream, read_row, read_two_rows, unstuff
from resact.cache.machine_code.jpeg_header import BLOCK, Header, header_bytes, parse_header
from resact.cache.machine_code.jpeg_pixels import LANES, paint_row
from resact.cache.machine_code.vectors import read, write


class Arguments(NamedTuple):
    """Arguments of the machine code: addresses, numbers, and distances in bytes."""

    chunks: int
    """Address of the begin and end of each chunk, int64."""
    frames: int
    failed: int
    """Address of an int64 for each frame: 1 if it is left for libjpeg-turbo."""
    out: int
    out_apart: int
    start: int
    """Address of the bytes with which each chunk must begin, up to the entropy code."""
    start_bytes: int
    rows: int
    """Number of rows of MCUs in a frame."""
    mcus: int
    """Number of MCUs in a row."""
    first_mcu: int
    last_mcu: int
    top: int
    bottom: int
    left: int
    right: int
    units: int
    """Address of the table of units: see `jpeg_entropy`."""
    luma: int
    chroma: int
    colours: int
    bits: int
    bits_apart: int
    coefficients: int
    coefficients_apart: int
    last_dcs: int


def decode_jpegs(
    data: memoryview, bounds: Bounds, out_NHWC: npt.NDArray[np.uint8], size: tuple[int, int], crop: Crop
) -> Sequence[int]:
    """`FrameCodec.decode_together` for JPEG."""
    height, width = crop.size
    setup = _setup(data[slice(*bounds[0])], size)
    if setup is None or width < LANES:
        return range(len(bounds))
    chunks = np.asarray(bounds, np.int64) + np.frombuffer(data, np.uint8).ctypes.data
    failed = np.zeros(len(chunks), np.int64)
    _decode(
        Arguments(
            **setup.arguments(int((chunks[:, 1] - chunks[:, 0]).max())),
            chunks=chunks.ctypes.data,
            frames=len(chunks),
            failed=failed.ctypes.data,
            out=out_NHWC.ctypes.data,
            out_apart=height * width * 3,
            first_mcu=crop.left // 16,
            last_mcu=-(-crop.right // 16),
            **crop._asdict(),
        )
    )
    return np.flatnonzero(failed).tolist()


class _Setup:
    """Tables and memory for frames with the same header, for one thread."""

    def __init__(self, start: bytes, header: Header) -> None:
        self.start, self.size = start, (header.height, header.width)
        mcus = -(-header.width // 16)
        luma, chroma = np.empty((16, mcus * 16), np.uint8), np.empty((2, 8, mcus * 8), np.uint8)
        colours = np.empty((3, mcus * 16), np.int16)
        coefficients = np.empty((2, (mcus * UNITS + 1) * BLOCK), np.int16)  # the last block writes beyond its end
        units, begin = _units(header, luma, chroma), np.frombuffer(start, np.uint8)
        self._bits = np.empty((2, 0), np.uint8)
        last_dcs = np.empty((2, 4), np.int32)
        self._owners = header, luma, chroma, colours, coefficients, units, begin, last_dcs
        self._fixed = {
            "start": begin.ctypes.data,
            "start_bytes": len(start),
            "rows": -(-header.height // 16),
            "units": units.ctypes.data,
            "mcus": mcus,
            "luma": luma.ctypes.data,
            "chroma": chroma.ctypes.data,
            "colours": colours.ctypes.data,
            "coefficients": coefficients.ctypes.data,
            "coefficients_apart": coefficients.strides[0],
            "last_dcs": last_dcs.ctypes.data,
        }

    def arguments(self, chunk_bytes: int) -> dict[str, int]:
        """Arguments of the machine code, for frames of at most `chunk_bytes`."""
        if self._bits.shape[1] < chunk_bytes + SPARE:
            self._bits = np.empty((2, chunk_bytes + SPARE), np.uint8)
        return {**self._fixed, "bits": self._bits.ctypes.data, "bits_apart": self._bits.strides[0]}


class _Last(threading.local):
    setup: _Setup | None = None


_last = _Last()


def _setup(chunk: memoryview, size: tuple[int, int]) -> _Setup | None:
    """The setup for frames like `chunk`; None if their form is unknown. Most clips need the last one's again."""
    last = _last.setup
    if last is not None and last.size == size and chunk[: len(last.start)] == last.start:
        return last
    start = header_bytes(chunk)
    header = parse_header(start)
    if header is None or (header.height, header.width) != size:
        return None
    _last.setup = _Setup(start, header)
    return _last.setup


def _units(header: Header, luma: npt.NDArray[np.uint8], chroma: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """(6, 6) table of units, see `jpeg_entropy`: blocks in the order of the entropy code, row by row."""
    pitch = luma.strides[0]
    corners = [(0, luma.ctypes.data + 8 * (down * pitch + right), 16, pitch) for down in (0, 1) for right in (0, 1)]
    corners += [(number, plane.ctypes.data, 8, plane.strides[0]) for number, plane in enumerate(chroma, 1)]
    units = []
    for number, *pixels in corners:
        codes, steps = header.components[number].codes, header.components[number].steps
        units.append((codes.ctypes.data, 4 * number, steps.ctypes.data, *pixels))
    return np.array(units, np.int64)


# The code ---------------------------------------------------------------------------------------------------


@called
def _begins_with_the_header(a: Arguments, number: int) -> bool:
    chunk, stop = read(int64, a.chunks + 16 * number), read(int64, a.chunks + 16 * number + 8)
    if stop - chunk < a.start_bytes:
        return False
    differ = 0
    for place in range(a.start_bytes):
        differ |= read(uint8, chunk + place) ^ read(uint8, a.start + place)
    return differ == 0


@inlined
def _opened(a: Arguments, number: int, place: int) -> Stream:
    """The stream of a frame; `place`: which of two frames that are decoded at a time."""
    source, stop = read(int64, a.chunks + 16 * number) + a.start_bytes, read(int64, a.chunks + 16 * number + 8)
    bits, last_dcs = a.bits + place * a.bits_apart, a.last_dcs + 16 * place
    for component in range(3):
        write(int32, last_dcs + 4 * component, 0)
    return Stream(bits, unstuff(source, stop, bits), a.coefficients + place * a.coefficients_apart, last_dcs)


@inlined
def _ends_well(a: Arguments, stream: Stream, position: int) -> bool:
    """Whether no more bits were read than there are and, after the last row, less than a byte is left."""
    left = stream.end - position
    return position >= 0 and left >= 0 and (left < 8 or _rows_wanted(a) < a.rows)


@inlined
def _rows_wanted(a: Arguments) -> int:
    return (a.bottom + 15) // 16


@called
def _decode_one(a: Arguments, number: int) -> bool:
    stream = _opened(a, number, int64(0))
    position = 8 * stream.bits
    for row in range(_rows_wanted(a)):
        if stream.end < 0 or position < 0:
            return False
        position = read_row(a.units, a.mcus * UNITS, stream, position)
        if row >= a.top // 16 and position >= 0:
            paint_row(a, row, stream.coefficients, a.out + number * a.out_apart)
    return _ends_well(a, stream, position)


@called
def _decode_two(a: Arguments, number: int, other_number: int) -> bool:
    """Two frames at a time; if one is damaged, both are left for libjpeg-turbo."""
    one, other = _opened(a, number, int64(0)), _opened(a, other_number, int64(1))
    position, other_position = 8 * one.bits, 8 * other.bits
    for row in range(_rows_wanted(a)):
        if one.end < 0 or other.end < 0 or position < 0 or other_position < 0:
            return False
        position, other_position = read_two_rows(a.units, a.mcus * UNITS, one, other, position, other_position)
        if row >= a.top // 16 and position >= 0 and other_position >= 0:
            paint_row(a, row, one.coefficients, a.out + number * a.out_apart)
            paint_row(a, row, other.coefficients, a.out + other_number * a.out_apart)
    return _ends_well(a, one, position) and _ends_well(a, other, other_position)


@compiled(void(types.NamedUniTuple(int64, len(Arguments._fields), Arguments)))
def _decode(a: Arguments) -> None:
    waits = nobody = int64(-1)  # for another frame with the same header
    for number in range(a.frames):
        if not _begins_with_the_header(a, number):
            write(int64, a.failed + 8 * number, 1)
        elif waits < 0:
            waits = number
        else:
            if not _decode_two(a, waits, number):
                write(int64, a.failed + 8 * waits, 1)
                write(int64, a.failed + 8 * number, 1)
            waits = nobody
    if waits >= 0 and not _decode_one(a, waits):
        write(int64, a.failed + 8 * waits, 1)
