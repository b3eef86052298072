"""Scalar expressions as Python text: names in order of appearance, sizes as parameters, each value in the outermost place where it is known.

`Writer` collects what a kernel's signature needs. `Scope` is one indented block of the text. `Emitter.value` gives the spelling of an expression in a scope,
writing assignments into that scope or an enclosing one: what does not change in a loop lands before the loop, and equal expressions are computed once.
"""
from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ..ir import dtypes as dt
from ..ir import expr as ex
from ..ir import integer
from ..ir.dtypes import DType
from ..ir.errors import UnsupportedError
from ..ir.expr import Expr, Tensor
from .cases import Facts, Segment, segments, with_facts
from .flatten import is_size
from .windows import clip

SHORT_MEAN = 15  # elements up to which a mean's count stays in the text: windows, whose sums are as short as the division
MOST_EXACT = 1 << 24  # whole numbers that every compute type holds
MAX_SPELLING = 60  # characters of an operand before it gets a name of its own
_SYMBOLS = {"add": "+", "sub": "-", "mul": "*", "lt": "<", "le": "<=", "eq": "==", "ne": "!=", "and": "&", "or": "|", "xor": "^",
            "bitand": "&", "bitor": "|", "bitxor": "^"}
_DEFINED = frozenset(("acc", "reduce"))  # what scopes give names to
_COMPARISONS = frozenset(("lt", "le", "eq", "ne"))


@dataclass
class Writer:
    """A kernel's buffers, parameters and constants, numbered in order of appearance."""

    buffers: dict[Tensor, str] = field(default_factory=dict)
    written: set[Tensor] = field(default_factory=set)
    parameters: list[Expr] = field(default_factory=list)
    constants: dict[str, tuple[str, tuple]] = field(default_factory=dict)
    _sizes: dict[object, str] = field(default_factory=dict)
    _counts: Counter[str] = field(default_factory=Counter)

    def name(self, stem: str) -> str:
        """A fresh local name."""
        self._counts[stem] += 1
        return f"{stem}{self._counts[stem] - 1}"

    def buffer(self, tensor: Tensor) -> str:
        return self.buffers.setdefault(tensor, f"b{len(self.buffers)}")

    def parameter(self, size: Expr, key: object = None) -> str:
        """A parameter that carries `size`. Equal sizes in different roles stay apart, so that the text never depends on coincidence; `key` names the role."""
        if key is not None and key in self._sizes:
            return self._sizes[key]
        name = f"p{len(self.parameters)}"
        self.parameters.append(size)
        if key is not None:
            self._sizes[key] = name
        return name

    def function(self, name: str, builder: str, *arguments: object) -> str:
        """A name that codegen resolves to an intrinsic."""
        self.constants.setdefault(name, (builder, arguments))
        return name

    def math(self, name: str) -> str:
        """A function of `mathlib`, by its name there."""
        return self.function(name, "math", name)

    def constant_list(self) -> tuple[tuple[str, str, tuple], ...]:
        return tuple((n, b, a) for n, (b, a) in self.constants.items())


SHORT_SUM = 1024  # terms


