"""Extends numba with memory access by address, and with a processor's vectors of numbers.

    SHORTS = Vector(int16, 8)
    row = read(SHORTS, address) * read(SHORTS, steps) + 4    # eight products, of 16 bits as the vectors'

The second operand of `+ - * & | ^ << >>` is a vector of the same kind, or an integer that applies to all lanes. Each
function here becomes one or a few LLVM instructions. Addresses are not checked.
"""

import inspect
import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.typing.templates import AbstractTemplate, Signature, infer_global
from numba.extending import intrinsic, lower_builtin, models, register_model

_INDEX = ir.IntType(32)


class Vector(types.Type):
    """A vector of numbers of one type, which may be a float."""

    def __init__(self, element: Any, lanes: int) -> None:
        self.element, self.lanes = element, lanes
        super().__init__(name=f"{element}x{lanes}")


@register_model(Vector)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, _llvm(kind))


def _instruction(result: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Decorates `make(kinds, builder, *operands)`, which appends to LLVM's code and returns LLVM's value, or a list of
    them for a tuple. `kinds` are the result's type and the operands'; `result` gives the first from the others.
    """

    def declare(make: Callable[..., Any]) -> Any:
        def typed(_: Any, *operands: Any) -> Any:
            def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                made = make((signature.return_type, *signature.args), builder, *values)
                if signature.return_type == types.void:
                    return context.get_dummy_value()
                return context.make_tuple(builder, signature.return_type, made) if isinstance(made, list) else made

            return Signature(result(*operands), tuple(map(_given, operands)), None), lower

        names = inspect.signature(make).parameters
        vars(typed)["__signature__"] = inspect.Signature([*names.values()][:1] + [*names.values()][2:])
        typed.__name__, typed.__doc__ = make.__name__, make.__doc__
        return intrinsic(typed)

    return declare


def _given(operand: Any) -> Any:
    """Numbers are handed over with 64 bits, unless of a float."""
    return types.int64 if isinstance(operand, types.Integer) and operand != types.uint64 else operand


def _of_kind(kind: Any, *_: Any) -> Any:
    return kind.instance_type


def _as_first(kind: Any, *_: Any) -> Any:
    return kind


def _llvm(kind: Any) -> Any:
    if isinstance(kind, Vector):
        return ir.VectorType(_llvm(kind.element), kind.lanes)
    return ir.FloatType() if isinstance(kind, types.Float) else ir.IntType(kind.bitwidth)


def _lanes(builder: Any, llvm: Any, value: Any) -> Any:
    """A vector of equal values, from one that may have more bits than a lane."""
    if isinstance(llvm.element, ir.IntType) and value.type != llvm.element:
        value = builder.trunc(value, llvm.element)
    one = builder.insert_element(llvm(ir.Undefined), value, _INDEX(0))
    return builder.shuffle_vector(one, one, ir.VectorType(_INDEX, llvm.count)([0] * llvm.count))


def _shuffled(builder: Any, one: Any, other: Any, order: list[int]) -> Any:
    return builder.shuffle_vector(one, other, ir.VectorType(_INDEX, len(order))(order))


def _llvm_function(builder: Any, name: str, result: Any, *operands: Any) -> Any:
    """LLVM's function of that name, without the `llvm.` before it: mostly one instruction of the processor."""
    name = f"llvm.{name}"
    kind = ir.FunctionType(result, [operand.type for operand in operands])
    return builder.call(builder.module.globals.get(name) or ir.Function(builder.module, kind, name), operands)


# Memory -----------------------------------------------------------------------------------------------------


@_instruction(_of_kind)
def read(kinds: Any, builder: Any, kind: Any, address: Any) -> Any:
    """The vector or number that lies at an address: `read(uint8, address)`."""
    llvm = _llvm(kinds[0])
    return builder.load(builder.inttoptr(address, llvm.as_pointer()), typ=llvm, align=1)


@_instruction(lambda kind, *_: types.UniTuple(kind.instance_type, kind.instance_type.lanes))
def read_square(kinds: Any, builder: Any, kind: Any, address: Any, step: Any) -> Any:
    """As many vectors as each has lanes, `step` bytes apart: a tuple."""
    llvm, rows = _llvm(kinds[1].instance_type), []
    for row in range(llvm.count):
        place = builder.add(address, builder.mul(step, step.type(row)))
        rows.append(builder.load(builder.inttoptr(place, llvm.as_pointer()), typ=llvm, align=1))
    return rows


@_instruction(lambda *_: types.void)
def write(kinds: Any, builder: Any, kind: Any, address: Any, value: Any) -> None:
    """A vector or number to an address: `write(uint8, address, 255)`; of a number the lower bits."""
    llvm = _llvm(kinds[1].instance_type)
    value = value if value.type == llvm else builder.trunc(value, llvm)
    builder.store(value, builder.inttoptr(address, llvm.as_pointer()), align=1)


@_instruction(lambda *_: types.void)
def write_past_the_cache(kinds: Any, builder: Any, kind: Any, address: Any, value: Any) -> None:
    """As `write`, to an address that is a multiple of the vector's bytes."""
    align = kinds[1].instance_type.lanes * kinds[1].instance_type.element.bitwidth // 8
    stored = builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=align)
    stored.set_metadata("nontemporal", builder.module.add_metadata([_INDEX(1)]))


