"""Machine code for the processor at hand, made by LLVM while the program runs: no compiler is needed."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

from llvmlite import binding, ir

BYTE, SHORT, INT, WHOLE, FLOAT = (*map(ir.IntType, (8, 16, 32, 64)), ir.FloatType())
NONE = WHOLE(0)

LOCK = Lock()
"""To be held while code is made."""


class Code(ir.IRBuilder):  # type: ignore[misc]
    """Appends to a function. Addresses are whole numbers."""

    def sum(self, *terms: Any) -> Any:
        """Of whole numbers, ours or the code's, and of products, which are tuples."""
        total = NONE
        for term in terms:
            product = WHOLE(1)
            for factor in term if isinstance(term, tuple) else (term,):
                product = self.mul(product, WHOLE(factor) if isinstance(factor, int) else factor)
            total = self.add(total, product)
        return total

    def least(self, one: Any, other: Any) -> Any:
        """The smaller of two unsigned numbers; of vectors, lane by lane."""
        return self.select(self.icmp_unsigned("<", one, other), one, other)

    def read(self, kind: Any, *address: Any) -> Any:
        """The value at the sum of the terms."""
        return self.load(self.inttoptr(self.sum(*address), kind.as_pointer()), typ=kind, align=1)

    def write(self, value: Any, *address: Any, align: int = 1) -> Any:
        """A value to the sum of the terms."""
        return self.store(value, self.inttoptr(self.sum(*address), value.type.as_pointer()), align=align)

    def spread(self, value: Any, lanes: int) -> Any:
        """A vector of equal values."""
        one = self.insert_element(ir.VectorType(value.type, lanes)(ir.Undefined), value, INT(0))
        return self.shuffle_vector(one, one, ir.VectorType(INT, lanes)([0] * lanes))

    def transposed(self, rows: list[Any]) -> list[Any]:
        """The columns of as many rows as each has values, a power of two."""
        count = len(rows)
        merge = [[start + lane // 2 + lane % 2 * count for lane in range(count)] for start in (0, count // 2)]
        orders = [ir.VectorType(INT, count)(order) for order in merge]
        for _ in range(count.bit_length() - 1):  # each halves the distance of a column's values
            pairs = list(zip(rows[: count // 2], rows[count // 2 :], strict=True))
            rows = [self.shuffle_vector(*pair, order) for pair in pairs for order in orders]
        return rows

    def prefetch(self, *address: Any) -> None:
        """What will be read soon; it need not be there."""
        pointer = self.inttoptr(self.sum(*address), BYTE.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, INT, INT, INT])
        function = self.module.declare_intrinsic("llvm.prefetch", [pointer.type], kind)
        self.call(function, [pointer, INT(0), INT(3), INT(1)])  # to be read, into all caches, no instructions

    def intrinsic(self, name: str, result: Any, *operands: Any) -> Any:
        """LLVM's function of that name, without the `llvm.` before it: mostly one instruction of the processor."""
        name = f"llvm.{name}"
        kind = ir.FunctionType(result, [operand.type for operand in operands])
        return self.call(self.module.globals.get(name) or ir.Function(self.module, kind, name), operands)

    @contextmanager
    def count(self, start: Any, stop: Any, step: int = 1) -> Iterator[Any]:
        """A loop."""
        before, body, after = self.block, self.append_basic_block(), self.append_basic_block()
        self.cbranch(self.icmp_signed("<", start, stop), body, after)
        self.position_at_end(body)
        index = self.phi(WHOLE)
        index.add_incoming(start, before)
        yield index
        following = self.sum(index, step)
        index.add_incoming(following, self.block)
        self.cbranch(self.icmp_signed("<", following, stop), body, after)
        self.position_at_end(after)


def has(feature: str) -> bool:
    """Whether the processor at hand has some instructions, by LLVM's name for them."""
    return bool(binding.get_host_cpu_features().get(feature))


def compiled(module: Any) -> Any:
    """The engine that owns the code; `get_function_address` says where each function is, while the engine lives."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    machine = binding.Target.from_default_triple().create_target_machine(
        cpu=binding.get_host_cpu_name(), features=binding.get_host_cpu_features().flatten()
    )
    parsed = binding.parse_assembly(str(module))
    passes = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options(speed_level=2))
    passes.getModulePassManager().run(parsed, passes)
    engine = binding.create_mcjit_compiler(parsed, machine)
    engine.finalize_object()
    return engine