class Scope:
    """A block of text within its parent.

    Args:
        axes: spelling of the axes bound here.
        conditional: whether the block may be skipped, so that guarded loads must stay inside.
    """

    def __init__(self, parent: "Scope | None", axes: dict[Expr, str] | None = None, conditional: bool = False) -> None:
        self.parent, self.axes, self.conditional = parent, axes or {}, conditional
        self.lines: list[str] = []
        self.names: dict[Expr, str] = {}
        self.rows: dict[Expr, str] = {}  # expressions whose values along a whole axis stand in scratch memory
        self.pending_rows: dict[Expr, str] = {}  # those that this block, a loop, fills: known to its parent when it ends

    def chain(self) -> list["Scope"]:
        """From the outermost scope to this one."""
        out: list[Scope] = []
        s: Scope | None = self
        while s is not None:
            out.append(s)
            s = s.parent
        return out[::-1]

    def bound(self) -> frozenset[Expr]:
        """Axes that have a value here."""
        return frozenset(a for s in self.chain() for a in s.axes)

    def find(self, e: Expr) -> str | None:
        """The name of `e` here. Names outside of a scope that binds one of its axes belong to another binding: reductions may go along an axis that is bound already."""
        s: Scope | None = self
        while s is not None:
            if e in s.names:
                return s.names[e]
            if e in s.axes:
                return s.axes[e]
            if s.axes and not e.axes.isdisjoint(s.axes):
                return None
            s = s.parent
        return None

    def find_row(self, e: Expr) -> str | None:
        """Scratch memory that holds `e` along an axis, as far as this scope knows."""
        s: Scope | None = self
        while s is not None:
            if e in s.rows:
                return s.rows[e]
            s = s.parent
        return None

    def binding(self, axis: Expr) -> "Scope | None":
        """The scope around (or at) this one that binds an axis."""
        s: Scope | None = self
        while s is not None and axis not in s.axes:
            s = s.parent
        return s

    def close(self, header: str) -> None:
        """Put the finished block into its parent, below `header`."""
        assert self.parent is not None
        self.parent.rows.update(self.pending_rows)
        self.parent.lines.append(header)
        self.parent.lines.extend("    " + x for x in self.lines or ["pass"])


def literal(value: ex.Scalar, dtype: DType) -> str:
    """A constant's spelling in the compute type of `dtype`."""
    dtype = dt.compute_type(dtype)
    if dtype.kind == "bool":
        return repr(bool(value))
    if dtype.is_float:
        number = float(value)
        text = {"inf": "np.inf", "-inf": "-np.inf", "nan": "np.nan"}.get(repr(number), repr(number))
        return f"{dtype.numpy_name}({text})"
    if dtype.kind == "complex":
        return f"{dtype.numpy_name}({complex(value)!r})"
    return repr(int(value)) if dtype is dt.int64 else f"{number_type(dtype)}({int(value)})"


def number_type(dtype: DType) -> str:
    """The scalar type in which values of `dtype` are held in registers."""
    dtype = dt.compute_type(dtype)
    if dtype.is_integer and dtype.bits < 8:
        return f"{dtype.kind}8"
    return dtype.numpy_name


