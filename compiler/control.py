"""Control flow: bodies stand alone before they are lowered (what they take from outside becomes inputs), and which of them the driver can run itself."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..ir import dtypes as dt
from ..ir.expr import Tensor
from ..ir.graph import Graph, Node, Value
from ..ir.infer import infer
from ..ir.loops import HostNest, Ref
from ..ir.ops.control import CAPTURES, ControlFlow
from ..ir.plan import BodyInput, BodyOutput, HostStep, Plan


def close_bodies(graph: Graph) -> None:
    """Turn the values that the bodies of a graph's nodes capture into inputs of the nodes and of the bodies; the bodies lose their parent."""
    for node in graph.nodes:
        bodies = list(node.subgraphs())
        if not bodies:
            continue
        captured: dict[Value, None] = {}
        for body in bodies:
            captured.update(dict.fromkeys(body.captured()))
        for v in captured:
            node.inputs.append(v)
            v.uses.append((node, len(node.inputs) - 1))
        node.attributes[CAPTURES] = int(node.attributes.get(CAPTURES, 0)) + len(captured)  # type: ignore[call-overload]
        for body in bodies:
            for v in captured:
                own = body.input(v.name, v.type)
                _replace_inside(body, v, own)
            _detach(body, graph)
        if captured:
            infer(node)


def _detach(body: Graph, graph: Graph) -> None:
    """Make a body a model of its own; the bodies inside of it stay parts of it until it is compiled itself."""
    inner = [g for g in _graphs(body) if g is not body]
    for g in (body, *inner):
        if g in graph.bodies:
            graph.bodies.remove(g)
        g.bodies = inner
    body.parent = None
    body.opsets = dict(graph.opsets)


def _replace_inside(body: Graph, old: Value, new: Value) -> None:
    """Uses of an outer value inside a body become uses of the body's own input."""
    for node in body.all_nodes():
        for k, v in enumerate(node.inputs):
            if v is old:
                _exchange(node, k, old, new)
    for g in _graphs(body):
        g.outputs = [new if o is old else o for o in g.outputs]


def _exchange(node: Node, k: int, old: Value, new: Value) -> None:
    if (node, k) in old.uses:
        old.uses.remove((node, k))
    node.inputs[k] = new
    new.uses.append((node, k))


def _graphs(body: Graph) -> list[Graph]:
    found = [body]
    for n in body.nodes:
        for s in n.subgraphs():
            found += _graphs(s)
    return found


# ---------------------------------------------------------------------------------------------------------------------- native bodies
@dataclass(frozen=True)
class Ends:
    """How a control-flow node is tied to its bodies.

    Args:
        limit, condition: what decides, None if absent.
        inputs: one for each input of a body, without their buffers, and the node's input that it is (None: made by the loop).
        outputs: one for each output of a body, without its buffer, and the node's result that it becomes (None: it only decides, or nothing wants it).
    """

    limit: Ref | None
    condition: Ref | None
    inputs: tuple[tuple[BodyInput, Ref | None], ...]
    outputs: tuple[tuple[BodyOutput, Ref | None], ...]


def ends(nest: HostNest) -> Ends:
    """The ends of an If, Loop or Scan."""
    function = nest.function
    assert isinstance(function, ControlFlow)
    settings = dict(function.settings)
    count = settings["captures"][0]
    own = nest.inputs[:len(nest.inputs) - count]
    captured = [(BodyInput("captured"), r) for r in nest.inputs[len(nest.inputs) - count:]]
    results = [r if wanted else None for r, wanted in zip(nest.results, settings["wanted"], strict=True)]
    if function.kind == "If":
        return Ends(None, own[0], tuple(captured), tuple((BodyOutput("result"), r) for r in results))
    if function.kind == "Loop":
        carried = settings["carried"][0]
        ins = [(BodyInput("iteration"), None), (BodyInput("condition"), None), *((BodyInput("carried"), r) for r in own[2:]), *captured]
        outs = [(BodyOutput("condition"), None), *((BodyOutput("carried" if k < carried else "stack"), r) for k, r in enumerate(results))]
        return Ends(own[0], own[1], tuple(ins), tuple(outs))
    states = settings["states"][0]
    slices = [(BodyInput("slice", -1, a % (len(r.shape) if isinstance(r, Tensor) and r.shape else 1), bool(d)), r)
              for r, a, d in zip(own[states:], settings["input_axes"], settings["input_directions"], strict=True)]
    stacks = [(BodyOutput("stack", -1, a % (len(r.shape) if isinstance(r, Tensor) and r.shape else 1), bool(d)), r)
              for r, a, d in zip(results[states:], settings["output_axes"], settings["output_directions"], strict=True)]
    return Ends(None, None, (*((BodyInput("carried"), r) for r in own[:states]), *slices, *captured),
                (*((BodyOutput("carried"), r) for r in results[:states]), *stacks))


