"""Sequences and optionals: values that only the host holds, made and taken apart by host steps."""
from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..errors import ModelError
from ..expr import Tensor
from ..graph import OptionalType, SequenceType, TensorType, Type, TypeValue
from ..loops import HostNest, HostRef, Ref
from .base import REQUIRED, Lowering, Op, register
from .control import fresh, unify


class HostOp(Op):
    """An operator done by one host step: `infer` gives the outputs' types, `step` the callback."""

    def step(self, n: Lowering) -> Callable[..., Sequence[object]]:
        raise NotImplementedError

    def lower(self, n: Lowering) -> Sequence[Ref | None]:
        types = [None if v is None else v.type for v in n.node.outputs]
        results: list[Ref] = []
        for k, t in enumerate(types):
            results.append(n.tensor(t.shape, t.dtype, f"out{k}_") if isinstance(t, TensorType) and t.shape is not None else HostRef(f"{n.node.name}.out{k}"))
        n.nests.append(HostNest(self.step(n), tuple(n.inputs), tuple(results), f"{self.name} works on host values", n.origin))
        return results


def input_type(n: Lowering, index: int) -> Type:
    """The type of an input, which must be there."""
    value = n.node.inputs[index] if index < len(n.node.inputs) else None
    if value is None or value.type is None:
        raise n.error(f"input {index} of {n.op.name} is missing")
    return value.type


def element_type(n: Lowering, index: int) -> Type:
    """The element type of a sequence input."""
    t = input_type(n, index)
    if not isinstance(t, SequenceType):
        raise n.error(f"input {index} of {n.op.name} is {t}, a sequence was expected")
    return t.element


def taken(n: Lowering, t: Type, output: int = 0) -> Type:
    """The type of one element: sizes that differ among elements are known when running."""
    if not isinstance(t, TensorType) or t.shape is None:
        return t
    return TensorType(t.dtype, tuple(d if d.is_const else fresh(n, output, k) for k, d in enumerate(t.shape)))


# -------------------------------------------------------------------------------------------------------------- host steps
def as_sequence(*elements: object) -> list[object]:
    return [list(elements)]


def empty_sequence() -> list[object]:
    return [[]]


def place(sequence: Sequence[object], position: object, extra: int) -> int:
    """A position of a sequence, from the end if negative.

    Raises:
        ModelError: out of range.
    """
    at, count = int(np.asarray(position).reshape(())), len(sequence)
    if not -count <= at < count + extra:
        raise ModelError(f"position {at} is out of range for a sequence of {count} elements")
    return at + count if at < 0 else at


def sequence_element(sequence: Sequence[object], position: object) -> list[object]:
    return [sequence[place(sequence, position, 0)]]


def with_element(sequence: Sequence[object], element: object, position: object = None) -> list[object]:
    at = len(sequence) if position is None else place(sequence, position, 1)
    return [[*sequence[:at], element, *sequence[at:]]]


def without_element(sequence: Sequence[object], position: object = None) -> list[object]:
    if not sequence:
        raise ModelError("an element is to be erased from an empty sequence")
    at = len(sequence) - 1 if position is None else place(sequence, position, 0)
    return [[*sequence[:at], *sequence[at + 1:]]]


def count_elements(sequence: Sequence[object]) -> list[object]:
    return [np.array(len(sequence), np.int64)]


def split_array(array: np.ndarray, split: np.ndarray | None = None, axis: int = 0, keepdims: int = 1) -> list[object]:
    """Pieces of an array: of one element each, of the size `split`, or of the sizes `split`.

    Raises:
        ModelError: the sizes do not add up.
    """
    length = array.shape[axis]
    if split is None:
        pieces = np.split(array, length, axis) if length else []
        return [[np.ascontiguousarray(p if keepdims else np.squeeze(p, axis)) for p in pieces]]
    sizes = np.asarray(split)
    if sizes.ndim == 0:
        if int(sizes) < 1:
            raise ModelError(f"pieces of size {int(sizes)} were asked for")
        edges = list(range(int(sizes), length, int(sizes)))
    else:
        if sizes.sum() != length:
            raise ModelError(f"pieces of sizes {sizes.tolist()} were asked for of {length} elements")
        edges = np.cumsum(sizes)[:-1].tolist()
    return [[np.ascontiguousarray(p) for p in np.split(array, edges, axis)]]


