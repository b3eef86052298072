"""Control flow: If, Loop, Scan and SequenceMap. Bodies are graphs; the driver (or the host, see `compiler.control.obstacle`) decides which runs how often."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .. import dtypes as dt
from .. import expr as ex
from ..errors import ModelError, UnsupportedError
from ..expr import Expr
from ..graph import Graph, OptionalType, SequenceType, TensorType, Type
from ..infer import infer_graph, is_small
from ..loops import HostNest, HostRef, Ref
from .base import Lowering, Op, register

CAPTURES = "captures"  # attribute: how many inputs at the end are captured values that the bodies take as their last inputs


@dataclass(frozen=True, eq=False)
class ControlFlow:
    """What runs bodies.

    Args:
        kind: `If`, `Loop`, `Scan` or `SequenceMap`.
        bodies: `If`: (then, else); otherwise one.
        settings: (name, integers) the operator's attributes and numbers of inputs.
    """

    kind: str
    bodies: tuple[Graph, ...]
    settings: tuple[tuple[str, tuple[int, ...]], ...]


class Control(Op):
    """Shared by the control-flow operators: outputs as typed by `infer`, work done by bodies."""

    def bodies(self, n: Lowering) -> tuple[Graph, ...]:
        raise NotImplementedError

    def settings(self, n: Lowering) -> dict[str, tuple[int, ...]]:
        return {}

    def lower(self, n: Lowering) -> Sequence[Ref | None]:
        types = [None if v is None else v.type for v in n.node.outputs]
        results = [self.result(n, k, t) for k, t in enumerate(types)]
        settings = {**self.settings(n), "captures": (captures(n),), "wanted": tuple(int(t is not None) for t in types),
                    "ranks": tuple(len(t.shape) if isinstance(t, TensorType) and t.shape is not None else 1 for t in types)}
        step = ControlFlow(self.name, self.bodies(n), tuple(sorted(settings.items())))
        n.nests.append(HostNest(step, tuple(n.inputs), tuple(results), f"{self.name} chooses what runs", n.origin))  # type: ignore[arg-type]
        return results

    @staticmethod
    def result(n: Lowering, k: int, t: Type | None) -> Ref:
        if isinstance(t, TensorType) and t.shape is not None:
            return n.tensor(t.shape, t.dtype, f"out{k}_")
        return HostRef(f"{n.node.name}.out{k}")


def captures(n: Lowering) -> int:
    return int(n.node.attributes.get(CAPTURES, 0))  # type: ignore[call-overload]


def fresh(n: Lowering, output: int, dim: int | str) -> Expr:
    """The symbol of a size that only a run tells; the same one every time it is inferred."""
    return ex.sym(f"?{n.node.name}.{output}.{dim}", 0)


def outside(e: Expr) -> bool:
    """Whether a size means something outside of the body that it was inferred in."""
    return e.is_const


def unify(n: Lowering, k: int, types: Sequence[Type | None]) -> Type | None:
    """One type for values that come from different places; sizes that differ become fresh symbols."""
    known = [t for t in types if t is not None]
    first = known[0] if known else None
    if not isinstance(first, TensorType):
        if isinstance(first, SequenceType) and all(isinstance(t, SequenceType) for t in known):
            element = unify(n, k, [t.element for t in known])  # type: ignore[union-attr]
            return SequenceType(element) if element is not None else first
        return first
    tensors = [t for t in known if isinstance(t, TensorType)]
    if any(t.dtype is not first.dtype for t in tensors):
        raise n.error(f"output {k} is {' or '.join(sorted({t.dtype.name for t in tensors}))}, depending on the branch; one type was expected")
    if any(t.shape is None for t in tensors) or len({len(t.shape or ()) for t in tensors}) > 1:
        return TensorType(first.dtype, None)
    dims = []
    for d, sizes in enumerate(zip(*(t.shape or () for t in tensors))):
        same = all(s is sizes[0] for s in sizes) and outside(sizes[0])
        dims.append(sizes[0] if same else fresh(n, k, d))
    return TensorType(first.dtype, tuple(dims))


def body_type(t: Type | None, name: str) -> Type | None:
    """A body's input type: sizes that are not plain numbers become symbols of the body, read from what it gets."""
    if not isinstance(t, TensorType) or t.shape is None:
        return t
    return TensorType(t.dtype, tuple(d if d.is_const else ex.sym(f"?{name}.{k}", 0) for k, d in enumerate(t.shape)))


