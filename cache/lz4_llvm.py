"""LZ4 frames in Blosc's container, in machine code: Blosc, through `codecs.Lz4Frames`, reads what is written here.

LZ4's time goes into its sequences, each some bytes as they are and a match, which repeats what came before. So the
encoder takes no match that saves few bytes, and none that repeats itself in short steps: fewer than a quarter of the
sequences are left, for a few more bytes.

The decoder unpacks the frames of a clip in one call, without the GIL, and none further than to the last row wanted.
What it does not know it leaves undone and says so; Blosc then judges.

The formats: Blosc 1's README_CHUNK_FORMAT and LZ4's lz4_Block_format.
"""

import ctypes
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir

from resact.cache.codecs import Bounds, Box
from resact.cache.machine_code import BYTE, INT, LOCK, NONE, SHORT, WHOLE, Code, compiled

_HEADER = 24  # bytes: Blosc's header, the place of the one block, and the block's length
_KIND = 0x01300102  # the first four: versions of Blosc and of its LZ4, LZ4 of whole values without a shuffle, of 1 byte
_WIDE = 32  # bytes that are copied at once
_MATCH = 16  # bytes: the shortest match
_NEAR, _FAR = _WIDE, 2**16 - 1  # bytes: the distances of matches; a wide copy of nearer ones would read its own bytes
_LAST = 64  # bytes before the end of a frame, where no match begins; LZ4 asks for 12, wide copies for _MATCH + _WIDE
_TABLE_BITS = 12
_PATIENCE = 5  # after 2 ** 5 places without a match steps of two are taken, then of three ...

_BIT = ir.IntType(1)
_ENCODE = ("frame", "frame_bytes", "out", "table")
_DECODE = (
    *("chunks", "count", "failed", "out", "frame_bytes", "wanted"),
    *("memory", "first", "row_bytes", "rows", "columns"),  # for a box: else `memory` is 0
)
"""Arguments of the machine code, in an array of int64: addresses and numbers of bytes."""


def encode_lz4(frame_HWC: npt.NDArray[np.uint8]) -> bytes:
    """One block of LZ4 in Blosc's container; of the frame as it is, where LZ4 saves nothing."""
    frame_HWC = np.ascontiguousarray(frame_HWC)
    size = frame_HWC.nbytes
    out = np.empty(_HEADER + size + size // 255 + 16 + _WIDE, np.uint8)
    table = np.zeros(2**_TABLE_BITS, np.int32)
    packed = _run("encode", frame_HWC.ctypes.data, size, out.ctypes.data + _HEADER, table.ctypes.data)
    if packed >= size:
        out[_HEADER:][:size] = frame_HWC.reshape(-1)
        packed = size
    out[:_HEADER].view("<u4")[:] = _KIND, size, size, _HEADER + packed, _HEADER - 4, packed
    return out[: _HEADER + packed].tobytes()


def decode_lz4(
    data: memoryview, bounds: Bounds, out_NHWC: npt.NDArray[np.uint8], size: tuple[int, int], box: Box
) -> Sequence[int]:
    """As `FrameCodec.decode_together`, for LZ4."""
    chunks = np.asarray(bounds, np.int64) + np.frombuffer(data, np.uint8).ctypes.data
    failed = np.zeros(len(chunks), np.int64)
    row_bytes, frame_bytes = size[1] * 3, size[0] * size[1] * 3
    memory = None if out_NHWC.shape[1:3] == size else _memory.of(frame_bytes)
    rows, columns = box.size
    _run(
        "decode",
        *(chunks.ctypes.data, len(chunks), failed.ctypes.data, out_NHWC.ctypes.data),
        *(frame_bytes, box.bottom * row_bytes, 0 if memory is None else memory.ctypes.data),
        *(box.top * row_bytes + box.left * 3, row_bytes, rows, columns * 3),
    )
    return np.flatnonzero(failed).tolist()


class _Memory(threading.local):
    """Each thread's own for one frame, which stays in the processor's cache."""

    _bytes = np.empty(0, np.uint8)

    def of(self, size: int) -> npt.NDArray[np.uint8]:
        """So many bytes at least."""
        if len(self._bytes) < size:
            self._bytes = np.empty(size, np.uint8)
        return self._bytes


_memory = _Memory()


def _run(name: str, *arguments: int) -> int:
    with LOCK:  # the first thread compiles, the others wait
        _, function = _code(name)
    return function((ctypes.c_int64 * len(arguments))(*arguments))


# The code ---------------------------------------------------------------------------------------------------


@lru_cache
def _code(name: str) -> tuple[Any, Callable[..., int]]:
    """What owns the code of `encode` or `decode`, and the code."""
    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(WHOLE, [WHOLE.as_pointer()]), name)
    {"encode": _encode, "decode": _decode}[name](function)
    engine = compiled(module)
    kind = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.POINTER(ctypes.c_int64))  # a call of it lets go of the GIL
    return engine, kind(engine.get_function_address(name))