class Emitter:
    """Spells expressions.

    Args:
        writer: the kernel's signature.
        buffers: flat tensor -> tensor, as in a flat nest.
        guarded: flat tensors whose loads must stay behind their condition.
        size_loads: loads that are sizes.
        order: axis -> position, for a canonical order of terms.
    """

    def __init__(self, writer: Writer, buffers: dict[Tensor, Tensor], guarded: Iterable[Tensor], size_loads: frozenset[Expr], order: dict[Expr, int]) -> None:
        self.writer, self.buffers, self.guarded, self.size_loads, self.order = writer, buffers, set(guarded), size_loads, order
        self.ranges: dict[Expr, tuple[str, str]] = {}  # axes of which a unit covers a part: first and end
        self.tiles: dict[Expr, Callable[[Scope], tuple[str, str]]] = {}  # loads whose elements stand elsewhere: buffer and position
        self.literals = 0  # steps and offsets up to this belong to the text
        self.clips: dict[Expr, tuple[str, str]] = {}  # reduced axes of which only a part matters: first and end
        self.kept: dict[Expr, Expr] = {}  # expressions kept in rows along an axis
        self.reductions: list[Expr] = []
        self.uses: Counter[Expr] = Counter()
        self._counted: set[Expr] = set()
        self._guarded_cache: dict[Expr, bool] = {}
        self._keys: dict[Expr, str] = {}

    def count(self, roots: Iterable[Expr]) -> None:
        """Note how often each expression is used, to give names to those used more than once."""
        for e in ex.walk([r for r in roots if r not in self._counted]):
            if e in self._counted:
                continue
            self._counted.add(e)
            self.uses.update(set(ex.children(e)) if e.op == "poly" else e.args)
            if e.op == "reduce":
                self.reductions.append(e)

    # ------------------------------------------------------------------------------------------------------------- placement
    def is_guarded(self, e: Expr) -> bool:
        """Whether evaluating `e` outside of its condition might read out of range."""
        if e not in self._guarded_cache:
            own = e.op == "load" and ex.load_tensor(e) in self.guarded
            self._guarded_cache[e] = own or any(self.is_guarded(a) for a in (e.args[:1] if e.op == "where" and self.is_lazy(e) else ex.children(e)))
        return self._guarded_cache[e]

    def is_lazy(self, e: Expr) -> bool:
        """Whether only the chosen branch of a `where` may be evaluated."""
        return any(self.is_guarded(a) for a in e.args[1:])

    def place(self, e: Expr, scope: Scope) -> Scope:
        """The outermost scope, of those around `scope`, where `e` can be evaluated."""
        chain = scope.chain()
        depth = max((k for k, s in enumerate(chain) if not e.axes.isdisjoint(s.axes)), default=0)
        if self.is_guarded(e):
            depth = max([depth] + [k for k, s in enumerate(chain) if s.conditional])
        for k in range(len(chain) - 1, depth, -1):  # what an operand's definition is bound to
            if any(n in chain[k].names for n in ex.below(e, _DEFINED)):
                depth = k
                break
        return chain[depth]

    # ---------------------------------------------------------------------------------------------------------------- values
    def value(self, e: Expr, scope: Scope) -> str:
        """The spelling of `e` in `scope`, an atom or an expression in parentheses."""
        known = scope.find(e)
        if known is not None:
            return known
        if e.op == "const" and not self._is_parameter_constant(e):
            return literal(e.value, e.dtype)
        if is_size(e, self.size_loads):
            return self.size(e, scope)
        target = self.place(e, scope)
        if e.op == "reduce":
            return self.reduction(e, target)
        if e.op == "where" and self.is_lazy(e):
            return self.branch(e, target)
        text = self.spell(e, target)
        if target is scope and self.uses[e] <= 1 and len(text) <= MAX_SPELLING:
            return text
        return self.assign(e, text, target)

    def assign(self, e: Expr, text: str, scope: Scope) -> str:
        """Give `text`, the value of `e`, a name in `scope`."""
        if text.isidentifier():
            scope.names[e] = text
            return text
        name = self.writer.name("t")
        scope.lines.append(f"{name} = {bare(text)}")
        scope.names[e] = name
        return name

    def _is_parameter_constant(self, e: Expr) -> bool:
        return e.dtype is dt.int64 and abs(e.value) > 1

    @staticmethod
    def _is_long_mean(e: Expr) -> bool:
        """Whether a sum is divided by so many that the number should not be part of the text: the means of rows of all lengths are one kernel."""
        if e.op != "div" or e.args[0].op != "reduce" or not e.args[1].is_const or not e.dtype.is_float:
            return False
        return SHORT_MEAN < e.args[1].value < MOST_EXACT and e.args[1].value % 1 == 0

    def size(self, e: Expr, scope: Scope) -> str:
        """A parameter."""
        root = scope.chain()[0]
        if e.dtype is dt.boolean:
            root.names[e] = f"({self.writer.parameter(ex.make('where', (e, ex.const(1), ex.const(0)), dt.int64))} != 0)"
        else:
            root.names[e] = self.writer.parameter(e)
        return root.names[e]

    def spell(self, e: Expr, scope: Scope) -> str:
        """The text of one node, its operands spelled for `scope`."""
        op, kind = e.op, e.dtype
        if op == "poly":
            return self.polynomial(e, scope)
        if op == "load":
            return self.load(e, scope)
        if op == "cast":
            return self.cast(e, scope)
        if self._is_long_mean(e):
            count = self.writer.parameter(ex.const(int(e.args[1].value)), ("count", e.args[1]))
            return f"({self.value(e.args[0], scope)} / {number_type(kind)}({count}))"
        a = [self.value(x, scope) for x in e.args]
        operand = dt.compute_type(e.args[0].dtype)
        if op == "where":
            if kind.kind in ("float", "int", "uint") and any(map(self.is_cheap_read, e.args[1:])):
                number = number_type(kind)
                return f"{self.writer.function(f'select_{number}', 'select', number)}({', '.join(map(bare, a))})"
            return f"({a[1]} if {a[0]} else {a[2]})"
        if op == "not":
            return f"(not {a[0]})"
        if op in _COMPARISONS or op in ("and", "or", "xor"):
            return f"({a[0]} {_SYMBOLS[op]} {a[1]})"
        if op in ("min", "max") and kind is dt.int64:
            return f"{op}({', '.join(map(bare, a))})"
        if op in _SYMBOLS:
            return self.wrapped(f"({a[0]} {_SYMBOLS[op]} {a[1]})", kind)
        if op == "neg":
            return self.wrapped(f"(-{a[0]})", kind)
        if op == "div" and operand.is_float:
            return f"({a[0]} / {a[1]})"
        if op == "bitcast":
            return f"{self.writer.math(f'bits_{e.args[0].dtype.short}_to_{kind.short}')}({bare(a[0])})"
        return f"{self.writer.math(f'{op}_{operand.short}')}({', '.join(map(bare, a))})"

    @staticmethod
    def is_cheap_read(e: Expr) -> bool:
        """Whether a side of a `where` reads memory and does little else: in a branch of its own, the read would keep LLVM from vectorising the loop."""
        nodes = list(ex.walk([e]))
        return any(n.op == "load" for n in nodes) and all(n.op in ex.CHEAP or n.op in ("load", "const", "acc", "poly", "axis", "sym") for n in nodes)

    def wrapped(self, text: str, dtype: DType) -> str:
        """Integer arithmetic narrower than 64 bits, cut back to its type (Numba widens it)."""
        if dtype.is_integer and dtype.bits < 64:
            return f"{number_type(dtype)}({bare(text)})"
        return text

    def load(self, e: Expr, scope: Scope) -> str:
        tensor = self.buffers.get(ex.load_tensor(e), ex.load_tensor(e))
        if e in self.tiles:
            buffer, at = self.tiles[e](scope)
        else:
            buffer, at = self.writer.buffer(tensor), bare(self.value(e.args[0], scope))
        if tensor.dtype.kind == "bool":
            return f"({buffer}[{at}] != 0)"
        if tensor.dtype.bits < 8 or (tensor.dtype.is_float and tensor.dtype.bits < 32):
            return f"{self.writer.math(f'load_{tensor.dtype.short}')}({buffer}, {at})"
        return f"{buffer}[{at}]"

    def store(self, tensor: Tensor, at: str, value: str) -> str:
        """The statement that writes one element."""
        buffer = self.writer.buffer(tensor)
        self.writer.written.add(tensor)
        at, value = bare(at), bare(value)
        if tensor.dtype.kind == "bool":
            return f"{buffer}[{at}] = uint8({value})"
        if tensor.dtype.bits < 8 or (tensor.dtype.is_float and tensor.dtype.bits < 32):
            return f"{self.writer.math(f'store_{tensor.dtype.short}')}({buffer}, {at}, {value})"
        return f"{buffer}[{at}] = {value}"

    def cast(self, e: Expr, scope: Scope) -> str:
        """A conversion; narrow floats are held as float32, so that widening them costs nothing and narrowing rounds."""
        source, target = e.args[0].dtype, e.dtype
        if target is dt.int32 and source is dt.float32 and e.args[0].op == "round":
            return f"{self.writer.math('round_f32_to_i32')}({bare(self.value(e.args[0].args[0], scope))})"
        a = bare(self.value(e.args[0], scope))
        if target.kind == "bool":
            return f"({a} != {literal(0, source)})" if a.isidentifier() else f"(({a}) != {literal(0, source)})"
        if source.is_float and target is dt.compute_type(source):
            return f"({a})"
        if (source.is_integer and target.is_integer and target.bits >= 8) or (source.kind == "bool" and target.bits >= 32) or \
                (source.kind == "bool" and target.is_integer) or (source is dt.float32 and target is dt.float64):
            return f"{number_type(target)}({a})"
        saturated = "_sat" if e.value and target.is_float and target.bits <= 8 else ""
        return f"{self.writer.math(f'{source.short}_to_{target.short}{saturated}')}({a})"

    # ------------------------------------------------------------------------------------------------------ integer polynomials
    def polynomial(self, e: Expr, scope: Scope) -> str:
        """A sum, the part that is known further out first and under a name of its own there."""
        groups: dict[tuple[Expr, ...], integer.Terms] = {}
        for mono, k in e.value:
            varying = tuple(a for a in mono if not is_size(a, self.size_loads))
            fixed = tuple(a for a in mono if is_size(a, self.size_loads))
            groups.setdefault(varying, {})[fixed] = k
        chain = scope.chain()
        depth = {v: max((chain.index(self.place(a, scope)) for a in v), default=0) for v in groups}
        deepest = max(depth.values())
        outer = {v: t for v, t in groups.items() if depth[v] < deepest or not v}
        parts: list[str] = []
        if len(outer) == 1 and () in outer and len(groups) > 1:  # what differs by a constant shares the rest
            rest = _sum({v: t for v, t in groups.items() if v})
            text = self.value(rest, scope)
            parts = [text if text.isidentifier() else self.assign(rest, text, scope)]
            groups = outer
        elif outer and len(outer) < len(groups):
            parts = [self.value(_sum(outer), scope)]
            groups = {v: t for v, t in groups.items() if v not in outer}
        for v in sorted(groups, key=lambda v: (not v, [self.key(a) for a in v])):
            factor = integer.from_terms(groups[v])
            names = [self.value(a, scope) for a in v]
            if factor.is_const and abs(factor.value) == 1 and names:
                text, sign = " * ".join(names), "-" if factor.value < 0 else "+"
            elif factor.is_const and abs(factor.value) == 1:
                text, sign = "1", "-" if factor.value < 0 else "+"
            else:
                text, sign = " * ".join([*names, self.factor(factor)]), "+"
            parts.append(f" {sign} {text}" if parts else ("-" if sign == "-" else "") + text)
        return f"({''.join(parts)})"

    def factor(self, size: Expr) -> str:
        """A step or offset: a parameter, or part of the text where axes are written out."""
        return str(size.value) if size.is_const and abs(size.value) <= self.literals else self.writer.parameter(size)

    def key(self, e: Expr) -> str:
        """A spelling that depends on structure alone, to order the terms of a sum."""
        if e not in self._keys:
            if e.op == "axis":
                found = f"axis{self.order.get(e, 99):02d}"
            elif is_size(e, self.size_loads):
                found = "size"
            elif e.op == "load":
                found = f"load {e.dtype.short} {self.key(e.args[0])}"
            else:
                found = f"{e.op} {e.dtype.short} {[self.key(a) for a in ex.children(e)]}"
            if len(found) > 200:
                found = f"{e.op} {hashlib.sha1(found.encode()).hexdigest()}"
            self._keys[e] = found
        return self._keys[e]

    # ----------------------------------------------------------------------------------------------------------- control flow
    def branch(self, e: Expr, scope: Scope) -> str:
        """A `where` of which only the chosen side is evaluated: a statement in `scope`."""
        condition = bare(self.value(e.args[0], scope))
        name = self.writer.name("t")
        blocks = []
        for header, side in ((f"if {condition}:", e.args[1]), ("else:", e.args[2])):
            block = Scope(scope, conditional=True)
            text = bare(self.value(side, block))
            block.lines.append(f"{name} = {text}")
            blocks.append((block, header))
        for block, header in blocks:  # after both, whose invariants may have landed in `scope`
            block.close(header)
        scope.names[e] = name
        return name

    def loop(self, axis: Expr, scope: Scope) -> tuple[Scope, str]:
        """A loop over an axis (the part of it in `ranges`, if any): its scope and header."""
        name = self.writer.name("i")
        bounds = self.clips.get(axis) or self.ranges.get(axis) or (self.writer.parameter(axis.extent, axis),)
        return Scope(scope, {axis: name}), f"for {name} in range({', '.join(bounds)}):"

    def nested(self, axes: Sequence[Expr], scope: Scope, statement: Callable[[Scope], None]) -> None:
        """Loops over `axes` around what `statement` writes."""
        if not axes:
            statement(scope)
            return
        block, header = self.loop(axes[0], scope)
        self.nested(axes[1:], block, statement)
        block.close(header)

    def reduction(self, e: Expr, scope: Scope) -> str:
        """Loops in `scope` that leave the value of a `reduce` in a variable, together with those of its peers."""
        if ex.reduce_kind(e).startswith("arg"):
            return self.position(e, scope)
        group = [e, *self.peers(e, scope)]
        operands, clipped = self.clip(group, scope)
        for r in group:
            scope.names[r] = name = self.writer.name("s")
            scope.lines.append(f"{name} = {literal(identity(ex.reduce_kind(r), r.dtype), r.dtype)}")

        self.accumulate(ex.reduce_axes(e), group, operands, [scope.names[r] for r in group], scope)
        for a in clipped:
            del self.clips[a]
        return scope.names[e]

    def accumulate(self, axes: Sequence[Expr], group: Sequence[Expr], operands: Sequence[Expr], names: Sequence[str], scope: Scope) -> None:
        """Loops over `axes` that join the operands to the accumulators `names`.

        Long sums of floats keep a sum of its own for each loop, added when the loop ends: the error grows with the lengths' sum, not their product.
        """
        def join(inner: Scope, values: Sequence[str]) -> None:
            inner.lines += [f"{n} = {self.combine(ex.reduce_kind(r), r.dtype, n, v)}" for n, r, v in zip(names, group, values, strict=True)]

        if len(axes) > 1 and all(ex.reduce_kind(r) == "sum" and r.dtype.is_float for r in group) and not _is_short(axes):
            block, header = self.loop(axes[0], scope)
            parts = [self.writer.name("s") for _ in group]
            block.lines += [f"{n} = {literal(identity('sum', r.dtype), r.dtype)}" for n, r in zip(parts, group, strict=True)]
            self.accumulate(axes[1:], group, operands, parts, block)
            join(block, parts)
            block.close(header)
        else:
            self.walk(axes, operands, scope, lambda inner, values: join(inner, [self.value(o, inner) for o in values]))

    def walk(self, axes: Sequence[Expr], operands: Sequence[Expr], scope: Scope, statement: Callable[[Scope, Sequence[Expr]], None]) -> None:
        """Loops over the axes of a reduction around what `statement` writes, each cut where choices of the operands change."""
        if not axes:
            statement(scope, operands)
            return
        axis = axes[0]
        parts = [] if axis in self.clips or axis in self.ranges or axis in self.kept.values() else segments(operands, axis, scope.bound())
        if len(parts) <= 1:
            block, header = self.loop(axis, scope)
            self.walk(axes[1:], operands, block, statement)
            block.close(header)
            return
        for facts, bounds in self.bounds(parts, "0", self.writer.parameter(axis.extent, axis), scope):
            name = self.writer.name("i")
            block = Scope(scope, {axis: name}, conditional=True)
            known = [with_facts(o, facts) for o in operands]
            self.count(known)
            self.walk(axes[1:], known, block, statement)
            block.close(f"for {name} in range({bounds}):")

    def bounds(self, parts: Sequence[Segment], start: str, end: str, scope: Scope) -> Iterator[tuple[Facts, str]]:
        """What is known in each part of a loop from `start` to `end`, and the part's bounds."""
        for part in parts:
            stop = end
            if part.end is not None:
                stop = self.writer.name("j")
                scope.lines.append(f"{stop} = min(max({bare(self.value(part.end, scope))}, {start}), {end})")
            yield part.facts, f"{start}, {stop}"
            start = stop

    def clip(self, group: Sequence[Expr], scope: Scope) -> tuple[list[Expr], list[Expr]]:
        """Leave out what a reduction pads with: sets `clips` for its axes.

        Returns:
            The operands that remain, and the axes whose clips the caller removes when its loops are written.
        """
        r = group[0]
        kind, axes = ex.reduce_kind(r), ex.reduce_axes(r)
        if len(group) > 1 or kind in ("any", "all") or any(a in self.clips or a in self.ranges or a in self.kept.values() for a in axes):
            return [x.args[0] for x in group], []
        cuts, operand = clip(r, identity(kind, r.dtype), scope.bound())
        for a, found in cuts.items():
            first, end = ex.const(0), a.extent
            for c in found:
                first, end = (first, ex.minimum(end, c.at)) if c.before else (ex.maximum(first, c.at), end)
            self.clips[a] = (bare(self.value(first, scope)), bare(self.value(end, scope)))
        if cuts:
            self.count([operand])
        return [operand], list(cuts)

    def peers(self, e: Expr, scope: Scope) -> list[Expr]:
        """Other reductions over the same axes that belong into `scope` and wait for nothing that is not there yet."""
        axes = set(ex.reduce_axes(e))

        def ready(r: Expr) -> bool:
            if r is e or r.op != "reduce" or ex.reduce_axes(r) != ex.reduce_axes(e) or ex.reduce_kind(r).startswith("arg"):
                return False
            if scope.find(r) is not None or not r.axes <= scope.bound() or self.is_guarded(r) or self.place(r, scope) is not scope:
                return False
            inner = [n for n in ex.walk(r.args[0]) if n.op == "reduce"]
            return all(scope.find(n) is not None or n.axes & axes for n in inner)
        return [r for r in self.reductions if ready(r)]

    def combine(self, kind: str, dtype: DType, name: str, value: str) -> str:
        """The accumulator `name` joined with one more value."""
        dtype = dt.compute_type(dtype)
        if kind in ("any", "all"):
            return f"{name} {'|' if kind == 'any' else '&'} {value}"
        if kind in ("sum", "prod"):
            if dtype.is_float:
                name_of = self.writer.function(f"{kind}_{dtype.short}", "accumulate", kind, dtype.short)
                return f"{name_of}({name}, {bare(value)})"
            if dtype.kind == "bool":
                raise UnsupportedError(f"{kind} of bool values; cast them first")
            return bare(self.wrapped(f"({name} {'+' if kind == 'sum' else '*'} {value})", dtype))
        return f"{self.writer.math(f'{kind}_{dtype.short}')}({name}, {bare(value)})"

    def position(self, e: Expr, scope: Scope) -> str:
        """The index of the largest or smallest value along one axis: one pass finds the value, another its place. NaN counts as beyond all numbers."""
        kind, (axis,), body = ex.reduce_kind(e), ex.reduce_axes(e), e.args[0]
        best = self.value(ex.reduce("max" if kind.startswith("argmax") else "min", (axis,), body), scope)
        at = self.writer.name("s")
        scope.lines.append(f"{at} = 0")
        name, extent = self.writer.name("i"), self.writer.parameter(axis.extent, axis)
        block = Scope(scope, {axis: name})
        v = self.value(body, block)
        if not v.isidentifier():
            v = self.assign(body, v, block)
        test = f"{v} == {best}" + (f" or {v} != {v}" if body.dtype.is_float else "")
        block.lines += [f"if {test}:", f"    {at} = {name}", "    break"]
        block.close(f"for {name} in range({f'{extent} - 1, -1, -1' if kind.endswith('last') else extent}):")
        scope.names[e] = at
        return at


