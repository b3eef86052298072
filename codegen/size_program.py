"""The interpreter of size programs as an intrinsic: one loop around one switch."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from ..ir.driver_abi import INSTRUCTION_WORDS
from ..ir.plan import OPCODE, OPERATORS
from ..ir.target import Target
from .intrinsics import builder

I8, I32, I64, F32, F64 = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.FloatType(), ir.DoubleType()
WORDS = I64.as_pointer()
Emit = Callable[[ir.IRBuilder, ir.Value, ir.Value, ir.Value], ir.Value]


@builder("size_program")
def size_program(target: Target) -> object:
    """`f(program, numbers, pointers, first, last)`: run instructions first <= k < last; all arguments are int64, the first three addresses of words.

    Each instruction is (opcode, target, a, b, c), all positions of numbers except `a` of the loads, which is a position of `pointers`.
    """
    @intrinsic
    def f(typing_context: Any, program: Any, numbers: Any, pointers: Any, first: Any, last: Any) -> Any:
        def lower(context: Any, b: ir.IRBuilder, _: Any, arguments: Any) -> ir.Value:
            b.call(_interpreter(b.module), arguments)
            return context.get_dummy_value()
        return types.void(*[types.int64] * 5), lower
    return f


def _interpreter(module: ir.Module) -> ir.Function:
    """The interpreter as a function of its own, so that it is there once however many callers are inlined."""
    if "size_program" in module.globals:
        return module.globals["size_program"]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * 5), "size_program")
    function.linkage = "internal"
    function.attributes.add("noinline")
    b = ir.IRBuilder(function.append_basic_block("entry"))
    _emit_loop(b, *(b.inttoptr(a, WORDS) for a in function.args[:3]), *function.args[3:])
    b.ret_void()
    return function


def _emit_loop(b: ir.IRBuilder, program: ir.Value, numbers: ir.Value, pointers: ir.Value, first: ir.Value, last: ir.Value) -> None:
    before = b.block
    head, body, done, following = (b.append_basic_block(n) for n in ("sizes.head", "sizes.body", "sizes.done", "sizes.next"))
    b.branch(head)
    b.position_at_end(head)
    k = b.phi(I64)
    k.add_incoming(first, before)
    b.cbranch(b.icmp_signed("<", k, last), body, done)
    b.position_at_end(body)
    row = b.gep(program, [b.mul(k, I64(INSTRUCTION_WORDS))])
    opcode, at, a, second, third = (b.load(b.gep(row, [I64(j)])) for j in range(INSTRUCTION_WORDS))
    y = b.load(b.gep(numbers, [second]))
    switch = b.switch(opcode, following)
    for name in OPERATORS:
        case = b.append_basic_block(f"sizes.{name}")
        switch.add_case(I64(OPCODE[name]), case)
        b.position_at_end(case)
        if name in LOADS:
            value = LOADS[name](b, b.load(b.gep(pointers, [a])), y)
        else:
            value = OPERATIONS[name](b, b.load(b.gep(numbers, [a])), y, b.load(b.gep(numbers, [third])))
        b.store(value, b.gep(numbers, [at]))
        b.branch(following)
    b.position_at_end(following)
    k.add_incoming(b.add(k, I64(1)), following)
    b.branch(head)
    b.position_at_end(done)


def _element(kind: ir.Type, convert: Callable[[ir.IRBuilder, ir.Value], ir.Value]) -> Callable[[ir.IRBuilder, ir.Value, ir.Value], ir.Value]:
    return lambda b, address, index: convert(b, b.load(b.gep(b.inttoptr(address, kind.as_pointer()), [index])))


def _compare(relation: str) -> Emit:
    return lambda b, x, y, z: b.zext(b.icmp_signed(relation, x, y), I64)


def _logic(combine: Callable[[ir.IRBuilder, ir.Value, ir.Value], ir.Value]) -> Emit:
    return lambda b, x, y, z: b.zext(combine(b, b.icmp_signed("!=", x, I64(0)), b.icmp_signed("!=", y, I64(0))), I64)


def _pick(relation: str) -> Emit:
    return lambda b, x, y, z: b.select(b.icmp_signed(relation, x, y), x, y)


def _divide(remainder: bool, floor: bool) -> Emit:
    """Quotient or remainder; by zero it gives zero, by minus one it cannot overflow."""
    def emit(b: ir.IRBuilder, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
        zero, minus = b.icmp_signed("==", y, I64(0)), b.icmp_signed("==", y, I64(-1))
        safe = b.select(b.or_(zero, minus), I64(1), y)
        quotient, rest = b.sdiv(x, safe), b.srem(x, safe)
        if floor:
            below = b.and_(b.icmp_signed("!=", rest, I64(0)), b.icmp_signed("<", b.xor(rest, safe), I64(0)))
            quotient, rest = b.sub(quotient, b.zext(below, I64)), b.add(rest, b.select(below, safe, I64(0)))
        if remainder:
            return rest
        return b.select(zero, I64(0), b.select(minus, b.sub(I64(0), x), quotient))
    return emit


def _float(operation: Callable[[ir.IRBuilder, ir.Value, ir.Value], ir.Value]) -> Emit:
    return lambda b, x, y, z: b.bitcast(operation(b, b.bitcast(x, F64), b.bitcast(y, F64)), I64)


def _float_compare(relation: str) -> Emit:
    return lambda b, x, y, z: b.zext(b.fcmp_ordered(relation, b.bitcast(x, F64), b.bitcast(y, F64)), I64)


def _unary_intrinsic(name: str) -> Emit:
    return _float(lambda b, x, y: b.call(b.module.declare_intrinsic(name, [F64]), [x]))


def _to_integer(b: ir.IRBuilder, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
    convert = b.module.declare_intrinsic("llvm.fptosi.sat", [I64, F64], ir.FunctionType(I64, [F64]))
    return b.call(convert, [b.bitcast(x, F64)])


LOADS: dict[str, Callable[[ir.IRBuilder, ir.Value, ir.Value], ir.Value]] = {
    "load": _element(I64, lambda b, v: v),
    "load_i32": _element(I32, lambda b, v: b.sext(v, I64)),
    "load_b1": _element(I8, lambda b, v: b.zext(b.icmp_unsigned("!=", v, I8(0)), I64)),
    "load_f32": _element(F32, lambda b, v: b.bitcast(b.fpext(v, F64), I64)),
}
OPERATIONS: dict[str, Emit] = {
    "add": lambda b, x, y, z: b.add(x, y),
    "sub": lambda b, x, y, z: b.sub(x, y),
    "mul": lambda b, x, y, z: b.mul(x, y),
    "floordiv": _divide(remainder=False, floor=True),
    "mod": _divide(remainder=True, floor=True),
    "div": _divide(remainder=False, floor=False),
    "rem": _divide(remainder=True, floor=False),
    "min": _pick("<"),
    "max": _pick(">"),
    "lt": _compare("<"),
    "le": _compare("<="),
    "eq": _compare("=="),
    "ne": _compare("!="),
    "select": lambda b, x, y, z: b.select(b.icmp_signed("!=", x, I64(0)), y, z),
    "and": _logic(lambda b, x, y: b.and_(x, y)),
    "or": _logic(lambda b, x, y: b.or_(x, y)),
    "not": lambda b, x, y, z: b.zext(b.icmp_signed("==", x, I64(0)), I64),
    "abs": lambda b, x, y, z: b.select(b.icmp_signed("<", x, I64(0)), b.sub(I64(0), x), x),
    "sign": lambda b, x, y, z: b.sub(b.zext(b.icmp_signed(">", x, I64(0)), I64), b.zext(b.icmp_signed("<", x, I64(0)), I64)),
    "itof": lambda b, x, y, z: b.bitcast(b.sitofp(x, F64), I64),
    "ftoi": _to_integer,
    "fadd": _float(lambda b, x, y: b.fadd(x, y)),
    "fsub": _float(lambda b, x, y: b.fsub(x, y)),
    "fmul": _float(lambda b, x, y: b.fmul(x, y)),
    "fdiv": _float(lambda b, x, y: b.fdiv(x, y)),
    "ffloor": _unary_intrinsic("llvm.floor"),
    "fceil": _unary_intrinsic("llvm.ceil"),
    "fround": _unary_intrinsic("llvm.rint"),
    "fmin": _float(lambda b, x, y: b.select(b.fcmp_ordered("<", x, y), x, y)),
    "fmax": _float(lambda b, x, y: b.select(b.fcmp_ordered(">", x, y), x, y)),
    "flt": _float_compare("<"),
    "fle": _float_compare("<="),
    "feq": _float_compare("=="),
}