def obstacle(nest: HostNest, bodies: Sequence[Plan]) -> str | None:
    """Why the driver cannot run a control-flow node itself; None if it can.

    Args:
        bodies: the plans of its bodies.
    """
    function = nest.function
    assert isinstance(function, ControlFlow)
    if function.kind == "SequenceMap":
        return "it maps sequences"
    settings = dict(function.settings)
    if function.kind == "Scan" and settings["batched"][0]:
        return "Scan-8 has a batch axis"
    tied = ends(nest)
    for what, refs in (("input", nest.inputs), ("result", [r for _, r in tied.outputs])):
        for k, r in enumerate(refs):
            if r is not None and not (isinstance(r, Tensor) and r.dtype.is_numeric):
                return f"its {what} {k} is a string, a sequence, an optional value or a tensor of unknown rank"
    for body in bodies:
        if "broken" not in body.metadata:
            found = _body_obstacle(body, tied)
            if found is not None:
                return found
    return None


def _body_obstacle(body: Plan, tied: Ends) -> str | None:
    ports = [*((f"input '{p.name}'", p) for p in body.inputs), *((f"output '{p.name}'", p) for p in body.outputs)]
    for name, p in ports:
        if p.buffer < 0:
            return f"{name} of its body is a string, a sequence, an optional value or a tensor of unknown rank"
    for plan in (body, *body.bodies):
        for s in plan.steps:
            if isinstance(s, HostStep):
                return f"in its body {', '.join(s.origin)} runs on the host: {s.reason}"
    if len(body.inputs) != len(tied.inputs) or len(body.outputs) != len(tied.outputs):
        return f"its body takes {len(body.inputs)} inputs and gives {len(body.outputs)} outputs; {len(tied.inputs)} and {len(tied.outputs)} were expected"
    inside = [body.buffers[p.buffer] for p in body.inputs]
    for spec, (i, r) in zip(inside, tied.inputs, strict=True):
        rank = 0 if r is None else len(r.shape) - (i.kind == "slice") if isinstance(r, Tensor) else -1
        if len(spec.shape) != rank and not (r is None and len(spec.shape) == 1):
            return f"input '{spec.name}' of its body has rank {len(spec.shape)}, it is given rank {rank}"
        wanted = r.dtype if isinstance(r, Tensor) else dt.int64 if i.kind == "iteration" else dt.boolean
        if spec.dtype != wanted.short:
            return f"input '{spec.name}' of its body is {spec.dtype}, it is given {wanted.short}"
    carried = [spec for spec, (i, _) in zip(inside, tied.inputs, strict=True) if i.kind == "carried"]
    back = [body.buffers[p.buffer] for p, (o, _) in zip(body.outputs, tied.outputs, strict=True) if o.kind == "carried"]
    for given, returned in zip(carried, back, strict=True):
        if (given.dtype, len(given.shape)) != (returned.dtype, len(returned.shape)):
            return f"carried value '{given.name}' changes its type or rank"
    for p, (o, r) in zip(body.outputs, tied.outputs, strict=True):
        spec = body.buffers[p.buffer]
        if spec.order != tuple(range(len(spec.order))):
            return f"output '{p.name}' of its body is not row-major"
        if isinstance(r, Tensor) and (spec.dtype, len(spec.shape) + (o.kind == "stack")) != (r.dtype.short, len(r.shape)):
            return f"output '{p.name}' of its body has another type or rank than the result it becomes"
    return None