def identity(kind: str, dtype: DType) -> ex.Scalar:
    """What a reduction of nothing gives."""
    if kind in ("sum", "prod"):
        return 0 if kind == "sum" else 1
    if kind in ("any", "all"):
        return kind == "all"
    if dtype.is_float:
        return float("-inf") if kind == "max" else float("inf")
    if dtype.kind == "bool":
        return kind == "min"
    low = -(1 << dtype.bits - 1) if dtype.kind == "int" else 0
    high = (1 << dtype.bits - (1 if dtype.kind == "int" else 0)) - 1
    return low if kind == "max" else high


def _sum(groups: dict[tuple[Expr, ...], integer.Terms]) -> Expr:
    """The polynomial of terms grouped by what varies in them."""
    out: integer.Terms = {}
    for v, t in groups.items():
        out = integer.add_terms(out, integer.mul_terms({v: 1}, t))
    return integer.from_terms(out)


def bare(text: str) -> str:
    """The text without a pair of parentheses around the whole."""
    if not text.startswith("(") or not text.endswith(")"):
        return text
    depth = 0
    for k, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        if depth == 0 and k < len(text) - 1:
            return text
    return text[1:-1]


def _is_short(axes: Sequence[Expr]) -> bool:
    """Whether a sum over the axes has so few terms that their order does not matter to its precision."""
    count = integer.as_int(ex.product(a.extent for a in axes))
    return count is not None and count <= SHORT_SUM