def _begin(function: Any, names: Sequence[str]) -> tuple[Code, SimpleNamespace]:
    b = Code(function.append_basic_block())
    begin = b.ptrtoint(function.args[0], WHOLE)
    return b, SimpleNamespace(**{name: b.read(WHOLE, begin, 8 * place) for place, name in enumerate(names)})


def _encode(function: Any) -> None:
    """Gives the number of bytes written, which may be more than there were."""
    b, a = _begin(function, _ENCODE)
    stop = b.sum(a.frame, a.frame_bytes)
    here, since, out, misses = (b.alloca(WHOLE) for _ in range(4))
    b.store(a.frame, here)
    b.store(a.frame, since)  # what comes from here on has not been written
    b.store(a.out, out)
    b.store(NONE, misses)
    head, look, remember, compare, found, missed, ended = (b.append_basic_block() for _ in range(7))
    b.branch(head)

    b.position_at_end(head)
    b.cbranch(b.icmp_signed("<", b.load(here), b.sum(stop, -_LAST)), look, ended)
    b.position_at_end(look)
    at = b.load(here)
    first = b.read(WHOLE, at)
    hashed = b.lshr(b.mul(first, WHOLE(0x9E3779B97F4A7C15)), WHOLE(64 - _TABLE_BITS))
    entry = b.sum(a.table, (hashed, 4))
    place = b.sum(a.frame, b.zext(b.read(INT, entry), WHOLE))
    distance = b.sub(at, place)
    # The place of something nearer is kept: some steps on, it will be far enough.
    b.cbranch(b.icmp_signed("<", distance, WHOLE(_NEAR)), missed, remember)
    b.position_at_end(remember)
    b.write(b.trunc(b.sub(at, a.frame), INT), entry)
    b.cbranch(b.icmp_signed("<=", distance, WHOLE(_FAR)), compare, missed)
    b.position_at_end(compare)
    differ = b.xor(first, b.read(WHOLE, place))
    differ = b.or_(differ, b.xor(b.read(WHOLE, at, _MATCH - 8), b.read(WHOLE, place, _MATCH - 8)))
    b.cbranch(b.icmp_unsigned("==", differ, NONE), found, missed)

    b.position_at_end(missed)
    tried = b.load(misses)
    b.store(b.sum(tried, 1), misses)
    b.store(b.sum(at, 1, b.lshr(tried, WHOLE(_PATIENCE))), here)
    b.branch(head)

    b.position_at_end(found)
    before = _same_before(b, at, distance, b.least(b.sub(at, b.load(since)), b.sub(place, a.frame)))
    after = _same_after(b, b.sum(at, _MATCH), distance, b.sum(stop, -_LAST))
    start = b.sub(at, before)
    length = b.sub(after, start)
    _write_sequence(b, out, b.load(since), start, distance, length)
    b.store(NONE, misses)
    b.store(after, here)
    b.store(after, since)
    b.branch(head)

    b.position_at_end(ended)
    _write_sequence(b, out, b.load(since), stop)
    b.ret(b.sub(b.load(out), a.out))


def _same_before(b: Code, at: Any, distance: Any, most: Any) -> Any:
    """How many bytes before an address are the same as those at a distance before."""
    with b.goto_entry_block():
        count = b.alloca(WHOLE)
    b.store(NONE, count)
    head, compare, same, done = (b.append_basic_block() for _ in range(4))
    b.branch(head)
    b.position_at_end(head)
    b.cbranch(b.icmp_unsigned("<", b.load(count), most), compare, done)
    b.position_at_end(compare)
    one = b.sum(b.sub(at, b.load(count)), -1)
    b.cbranch(b.icmp_unsigned("==", b.read(BYTE, one), b.read(BYTE, b.sub(one, distance))), same, done)
    b.position_at_end(same)
    b.store(b.sum(b.load(count), 1), count)
    b.branch(head)
    b.position_at_end(done)
    return b.load(count)


