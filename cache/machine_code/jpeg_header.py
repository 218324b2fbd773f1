"""Parses the header of a JPEG into tables for `jpeg`. Sections are those of ITU-T T.81."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

BLOCK = 64  # coefficients
LOOK_UP = 11  # bits of the first look-up of a code; a longer code is looked up again by 16 bits
END = 128  # step of the position at the end of a block: more than any number of zeros
CODES_A_REFILL, BITS_A_REFILL = 3, 57  # so many codes of the first look-up fit into so many bits

SHORT_CODES, ALL_CODES = 1 << LOOK_UP, 1 << 16
LONG = 4 * SHORT_CODES  # bytes from the first look-up's table to the second's
DC, AC = 0, 4 * (SHORT_CODES + ALL_CODES)  # bytes from a component's tables to those of its DC and AC coefficients
ORDER = 2 * AC  # and to the order in which a block's coefficients come, a byte each


@dataclass(frozen=True)
class Component:
    """Luma or chroma."""

    codes: npt.NDArray[np.int32]
    """Memory of its tables, at the offsets `DC`, `AC` and `ORDER` in bytes; see `_codes`."""
    steps: npt.NDArray[np.int16]
    """(64,) quantisation steps, row by row."""


@dataclass(frozen=True)
class Header:
    """The header of a baseline JPEG with 4:2:0 subsampling."""

    height: int
    width: int
    components: tuple[Component, Component, Component]
    """Luma, blue and red chroma."""


def header_bytes(chunk: memoryview) -> bytes:
    """All bytes up to the entropy code; empty if that is not found."""
    place = 2
    while place + 4 <= len(chunk) and chunk[place] == 0xFF:
        marker, length = chunk[place + 1], (chunk[place + 2] << 8) + chunk[place + 3]
        place += 2 + length
        if length < 2 or place > len(chunk):
            break
        if marker == 0xDA:
            return bytes(chunk[:place])
    return b""


@lru_cache(maxsize=16)
def parse_header(header: bytes) -> Header | None:
    """Parse the result of `header_bytes`; None if there is anything that `jpeg` does not support."""
    steps: dict[int, npt.NDArray[np.int16]] = {}
    huffman: dict[int, tuple[bytes, bytes]] = {}
    jfif, frame, scan = False, None, b""
    if not header.startswith(b"\xff\xd8"):
        return None
    place = 2
    while place < len(header):
        marker, stop = header[place + 1], place + 2 + int.from_bytes(header[place + 2 : place + 4], "big")
        body, place = header[place + 4 : stop], stop
        if marker == 0xDB:  # quantisation (B.2.4.1)
            while body:
                if body[0] > 3 or len(body) < 1 + BLOCK:
                    return None
                steps[body[0]] = np.empty(BLOCK, np.int16)
                steps[body[0]][_ORDER[:BLOCK]] = np.frombuffer(body[1 : 1 + BLOCK], np.uint8)
                body = body[1 + BLOCK :]
        elif marker == 0xC4:  # Huffman codes (B.2.4.2)
            while body:
                end = 17 + sum(body[1:17])
                if len(body) < end or end > 17 + 256 or body[0] & 0xEC:  # DC or AC, 0 to 3
                    return None
                huffman[body[0]] = body[1:17], body[17:end]
                body = body[end:]
        elif marker == 0xC0 and frame is None:
            frame = body
        elif marker == 0xDA:
            scan = body
        elif marker == 0xE0 and body.startswith(b"JFIF\0\1") and len(body) >= 14:
            jfif = True  # so colours are YCbCr
        else:
            return None
    # 8 bits, three components, of which one has twice as many rows and columns (B.2.2); all in one scan (B.2.3)
    if (
        not jfif
        or frame is None
        or len(frame) != 15
        or (frame[0], frame[5]) != (8, 3)
        or frame[7::3] != b"\x22\x11\x11"
    ):
        return None
    if len(scan) != 10 or scan[0] != 3 or scan[1:7:2] != frame[6::3] or scan[7:] != b"\0\x3f\0":
        return None
    components = []
    for selectors, table in zip(scan[2:7:2], frame[8::3], strict=True):
        dc, ac = huffman.get(selectors >> 4), huffman.get(16 + (selectors & 15))
        codes = _codes(dc, ac) if dc and ac else None
        if codes is None or table not in steps:
            return None
        components.append(Component(codes, steps[table]))
    luma, blue, red = components
    height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    return Header(height, width, (luma, blue, red))


@lru_cache(maxsize=16)
def _codes(dc: tuple[bytes, bytes], ac: tuple[bytes, bytes]) -> npt.NDArray[np.int32] | None:
    """Tables of the meaning of the next bits, by the first 11 and by the first 16 of them; None for invalid codes.

    An entry has the number of bits of code and value; from bit 8 the step of the position in the block; from bit 16 the
    number of bits of the value; from bit 20, only in the tables by 11 bits, a number to add to the value. An entry of 0
    means: look further, or there is no such code.
    """
    tables = []
    for is_dc, (counts, symbols) in ((True, dc), (False, ac)):
        lengths = np.repeat(np.arange(1, 17), list(counts))
        spans = np.left_shift(1, 16 - lengths)
        symbol = np.frombuffer(symbols, np.uint8).astype(np.int64)
        if spans.sum() >= ALL_CODES or (is_dc and (symbol > 15).any()):  # a code must not consist of ones only
            return None
        zeros, size = (0 * symbol, symbol) if is_dc else (symbol >> 4, symbol & 15)
        move = np.where(size > 0, zeros + 1, np.where(zeros == 15, 16, END))
        known = (size <= 11 if is_dc else size <= 10) & ((size > 0) | (zeros == 0) | (zeros == 15))
        rest = ALL_CODES - spans.sum()
        entries = np.repeat(np.append(known * (lengths + size | move << 8 | size << 16), 0), np.append(spans, rest))
        lengths = np.repeat(np.append(lengths, 0), np.append(spans, rest))

        first = np.arange(0, ALL_CODES, ALL_CODES // SHORT_CODES)
        entry, length = entries[first], lengths[first]
        size = entry >> 16
        seen = (length + (size > 0) <= LOOK_UP) & ((entry & 255) * CODES_A_REFILL <= BITS_A_REFILL)
        negative = (size > 0) & (first << length & 1 << 15 == 0)  # the bit after the code
        tables += [np.where(seen, entry - negative * ((1 << size) - 1 << 20), 0), entries]
    return np.concatenate([*tables, _ORDER.view(np.int32)]).astype(np.int32)


def _order() -> npt.NDArray[np.uint8]:
    """The coefficient, counted row by row, at each position (figure A.6); beyond the block, the first one after it."""
    row, column = np.divmod(np.arange(BLOCK), 8)
    diagonal = row + column
    zigzag = np.lexsort((np.where(diagonal % 2, row, column), diagonal))
    return np.append(zigzag, np.full(BLOCK + END, BLOCK)).astype(np.uint8)


_ORDER = _order()