def set_inputs(body: Graph, types: Sequence[Type | None]) -> None:
    for v, t in zip(body.inputs, types):
        v.type = body_type(t, f"{body.name}/{v.name}") if t is not None else v.type
        v.content = None


def capture_types(n: Lowering) -> list[Type | None]:
    count = captures(n)
    return [None if v is None else v.type for v in n.node.inputs[len(n.node.inputs) - count:]] if count else []


@register
class If(Control):
    """then_branch if the condition holds, else else_branch. Source: ONNX If-25."""

    name, versions = "If", (1, 11, 13, 16, 19, 21, 23, 24, 25)

    def bodies(self, n: Lowering) -> tuple[Graph, ...]:
        return n.attr("then_branch"), n.attr("else_branch")  # type: ignore[return-value]

    def infer(self, n: Lowering) -> Sequence[Type | None]:
        both = self.bodies(n)
        self._infer_branches(n, both)
        decided = n.known(0)
        if decided is not None and decided.size == 1:
            taken = both[0 if decided.reshape(()) else 1]
            for v, o in zip(n.node.outputs, taken.outputs, strict=False):
                if v is not None and o.constant is not None and is_small(o.type):
                    v.constant, v.content = o.constant, o.content
            return [o.type for o in taken.outputs]
        if len({len(b.outputs) for b in both}) > 1:
            raise n.error(f"the branches have {len(both[0].outputs)} and {len(both[1].outputs)} outputs; the same number was expected")
        sound = [b for b in both if not b.broken]
        return [unify(n, k, [b.outputs[k].type for b in sound]) for k in range(len(both[0].outputs))]

    def _infer_branches(self, n: Lowering, both: tuple[Graph, ...]) -> None:
        """Type both branches; one that cannot run with these inputs may be left, since it need never be taken."""
        errors = []
        for body in both:
            set_inputs(body, capture_types(n))
            body.broken = ""
            try:
                infer_graph(body)
            except UnsupportedError:
                raise
            except ModelError as e:
                body.broken = str(e)
                errors.append(e)
        if len(errors) == len(both):
            raise errors[0]


def generalise(body: Graph, types: list[Type | None], outputs: Sequence[Type | None], n: Lowering) -> bool:
    """Make the types of carried values wide enough for what the body gives back; whether anything changed."""
    changed = False
    for k, (a, b) in enumerate(zip(list(types), outputs)):
        if isinstance(a, TensorType) and isinstance(b, TensorType):
            if a.dtype is not b.dtype:
                raise n.error(f"carried value {k} starts as {a.dtype.name} and comes back as {b.dtype.name}")
            if a.shape is not None and (b.shape is None or len(a.shape) != len(b.shape)):
                types[k] = TensorType(a.dtype, None)
                changed = True
            elif a.shape is not None and b.shape is not None:
                own = body.inputs[_carried_position(body, k, n)].type
                assert isinstance(own, TensorType) and own.shape is not None
                dims = tuple(d if d is o or (d.is_const and o.is_const and d.value == o.value) else fresh(n, k, f"c{j}")
                             for j, (d, o) in enumerate(zip(own.shape, b.shape)))
                kept = tuple(x if y is z else y for x, y, z in zip(a.shape, dims, own.shape))
                if kept != a.shape:
                    types[k] = TensorType(a.dtype, kept)
                    changed = True
    return changed


def _carried_position(body: Graph, k: int, n: Lowering) -> int:
    return k + (2 if n.node.op == "Loop" else 0)