def _same_after(b: Code, at: Any, distance: Any, last: Any) -> Any:
    """Where what is the same as at a distance before ends; looked for up to `last`, found up to 7 bytes on."""
    with b.goto_entry_block():
        here = b.alloca(WHOLE)
    b.store(at, here)
    head, compare, same, differs, done = (b.append_basic_block() for _ in range(5))
    b.branch(head)
    b.position_at_end(head)
    b.cbranch(b.icmp_signed("<", b.load(here), last), compare, done)
    b.position_at_end(compare)
    one = b.load(here)
    differ = b.xor(b.read(WHOLE, one), b.read(WHOLE, b.sub(one, distance)))
    b.cbranch(b.icmp_unsigned("==", differ, NONE), same, differs)
    b.position_at_end(same)
    b.store(b.sum(one, 8), here)
    b.branch(head)
    b.position_at_end(differs)
    b.store(b.sum(one, b.lshr(b.cttz(differ, _BIT(1)), WHOLE(3))), here)
    b.branch(done)
    b.position_at_end(done)
    return b.load(here)


def _write_sequence(b: Code, out: Any, start: Any, stop: Any, distance: Any = None, length: Any = None) -> None:
    """Bytes as they are and a match; the last sequence has none."""
    token, count = b.load(out), b.sub(stop, start)
    b.store(b.sum(token, 1), out)
    high = _write_length(b, out, count)
    target = b.load(out)
    _copy(b, target, start, count, exactly=distance is None)
    b.store(b.sum(target, count), out)
    low = NONE
    if distance is not None:
        b.write(b.trunc(distance, SHORT), b.load(out))
        b.store(b.sum(b.load(out), 2), out)
        low = _write_length(b, out, b.sum(length, -4))
    b.write(b.trunc(b.or_(b.shl(high, WHOLE(4)), low), BYTE), token)


def _write_length(b: Code, out: Any, count: Any) -> Any:
    """The token's half of a length; the rest is written."""
    with b.if_then(b.icmp_unsigned(">=", count, WHOLE(15))):
        rest = b.sum(count, -15)
        full = b.udiv(rest, WHOLE(255))
        with b.count(NONE, full) as place:
            b.write(BYTE(255), b.load(out), place)
        b.write(b.trunc(b.urem(rest, WHOLE(255)), BYTE), b.load(out), full)
        b.store(b.sum(b.load(out), full, 1), out)
    return b.least(count, WHOLE(15))


def _decode(function: Any) -> None:
    frame = _frame_function(function.module, _unpack_function(function.module))
    b, a = _begin(function, _DECODE)
    with b.count(NONE, a.count) as number:
        source, stop = (b.read(WHOLE, a.chunks, (number, 16), 8 * column) for column in (0, 1))
        whole = b.icmp_unsigned("==", a.memory, NONE)
        target = b.select(whole, b.sum(a.out, (number, a.frame_bytes)), a.memory)
        done = b.call(frame, [source, stop, target, a.frame_bytes, a.wanted])
        b.write(b.zext(b.not_(done), WHOLE), a.failed, (number, 8))
        with b.if_then(b.and_(done, b.not_(whole))), b.count(NONE, a.rows) as row:
            place = b.sum((number, a.rows), row)
            _copy_row(b, b.sum(a.out, (place, a.columns)), b.sum(a.memory, a.first, (row, a.row_bytes)), a.columns)
    b.ret(NONE)


def _frame_function(module: Any, unpack: Any) -> Any:
    """(chunk, its end, target, bytes of a frame, bytes wanted of it): whether it was unpacked."""
    function = ir.Function(module, ir.FunctionType(_BIT, [WHOLE] * 5), "frame")
    chunk, stop, target, frame_bytes, wanted = function.args
    b = Code(function.append_basic_block())
    failed = function.append_basic_block()
    require = _requiring(b, failed)
    packed = b.sub(stop, b.sum(chunk, _HEADER))
    require(b.icmp_signed(">=", packed, NONE))
    require(b.icmp_unsigned("==", b.read(INT, chunk), INT(_KIND)))
    header = frame_bytes, frame_bytes, b.sum(packed, _HEADER), WHOLE(_HEADER - 4), packed
    for place, field in enumerate(header, 1):
        require(b.icmp_unsigned("==", b.zext(b.read(INT, chunk, 4 * place), WHOLE), field))
    source = b.sum(chunk, _HEADER)
    with b.if_else(b.icmp_unsigned("==", packed, frame_bytes)) as (stored, squeezed):
        with stored:
            _copy(b, target, source, wanted, exactly=True)
        with squeezed:
            require(b.call(unpack, [source, stop, target, b.sum(target, frame_bytes), b.sum(target, wanted)]))
    b.ret(_BIT(1))
    b.position_at_end(failed)
    b.ret(_BIT(0))
    return function


