"""Straight-line LLVM IR written as arithmetic: values with operators, for code that must mean exactly what it says.

Range reductions and error compensation break under relaxed floating-point rules, so what is written here carries no fast-math flags, whatever flags the
kernel around it has. The same code serves scalars and vectors: a value's type decides.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Union

from llvmlite import ir
from llvmlite.ir.instructions import FastMathFlags

from ..ir.target import Target

Number = Union["Value", int, float]
BOOL = ir.IntType(1)
FIRST_LEVEL, SECOND_LEVEL = 3, 2  # localities of LLVM's prefetch
LINE_BYTES = 64  # of a cache line, of which no target has shorter ones


@dataclass(frozen=True)
class Format:
    """A binary floating-point format that processors compute in: LLVM types, bits of the fraction, bias of the exponent."""

    bits: int
    fraction: int
    bias: int
    real: ir.Type
    word: ir.IntType

    @property
    def magic(self) -> float:
        """Adding it rounds a small value to an integer, which then stands in the low bits: 1.5 * 2^fraction."""
        return 1.5 * 2.0 ** self.fraction

    @property
    def min_normal(self) -> float:
        return 2.0 ** (1 - self.bias)


F32 = Format(32, 23, 127, ir.FloatType(), ir.IntType(32))
F64 = Format(64, 52, 1023, ir.DoubleType(), ir.IntType(64))


class _Sealed(FastMathFlags):
    """Fast-math flags of a call that nothing is added to any more."""

    def __init__(self, flags: Sequence[str]) -> None:
        super().__init__()
        self.update(flags)

    def add(self, flag: str) -> None:
        pass


class Code:
    """Where instructions go: a builder and the target they are for.

    Args:
        builder: llvmlite builder at the place of emission.
        target: decides between fused and separate multiply-add, and which conversions the hardware has.
        sealed: keep the kernel's fast-math flags away from the instructions.
    """

    def __init__(self, builder: ir.IRBuilder, target: Target, sealed: bool = True) -> None:
        self.builder = builder
        self.target = target
        self.sealed = sealed

    @property
    def has_fma(self) -> bool:
        return self.target.isa in ("avx2", "avx512", "neon", "rvv") or "+fma" in self.target.features.split(",")

    @property
    def has_half(self) -> bool:
        """Whether float16 <-> float32 is an instruction."""
        return self.target.isa in ("avx2", "avx512", "neon") or "+f16c" in self.target.features.split(",")

    @property
    def has_scale(self) -> bool:
        """Whether multiplying by any power of two is an instruction (`scaled`)."""
        return self.target.isa == "avx512"

    def value(self, v: ir.Value) -> "Value":
        return Value(self, v)

    def constant(self, like: ir.Type, number: int | float) -> "Value":
        """`number` in the type `like`, in every lane of a vector."""
        element = like.element if isinstance(like, ir.VectorType) else like
        single = int(number) & ((1 << element.width) - 1) if isinstance(element, ir.IntType) else float(number)
        return Value(self, ir.Constant(like, [single] * like.count if isinstance(like, ir.VectorType) else single))

    def call(self, intrinsic: str, result: ir.Type, arguments: Sequence["Value"], overloads: Sequence[ir.Type],
             tail: Sequence[ir.Constant] = (), flags: Sequence[str] = ()) -> "Value":
        """Call `intrinsic` (`llvm.fma`) with its overload suffixes added; `tail` are further immediate operands."""
        name = ".".join((intrinsic, *map(_suffix, overloads)))
        module = self.builder.module
        function = module.globals.get(name)
        if function is None:
            kinds = [a.v.type for a in arguments] + [t.type for t in tail]
            function = ir.Function(module, ir.FunctionType(result, kinds), name)
        call = self.builder.call(function, [a.v for a in arguments] + list(tail), fastmath=flags)
        if self.sealed:
            call.fastmath = _Sealed(flags)
        return Value(self, call)

    def sealed_call(self, function: ir.Function, arguments: Sequence["Value"]) -> "Value":
        """Call a function that the kernel's fast-math flags say nothing about."""
        call = self.builder.call(function, [a.v for a in arguments])
        call.fastmath = _Sealed(())
        return Value(self, call)

    # ------------------------------------------------------------------------------------------------------- building blocks
    def fma(self, a: "Value", b: Number, c: Number) -> "Value":
        """a * b + c, rounded once where the target can."""
        b, c = a.same(b), a.same(c)
        if not self.has_fma:
            return a * b + c
        return self.call("llvm.fma", a.v.type, (a, b, c), (a.v.type,))

    def polynomial(self, x: "Value", coefficients: Sequence[float]) -> "Value":
        """Horner's scheme, lowest power first."""
        out = x.same(coefficients[-1])
        for c in reversed(coefficients[:-1]):
            out = self.fma(out, x, c)
        return out

    def select(self, condition: "Value", yes: Number, no: Number) -> "Value":
        """`yes` where the condition holds, else `no`; one of the two may be a plain number."""
        if not isinstance(yes, Value):
            assert isinstance(no, Value)
            yes = no.same(yes)
        return Value(self, self.builder.select(condition.v, yes.v, yes.same(no).v))