@_instruction(lambda *_: types.void)
def show_to_other_threads(kinds: Any, builder: Any) -> None:
    """What was written past the cache."""
    builder.fence("seq_cst")


@_instruction(lambda *_: types.void)
def prefetch(kinds: Any, builder: Any, address: Any) -> None:
    """What will be read soon; it need not be there."""
    pointer = builder.inttoptr(address, ir.IntType(8).as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, _INDEX, _INDEX, _INDEX])
    function = builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], kind)
    builder.call(function, [pointer, _INDEX(0), _INDEX(3), _INDEX(1)])  # to be read, into all caches, no instructions


# Numbers of 64 bits -----------------------------------------------------------------------------------------


@_instruction(_as_first)
def bytes_swapped(kinds: Any, builder: Any, value: Any) -> Any:
    """The first byte last."""
    return builder.bswap(value)


@_instruction(lambda _: types.int64)
def zeros_below(kinds: Any, builder: Any, value: Any) -> Any:
    """How many bits lie below the lowest one that is set: 64 if there is none."""
    return builder.cttz(value, ir.IntType(1)(0))


@_instruction(_as_first)
def crc32c(kinds: Any, builder: Any, crc: Any, value: Any) -> Any:
    """After 8 more bytes, or one where `value` is no uint64; both are uint64. SSE 4.2's instruction."""
    if kinds[2] == types.uint64:
        return _llvm_function(builder, "x86.sse42.crc32.64.64", crc.type, crc, value)
    crc, byte = builder.trunc(crc, ir.IntType(32)), builder.trunc(value, ir.IntType(8))
    return builder.zext(_llvm_function(builder, "x86.sse42.crc32.32.8", crc.type, crc, byte), ir.IntType(64))


# Vectors ----------------------------------------------------------------------------------------------------


def _operator(of: Any, name: str) -> None:
    def make(builder: Any, one: Any, other: Any) -> Any:
        floats = isinstance(one.type.element, ir.FloatType)
        other = other if isinstance(other.type, ir.VectorType) else _lanes(builder, one.type, other)
        return getattr(builder, f"f{name}" if floats else name)(one, other)

    @infer_global(of)
    class _Typing(AbstractTemplate):
        def generic(self, operands: Any, _: Any) -> Any:
            if len(operands) == 2 and isinstance(operands[0], Vector):
                one, other = operands
                if other == one or isinstance(other, types.Integer):
                    return Signature(one, (one, _given(other)), None)
            return None

    @lower_builtin(of, Vector, Vector)
    @lower_builtin(of, Vector, types.Integer)
    def _lower(_: Any, builder: Any, __: Any, operands: Any) -> Any:
        return make(builder, *operands)


for _of, _name in {
    operator.add: "add",
    operator.sub: "sub",
    operator.mul: "mul",
    operator.and_: "and_",
    operator.or_: "or_",
    operator.xor: "xor",
    operator.lshift: "shl",
    operator.rshift: "ashr",
}.items():
    _operator(_of, _name)


@_instruction(_of_kind)
def all_of(kinds: Any, builder: Any, kind: Any, value: Any) -> Any:
    """A vector of equal lanes: `all_of(SHORTS, 1)`."""
    return _lanes(builder, _llvm(kinds[0]), value)


@_instruction(_of_kind)
def converted(kinds: Any, builder: Any, kind: Any, vector: Any) -> Any:
    """To lanes of another type: to more bits by the sign of what they were, to fewer by cutting off, or to floats."""
    to, of = kinds[0], kinds[2]
    if isinstance(to.element, types.Float):
        return builder.uitofp(vector, _llvm(to))
    if to.element.bitwidth <= of.element.bitwidth:
        return builder.trunc(vector, _llvm(to)) if to.element.bitwidth < of.element.bitwidth else vector
    return (builder.sext if of.element.signed else builder.zext)(vector, _llvm(to))


@_instruction(_of_kind)
def same_bits(kinds: Any, builder: Any, kind: Any, vector: Any) -> Any:
    """As another kind of vector, of as many bits."""
    return builder.bitcast(vector, _llvm(kinds[0]))


@_instruction(_as_first)
def clamped(kinds: Any, builder: Any, vector: Any, least: Any, most: Any) -> Any:
    """The bound for what is beyond; signed."""
    least, most = (_lanes(builder, vector.type, bound) for bound in (least, most))
    vector = builder.select(builder.icmp_signed("<", vector, least), least, vector)
    return builder.select(builder.icmp_signed(">", vector, most), most, vector)