def _unpack_function(module: Any) -> Any:
    """(source, its end, target, its end, where what is wanted ends): whether LZ4 of ours was unpacked so far."""
    function = ir.Function(module, ir.FunctionType(_BIT, [WHOLE] * 5), "unpack")
    begin, stop, target, end, wanted = function.args
    b = Code(function.append_basic_block())
    head, failed, done = (function.append_basic_block() for _ in range(3))
    require = _requiring(b, failed)
    source, out = b.alloca(WHOLE), b.alloca(WHOLE)
    b.store(begin, source)
    b.store(target, out)
    b.branch(head)

    b.position_at_end(head)
    further, last, match = (b.append_basic_block() for _ in range(3))
    b.cbranch(b.icmp_unsigned("<", b.load(out), wanted), further, done)
    b.position_at_end(further)
    require(b.icmp_unsigned("<", b.load(source), stop))
    token = b.zext(b.read(BYTE, b.load(source)), WHOLE)
    b.store(b.sum(b.load(source), 1), source)
    literals = _read_length(b, require, source, stop, b.lshr(token, WHOLE(4)))
    start, to = b.load(source), b.load(out)
    left, free = b.sub(stop, start), b.sub(end, to)
    b.cbranch(b.icmp_unsigned("==", literals, left), last, match)

    b.position_at_end(last)
    require(b.icmp_unsigned("==", literals, free))
    _copy(b, to, start, literals, exactly=True)
    b.branch(done)

    b.position_at_end(match)
    require(b.icmp_unsigned("<=", b.sum(literals, _WIDE), b.least(left, free)))
    _copy(b, to, start, literals)
    distance = b.zext(b.read(SHORT, start, literals), WHOLE)
    b.store(b.sum(start, literals, 2), source)
    to = b.sum(to, literals)
    length = b.sum(_read_length(b, require, source, stop, b.and_(token, WHOLE(15))), 4)
    require(b.icmp_unsigned("<=", b.sum(length, _WIDE), b.sub(end, to)))
    require(b.icmp_unsigned(">=", distance, WHOLE(_NEAR)))
    require(b.icmp_unsigned("<=", distance, b.sub(to, target)))
    _copy(b, to, b.sub(to, distance), length)
    b.store(b.sum(to, length), out)
    b.branch(head)
    for block, result in ((done, 1), (failed, 0)):
        b.position_at_end(block)
        b.ret(_BIT(result))
    return function


def _requiring(b: Code, failed: Any) -> Callable[[Any], None]:
    def require(condition: Any) -> None:
        on = b.append_basic_block()
        b.cbranch(condition, on, failed)
        b.position_at_end(on)

    return require


def _read_length(b: Code, require: Callable[[Any], None], source: Any, stop: Any, half: Any) -> Any:
    """A token's half, and where that is 15 what follows, up to a byte that is not 255."""
    with b.goto_entry_block():
        total = b.alloca(WHOLE)
    b.store(half, total)
    with b.if_then(b.icmp_unsigned("==", half, WHOLE(15))):
        more, on = b.append_basic_block(), b.append_basic_block()
        b.branch(more)
        b.position_at_end(more)
        require(b.icmp_unsigned("<", b.load(source), stop))
        byte = b.zext(b.read(BYTE, b.load(source)), WHOLE)
        b.store(b.sum(b.load(source), 1), source)
        b.store(b.sum(b.load(total), byte), total)
        b.cbranch(b.icmp_unsigned("==", byte, WHOLE(255)), more, on)
        b.position_at_end(on)
    return b.load(total)


def _copy_row(b: Code, target: Any, source: Any, length: Any) -> None:
    """Exactly; the last bytes of a long row once more with those before."""
    long = b.icmp_unsigned(">=", length, WHOLE(_WIDE))
    with b.if_else(long) as (wide, narrow):
        with wide, b.count(NONE, length, _WIDE) as place:
            start = b.least(place, b.sum(length, -_WIDE))
            b.write(b.read(ir.VectorType(BYTE, _WIDE), source, start), target, start)
        with narrow, b.count(NONE, length) as place:
            b.write(b.read(BYTE, source, place), target, place)


def _copy(b: Code, target: Any, source: Any, length: Any, *, exactly: bool = False) -> None:
    """Unless `exactly`, up to 32 bytes more than asked for."""
    wide = ir.VectorType(BYTE, _WIDE)
    whole = b.and_(length, WHOLE(-_WIDE)) if exactly else length
    if not exactly:
        b.write(b.read(wide, source), target)
    with b.count(NONE if exactly else WHOLE(_WIDE), whole, _WIDE) as place:
        b.write(b.read(wide, source, place), target, place)
    if exactly:
        with b.count(whole, length) as place:
            b.write(b.read(BYTE, source, place), target, place)
