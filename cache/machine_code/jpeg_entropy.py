"""JPEG's entropy code: from bits to the coefficients of a row of blocks. Sections are those of ITU-T T.81.

A coefficient is coded as a Huffman code, which gives the number of zeros before it in zigzag order and the number of
bits of its value, followed by these bits. Here one look-up of the next 11 bits gives all of this: see `jpeg_header`.

Two frames are decoded at a time: the end of a code is known only after its look-up, and meanwhile the processor can
work on the other frame.
"""

from typing import Any, NamedTuple

from numba import int16, int32, int64, uint8, uint64

from resact.cache.machine_code.compiled import called, inlined
from resact.cache.machine_code.jpeg_header import AC, BLOCK, CODES_A_REFILL, DC, END, LONG, LOOK_UP, ORDER
from resact.cache.machine_code.vectors import Vector, all_of, bytes_swapped, lanes_before, read, write

UNITS = 6  # blocks of 16x16 pixels: four of luma, one of each chroma
SPARE = 512  # bytes after a frame's bits: their end is checked once per block, of up to 27 + 63 * 26 bits, plus 8 bytes

# The table of units: 6 int64 for each.
UNIT_BYTES = 48
CODES, LAST_DC, STEPS, PIXELS, PIXELS_APART, ROWS_APART = range(0, UNIT_BYTES, 8)
"""Offsets of a unit's fields: addresses of its Huffman tables, offset of its component's DC, addresses of its
quantisation steps and of its pixels, distance to its pixels in the next 16x16 pixels, and distance to its next row.
"""

_WIDE = 32  # bytes that are copied at once
_MANY = Vector(uint8, _WIDE)
_BLOCK = Vector(int16, BLOCK)


class Stream(NamedTuple):
    """The entropy code of a frame."""

    bits: int
    """Address of its bytes, without stuffed bytes."""
    end: int
    """Address of its last bit, counted in bits; -1 if the frame is damaged."""
    coefficients: int
    """Address of the coefficients of a row of blocks."""
    last_dcs: int
    """Address of the DC of each component's last block, int32."""


class Reader(NamedTuple):
    """Reading position in a row of blocks."""

    window: Any
    """The next bits, most significant first: uint64."""
    position: int
    """Address of the first of these bits, counted in bits."""
    place: int
    """Position of the last coefficient in its block, in zigzag order; -1 if the frame is damaged."""
    block: int
    """Address of the block's coefficients."""
    unit: int
    """Number of the unit, of the 6."""
    blocks_left: int
    """Blocks left in the row, including this one; 0 if the row is done or damaged."""
    codes: int
    """Address of the tables."""


@called
def unstuff(source: int, stop: int, bits: int) -> int:
    """Copy bytes without the zero that follows each byte of ones (F.1.2.3), up to the marker that ends the image.

    Returns:
        The address of the last bit, counted in bits; -1 if there is another marker, or none.
    """
    target = bits
    while True:
        if source + _WIDE <= stop:
            some = read(_MANY, source)
            write(_MANY, target, some)
            before = lanes_before(some, 0xFF)
            if before == _WIDE:
                source += before
                target += before
                continue
            source += before + 1
            target += before + 1
        else:
            if source >= stop:
                return -1
            byte = read(uint8, source)
            write(uint8, target, byte)
            source += 1
            target += 1
            if byte != 0xFF:
                continue
        if source >= stop:
            return -1
        byte = read(uint8, source)
        source += 1
        if byte != 0:
            return 8 * (target - 1) if byte == 0xD9 and source == stop else -1


@called
def read_row(units: int, blocks: int, stream: Stream, position: int) -> int:
    """Read a row's coefficients from a position; returns the position after them, or -1 if the frame is damaged."""
    return _read_rest(units, stream, _begin_row(units, blocks, stream, position))


