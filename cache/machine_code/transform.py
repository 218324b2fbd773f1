"""The transform of a clip on the CPU; it must equal `train.clips.plain_transform`, bit for bit.

One call transforms a clip, without the GIL: frame by frame, it reads the crop once and writes the finished clips once.
Everything in between stays in the processor's cache.

A resize runs the same code twice. `_blend` makes each output row a weighted sum of input rows, and `_turn` transposes
the result: the second time, rows are columns, and the output is one plane per colour.
"""

from typing import Any, NamedTuple

from numba import float32, int16, int32, int64, types, uint8, void

from resact.cache.machine_code.compiled import called, compiled, has, inlined
from resact.cache.machine_code.vectors import (
    Vector,
    all_of,
    converted,
    distance,
    lower_interleaved,
    packed,
    prefetch,
    products_added,
    read,
    read_square,
    same_bits,
    shifted_right,
    show_to_other_threads,
    smaller,
    transposed,
    upper_interleaved,
    write,
    write_past_the_cache,
)

LANES = 64  # bytes of a row that are summed at a time (half with AVX2), and the smallest length of a row
TILE = 16  # rows and columns that are transposed at a time
LINE = 64  # bytes of the processor's cache


class Arguments(NamedTuple):
    """Arguments of the machine code: addresses, numbers, and distances in bytes."""

    frames: int
    """Address of the crop in the first frame."""
    frame_step: int
    row_step: int
    lanes: int
    """Bytes of a row."""
    order: int
    """Address of the numbers of the frames to read, int64."""
    frames_read: int
    rows: int
    """Address of the table of input rows and weights for each output row."""
    columns: int
    """Address of the same table for columns."""
    table_step: int
    shift: int
    """Bits of a weight of 1."""
    mixed: int
    mixed_step: int
    turned: int
    planes: int
    pitch: int
    size: int
    """Height and width of the output."""
    streamed: int
    """Number of pixels of a row that are written past the cache."""
    frames_made: int
    step: int
    """Residual step; 0 without residuals."""
    rgb: int
    """Address of the output; 0 if not wanted."""
    residual: int
    rgb_scale_and_shift: int
    """Address of three scales and three shifts, float32."""
    residual_scale_and_shift: int
    bfloat16: int
    """1: the output is bfloat16, not float32."""


