"""CRC-32C of a clip's frames in machine code: the package `crc32c`, through `layout.crc32c`, is what it has to equal.

All frames are checked in one call. A call for each would ask for the GIL again after each one, and where many threads
read, waiting for it takes longer than checking.

The processor's instruction takes three cycles for eight bytes but begins one each cycle: so three frames are checked
side by side.
"""

import ctypes
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir

from resact.cache.machine_code import BYTE, INT, LOCK, NONE, WHOLE, Code, compiled, has

_SIDE_BY_SIDE = 3


@lru_cache
def can_check() -> bool:
    """Whether this processor has the instruction, SSE 4.2's."""
    return has("sse4.2")


def first_wrong(data: memoryview, edges: npt.NDArray[np.int64]) -> int | None:
    """The first chunk that does not end in its CRC-32C, little-endian.

    Args:
        data: the chunks.
        edges: (N + 1,), where each begins and the last one ends in `data`; each has 4 bytes or more.
    """
    edges = np.ascontiguousarray(edges, np.int64)
    with LOCK:  # the first thread compiles, the others wait
        _, check = _code()
    count = len(edges) - 1
    found: int = check(np.frombuffer(data, np.uint8).ctypes.data, edges.ctypes.data, count)
    return None if found == count else found


# The code ---------------------------------------------------------------------------------------------------


@lru_cache
def _code() -> tuple[Any, Callable[[int, int, int], int]]:
    """What owns the code, and the code: (data, edges, count) to the number of the first wrong chunk, or `count`."""
    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(WHOLE, [WHOLE] * 3), "first_wrong")
    data, edges, count = function.args
    b = Code(function.append_basic_block())
    together = b.icmp_signed(">=", count, WHOLE(_SIDE_BY_SIDE))
    with b.if_else(together) as (many, few):
        with many, b.count(NONE, count, _SIDE_BY_SIDE) as number:
            # The last ones may have been checked already.
            first = b.least(number, b.sum(count, -_SIDE_BY_SIDE))
            _return_the_wrong(b, data, edges, [b.sum(first, place) for place in range(_SIDE_BY_SIDE)])
        with few, b.count(NONE, count) as number:
            _return_the_wrong(b, data, edges, [number])
    b.ret(count)
    engine = compiled(module)
    kind = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * 3)  # a call of it lets go of the GIL
    return engine, kind(engine.get_function_address("first_wrong"))


def _return_the_wrong(b: Code, data: Any, edges: Any, numbers: list[Any]) -> None:
    """Check some chunks side by side, as far as the shortest one goes, and then what is left of each."""
    starts = [b.sum(data, b.read(WHOLE, edges, (number, 8))) for number in numbers]
    stops = [b.sum(data, b.read(WHOLE, edges, (number, 8), 8), -4) for number in numbers]
    words = [b.lshr(b.sub(stop, start), WHOLE(3)) for start, stop in zip(starts, stops, strict=True)]
    common = words[0]
    for other in words[1:]:
        common = b.least(common, other)
    crcs = [_begun(b) for _ in numbers]
    with b.count(NONE, common) as word:
        for crc, start in zip(crcs, starts, strict=True):
            _add(b, crc, b.read(WHOLE, start, (word, 8)))
    for number, crc, start, stop, whole in zip(numbers, crcs, starts, stops, words, strict=True):
        with b.count(common, whole) as word:
            _add(b, crc, b.read(WHOLE, start, (word, 8)))
        with b.count(b.sum(start, (whole, 8)), stop) as place:
            _add(b, crc, b.read(BYTE, place))
        wrong = b.icmp_unsigned("!=", b.not_(b.trunc(b.load(crc), INT)), b.read(INT, stop))
        with b.if_then(wrong, likely=False):
            b.ret(number)


def _begun(b: Code) -> Any:
    """The state before the first byte."""
    with b.goto_entry_block():
        crc = b.alloca(WHOLE)
    b.store(WHOLE(2**32 - 1), crc)
    return crc


def _add(b: Code, crc: Any, value: Any) -> None:
    """Eight bytes, or one."""
    bits = value.type.width
    state = WHOLE if bits == 64 else INT
    before = b.load(crc) if bits == 64 else b.trunc(b.load(crc), INT)
    after = b.intrinsic(f"x86.sse42.crc32.{state.width}.{bits}", state, before, value)
    b.store(after if bits == 64 else b.zext(after, WHOLE), crc)