@called
def read_two_rows(
    units: int, blocks: int, one: Stream, other: Stream, position: int, other_position: int
) -> tuple[int, int]:
    """The same for two frames at a time."""
    a, b = _begin_row(units, blocks, one, position), _begin_row(units, blocks, other, other_position)
    while a.blocks_left and b.blocks_left:
        a, b = _refill(a), _refill(b)
        for _ in range(CODES_A_REFILL):
            a = _read_coefficient(units, one, a)
            if not a.blocks_left:
                break
            b = _read_coefficient(units, other, b)
            if not b.blocks_left:
                break
    return _read_rest(units, one, a), _read_rest(units, other, b)


@called
def _read_rest(units: int, stream: Stream, r: Reader) -> int:
    while r.blocks_left:
        r = _read_coefficient(units, stream, _refill(r))
    return -1 if r.place < 0 else r.position


@inlined
def _begin_row(units: int, blocks: int, stream: Stream, position: int) -> Reader:
    return _begin_block(units, stream, uint64(0), position, stream.coefficients, int64(0), blocks)


@inlined
def _begin_block(
    units: int, stream: Stream, window: Any, position: int, block: int, unit: int, blocks_left: int
) -> Reader:
    """Zeros a block and reads its DC coefficient, the difference from the component's last one (F.2.2.1)."""
    write(_BLOCK, block, all_of(_BLOCK, 0))
    entry = units + UNIT_BYTES * unit
    codes = read(int64, entry + CODES)
    if position > stream.end:
        return Reader(window, position, -1, block, unit, 0, codes)
    code, difference, window, position = _look_up(codes + DC, _next_bits(position), position)
    last = stream.last_dcs + read(int64, entry + LAST_DC)
    dc = read(int32, last) + difference
    write(int32, last, dc)
    write(int16, block, dc)
    if code == 0:
        return Reader(window, position, -1, block, unit, 0, codes)
    return Reader(window, position, 0, block, unit, blocks_left, codes)


@inlined
def _read_coefficient(units: int, stream: Stream, r: Reader) -> Reader:
    """Reads an AC coefficient and the zeros before it, or the end of a block (F.2.2.2), and then begins the next."""
    code, value, window, position = _look_up(r.codes + AC, r.window, r.position)
    place = r.place + (code >> 8 & 0xFF)
    write(int16, r.block + 2 * read(uint8, r.codes + ORDER + place), value)
    if place < BLOCK - 1 and code != 0:
        return Reader(window, position, place, r.block, r.unit, r.blocks_left, r.codes)
    if code == 0 or BLOCK - 1 < place < END:
        return Reader(window, position, -1, r.block, r.unit, 0, r.codes)
    if r.blocks_left == 1:
        return Reader(window, position, place, r.block, r.unit, 0, r.codes)
    unit = int64(0) if r.unit == UNITS - 1 else r.unit + 1
    return _begin_block(units, stream, window, position, r.block + 2 * BLOCK, unit, r.blocks_left - 1)


@inlined
def _look_up(table: int, window: Any, position: int) -> tuple[int, int, Any, int]:
    """The next code's entry, its value, and the following bits. An entry of 0: there is no such code."""
    code = int64(read(int32, table + 4 * int64(window >> uint64(64 - LOOK_UP))))
    if code != 0:
        value, window, position = _take(code, window, position)
        return code, value, window, position
    window = _next_bits(position)
    code = int64(read(int32, table + LONG + 4 * int64(window >> uint64(48))))
    value, window, position = _take(code, window, position)
    span = 1 << (code >> 16)
    if 2 * value < span:  # the first bit is 0: a negative value (F.2.2.1, EXTEND); or none at all
        value += 1 - span
    return code, value, _next_bits(position), position


@inlined
def _take(code: int, window: Any, position: int) -> tuple[int, Any, int]:
    """The value of an entry, and the following bits."""
    bits, size = code & 0xFF, code >> 16 & 0xF
    value = int64(window >> uint64(-bits & 63)) & (1 << size) - 1
    return value + (code >> 20), window << uint64(bits & 63), position + bits


@inlined
def _refill(r: Reader) -> Reader:
    return Reader(_next_bits(r.position), r.position, r.place, r.block, r.unit, r.blocks_left, r.codes)


@inlined
def _next_bits(position: int) -> Any:
    """At least 57 bits."""
    return bytes_swapped(read(uint64, position >> 3)) << uint64(position & 7)