@register
class Loop(Control):
    """Body repeated while a condition holds, at most M times; carried values go round, further outputs are stacked. Source: ONNX Loop-25."""

    name, versions = "Loop", (1, 11, 13, 16, 19, 21, 23, 24, 25)

    def bodies(self, n: Lowering) -> tuple[Graph, ...]:
        return (n.attr("body"),)  # type: ignore[return-value]

    def settings(self, n: Lowering) -> dict[str, tuple[int, ...]]:
        return {"carried": (len(n.node.inputs) - 2 - captures(n),), "given": tuple(map(len, self.given(*self.bodies(n))))}

    @staticmethod
    def given(body: Graph) -> tuple[tuple[Expr, ...], tuple[Expr, ...]]:
        """The shapes in which the body takes the iteration's number and the condition: scalars, or one element if it says so."""
        declared = [v.type for v in body.inputs[:2]]
        first, second = ((ex.const(1),) if isinstance(t, TensorType) and t.shape is not None and len(t.shape) == 1 else () for t in declared)
        return first, second

    def infer(self, n: Lowering) -> Sequence[Type | None]:
        body, = self.bodies(n)
        carried = len(n.node.inputs) - 2 - captures(n)
        if len(body.inputs) != carried + 2 + captures(n) or len(body.outputs) < carried + 1:
            raise n.error(f"the body has {len(body.inputs)} inputs and {len(body.outputs)} outputs for {carried} carried values; "
                          f"{carried + 2} inputs and at least {carried + 1} outputs were expected")
        iteration, condition = self.given(body)
        scalar = [TensorType(dt.int64, iteration), TensorType(dt.boolean, condition)]
        types: list[Type | None] = [None if v is None else v.type for v in n.node.inputs[2:2 + carried]]
        for _ in range(3):
            set_inputs(body, [*scalar, *types, *capture_types(n)])
            infer_graph(body)
            outs = [o.type for o in body.outputs[1:]]
            if not generalise(body, types, outs[:carried], n):
                break
        finals = [outs[k] if v is not None and isinstance(v.type, OptionalType) and not isinstance(outs[k], OptionalType)
                  else unify(n, k, [None if v is None else v.type, outs[k]]) for k, v in enumerate(n.node.inputs[2:2 + carried])]
        return finals + [stacked(n, carried + k, t) for k, t in enumerate(outs[carried:])]


def stacked(n: Lowering, k: int, t: Type | None) -> Type | None:
    """The type of a stack of body outputs."""
    if not isinstance(t, TensorType) or t.shape is None:
        return TensorType(t.dtype, None) if isinstance(t, TensorType) else t
    return TensorType(t.dtype, (fresh(n, k, "n"), *(s if outside(s) else fresh(n, k, d) for d, s in enumerate(t.shape))))


