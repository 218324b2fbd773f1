"""CRC-32C of a clip's frames in machine code: it must equal the package `crc32c`, which `layout.crc32c` uses.

All frames are checked in one call. One call per frame would take the GIL again each time, and with many reading
threads, waiting for it takes longer than checking.

The processor's instruction takes three cycles for eight bytes but can start every cycle, so three frames are checked at
a time.
"""

import numpy as np
import numpy.typing as npt
from numba import int64, uint8, uint32, uint64

from resact.cache.machine_code.compiled import called, compiled, has, inlined
from resact.cache.machine_code.vectors import crc32c, read

_BEGIN = uint64(0xFFFFFFFF)


def can_check() -> bool:
    """Whether this processor has the instruction, SSE 4.2's."""
    return has("sse4.2")


def first_wrong(data: memoryview, edges: npt.NDArray[np.int64]) -> int | None:
    """The first chunk that does not end in its CRC-32C, little-endian.

    Args:
        data: the chunks.
        edges: (N + 1,), where each chunk begins in `data`, and where the last one ends; a chunk has at least 4 bytes.
    """
    edges = np.ascontiguousarray(edges, np.int64)
    count = len(edges) - 1
    found: int = _first_wrong(np.frombuffer(data, np.uint8).ctypes.data, edges.ctypes.data, count)
    return None if found == count else found


# The code ---------------------------------------------------------------------------------------------------


def _first_wrong_code(data: int, edges: int, count: int) -> int:
    """The number of the first wrong chunk, or `count`."""
    number = 0
    while number + 3 <= count:  # three at a time, up to the length of the shortest
        a, a_stop = _chunk(data, edges, number)
        b, b_stop = _chunk(data, edges, number + 1)
        c, c_stop = _chunk(data, edges, number + 2)
        common = min(a_stop - a, b_stop - b, c_stop - c) & -8
        a_crc = b_crc = c_crc = _BEGIN
        for place in range(0, common, 8):
            a_crc = crc32c(a_crc, read(uint64, a + place))
            b_crc = crc32c(b_crc, read(uint64, b + place))
            c_crc = crc32c(c_crc, read(uint64, c + place))
        if not _ends_in(a_crc, a + common, a_stop):
            return number
        if not _ends_in(b_crc, b + common, b_stop):
            return number + 1
        if not _ends_in(c_crc, c + common, c_stop):
            return number + 2
        number += 3
    while number < count:
        start, stop = _chunk(data, edges, number)
        if not _ends_in(_BEGIN, start, stop):
            return number
        number += 1
    return count


@inlined
def _chunk(data: int, edges: int, number: int) -> tuple[int, int]:
    """Addresses of the chunk's start and of its checksum."""
    return data + read(int64, edges + 8 * number), data + read(int64, edges + 8 * number + 8) - 4


@called
def _ends_in(crc: int, start: int, stop: int) -> bool:
    """Whether the checksum at `stop` is right; `crc` is that of the bytes before `start`."""
    while start + 8 <= stop:
        crc = crc32c(crc, read(uint64, start))
        start += 8
    while start < stop:
        crc = crc32c(crc, int64(read(uint8, start)))
        start += 1
    return int64(crc ^ _BEGIN) == read(uint32, stop)


if can_check():
    _first_wrong = compiled(int64(int64, int64, int64))(_first_wrong_code)