def join_arrays(sequence: Sequence[np.ndarray], axis: int = 0, new_axis: int = 0) -> list[object]:
    if not sequence:
        raise ModelError("an empty sequence cannot be joined to a tensor")
    return [np.stack(sequence, axis) if new_axis else np.concatenate(sequence, axis)]


def same_value(value: object = None) -> list[object]:
    return [value]


def required_value(value: object = None) -> list[object]:
    if value is None:
        raise ModelError("the element of an empty optional is asked for")
    return [value]


def is_present(value: object = None) -> list[object]:
    return [np.array(value is not None, np.bool_)]


# --------------------------------------------------------------------------------------------------------------- sequences
@register
class SequenceConstruct(HostOp):
    """The inputs as a sequence. Source: ONNX SequenceConstruct-11."""

    name, versions = "SequenceConstruct", (11,)

    def infer(self, n: Lowering) -> Sequence[Type | None]:
        element = unify(n, 0, [input_type(n, k) for k in range(len(n.inputs))])
        return [SequenceType(element if element is not None else TensorType(dt.float32, None))]

    def step(self, n: Lowering) -> Callable[..., Sequence[object]]:
        return as_sequence


@register
class SequenceEmpty(HostOp):
    """A sequence without elements. Source: ONNX SequenceEmpty-11."""

    name, versions = "SequenceEmpty", (11,)
    attributes = {"dtype": 1}

    def infer(self, n: Lowering) -> Sequence[Type | None]:
        return [SequenceType(TensorType(dt.BY_CODE[int(n.attr("dtype"))], None))]

    def step(self, n: Lowering) -> Callable[..., Sequence[object]]:
        return empty_sequence


@register
class SequenceAt(HostOp):
    """One element of a sequence. Source: ONNX SequenceAt-11."""

    name, versions = "SequenceAt", (11,)

    def infer(self, n: Lowering) -> Sequence[Type | None]:
        return [taken(n, element_type(n, 0))]

    def step(self, n: Lowering) -> Callable[..., Sequence[object]]:
        return sequence_element


@register
class SequenceInsert(HostOp):
    """The sequence with an element more, at a position or at the end. Source: ONNX SequenceInsert-11."""

    name, versions = "SequenceInsert", (11,)

    def infer(self, n: Lowering) -> Sequence[Type | None]:
        old, new = element_type(n, 0), input_type(n, 1)
        if isinstance(old, TensorType) and isinstance(new, TensorType) and old.shape is None:
            if old.dtype is not new.dtype:
                raise n.error(f"an element of {new.dtype} is inserted into a sequence of {old.dtype}")
            return [SequenceType(TensorType(old.dtype, None))]
        element = unify(n, 0, [old, new])
        return [SequenceType(element if element is not None else old)]

    def step(self, n: Lowering) -> Callable[..., Sequence[object]]:
        return with_element


@register
class SequenceErase(HostOp):
    """The sequence without one element, by default the last. Source: ONNX SequenceErase-11."""

    name, versions = "SequenceErase", (11,)

    def infer(self, n: Lowering) -> Sequence[Type | None]:
        return [SequenceType(element_type(n, 0))]

    def step(self, n: Lowering) -> Callable[..., Sequence[object]]:
        return without_element


@register
class SequenceLength(HostOp):
    """The number of elements, int64. Source: ONNX SequenceLength-11."""

    name, versions = "SequenceLength", (11,)

    def infer(self, n: Lowering) -> Sequence[Type | None]:
        element_type(n, 0)
        return [TensorType(dt.int64, ())]

    def step(self, n: Lowering) -> Callable[..., Sequence[object]]:
        return count_elements


