"""The transform of a clip on the CPU, in machine code: `transform.transform_clip` is what it has to equal, bit for bit.

LLVM makes the code for the processor at hand when a dtype is first asked for. A clip is one call, without the GIL:
frame by frame it reads the square once and writes the finished clips once; all between stays in the processor's cache.

A resize is twice the same. `_blend` makes each row of output a weighted sum of rows of input, and `_turn` transposes
them: the second time rows are columns, and what comes out is a plane for each colour.
"""

import ctypes
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from llvmlite import ir
from torch import Tensor

from resact.cache.machine_code import BYTE, FLOAT, INT, LOCK, NONE, SHORT, WHOLE, Code, compiled, has
from resact.train.clips.geometry import ClipGeometry
from resact.train.clips.sampling import Clip
from resact.train.clips.transform import Normalisation

_LANES = 64  # bytes of a row that are summed at once, half as many by AVX2, and the fewest that a row has
_TILE = 16  # rows and columns that are transposed at once
_PIXELS = 16  # that are normalised at once
_LINE = 64  # bytes of the processor's cache

_ARGUMENTS = (
    *("frames", "frame_step", "row_step", "lanes", "order", "frames_read", "rows", "columns", "table_step", "shift"),
    *("mixed", "mixed_step", "turned", "planes", "pitch"),
    *("size", "streamed", "frames_made", "step", "rgb", "residual", "rgb_scale_and_shift", "residual_scale_and_shift"),
)
"""Of the machine code, in an array of int64: addresses, sizes, and steps in memory, which are in bytes."""