@register
class Scan(Control):
    """Body applied to slices along an axis, with states going round. Source: ONNX Scan-25 (and Scan-8 with its batch axis)."""

    name, versions = "Scan", (8, 9, 11, 16, 19, 21, 23, 24, 25)

    def bodies(self, n: Lowering) -> tuple[Graph, ...]:
        return (n.attr("body"),)  # type: ignore[return-value]

    def counts(self, n: Lowering) -> tuple[int, int, int]:
        """(first state input, states, scanned inputs)"""
        scanned = int(n.attr("num_scan_inputs"))  # type: ignore[call-overload]
        first = 1 if n.version < 9 else 0
        states = len(n.node.inputs) - first - scanned - captures(n)
        if scanned < 1 or states < 0:
            raise n.error(f"num_scan_inputs is {scanned}, the node has {len(n.node.inputs) - first} inputs")
        return first, states, scanned

    def axes(self, n: Lowering, name: str, count: int) -> tuple[int, ...]:
        given = n.attr(name)
        return tuple(int(a) for a in given) if given else (0,) * count  # type: ignore[union-attr]

    def settings(self, n: Lowering) -> dict[str, tuple[int, ...]]:
        first, states, scanned = self.counts(n)
        outs = len(self.bodies(n)[0].outputs) - states
        directions = self.axes(n, "directions", scanned) if n.version < 9 else self.axes(n, "scan_input_directions", scanned)
        return {"states": (states,), "scanned": (scanned,), "batched": (first,), "input_axes": self.axes(n, "scan_input_axes", scanned),
                "input_directions": directions, "output_axes": self.axes(n, "scan_output_axes", outs),
                "output_directions": self.axes(n, "scan_output_directions", outs)}

    def infer(self, n: Lowering) -> Sequence[Type | None]:
        body, = self.bodies(n)
        first, states, scanned = self.counts(n)
        given = [None if v is None else v.type for v in n.node.inputs[first:first + states + scanned]]
        lead = 1 if first else 0  # Scan-8 has a batch axis in front of everything

        def without(t: Type | None, axis: int) -> Type | None:
            if not isinstance(t, TensorType) or t.shape is None:
                return t
            axis = n.axis(axis, len(t.shape))
            return TensorType(t.dtype, t.shape[:axis] + t.shape[axis + 1:])

        def unbatched(t: Type | None) -> Type | None:
            return without(t, 0) if lead else t
        types = [unbatched(t) for t in given[:states]]
        slices = [without(unbatched(t), a) for t, a in zip(given[states:], self.axes(n, "scan_input_axes", scanned))]
        for _ in range(3):
            set_inputs(body, [*types, *slices, *capture_types(n)])
            infer_graph(body)
            outs = [o.type for o in body.outputs]
            if not generalise(body, types, outs[:states], n):
                break
        length = self.length(n, given, states)
        batch = [given[0].shape[0]] if lead and isinstance(given[0], TensorType) and given[0].shape else []
        result: list[Type | None] = []
        for k, t in enumerate(outs):
            if not isinstance(t, TensorType) or t.shape is None:
                result.append(t)
                continue
            dims = [d if outside(d) else fresh(n, k, j) for j, d in enumerate(t.shape)]
            if k >= states:
                axis = self.axes(n, "scan_output_axes", len(outs) - states)[k - states]
                dims.insert(n.axis(axis, len(dims) + 1), length)
            result.append(TensorType(t.dtype, (*batch, *dims)))
        return result

    def length(self, n: Lowering, given: Sequence[Type | None], states: int) -> Expr:
        t = given[states]
        axis = self.axes(n, "scan_input_axes", len(given) - states)[0]
        if not isinstance(t, TensorType) or t.shape is None:
            return fresh(n, 0, "n")
        return t.shape[n.axis(axis, len(t.shape) - (1 if n.version < 9 else 0)) + (1 if n.version < 9 else 0)]


@register
class SequenceMap(Control):
    """Body applied to each element of sequences (further tensors go to all of them); one sequence for each of its outputs. Source: ONNX SequenceMap-17."""

    name, versions = "SequenceMap", (17,)

    def bodies(self, n: Lowering) -> tuple[Graph, ...]:
        return (n.attr("body"),)  # type: ignore[return-value]

    def given(self, n: Lowering) -> list[Type | None]:
        return [None if v is None else v.type for v in n.node.inputs[:len(n.node.inputs) - captures(n)]]

    def settings(self, n: Lowering) -> dict[str, tuple[int, ...]]:
        return {"sequences": tuple(int(isinstance(t, SequenceType)) for t in self.given(n))}

    def infer(self, n: Lowering) -> Sequence[Type | None]:
        body, = self.bodies(n)
        given = self.given(n)
        if not given or not isinstance(given[0], SequenceType):
            raise n.error(f"the first input is {given[0] if given else 'missing'}, a sequence was expected")
        set_inputs(body, [*(t.element if isinstance(t, SequenceType) else t for t in given), *capture_types(n)])
        infer_graph(body)
        found: list[Type | None] = []
        for k, o in enumerate(body.outputs):
            t = o.type
            if isinstance(t, TensorType) and t.shape is not None:
                t = TensorType(t.dtype, tuple(d if outside(d) else fresh(n, k, j) for j, d in enumerate(t.shape)))
            found.append(None if t is None else SequenceType(t))
        return found