@_instruction(_as_first)
def smaller(kinds: Any, builder: Any, one: Any, other: Any) -> Any:
    """Lane by lane, unsigned."""
    return builder.select(builder.icmp_unsigned("<", one, other), one, other)


@_instruction(_as_first)
def distance(kinds: Any, builder: Any, one: Any, other: Any) -> Any:
    """The larger less the smaller; unsigned."""
    less = builder.icmp_unsigned("<", one, other)
    return builder.sub(builder.select(less, other, one), builder.select(less, one, other))


@_instruction(_as_first)
def shifted_right(kinds: Any, builder: Any, vector: Any, bits: Any) -> Any:
    """Unsigned, where `>>` keeps the sign."""
    return builder.lshr(vector, _lanes(builder, vector.type, bits))


@_instruction(lambda _: types.boolean)
def is_zero(kinds: Any, builder: Any, vector: Any) -> Any:
    """Whether all lanes are."""
    whole = ir.IntType(vector.type.count * vector.type.element.width)
    return builder.icmp_unsigned("==", builder.bitcast(vector, whole), whole(0))


@_instruction(lambda *_: types.int64)
def lanes_before(kinds: Any, builder: Any, vector: Any, value: Any) -> Any:
    """How many lanes lie before the first that has a value: all of them if none has."""
    equal = builder.icmp_unsigned("==", vector, _lanes(builder, vector.type, value))
    bits = builder.bitcast(equal, ir.IntType(vector.type.count))
    return builder.zext(builder.cttz(bits, ir.IntType(1)(0)), ir.IntType(64))


@_instruction(lambda kind: Vector(kind.element, 2 * kind.lanes))
def doubled(kinds: Any, builder: Any, vector: Any) -> Any:
    """Each lane twice."""
    return _shuffled(builder, vector, vector, [lane // 2 for lane in range(2 * vector.type.count)])


@_instruction(_as_first)
def transposed(kinds: Any, builder: Any, rows: Any) -> Any:
    """The columns of as many rows as each has lanes, a power of two: a tuple of vectors to another."""
    count = len(kinds[0])
    vectors = [builder.extract_value(rows, row) for row in range(count)]
    orders = [[start + lane // 2 + lane % 2 * count for lane in range(count)] for start in (0, count // 2)]
    for _ in range(count.bit_length() - 1):  # each halves the distance of a column's values
        pairs = list(zip(vectors[: count // 2], vectors[count // 2 :], strict=True))
        vectors = [_shuffled(builder, *pair, order) for pair in pairs for order in orders]
    return vectors


@_instruction(lambda kind, *_: Vector(kind.element, 3 * kind.lanes))
def one_by_one(kinds: Any, builder: Any, first: Any, second: Any, third: Any) -> Any:
    """A lane of each in turn."""
    count = first.type.count
    both = _shuffled(builder, first, second, list(range(2 * count)))
    again = _shuffled(builder, third, third, list(range(2 * count)))
    return _shuffled(builder, both, again, [lane // 3 + lane % 3 * count for lane in range(3 * count)])


@_instruction(_as_first)
def lower_interleaved(kinds: Any, builder: Any, one: Any, other: Any) -> Any:
    """A lane of each in turn, from the first 8 of each 16."""
    return _interleaved(builder, one, other, 0)


@_instruction(_as_first)
def upper_interleaved(kinds: Any, builder: Any, one: Any, other: Any) -> Any:
    """From the last 8 of each 16."""
    return _interleaved(builder, one, other, 8)


def _interleaved(builder: Any, one: Any, other: Any, begin: int) -> Any:
    lanes = one.type.count
    of_one = [start + begin + lane for start in range(0, lanes, 16) for lane in range(8)]
    return _shuffled(builder, one, other, [lane + which for lane in of_one for which in (0, lanes)])


# x86's instructions -----------------------------------------------------------------------------------------


@_instruction(lambda kind, _: Vector(types.int32, kind.lanes // 2))
def products_added(kinds: Any, builder: Any, one: Any, other: Any) -> Any:
    """Of int16, each two neighbours' products, added."""
    name = {32: "avx512.pmaddw.d.512", 16: "avx2.pmadd.wd"}[kinds[1].lanes]
    return _llvm_function(builder, f"x86.{name}", _llvm(kinds[0]), one, other)


@_instruction(lambda kind, _: Vector(types.uint8 if kind.element == types.int16 else types.int16, 2 * kind.lanes))
def packed(kinds: Any, builder: Any, one: Any, other: Any) -> Any:
    """Two vectors in one of half as many bits a lane, 128 bits of each in turn; bounds for what is beyond, unsigned."""
    names = {
        ("int32", 16): "avx512.packusdw.512",
        ("int16", 32): "avx512.packuswb.512",
        ("int32", 8): "avx2.packusdw",
        ("int16", 16): "avx2.packuswb",
    }
    name = names[str(kinds[1].element), kinds[1].lanes]
    return _llvm_function(builder, f"x86.{name}", _llvm(kinds[0]), one, other)