def transform_with_llvm(
    frames_NHWC: Tensor, clip: Clip, geometry: ClipGeometry, normalisation: Normalisation, out: dict[str, Tensor]
) -> None:
    """Fills `out`, for each of `geometry.streams` a contiguous (3, T, D, D), float32 or bfloat16.

    Nothing is checked: what does not fit would be read from other memory, or written to it.

    Args:
        frames_NHWC: (N, H, W, 3) uint8, on the CPU; the pixels of a row lie side by side.
        clip: fits them.
        geometry: of the clip.
        normalisation: of each of `geometry.streams`.
        out: on the CPU.
    """
    size, top, left = geometry.size, clip.top, clip.left
    if clip.side * 3 < _LANES:  # whole lanes would reach beyond the row, and perhaps beyond the frames
        square_NHWC = frames_NHWC[:, top : top + clip.side, left : left + clip.side]
        frames_NHWC = frames_NHWC.new_zeros(len(frames_NHWC), clip.side, -(-_LANES // 3), 3)
        frames_NHWC[:, :, : clip.side] = square_NHWC
        top = left = 0
    frame_step, row_step, pixel_step, _ = frames_NHWC.stride()
    lanes, pitch = max(clip.side * 3, _LANES), _tiled(max(size, -(-_LANES // 3)))
    rows, shift = _table(clip.side, size)
    columns = rows[::-1].copy() if clip.flip else rows
    order = np.ascontiguousarray(clip.order, np.int64)
    step = geometry.step if "residual" in geometry.streams else 0
    mixed = np.empty((_tiled(size), _tiled(max(lanes, 3 * pitch))), np.uint8)
    turned = np.empty((_tiled(lanes), pitch), np.uint8)
    planes = np.empty((step + 1, 3, pitch, pitch), np.uint8)
    numbers = {name: _numbers(normalisation, name) for name in out}
    whole_lines = not any(size * tensor.itemsize % _LINE or tensor.data_ptr() % _LINE for tensor in out.values())
    arguments = {
        "frames": frames_NHWC.data_ptr() + top * row_step + left * pixel_step,
        "frame_step": frame_step,
        "row_step": row_step,
        "lanes": lanes,
        "order": order.ctypes.data,
        "frames_read": len(order),
        "rows": rows.ctypes.data,
        "columns": columns.ctypes.data,
        "table_step": rows.strides[0],
        "shift": shift,
        "mixed": mixed.ctypes.data,
        "mixed_step": mixed.strides[0],
        "turned": turned.ctypes.data,
        "planes": planes.ctypes.data,
        "pitch": pitch,
        "size": size,
        "streamed": size if whole_lines else 0,
        "frames_made": geometry.frames,
        "step": step,
        **{name: tensor.data_ptr() for name, tensor in out.items()},
        **{f"{name}_scale_and_shift": tensor.data_ptr() for name, tensor in numbers.items()},
    }
    with LOCK:  # the first clip's thread compiles, the others wait
        _, run = _compiled(next(iter(out.values())).dtype)
    run((ctypes.c_int64 * len(_ARGUMENTS))(*(arguments.get(name, 0) for name in _ARGUMENTS)))


@lru_cache(maxsize=256)
def _table(side: int, size: int) -> tuple[npt.NDArray[np.int32], int]:
    """Which pixels of a line of `side` make each of `size`, and with which weights: as PyTorch does for uint8.

    Returns:
        (D, 2 + (taps + 1) // 2) int32, the first pixel, how many, and their weights, two in each of the rest; and the
        bits of a weight of 1.
    """
    apart = side / size
    reach = max(apart, 1.0)
    centres = apart * (np.arange(size) + 0.5)
    first = np.maximum((centres - reach + 0.5).astype(np.int64), 0)
    taps = np.minimum((centres + reach + 0.5).astype(np.int64), side) - first
    tap = np.arange(taps.max())[:, None]
    triangle = np.clip(1 - np.abs((first + tap - centres + 0.5) * (1 / reach)), 0, None) * (tap < taps)
    shares = triangle / np.cumsum(triangle, axis=0)[-1]  # added one by one: `sum` need not, and rounds otherwise then
    shift = 0
    while shift < 22 and int(0.5 + shares.max() * 2 ** (shift + 1)) < 2**15:
        shift += 1
    weights = (0.5 + shares * 2**shift).astype(np.int64)
    pairs = np.pad(weights.T, ((0, 0), (0, taps.max() % 2))).astype(np.int16, order="C").view(np.int32)
    return np.ascontiguousarray(np.concatenate((np.array([first, taps], np.int32).T, pairs), axis=1)), shift


@lru_cache
def _numbers(normalisation: Normalisation, stream: str) -> Tensor:
    """(2, 3) float32: scales and shifts."""
    return torch.tensor(normalisation.scale_and_shift(stream), dtype=torch.float32)


def _tiled(count: int) -> int:
    """Rounded up to whole tiles."""
    return -(-count // _TILE) * _TILE


# The code ---------------------------------------------------------------------------------------------------


@lru_cache
def _compiled(dtype: torch.dtype) -> tuple[Any, Any]:
    """What owns the code, and the code."""
    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [WHOLE.as_pointer()]), "transform")
    b = Code(function.append_basic_block())
    begin = b.ptrtoint(function.args[0], WHOLE)
    values = {name: b.read(WHOLE, begin, 8 * place) for place, name in enumerate(_ARGUMENTS)}
    _transform(b, SimpleNamespace(**values), dtype)
    b.fence("seq_cst")  # what was written past the cache is there for other threads, too
    b.ret_void()
    engine = compiled(module)
    kind = ctypes.CFUNCTYPE(None, ctypes.POINTER(ctypes.c_int64))  # a call of it lets go of the GIL
    return engine, kind(engine.get_function_address("transform"))


def _transform(b: Code, a: SimpleNamespace, dtype: torch.dtype) -> None:
    """All of it; `a` holds the arguments."""
    pixel_step = b.sum((3, a.pitch))
    with b.count(NONE, a.frames_read) as frame:
        following = b.least(b.sum(frame, 1), b.sum(a.frames_read, -1))
        source, ahead = (b.sum(a.frames, (b.read(WHOLE, a.order, (at, 8)), a.frame_step)) for at in (frame, following))
        _blend(b, a, a.rows, source, a.row_step, a.lanes, ahead)
        _turn(b, a, a.lanes, a.turned)
        _blend(b, a, a.columns, a.turned, pixel_step, pixel_step)
        ring = [b.urem(b.sum(frame, more), b.sum(a.step, 1)) for more in (0, 1)]
        now, before = (b.sum(a.planes, (place, pixel_step, a.pitch)) for place in ring)
        _turn(b, a, pixel_step, now)
        made = b.icmp_signed("<", frame, a.frames_made)
        with b.if_then(b.and_(made, b.icmp_signed("!=", a.rgb, NONE))):
            _normalise(b, a, (now,), a.rgb_scale_and_shift, a.rgb, frame, dtype)
        made = b.icmp_signed(">=", frame, a.step)
        with b.if_then(b.and_(made, b.icmp_signed("!=", a.residual, NONE))):
            _normalise(b, a, (now, before), a.residual_scale_and_shift, a.residual, b.sub(frame, a.step), dtype)


def _blend(
    b: Code, a: SimpleNamespace, table: Any, source: Any, row_step: Any, lanes: Any, ahead: Any | None = None
) -> None:
    """Weighted sums of the rows at `source`, as the table says, to `mixed`. What lies `ahead` will be wanted next."""
    add_up = _sum_of_pairs if has("avx2") else _sum_of_rows
    width = _LANES // 2 if has("avx2") and not has("avx512bw") else _LANES
    with b.count(NONE, a.size) as row:
        entry = b.sum(table, (row, a.table_step))
        first, taps = (b.zext(b.read(INT, entry, 4 * column), WHOLE) for column in (0, 1))
        with b.count(NONE, lanes, width) as start:
            lane = b.least(start, b.sum(lanes, -width))  # the last ones overlap those before

            def bytes_of(tap: Any, lane: Any = lane, first: Any = first) -> Any:
                place = b.sum((b.sum(first, tap), row_step), lane)
                if ahead is not None:
                    b.prefetch(ahead, place)
                return b.read(ir.VectorType(BYTE, width), source, place)

            b.write(add_up(b, bytes_of, taps, b.sum(entry, 8), a.shift, width), a.mixed, (row, a.mixed_step), lane)


def _sum_of_rows(b: Code, bytes_of: Any, taps: Any, weights: Any, shift: Any, width: int) -> Any:
    """Of some bytes of each row, rounded."""
    ints = ir.VectorType(INT, width)
    with b.goto_entry_block():
        total = b.alloca(ints)  # in registers, once LLVM has been over it
    shifts = b.spread(b.trunc(shift, INT), width)
    b.store(b.shl(ints([1] * width), b.sub(shifts, ints([1] * width))), total)
    with b.count(NONE, taps) as tap:
        weight = b.read(SHORT, weights, (tap, 2))  # of 16 bits products are quicker
        weighted = b.mul(b.zext(bytes_of(tap), ints), b.sext(b.spread(weight, width), ints))
        b.store(b.add(b.load(total), weighted), total)
    rounded = b.least(b.lshr(b.load(total), shifts), ints([255] * width))
    return b.trunc(rounded, ir.VectorType(BYTE, width))


def _sum_of_pairs(b: Code, bytes_of: Any, taps: Any, weights: Any, shift: Any, width: int) -> Any:
    """The same, two rows at a time: x86 has an instruction that adds two products.

    Two rows' bytes are interleaved, 8 and 8 of each 16, and widened, so that each quarter of them gives its own sums;
    what narrows sums to bytes puts them into order again.
    """
    quarter, shorts, none = width // 4, ir.VectorType(SHORT, width // 2), ir.VectorType(BYTE, width)([0] * width)
    ints = ir.VectorType(INT, quarter)
    with b.goto_entry_block():
        totals = [b.alloca(ints) for _ in range(4)]
    shifts = b.spread(b.trunc(shift, INT), quarter)
    for total in totals:
        b.store(b.shl(ints([1] * quarter), b.sub(shifts, ints([1] * quarter))), total)
    with b.count(NONE, taps, 2) as tap:
        pair = b.bitcast(b.spread(b.read(INT, weights, (tap, 2)), quarter), shorts)  # the last may have a weight of 0
        one, other = bytes_of(tap), bytes_of(b.least(b.sum(tap, 1), b.sum(taps, -1)))
        for half in (0, 1):
            both = _interleaved(b, one, other, half)
            for part in (0, 1):
                total = totals[2 * half + part]
                widened = b.bitcast(_interleaved(b, both, none, part), shorts)
                b.store(b.add(b.load(total), _x86(b, "madd", ints, widened, pair)), total)
    sums = [b.lshr(b.load(total), shifts) for total in totals]
    narrowed = [_x86(b, "packusdw", shorts, *sums[start : start + 2]) for start in (0, 2)]
    return _x86(b, "packuswb", none.type, *narrowed)


def _interleaved(b: Code, one: Any, other: Any, half: int) -> Any:
    """One half or the other of each 16 bytes."""
    width = one.type.count
    order = [start + 8 * half + place // 2 + place % 2 * width for start in range(0, width, 16) for place in range(16)]
    return b.shuffle_vector(one, other, ir.VectorType(INT, width)(order))


_X86 = {
    ("madd", 64): "avx512.pmaddw.d.512",
    ("packusdw", 64): "avx512.packusdw.512",
    ("packuswb", 64): "avx512.packuswb.512",
    ("madd", 32): "avx2.pmadd.wd",
    ("packusdw", 32): "avx2.packusdw",
    ("packuswb", 32): "avx2.packuswb",
}


def _x86(b: Code, what: str, result: Any, *operands: Any) -> Any:
    """An instruction by its name and the bytes of its operands."""
    bytes_ = operands[0].type.count * operands[0].type.element.width // 8
    return b.intrinsic(f"x86.{_X86[what, bytes_]}", result, *operands)


def _turn(b: Code, a: SimpleNamespace, lanes: Any, target: Any) -> None:
    """What lies in `mixed`, transposed, to `target`, in whole tiles."""
    line = ir.VectorType(BYTE, _TILE)
    with b.count(NONE, lanes, _TILE) as lane, b.count(NONE, a.size, _TILE) as row:
        lines = [b.read(line, a.mixed, (b.sum(row, more), a.mixed_step), lane) for more in range(_TILE)]
        for more, values in enumerate(b.transposed(lines)):
            b.write(values, target, (b.sum(lane, more), a.pitch), row)


def _normalise(
    b: Code, a: SimpleNamespace, planes: tuple[Any, ...], numbers: Any, out: Any, frame: Any, dtype: torch.dtype
) -> None:
    """A frame, or the distance between two, to its place in `out`."""
    whole = b.and_(a.size, WHOLE(-_PIXELS))
    with b.count(NONE, WHOLE(3)) as colour, b.count(NONE, a.size) as row:
        scale, shift = (b.read(FLOAT, numbers, (colour, 4), 12 * which) for which in (0, 1))
        source_row = b.sum((b.sum((colour, a.pitch), row), a.pitch))
        out_row = b.sum((b.sum((b.sum((colour, a.frames_made), frame), a.size), row), a.size))
        for start, stop, count in ((NONE, a.streamed, _PIXELS), (a.streamed, whole, _PIXELS), (whole, a.size, 1)):
            with b.count(start, stop, count) as column:
                pixels = [b.read(ir.VectorType(BYTE, count), plane, source_row, column) for plane in planes]
                if len(pixels) == 2:
                    swapped = b.icmp_unsigned("<", *pixels)
                    pixels = [b.sub(b.select(swapped, *reversed(pixels)), b.select(swapped, *pixels))]
                floats = b.uitofp(pixels[0], ir.VectorType(FLOAT, count))
                values = b.fadd(b.fmul(floats, b.spread(scale, count)), b.spread(shift, count))
                if dtype == torch.bfloat16:
                    values = _as_bfloat16(b, values)
                place = (out, (b.sum(out_row, column), dtype.itemsize))
                if stop is a.streamed:  # past the cache, whose content is wanted again sooner
                    write = b.write(values, *place, align=_PIXELS * dtype.itemsize)
                    write.set_metadata("nontemporal", b.module.add_metadata([INT(1)]))
                else:
                    b.write(values, *place)


def _as_bfloat16(b: Code, floats: Any) -> Any:
    """The upper halves of float32s, rounded to the nearest, ties to even."""
    count = floats.type.count
    bits = b.bitcast(floats, ir.VectorType(INT, count))
    sixteen, one, below_half = (bits.type([number] * count) for number in (16, 1, 2**15 - 1))
    odd = b.and_(b.lshr(bits, sixteen), one)
    return b.trunc(b.lshr(b.add(b.add(bits, below_half), odd), sixteen), ir.VectorType(SHORT, count))
