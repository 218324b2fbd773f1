"""From a JPEG frame's coefficients to its pixels, in machine code for `jpeg_llvm`: cosine transform and colours.

As libjpeg-turbo does it, bit for bit.
"""

from functools import reduce
from types import SimpleNamespace
from typing import Any

from llvmlite import ir

from resact.cache.jpeg_header import BLOCK
from resact.cache.machine_code import BYTE, INT, NONE, SHORT, WHOLE, Code

UNITS = 6  # blocks of 16x16 pixels: four of luma, one of each chroma
LANES = 32  # pixels that are coloured at once, so the least width

# Columns of the table of units: where a unit's Huffman tables are, where its component's DC is kept, where its steps of
# quantisation are, where its pixels go, and how far apart those of the same unit in the next 16x16 pixels and of its
# own next row are.
UNIT = ("huffman", "dc", "steps", "pixels", "pixels_apart", "rows_apart")

# libjpeg's "islow": the cosine transform of Loeffler, Ligtenberg and Moschytz (ICASSP 1989) in whole numbers, with
# constants of 13 bits, and 2 bits more between the columns and the rows.
_CONSTANT_BITS, _BETWEEN_BITS = 13, 2


def inverse_function(module: Any) -> Any:
    """(block, steps, pixels, rows_apart): dequantise a block, transform it, write its 8x8 pixels."""
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [WHOLE] * 4), "inverse")
    block, steps, pixels, rows_apart = function.args
    b = Code(function.append_basic_block())
    shorts = ir.VectorType(SHORT, 8)
    rows = [b.read(shorts, block, 16 * row) for row in range(8)]
    others = reduce(b.or_, rows[1:])
    flat = b.icmp_unsigned("==", b.bitcast(others, ir.IntType(128)), ir.IntType(128)(0))
    rows = [b.mul(values, b.read(shorts, steps, 16 * row)) for row, values in enumerate(rows)]
    # Where there is only the first row, libjpeg-turbo's 16 bits overflow where ours would not: they lose the first two.
    two = shorts([_BETWEEN_BITS] * 8)
    rows[0] = b.select(flat, b.ashr(b.shl(rows[0], two), two), rows[0])
    rows = _cosines(b, rows, _CONSTANT_BITS - _BETWEEN_BITS)
    rows = _cosines(b, b.transposed(rows), _CONSTANT_BITS + _BETWEEN_BITS + 3)
    for row, values in enumerate(b.transposed(rows)):
        signed = _narrowed(b, values, BYTE, -128, 127)
        b.write(b.xor(signed, signed.type([128] * 8)), pixels, (row, rows_apart))
    b.ret_void()
    return function


def _cosines(b: Code, row: list[Any], shift: int) -> list[Any]:
    """Along the columns of 8 rows; results are rounded and have `shift` bits less.

    Some sums have 16 bits, as where libjpeg-turbo does the same in vectors; that shows only where they overflow.
    """
    ints = ir.VectorType(INT, 8)

    def dot(*terms: tuple[Any, tuple[float, ...]]) -> Any:
        """Sum of values times sums of constants, each of which is rounded."""
        total = ints([0] * 8)
        for value, constants in terms:
            weight = sum(round(constant * 2**_CONSTANT_BITS) for constant in constants)
            total = b.add(total, b.mul(b.sext(value, ints), ints([weight] * 8)))
        return total

    far = dot((row[2], (0.541196100,)), (row[6], (0.541196100, -1.847759065)))
    near = dot((row[2], (0.541196100, 0.765366865)), (row[6], (0.541196100,)))
    bits, half = ints([_CONSTANT_BITS] * 8), ints([1 << shift - 1] * 8)  # half of what is cut off, in every result
    total, gap = b.add(row[0], row[4]), b.sub(row[0], row[4])
    total, gap = (b.add(b.shl(b.sext(value, ints), bits), half) for value in (total, gap))
    even = [b.add(total, near), b.add(gap, far), b.sub(gap, far), b.sub(total, near)]

    left, right = b.add(row[7], row[3]), b.add(row[5], row[1])
    by_left = dot((left, (1.175875602, -1.961570560)), (right, (1.175875602,)))
    by_right = dot((left, (1.175875602,)), (right, (1.175875602, -0.390180644)))
    odd = [
        b.add(by_right, dot((row[1], (1.501321110, -0.899976223)), (row[7], (-0.899976223,)))),
        b.add(by_left, dot((row[3], (3.072711026, -2.562915447)), (row[5], (-2.562915447,)))),
        b.add(by_right, dot((row[5], (2.053119869, -2.562915447)), (row[3], (-2.562915447,)))),
        b.add(by_left, dot((row[7], (0.298631336, -0.899976223)), (row[1], (-0.899976223,)))),
    ]
    sums = [b.add(one, other) for one, other in zip(even, odd, strict=True)]
    gaps = [b.sub(one, other) for one, other in zip(even, odd, strict=True)]
    by = ints([shift] * 8)
    return [_narrowed(b, b.ashr(value, by), SHORT, -(2**15), 2**15 - 1) for value in sums + gaps[::-1]]