class Value:
    """A float or integer in registers. Operators follow its type; integers are signed unless the method says otherwise."""

    __slots__ = ("code", "v")

    def __init__(self, code: Code, v: ir.Value) -> None:
        self.code, self.v = code, v

    # ------------------------------------------------------------------------------------------------------------------ types
    @property
    def element(self) -> ir.Type:
        return self.v.type.element if isinstance(self.v.type, ir.VectorType) else self.v.type

    @property
    def is_float(self) -> bool:
        return isinstance(self.element, (ir.HalfType, ir.FloatType, ir.DoubleType))

    @property
    def format(self) -> Format:
        return F32 if isinstance(self.element, ir.FloatType) else F64

    def shaped(self, element: ir.Type) -> ir.Type:
        """`element`, as often as this value has lanes."""
        return ir.VectorType(element, self.v.type.count) if isinstance(self.v.type, ir.VectorType) else element

    def same(self, number: Number) -> "Value":
        """A number as a value of this type."""
        return number if isinstance(number, Value) else self.code.constant(self.v.type, number)

    # ------------------------------------------------------------------------------------------------------------- arithmetic
    def _binary(self, other: Number, real: str, integer: str, swap: bool = False) -> "Value":
        other = self.same(other)
        a, b = (other, self) if swap else (self, other)
        if self.is_float:
            out = getattr(self.code.builder, real)(a.v, b.v)
            if self.code.sealed:
                out.flags = [""]  # Not empty, so that flags of the kernel are not added.
        else:
            out = getattr(self.code.builder, integer)(a.v, b.v)
        return Value(self.code, out)

    def __add__(self, o: Number) -> "Value": return self._binary(o, "fadd", "add")
    def __radd__(self, o: Number) -> "Value": return self._binary(o, "fadd", "add", True)
    def __sub__(self, o: Number) -> "Value": return self._binary(o, "fsub", "sub")
    def __rsub__(self, o: Number) -> "Value": return self._binary(o, "fsub", "sub", True)
    def __mul__(self, o: Number) -> "Value": return self._binary(o, "fmul", "mul")
    def __rmul__(self, o: Number) -> "Value": return self._binary(o, "fmul", "mul", True)
    def __truediv__(self, o: Number) -> "Value": return self._binary(o, "fdiv", "sdiv")
    def __rtruediv__(self, o: Number) -> "Value": return self._binary(o, "fdiv", "sdiv", True)
    def __and__(self, o: Number) -> "Value": return self._binary(o, "", "and_")
    def __or__(self, o: Number) -> "Value": return self._binary(o, "", "or_")
    def __xor__(self, o: Number) -> "Value": return self._binary(o, "", "xor")
    def __lshift__(self, o: Number) -> "Value": return self._binary(o, "", "shl")
    def __rshift__(self, o: Number) -> "Value": return self._binary(o, "", "ashr")
    def shift_right_logical(self, o: Number) -> "Value": return self._binary(o, "", "lshr")
    def unsigned_div(self, o: Number) -> "Value": return self._binary(o, "", "udiv")
    def unsigned_rem(self, o: Number) -> "Value": return self._binary(o, "", "urem")
    def rem(self, o: Number) -> "Value": return self._binary(o, "frem", "srem")

    def __invert__(self) -> "Value":
        return self ^ -1

    def __neg__(self) -> "Value":
        return Value(self.code, self.code.builder.fneg(self.v)) if self.is_float else 0 - self

    # ------------------------------------------------------------------------------------------------------------- comparisons
    def _compare(self, other: Number, sign: str, signed: bool = True) -> "Value":
        other, b = self.same(other), self.code.builder
        if self.is_float:
            out = (b.fcmp_unordered if sign == "!=" else b.fcmp_ordered)(sign, self.v, other.v)
            if self.code.sealed:
                out.flags = [""]
        else:
            out = (b.icmp_signed if signed else b.icmp_unsigned)(sign, self.v, other.v)
        return Value(self.code, out)

    def __lt__(self, o: Number) -> "Value": return self._compare(o, "<")
    def __le__(self, o: Number) -> "Value": return self._compare(o, "<=")
    def __gt__(self, o: Number) -> "Value": return self._compare(o, ">")
    def __ge__(self, o: Number) -> "Value": return self._compare(o, ">=")
    def equals(self, o: Number) -> "Value": return self._compare(o, "==")
    def differs(self, o: Number) -> "Value": return self._compare(o, "!=")
    def below(self, o: Number) -> "Value": return self._compare(o, "<", False)
    def at_most(self, o: Number) -> "Value": return self._compare(o, "<=", False)
    def is_nan(self) -> "Value": return self._compare(self, "!=")

    # ------------------------------------------------------------------------------------------------------------- conversions
    def cast(self, instruction: str, element: ir.Type) -> "Value":
        """`bitcast`, `sitofp`, `fpext`, `trunc`, ... to lanes of `element`; the value itself where it has that type already."""
        kind = self.shaped(element)
        return self if kind == self.v.type else Value(self.code, getattr(self.code.builder, instruction)(self.v, kind))

    def word(self) -> "Value":
        """The bits of a float as an integer."""
        return self.cast("bitcast", self.format.word)

    def real(self) -> "Value":
        """The float that has these bits."""
        return self.cast("bitcast", (F32 if self.element.width == 32 else F64).real)

    def apply(self, intrinsic: str, *others: Number) -> "Value":
        """An LLVM intrinsic over operands of this type that returns this type (`llvm.fabs`)."""
        return self.code.call(intrinsic, self.v.type, (self, *map(self.same, others)), (self.v.type,))

    def __abs__(self) -> "Value":
        if self.is_float:
            return self.apply("llvm.fabs")
        return self.code.call("llvm.abs", self.v.type, (self,), (self.v.type,), tail=(ir.Constant(BOOL, 0),))

    def scaled(self, exponent: "Value") -> "Value":
        """This float times 2^exponent, rounded once; exponents are integers within 32 bits."""
        exponent = exponent.cast("trunc", ir.IntType(32))
        return self.code.call("llvm.ldexp", self.v.type, (self, exponent), (self.v.type, exponent.v.type))

    def copysign(self, sign: Number) -> "Value":
        return self.apply("llvm.copysign", sign)


def prefetch(builder: ir.IRBuilder, address: ir.Value, locality: int, written: bool = False) -> None:
    """Ask for the cache line at a pointer or address, to be read or written; it need not be memory that exists.

    Args:
        locality: `FIRST_LEVEL` or `SECOND_LEVEL` of the caches.
    """
    pointer, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
    name, module = "llvm.prefetch.p0", builder.module
    function = module.globals.get(name) or ir.Function(module, ir.FunctionType(ir.VoidType(), [pointer, flag, flag, flag]), name)
    at = builder.bitcast(address, pointer) if isinstance(address.type, ir.PointerType) else builder.inttoptr(address, pointer)
    builder.call(function, [at, flag(int(written)), flag(locality), flag(1)])


# Code of a function: (code, *arguments) -> result.
Operator = Callable[..., Value]


def _suffix(kind: ir.Type) -> str:
    if isinstance(kind, ir.VectorType):
        return f"v{kind.count}{_suffix(kind.element)}"
    if isinstance(kind, ir.IntType):
        return f"i{kind.width}"
    return {ir.HalfType: "f16", ir.FloatType: "f32", ir.DoubleType: "f64"}[type(kind)]