@register
class SplitToSequence(HostOp):
    """Pieces of a tensor along an axis. Source: ONNX SplitToSequence-24."""

    name, versions = "SplitToSequence", (11, 24)
    attributes = {"axis": 0, "keepdims": 1}

    def infer(self, n: Lowering) -> Sequence[Type | None]:
        t = input_type(n, 0)
        if not isinstance(t, TensorType) or t.shape is None:
            return [SequenceType(t)]
        axis = n.axis(int(n.attr("axis")), len(t.shape))
        sizes = n.static_ints(1)
        single = not n.has(1)
        if single and not n.attr("keepdims"):
            return [SequenceType(TensorType(t.dtype, t.shape[:axis] + t.shape[axis + 1:]))]
        same = single or (sizes is not None and len(set(sizes)) == 1 and n.input(1).rank == 1)
        piece = ex.const(1 if single or sizes is None else sizes[0]) if same else fresh(n, 0, axis)
        return [SequenceType(TensorType(t.dtype, (*t.shape[:axis], piece, *t.shape[axis + 1:])))]

    def step(self, n: Lowering) -> Callable[..., Sequence[object]]:
        axis = int(n.attr("axis"))
        return functools.partial(split_array, axis=axis, keepdims=int(n.attr("keepdims")))


@register
class ConcatFromSequence(HostOp):
    """A sequence's tensors joined along an axis, old or new. Source: ONNX ConcatFromSequence-11."""

    name, versions = "ConcatFromSequence", (11,)
    attributes = {"axis": REQUIRED, "new_axis": 0}

    def infer(self, n: Lowering) -> Sequence[Type | None]:
        t = element_type(n, 0)
        if not isinstance(t, TensorType):
            raise n.error(f"a sequence of {t} was given, one of tensors was expected")
        if t.shape is None:
            return [t]
        stacked, rank = bool(n.attr("new_axis")), len(t.shape)
        axis = n.axis(int(n.attr("axis")), rank + 1 if stacked else rank)
        dims = [d if d.is_const else fresh(n, 0, k) for k, d in enumerate(t.shape)]
        joined = fresh(n, 0, "joined")
        return [TensorType(t.dtype, (*dims[:axis], joined, *dims[axis if stacked else axis + 1:]))]

    def step(self, n: Lowering) -> Callable[..., Sequence[object]]:
        return functools.partial(join_arrays, axis=int(n.attr("axis")), new_axis=int(n.attr("new_axis")))


# --------------------------------------------------------------------------------------------------------------- optionals


@register
class Optional(HostOp):
    """The input as an optional; without input, an empty one of type `type`. Source: ONNX Optional-28."""

    name, versions = "Optional", (15, 28)

    def infer(self, n: Lowering) -> Sequence[Type | None]:
        if n.node.inputs and n.node.inputs[0] is not None:
            return [OptionalType(input_type(n, 0))]
        given = n.attr("type")
        if not isinstance(given, TypeValue):
            raise n.error("neither an input nor the attribute 'type' was given")
        return [OptionalType(given.type)]

    def step(self, n: Lowering) -> Callable[..., Sequence[object]]:
        return same_value


@register
class OptionalGetElement(HostOp):
    """What an optional holds; a tensor or sequence is given as it is. Source: ONNX OptionalGetElement-28."""

    name, versions = "OptionalGetElement", (15, 18, 28)

    def infer(self, n: Lowering) -> Sequence[Type | None]:
        t = input_type(n, 0)
        return [taken(n, t.element) if isinstance(t, OptionalType) else t]

    def step(self, n: Lowering) -> Callable[..., Sequence[object]]:
        return required_value

    def lower(self, n: Lowering) -> Sequence[Ref | None]:
        if isinstance(n.inputs[0], Tensor):
            return [n.inputs[0]]
        return super().lower(n)


@register
class OptionalHasElement(HostOp):
    """Whether an optional holds something. Source: ONNX OptionalHasElement-28."""

    name, versions = "OptionalHasElement", (15, 18, 28)

    def infer(self, n: Lowering) -> Sequence[Type | None]:
        return [TensorType(dt.boolean, ())]

    def step(self, n: Lowering) -> Callable[..., Sequence[object]]:
        return is_present

    def lower(self, n: Lowering) -> Sequence[Ref | None]:
        if not n.has(0) or isinstance(n.inputs[0], Tensor):
            return [n.map((), lambda: ex.const(n.has(0), dt.boolean))]
        return super().lower(n)