_PAIRS = has("avx2")
_WIDTH = LANES // 2 if _PAIRS and not has("avx512bw") else LANES
_BYTES, _SUMS = Vector(uint8, _WIDTH), Vector(int32, _WIDTH)
_SHORTS, _PART = Vector(int16, _WIDTH // 2), Vector(int32, _WIDTH // 4)
_TILE_ROW = Vector(uint8, TILE)
_PIXELS, _FLOATS = Vector(uint8, TILE), Vector(float32, TILE)
_BITS, _HALVES = Vector(int32, TILE), Vector(int16, TILE)
_PIXEL, _FLOAT, _PIXEL_BITS, _HALF = Vector(uint8, 1), Vector(float32, 1), Vector(int32, 1), Vector(int16, 1)


@inlined
def _sum_of_rows(source: int, row_step: int, taps: int, weights: int, shift: int, ahead: int) -> Any:
    """Weighted sum of some bytes of each row, rounded. The bytes `ahead` of them are prefetched; 0: none."""
    total = all_of(_SUMS, 1 << shift - 1)
    for tap in range(taps):
        if ahead != 0:
            prefetch(source + tap * row_step + ahead)
        row = converted(_SUMS, read(_BYTES, source + tap * row_step))
        total = total + row * read(int16, weights + 2 * tap)  # products of 16 bits are faster
    return converted(_BYTES, smaller(shifted_right(total, shift), all_of(_SUMS, 255)))


@inlined
def _sum_of_pairs(source: int, row_step: int, taps: int, weights: int, shift: int, ahead: int) -> Any:
    """The same, two rows at a time: x86 has an instruction that adds two products.

    The bytes of two rows are interleaved, 8 and 8 of each 16, and widened, so that each quarter has its own sums. The
    instructions that narrow sums to bytes restore their order.
    """
    none = all_of(_BYTES, 0)
    a = b = c = d = all_of(_PART, 1 << shift - 1)
    for tap in range(0, taps, 2):
        first, second = source + tap * row_step, source + min(tap + 1, taps - 1) * row_step
        if ahead != 0:
            prefetch(first + ahead)
            prefetch(second + ahead)
        pair = same_bits(_SHORTS, all_of(_PART, read(int32, weights + 2 * tap)))  # the last row may have a weight of 0
        one, other = read(_BYTES, first), read(_BYTES, second)
        lower, upper = lower_interleaved(one, other), upper_interleaved(one, other)
        a = a + products_added(same_bits(_SHORTS, lower_interleaved(lower, none)), pair)
        b = b + products_added(same_bits(_SHORTS, upper_interleaved(lower, none)), pair)
        c = c + products_added(same_bits(_SHORTS, lower_interleaved(upper, none)), pair)
        d = d + products_added(same_bits(_SHORTS, upper_interleaved(upper, none)), pair)
    lower = packed(shifted_right(a, shift), shifted_right(b, shift))
    upper = packed(shifted_right(c, shift), shifted_right(d, shift))
    return packed(lower, upper)


_weighted_sum = _sum_of_pairs if _PAIRS else _sum_of_rows


@called
def _blend(a: Arguments, table: int, source: int, row_step: int, lanes: int, ahead: int) -> None:
    """Write weighted sums of the rows at `source` to `mixed`, with the rows and weights of the table."""
    for row in range(a.size):
        entry = table + row * a.table_step
        first = source + read(int32, entry) * row_step
        taps = int64(read(int32, entry + 4))
        for start in range(0, lanes, _WIDTH):
            lane = min(start, lanes - _WIDTH)  # the last ones overlap the ones before
            values = _weighted_sum(first + lane, row_step, taps, entry + 8, a.shift, ahead)
            write(_BYTES, a.mixed + row * a.mixed_step + lane, values)


@called
def _turn(a: Arguments, lanes: int, target: int) -> None:
    """Write `mixed`, transposed, to `target`, in whole tiles."""
    for lane in range(0, lanes, TILE):
        for row in range(0, a.size, TILE):
            columns = transposed(read_square(_TILE_ROW, a.mixed + row * a.mixed_step + lane, a.mixed_step))
            for column in range(TILE):
                write(_TILE_ROW, target + (lane + column) * a.pitch + row, columns[column])


@called
def _normalise(a: Arguments, plane: int, before: int, numbers: int, out: int, frame: int) -> None:
    """Write a frame, or its difference from the one at `before` if that is not 0, to its place in `out`."""
    for colour in range(3):
        scale, shift = read(float32, numbers + 4 * colour), read(float32, numbers + 4 * (3 + colour))
        for row in range(a.size):
            source = plane + (colour * a.pitch + row) * a.pitch
            apart = before - plane if before != 0 else 0
            to = ((colour * a.frames_made + frame) * a.size + row) * a.size
            if a.bfloat16:
                _line_of_bfloat16(a, source, apart, scale, shift, out + 2 * to)
            else:
                _line_of_float32(a, source, apart, scale, shift, out + 4 * to)


@inlined
def _line_of_float32(a: Arguments, source: int, apart: int, scale: float, shift: float, out: int) -> None:
    whole = a.size & -TILE
    for x in range(0, a.streamed, TILE):
        write_past_the_cache(_FLOATS, out + 4 * x, _normalised(_PIXELS, _FLOATS, source + x, apart, scale, shift))
    for x in range(a.streamed, whole, TILE):
        write(_FLOATS, out + 4 * x, _normalised(_PIXELS, _FLOATS, source + x, apart, scale, shift))
    for x in range(whole, a.size):
        write(_FLOAT, out + 4 * x, _normalised(_PIXEL, _FLOAT, source + x, apart, scale, shift))


@inlined
def _line_of_bfloat16(a: Arguments, source: int, apart: int, scale: float, shift: float, out: int) -> None:
    whole = a.size & -TILE
    for x in range(0, a.streamed, TILE):
        floats = _normalised(_PIXELS, _FLOATS, source + x, apart, scale, shift)
        write_past_the_cache(_HALVES, out + 2 * x, _bfloat16(_BITS, _HALVES, floats))
    for x in range(a.streamed, whole, TILE):
        floats = _normalised(_PIXELS, _FLOATS, source + x, apart, scale, shift)
        write(_HALVES, out + 2 * x, _bfloat16(_BITS, _HALVES, floats))
    for x in range(whole, a.size):
        number = _normalised(_PIXEL, _FLOAT, source + x, apart, scale, shift)
        write(_HALF, out + 2 * x, _bfloat16(_PIXEL_BITS, _HALF, number))


@inlined
def _normalised(pixels: Any, floats: Any, source: int, apart: int, scale: float, shift: float) -> Any:
    """Some pixels, or their difference from those `apart` from them if that is not 0, normalised."""
    values = read(pixels, source)
    if apart != 0:
        values = distance(values, read(pixels, source + apart))
    return converted(floats, values) * all_of(floats, scale) + all_of(floats, shift)


@inlined
def _bfloat16(bits: Any, halves: Any, floats: Any) -> Any:
    """The upper halves of float32s, rounded to the nearest, ties to even."""
    whole = same_bits(bits, floats)
    odd = shifted_right(whole, 16) & 1
    return converted(halves, shifted_right(whole + (2**15 - 1) + odd, 16))


@compiled(void(types.NamedUniTuple(int64, len(Arguments._fields), Arguments)))
def transform(a: Arguments) -> None:
    """Transform a clip. Nothing is checked: arguments that do not fit would read or write other memory."""
    pixel_step = 3 * a.pitch
    for frame in range(a.frames_read):
        source = a.frames + read(int64, a.order + 8 * frame) * a.frame_step
        following = a.frames + read(int64, a.order + 8 * min(frame + 1, a.frames_read - 1)) * a.frame_step
        _blend(a, a.rows, source, a.row_step, a.lanes, following - source)
        _turn(a, a.lanes, a.turned)
        _blend(a, a.columns, a.turned, pixel_step, pixel_step, 0)
        now = a.planes + frame % (a.step + 1) * pixel_step * a.pitch
        before = a.planes + (frame + 1) % (a.step + 1) * pixel_step * a.pitch
        _turn(a, pixel_step, now)
        if a.rgb != 0 and frame < a.frames_made:
            _normalise(a, now, 0, a.rgb_scale_and_shift, a.rgb, frame)
        if a.residual != 0 and frame >= a.step:
            _normalise(a, now, before, a.residual_scale_and_shift, a.residual, frame - a.step)
    show_to_other_threads()
