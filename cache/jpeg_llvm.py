"""JPEG frames in machine code: libjpeg-turbo, through `codecs.JpegFrames`, is what it has to equal, bit for bit.

One call decodes the frames of a clip, without the GIL, and of each frame one box: what lies below it is not decoded,
of the rest no more is done than the entropy code asks for. Two frames are decoded side by side, because where a code
ends is known only once it has been looked up, and the processor need not wait for one frame while it has the other.

It knows baseline JPEG with 4:2:0 subsampling, as stores hold it, and leaves everything else to libjpeg-turbo: other
segments, and bytes that no encoder writes. Sections are those of ITU-T T.81.
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
from resact.cache.jpeg_header import (
    AC,
    BLOCK,
    CODES_A_REFILL,
    DC,
    END,
    LONG,
    LOOK_UP,
    ORDER,
    Header,
    header_bytes,
    parse_header,
)
from resact.cache.jpeg_pixels_llvm import LANES, UNIT, UNITS, inverse_function, paint_row
from resact.cache.machine_code import BYTE, INT, LOCK, NONE, SHORT, WHOLE, Code, compiled

_SPARE = 512  # bytes behind a frame's bits, whose end is looked for once a block: 27 + 63 * 26 bits, and 8 bytes ahead

_ARGUMENTS = (
    *("chunks", "count", "failed", "out", "out_apart", "start", "start_bytes", "rows", "units", "mcus"),
    *("first_mcu", "last_mcu", "top", "bottom", "left", "right"),
    *("luma", "chroma", "colours", "bits", "bits_apart", "coefficients", "coefficients_apart"),
)
"""Of the machine code, in an array of int64: addresses, sizes, and distances in bytes."""


def decode_jpegs(
    data: memoryview, bounds: Bounds, out_NHWC: npt.NDArray[np.uint8], size: tuple[int, int], box: Box
) -> Sequence[int]:
    """As `FrameCodec.decode_together`, for JPEG."""
    height, width = box.size
    setup = _setup(data[slice(*bounds[0])], size)
    if setup is None or width < LANES:
        return range(len(bounds))
    chunks = np.asarray(bounds, np.int64) + np.frombuffer(data, np.uint8).ctypes.data
    failed = np.zeros(len(chunks), np.int64)
    arguments = {
        **setup.arguments(int((chunks[:, 1] - chunks[:, 0]).max())),
        "chunks": chunks.ctypes.data,
        "count": len(chunks),
        "failed": failed.ctypes.data,
        "out": out_NHWC.ctypes.data,
        "out_apart": height * width * 3,
        "first_mcu": box.left // 16,
        "last_mcu": -(-box.right // 16),
        **box._asdict(),
    }
    with LOCK:  # the first thread compiles, the others wait
        _, run = _code()
    run((ctypes.c_int64 * len(_ARGUMENTS))(*(arguments[name] for name in _ARGUMENTS)))
    return np.flatnonzero(failed).tolist()


class _Setup:
    """What frames of one header need beside themselves: tables and memory, for one thread."""

    def __init__(self, start: bytes, header: Header) -> None:
        self.start, self.size = start, (header.height, header.width)
        mcus = -(-header.width // 16)
        luma, chroma = np.empty((16, mcus * 16), np.uint8), np.empty((2, 8, mcus * 8), np.uint8)
        colours = np.empty((3, mcus * 16), np.int16)
        coefficients = np.empty((2, (mcus * UNITS + 1) * BLOCK), np.int16)  # the last block is written behind, too
        units, begin = _units(header, luma, chroma), np.frombuffer(start, np.uint8)
        self._bits = np.empty((2, 0), np.uint8)
        self._owners = header, luma, chroma, colours, coefficients, units, begin
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
        }

    def arguments(self, chunk_bytes: int) -> dict[str, int]:
        """Of the machine code, for frames of so many bytes at most."""
        if self._bits.shape[1] < chunk_bytes + _SPARE:
            self._bits = np.empty((2, chunk_bytes + _SPARE), np.uint8)
        return {**self._fixed, "bits": self._bits.ctypes.data, "bits_apart": self._bits.strides[0]}


class _Last(threading.local):
    setup: _Setup | None = None


_last = _Last()


def _setup(chunk: memoryview, size: tuple[int, int]) -> _Setup | None:
    """For frames such as `chunk`; None where they are unknown. A clip's are mostly such as the last one's."""
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
    """(6, 6), see `UNIT`: blocks in the order of the entropy code, left to right and down."""
    pitch = luma.strides[0]
    corners = [(0, luma.ctypes.data + 8 * (down * pitch + right), 16, pitch) for down in (0, 1) for right in (0, 1)]
    corners += [(number, plane.ctypes.data, 8, plane.strides[0]) for number, plane in enumerate(chroma, 1)]
    units = []
    for number, *pixels in corners:
        codes, steps = header.components[number].codes, header.components[number].steps
        units.append((codes.ctypes.data, 4 * number, steps.ctypes.data, *pixels))
    return np.array(units, np.int64)


# The code ---------------------------------------------------------------------------------------------------


@lru_cache
def _code() -> tuple[Any, Callable[..., None]]:
    """What owns the code, and the code."""
    module = ir.Module()
    kind = ir.FunctionType(ir.VoidType(), [WHOLE.as_pointer()])
    function = ir.Function(module, kind, "decode")
    inverse = inverse_function(module)
    some = {count: _frames_function(module, inverse, count) for count in (1, 2)}
    b = Code(function.append_basic_block())
    a = _arguments(b, function.args[0])
    nobody = WHOLE(-1)
    waits = b.alloca(WHOLE)  # for another frame of the same header
    b.store(nobody, waits)
    with b.count(NONE, a.count) as number, b.if_else(_begins_with(b, a, number)) as (known, other):
        with known:
            first = b.load(waits)
            with b.if_else(b.icmp_signed("==", first, nobody)) as (alone, pair):
                with alone:
                    b.store(number, waits)
                with pair:
                    b.call(some[2], [function.args[0], first, number])
                    b.store(nobody, waits)
        with other:
            b.write(WHOLE(1), a.failed, (number, 8))
    with b.if_then(b.icmp_signed("!=", b.load(waits), nobody)):
        b.call(some[1], [function.args[0], b.load(waits)])
    b.ret_void()
    engine = compiled(module)
    call = ctypes.CFUNCTYPE(None, ctypes.POINTER(ctypes.c_int64))  # a call of it lets go of the GIL
    return engine, call(engine.get_function_address("decode"))


def _arguments(b: Code, pointer: Any) -> SimpleNamespace:
    begin = b.ptrtoint(pointer, WHOLE)
    return SimpleNamespace(**{name: b.read(WHOLE, begin, 8 * place) for place, name in enumerate(_ARGUMENTS)})


def _begins_with(b: Code, a: SimpleNamespace, number: Any) -> Any:
    """Whether a frame's bytes begin with the header."""
    chunk, stop = (b.read(WHOLE, a.chunks, (number, 16), 8 * column) for column in (0, 1))
    with b.goto_entry_block():
        differ = b.alloca(BYTE)
    b.store(BYTE(1), differ)
    with b.if_then(b.icmp_signed(">=", b.sub(stop, chunk), a.start_bytes)):
        b.store(BYTE(0), differ)
        with b.count(NONE, a.start_bytes) as place:
            one = b.xor(b.read(BYTE, chunk, place), b.read(BYTE, a.start, place))
            b.store(b.or_(b.load(differ), one), differ)
    return b.icmp_unsigned("==", b.load(differ), BYTE(0))