def _narrowed(b: Code, values: Any, kind: Any, least: int, most: int) -> Any:
    """With fewer bits: the bound for what is beyond."""
    low, high = (values.type([bound] * values.type.count) for bound in (least, most))
    values = b.select(b.icmp_signed("<", values, low), low, values)
    values = b.select(b.icmp_signed(">", values, high), high, values)
    return b.trunc(values, ir.VectorType(kind, values.type.count))


def paint_row(b: Code, a: SimpleNamespace, row: Any, coefficients: Any, out: Any, inverse: Any) -> None:
    """The wanted pixels of 16 rows of a frame; `a` holds the arguments of `jpeg_llvm`."""
    with b.count(a.first_mcu, a.last_mcu) as mcu, b.count(NONE, WHOLE(UNITS)) as unit:
        entry = b.sum(a.units, (unit, 8 * len(UNIT)))
        steps, pixels, apart, rows_apart = (b.read(WHOLE, entry, 8 * column) for column in range(2, 6))
        block = b.sum(coefficients, (b.sum((mcu, UNITS), unit), 2 * BLOCK))
        b.call(inverse, [block, steps, b.sum(pixels, (mcu, apart)), rows_apart])
    pitch = b.mul(a.mcus, WHOLE(16))
    first = b.mul(row, WHOLE(16))
    with b.count(NONE, WHOLE(8)) as pair:
        _colour_pair(b, a, pair)
        for lower in (0, 1):
            in_row = b.sum((pair, 2), lower)
            y = b.sum(first, in_row)
            wanted = b.and_(b.icmp_signed(">=", y, a.top), b.icmp_signed("<", y, a.bottom))
            with b.if_then(wanted), b.count(a.left, a.right, LANES) as start:
                x = b.least(start, b.sum(a.right, -LANES))  # the last ones overlap those before
                luma = b.zext(b.read(ir.VectorType(BYTE, LANES), a.luma, (in_row, pitch), x), _SHORTS)
                planes = []
                for colour in range(3):
                    offset = b.read(_SHORTS, a.colours, (b.sum((colour, pitch), x), 2))
                    planes.append(_narrowed(b, b.add(luma, offset), BYTE, 0, 255))
                b.write(
                    _interleaved(b, planes),
                    out,
                    (b.sum((b.sub(y, a.top), b.sub(a.right, a.left)), x, b.neg(a.left)), 3),
                )


_SHORTS = ir.VectorType(SHORT, LANES)


def _colour_pair(b: Code, a: SimpleNamespace, pair: Any) -> None:
    """What chroma adds to the luma of two rows, for red, green and blue (JFIF 1.02, in 16 bits as libjpeg does it)."""
    bytes_, ints, shorts = (ir.VectorType(kind, 8) for kind in (BYTE, INT, SHORT))
    twice = ir.VectorType(INT, 16)([lane // 2 for lane in range(16)])
    half_pitch = b.mul(a.mcus, WHOLE(8))
    with b.count(a.first_mcu, a.last_mcu) as mcu:
        rows = (b.sum(a.chroma, (b.sum(pair, 8 * which), half_pitch), (mcu, 8)) for which in (0, 1))
        blue, red = (b.sub(b.zext(b.read(bytes_, row), ints), ints([128] * 8)) for row in rows)
        for colour, (of_blue, of_red) in enumerate(((0, 1.40200), (-0.34414, -0.71414), (1.77200, 0))):
            weights = (ints([round(weight * 2**16)] * 8) for weight in (of_blue, of_red))
            parts = [b.mul(chroma, weight) for chroma, weight in zip((blue, red), weights, strict=True)]
            value = b.ashr(b.add(b.add(*parts), ints([2**15] * 8)), ints([16] * 8))
            value = b.trunc(value, shorts)
            place = b.sum((colour, a.mcus, 16), (mcu, 16))
            b.write(b.shuffle_vector(value, value, twice), a.colours, (place, 2))


def _interleaved(b: Code, planes: list[Any]) -> Any:
    """Pixel by pixel."""
    red, green, blue = planes
    order = ir.VectorType(INT, 2 * LANES)(list(range(2 * LANES)))
    first, second = b.shuffle_vector(red, green, order), b.shuffle_vector(blue, blue, order)
    by_pixel = [lane // 3 + lane % 3 * LANES for lane in range(3 * LANES)]
    return b.shuffle_vector(first, second, ir.VectorType(INT, 3 * LANES)(by_pixel))
