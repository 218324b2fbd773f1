"""Computes a JPEG frame's pixels from its coefficients: inverse cosine transform and colours, as in libjpeg-turbo.

This is libjpeg's "islow": the cosine transform of Loeffler, Ligtenberg and Moschytz (ICASSP 1989) in integers. Some
sums have 16 bits, as in libjpeg-turbo's vector code; this matters only if they overflow.
"""

from typing import Any

import numpy as np
from numba import int16, int32, int64, uint8

from resact.cache.machine_code.compiled import called, inlined
from resact.cache.machine_code.jpeg_entropy import PIXELS, PIXELS_APART, ROWS_APART, STEPS, UNIT_BYTES, UNITS
from resact.cache.machine_code.jpeg_header import BLOCK
from resact.cache.machine_code.vectors import (
    Vector,
    clamped,
    converted,
    doubled,
    is_zero,
    one_by_one,
    read,
    read_square,
    transposed,
    write,
)

LANES = 32  # pixels that are coloured at a time, and so the smallest width

_BYTES, _SHORTS, _INTS = Vector(uint8, 8), Vector(int16, 8), Vector(int32, 8)
_LUMA, _OFFSETS, _BOTH = Vector(uint8, LANES), Vector(int16, LANES), Vector(int16, 16)
_RGB = Vector(uint8, 3 * LANES)

_CONSTANT_BITS, _BETWEEN_BITS = 13, 2  # fraction bits of constants; extra bits between columns and rows


def _weight(*constants: float) -> np.int64:
    """The sum of rounded constants. Not a plain number: numba would compile a function again for each."""
    return np.int64(sum(round(constant * 2**_CONSTANT_BITS) for constant in constants))


_FAR = _weight(0.541196100), _weight(0.541196100, -1.847759065)
_NEAR = _weight(0.541196100, 0.765366865), _weight(0.541196100)
_LEFT = _weight(1.175875602, -1.961570560), _weight(1.175875602)
_RIGHT = _weight(1.175875602), _weight(1.175875602, -0.390180644)
_ODD_1 = _weight(1.501321110, -0.899976223), _weight(-0.899976223)
_ODD_3 = _weight(3.072711026, -2.562915447), _weight(-2.562915447)
_ODD_5 = _weight(2.053119869, -2.562915447), _weight(-2.562915447)
_ODD_7 = _weight(0.298631336, -0.899976223), _weight(-0.899976223)

# What chroma adds to luma, in 65536ths (JFIF 1.02)
_RED_OF_RED, _BLUE_OF_BLUE = round(1.40200 * 2**16), round(1.77200 * 2**16)
_GREEN_OF_BLUE, _GREEN_OF_RED = round(-0.34414 * 2**16), round(-0.71414 * 2**16)


@called
def paint_row(a: Any, row: int, coefficients: int, out: int) -> None:
    """Compute the wanted pixels of 16 rows of a frame; `a` is the `Arguments` of `jpeg`."""
    for mcu in range(a.first_mcu, a.last_mcu):
        for unit in range(UNITS):
            entry = a.units + UNIT_BYTES * unit
            _transform_block(
                coefficients + (mcu * UNITS + unit) * 2 * BLOCK,
                read(int64, entry + STEPS),
                read(int64, entry + PIXELS) + mcu * read(int64, entry + PIXELS_APART),
                read(int64, entry + ROWS_APART),
            )
    for pair in range(8):
        _colour_two_rows(a, pair)
        for lower in (0, 1):
            y = 16 * row + 2 * pair + lower
            if a.top <= y < a.bottom:
                to = out + 3 * ((y - a.top) * (a.right - a.left))
                _paint_line(a, a.luma + (2 * pair + lower) * 16 * a.mcus, to)