def _frames_function(module: Any, inverse: Any, count: int) -> Any:
    """Decodes `count` frames, given by their numbers, or says that they failed."""
    kind = ir.FunctionType(ir.VoidType(), [WHOLE.as_pointer(), *[WHOLE] * count])
    function = ir.Function(module, kind, f"decode_{count}")
    b = Code(function.append_basic_block())
    a = _arguments(b, function.args[0])
    numbers = function.args[1:]
    failed = function.append_basic_block("failed")
    streams = [_Stream(b, a, number, place, failed) for place, number in enumerate(numbers)]
    for stream in streams:
        stream.unstuff(b)
    wanted = b.udiv(b.sum(a.bottom, 15), WHOLE(16))
    first = b.udiv(a.top, WHOLE(16))
    with b.count(NONE, wanted) as row:
        _read_row(b, streams)
        with b.if_then(b.icmp_signed(">=", row, first)):
            for stream in streams:
                paint_row(b, a, row, stream.coefficients, stream.out, inverse)
    for stream in streams:
        stream.require_end(b, b.icmp_signed("==", wanted, a.rows))
    b.ret_void()
    b.position_at_end(failed)
    for number in numbers:
        b.write(WHOLE(1), a.failed, (number, 8))
    b.ret_void()
    return function


class _Stream:
    """A frame's entropy code, being read."""

    def __init__(self, b: Code, a: SimpleNamespace, number: Any, place: int, failed: Any) -> None:
        self.a, self.failed = a, failed
        self.source = b.sum(b.read(WHOLE, a.chunks, (number, 16)), a.start_bytes)
        self.stop = b.read(WHOLE, a.chunks, (number, 16), 8)
        self.out = b.sum(a.out, (number, a.out_apart))
        self.bits = b.sum(a.bits, (place, a.bits_apart))
        self.coefficients = b.sum(a.coefficients, (place, a.coefficients_apart))
        self.window = b.alloca(WHOLE)  # the next bits, from the left
        self.position = b.alloca(WHOLE)  # the first of them: an address, counted in bits
        self.limit = b.alloca(WHOLE)  # where they end, likewise
        self.at = b.alloca(WHOLE)  # the last coefficient's place in its block
        self.block = b.alloca(WHOLE)
        self.left = b.alloca(WHOLE)  # blocks of the row
        self.unit = b.alloca(WHOLE)
        self.huffman = b.alloca(WHOLE)
        self.value = b.alloca(INT)
        self.last_dc = b.ptrtoint(b.alloca(ir.ArrayType(INT, 3)), WHOLE)
        for component in range(3):
            b.write(INT(0), self.last_dc, 4 * component)
        b.store(b.mul(self.bits, WHOLE(8)), self.position)

    def unstuff(self, b: Code) -> None:
        """Bits without the zero that follows each byte of ones (section F.1.2.3), up to the end of the image."""
        vector = ir.VectorType(BYTE, LANES)
        many, few, one, ones, done = (b.append_basic_block() for _ in range(5))
        with b.goto_entry_block():
            source, target = b.alloca(WHOLE), b.alloca(WHOLE)
        b.store(self.source, source)
        b.store(self.bits, target)
        b.branch(many)

        b.position_at_end(many)
        some = b.append_basic_block()
        b.cbranch(b.icmp_unsigned("<=", b.sum(b.load(source), LANES), self.stop), some, few)
        b.position_at_end(some)
        bytes_ = b.read(vector, b.load(source))
        b.write(bytes_, b.load(target))
        found = b.bitcast(b.icmp_unsigned("==", bytes_, vector([255] * LANES)), INT)
        ahead = b.zext(b.cttz(found, ir.IntType(1)(0)), WHOLE)  # 32 if there is none
        none = b.icmp_unsigned("==", found, INT(0))
        step = b.select(none, ahead, b.sum(ahead, 1))
        b.store(b.sum(b.load(source), step), source)
        b.store(b.sum(b.load(target), step), target)
        b.cbranch(none, many, ones)

        b.position_at_end(few)
        b.cbranch(b.icmp_unsigned("<", b.load(source), self.stop), one, self.failed)
        b.position_at_end(one)
        byte = b.read(BYTE, b.load(source))
        b.write(byte, b.load(target))
        b.store(b.sum(b.load(source), 1), source)
        b.store(b.sum(b.load(target), 1), target)
        b.cbranch(b.icmp_unsigned("==", byte, BYTE(255)), ones, few)

        b.position_at_end(ones)
        look, marker = b.append_basic_block(), b.append_basic_block()
        b.cbranch(b.icmp_unsigned("<", b.load(source), self.stop), look, self.failed)
        b.position_at_end(look)
        byte = b.read(BYTE, b.load(source))
        b.store(b.sum(b.load(source), 1), source)
        b.cbranch(b.icmp_unsigned("==", byte, BYTE(0)), many, marker)
        b.position_at_end(marker)
        last = b.icmp_unsigned("==", b.load(source), self.stop)
        b.cbranch(b.and_(last, b.icmp_unsigned("==", byte, BYTE(0xD9))), done, self.failed)
        b.position_at_end(done)
        b.store(b.mul(b.sum(b.load(target), -1), WHOLE(8)), self.limit)

    def require_end(self, b: Code, whole: Any) -> None:
        """Fails where more bits were taken than there are, and if all rows were, unless less than a byte is left."""
        rest = b.sub(b.load(self.limit), b.load(self.position))
        self._require(b, b.icmp_unsigned("<", rest, b.select(whole, WHOLE(8), WHOLE(2**63))))

    def begin_row(self, b: Code) -> None:
        """Begin the row's first block."""
        b.store(self.coefficients, self.block)
        b.store(b.mul(self.a.mcus, WHOLE(UNITS)), self.left)
        b.store(NONE, self.unit)
        self._begin_block(b)

    def refill(self, b: Code) -> None:
        """See that there are 57 bits at least."""
        position = b.load(self.position)
        bytes_ = b.bswap(b.read(WHOLE, b.lshr(position, WHOLE(3))))
        b.store(b.shl(bytes_, b.and_(position, WHOLE(7))), self.window)

    def take_code(self, b: Code, after_row: Any) -> None:
        """One coefficient and the zeros before it, and what follows a block's last."""
        entry = self._look_up(b, AC)
        move = b.zext(b.and_(b.lshr(entry, INT(8)), INT(255)), WHOLE)
        at = b.sum(b.load(self.at), move)
        b.store(at, self.at)
        place = b.zext(b.read(BYTE, b.load(self.huffman), ORDER, at), WHOLE)
        b.write(b.trunc(b.load(self.value), SHORT), b.load(self.block), (place, 2))
        ended, right, following, on = (b.append_basic_block() for _ in range(4))
        b.cbranch(b.icmp_unsigned(">=", at, WHOLE(BLOCK - 1)), ended, on)
        b.position_at_end(ended)
        whole = b.or_(b.icmp_unsigned("==", at, WHOLE(BLOCK - 1)), b.icmp_unsigned(">=", at, WHOLE(END)))
        b.cbranch(whole, right, self.failed)
        b.position_at_end(right)
        left = b.sum(b.load(self.left), -1)
        b.store(left, self.left)
        b.cbranch(b.icmp_unsigned("==", left, NONE), after_row, following)
        b.position_at_end(following)
        b.store(b.sum(b.load(self.block), 2 * BLOCK), self.block)
        unit = b.sum(b.load(self.unit), 1)
        b.store(b.select(b.icmp_unsigned("==", unit, WHOLE(UNITS)), NONE, unit), self.unit)
        self._begin_block(b)
        b.branch(on)
        b.position_at_end(on)

    def _begin_block(self, b: Code) -> None:
        zeros = ir.VectorType(SHORT, BLOCK)([0] * BLOCK)
        b.write(zeros, b.load(self.block))
        unit = b.sum(self.a.units, (b.load(self.unit), 8 * len(UNIT)))
        b.store(b.read(WHOLE, unit), self.huffman)
        self._require(b, b.icmp_unsigned("<=", b.load(self.position), b.load(self.limit)))
        self.refill(b)
        self._look_up(b, DC)
        dc = b.sum(self.last_dc, b.read(WHOLE, unit, 8))
        value = b.add(b.read(INT, dc), b.load(self.value))
        b.write(value, dc)
        b.write(b.trunc(value, SHORT), b.load(self.block))
        b.store(NONE, self.at)

    def _look_up(self, b: Code, table: int) -> Any:
        """A code's entry; its value is in `value`, and its bits are taken."""
        quick = b.read(INT, b.load(self.huffman), table, (b.lshr(b.load(self.window), WHOLE(64 - LOOK_UP)), 4))
        known, long, on = (b.append_basic_block() for _ in range(3))
        b.cbranch(b.icmp_unsigned("!=", quick, INT(0)), known, long)
        b.position_at_end(known)
        b.store(self._take(b, quick), self.value)
        b.branch(on)
        b.position_at_end(long)
        self.refill(b)
        entry = b.read(INT, b.load(self.huffman), table + LONG, (b.lshr(b.load(self.window), WHOLE(48)), 4))
        self._require(b, b.icmp_unsigned("!=", entry, INT(0)))
        value, size = self._take(b, entry), b.lshr(entry, INT(16))
        span = b.shl(INT(1), size)
        negative = b.icmp_signed("<", b.shl(value, INT(1)), span)  # nothing, where there is no value
        b.store(b.select(negative, b.add(b.sub(value, span), INT(1)), value), self.value)
        self.refill(b)
        after = b.block
        b.branch(on)
        b.position_at_end(on)
        both = b.phi(INT)
        both.add_incoming(quick, known)
        both.add_incoming(entry, after)
        return both

    def _take(self, b: Code, entry: Any) -> Any:
        window = b.load(self.window)
        bits = b.zext(b.and_(entry, INT(255)), WHOLE)
        size = b.zext(b.and_(b.lshr(entry, INT(16)), INT(15)), WHOLE)
        value = b.lshr(window, b.and_(b.neg(bits), WHOLE(63)))
        value = b.and_(value, b.sub(b.shl(WHOLE(1), size), WHOLE(1)))
        b.store(b.shl(window, b.and_(bits, WHOLE(63))), self.window)
        b.store(b.add(b.load(self.position), bits), self.position)
        return b.add(b.trunc(value, INT), b.ashr(entry, INT(20)))

    def _require(self, b: Code, condition: Any) -> None:
        on = b.append_basic_block()
        b.cbranch(condition, on, self.failed)
        b.position_at_end(on)


def _read_row(b: Code, streams: list[_Stream]) -> None:
    """The coefficients of 16 rows of pixels of each frame."""
    done = b.append_basic_block()
    for stream in streams:
        stream.begin_row(b)
    together = b.append_basic_block()
    after = dict.fromkeys(streams, done)
    if len(streams) == 2:  # one of them comes to its end first: then the other goes on alone
        first, second = streams
        after = {first: _read_alone(b, second, done), second: _read_alone(b, first, done)}
    b.branch(together)
    b.position_at_end(together)
    for stream in streams:
        stream.refill(b)
    for _ in range(CODES_A_REFILL):
        for stream in streams:
            stream.take_code(b, after[stream])
    b.branch(together)
    b.position_at_end(done)


def _read_alone(b: Code, stream: _Stream, done: Any) -> Any:
    """A block of code that reads the rest of a row."""
    begin = b.append_basic_block()
    with b.goto_block(begin):
        stream.refill(b)
        stream.take_code(b, done)
        b.branch(begin)
    return begin