@called
def _transform_block(block: int, steps: int, pixels: int, rows_apart: int) -> None:
    """Dequantise a block, transform it, write its 8x8 pixels."""
    x, step = read_square(_SHORTS, block, 16), read_square(_SHORTS, steps, 16)
    first = x[0] * step[0]
    if is_zero(x[1] | x[2] | x[3] | x[4] | x[5] | x[6] | x[7]):
        # If only the first row is not zero, libjpeg-turbo's 16-bit sums lose their upper two bits, so ours do so, too.
        first = first << _BETWEEN_BITS >> _BETWEEN_BITS
    rows = (
        *(first, x[1] * step[1], x[2] * step[2], x[3] * step[3]),
        *(x[4] * step[4], x[5] * step[5], x[6] * step[6], x[7] * step[7]),
    )
    columns = transposed(_cosines(rows, _CONSTANT_BITS - _BETWEEN_BITS))
    rows = transposed(_cosines(columns, _CONSTANT_BITS + _BETWEEN_BITS + 3))
    for row in range(8):
        write(_BYTES, pixels + row * rows_apart, converted(_BYTES, clamped(rows[row], -128, 127)) ^ 128)


@inlined
def _cosines(x: Any, shift: int) -> Any:
    """The cosine transform along the columns of 8 rows; results are rounded and lose `shift` bits."""
    half = 1 << (shift - 1)  # for rounding
    total = (converted(_INTS, x[0] + x[4]) << _CONSTANT_BITS) + half
    gap = (converted(_INTS, x[0] - x[4]) << _CONSTANT_BITS) + half
    far, near = _weighted(x[2], x[6], _FAR), _weighted(x[2], x[6], _NEAR)
    left, right = x[7] + x[3], x[5] + x[1]
    by_left, by_right = _weighted(left, right, _LEFT), _weighted(left, right, _RIGHT)
    even = total + near, gap + far, gap - far, total - near
    odd = (
        by_right + _weighted(x[1], x[7], _ODD_1),
        by_left + _weighted(x[3], x[5], _ODD_3),
        by_right + _weighted(x[5], x[3], _ODD_5),
        by_left + _weighted(x[7], x[1], _ODD_7),
    )
    return (
        _rounded(even[0] + odd[0], shift),
        _rounded(even[1] + odd[1], shift),
        _rounded(even[2] + odd[2], shift),
        _rounded(even[3] + odd[3], shift),
        _rounded(even[3] - odd[3], shift),
        _rounded(even[2] - odd[2], shift),
        _rounded(even[1] - odd[1], shift),
        _rounded(even[0] - odd[0], shift),
    )


@inlined
def _weighted(one: Any, other: Any, weights: tuple[np.int64, np.int64]) -> Any:
    return converted(_INTS, one) * weights[0] + converted(_INTS, other) * weights[1]


@inlined
def _rounded(values: Any, shift: int) -> Any:
    return converted(_SHORTS, clamped(values >> shift, -(2**15), 2**15 - 1))


@called
def _colour_two_rows(a: Any, pair: int) -> None:
    """What chroma adds to the luma of two rows, for red, green and blue, in 16 bits as in libjpeg."""
    plane = 8 * 8 * a.mcus  # bytes of each chroma's 8 rows
    line = 2 * 16 * a.mcus  # and of each colour's offsets
    for mcu in range(a.first_mcu, a.last_mcu):
        place = a.chroma + 8 * (pair * a.mcus + mcu)
        blue = converted(_INTS, read(_BYTES, place)) - 128
        red = converted(_INTS, read(_BYTES, place + plane)) - 128
        to = a.colours + 32 * mcu
        write(_BOTH, to, _offset(red * _RED_OF_RED))
        write(_BOTH, to + line, _offset(blue * _GREEN_OF_BLUE + red * _GREEN_OF_RED))
        write(_BOTH, to + 2 * line, _offset(blue * _BLUE_OF_BLUE))


@inlined
def _offset(values: Any) -> Any:
    """Rounded; each value twice, for two pixels."""
    return doubled(converted(_SHORTS, values + 2**15 >> 16))


@inlined
def _paint_line(a: Any, luma: int, to: int) -> None:
    line = 2 * 16 * a.mcus
    start = a.left
    while start < a.right:
        x = min(start, a.right - LANES)  # the last ones overlap those before
        values = converted(_OFFSETS, read(_LUMA, luma + x))
        red = _coloured(values, a.colours + 2 * x)
        green = _coloured(values, a.colours + line + 2 * x)
        blue = _coloured(values, a.colours + 2 * line + 2 * x)
        write(_RGB, to + 3 * (x - a.left), one_by_one(red, green, blue))
        start += LANES


@inlined
def _coloured(luma: Any, offsets: int) -> Any:
    return converted(_LUMA, clamped(luma + read(_OFFSETS, offsets), 0, 255))
