"""Steps of gradient descent as operators (ai.onnx.preview.training): each updates any number of tensors together with their state."""
from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .. import dtypes as dt
from .. import expr as ex
from ..dtypes import DType
from ..expr import Expr, Tensor
from .base import REQUIRED, Lowering, Op, Sample, register

DOMAIN = "ai.onnx.preview.training"


class Optimiser(Op):
    """Inputs: learning rate, number of steps taken, then all tensors X, all gradients, and all of each kind of state; outputs: X and states, updated.

    Factors that all elements share are computed in float64, elements in their own type.
    """

    domain, versions = DOMAIN, (1,)
    states = 1  # tensors kept beside X from one step to the next

    def update(self, n: Lowering, kind: DType, x: Expr, g: Expr, state: Sequence[Expr]) -> tuple[Expr, ...]:
        """The new X and states of one element.

        Args:
            kind: the elements' type.
            g: the gradient with that of the regularisation term, 0.5 * norm_coefficient * |X|^2.
        """
        raise NotImplementedError

    def lower(self, n: Lowering) -> list[Tensor]:
        parts = 2 + self.states
        count = (len(n.inputs) - 2) // parts
        if count < 1 or len(n.inputs) != 2 + count * parts:
            raise n.error(f"{self.name} has {len(n.inputs) - 2} tensors after the step count; a positive multiple of {parts} was expected")
        groups = [[n.input(2 + count * part + k) for part in range(parts)] for k in range(count)]
        results = [self.one(n, group) for group in groups]
        return [r[part] for part in range(parts - 1) for r in results]

    def one(self, n: Lowering, group: Sequence[Tensor]) -> list[Tensor]:
        x = group[0]
        for t in group[1:]:
            if t.rank != x.rank or t.dtype is not x.dtype:
                raise n.error(f"{self.name} updates a tensor of rank {x.rank} and type {x.dtype.name} by one of rank {t.rank} and type {t.dtype.name}")
            for a, b in zip(t.shape, x.shape, strict=True):
                n.require(ex.equal(a, b), f"{self.name} updates a tensor of shape {[d.text for d in x.shape]} by one of shape {[d.text for d in t.shape]}")

        def value(part: int, i: tuple[Expr, ...]) -> Expr:
            element, slope, *state = (t[i] for t in group)
            return self.update(n, x.dtype, element, slope + element * self.factor(n, "norm_coefficient", x.dtype), state)[part]
        return [n.map(x.shape, lambda *i, part=part: value(part, i)) for part in range(1 + self.states)]

    @staticmethod
    def factor(n: Lowering, name: str, kind: DType) -> Expr:
        return ex.const(float(n.attr(name)), kind)  # type: ignore[arg-type]

    @staticmethod
    def rate(n: Lowering) -> Expr:
        """The learning rate, in float64."""
        return Optimiser.only(n, 0)

    @staticmethod
    def steps(n: Lowering) -> Expr:
        """How many steps were taken before, in float64."""
        return Optimiser.only(n, 1)

    @staticmethod
    def only(n: Lowering, index: int) -> Expr:
        t = n.input(index)
        n.require(ex.equal(t.numel(), 1), f"input {index} of {n.op.name} has shape {[d.text for d in t.shape]}; one element was expected")
        return ex.cast(t[(0,) * t.rank], dt.float64)


def optimiser_samples(state: int, **attributes: float | str) -> Iterator[Sample]:
    """One step and the first step of two tensors of different shapes."""
    random = np.random.default_rng(0)

    def draw(dtype: type[np.floating], *shapes: tuple[int, ...]) -> list[np.ndarray]:
        return [random.random(s).astype(dtype) for _ in range(2 + state) for s in shapes]
    attributes = {k: v if isinstance(v, str) else float(np.float32(v)) for k, v in attributes.items()}  # as they come in a model
    for dtype, shapes in ((np.float32, ((3, 4), (5,))), (np.float64, ((2, 3),)), (np.float32, ((0, 3),))):
        tensors = draw(dtype, *shapes)
        for steps in (0, 3):
            yield Sample((np.array(0.1, np.float32), np.array(steps, np.int64), *tensors), attributes, outputs=(1 + state) * len(shapes),
                         name=f"{np.dtype(dtype).name}_{len(shapes)}_{steps}")


@register
class Adagrad(Optimiser):
    """Step against the gradient, divided by the root of the sum of its squares so far. Source: ONNX Adagrad-1; Duchi et al. 2011."""

    name = "Adagrad"
    attributes = {"norm_coefficient": 0.0, "decay_factor": 0.0, "epsilon": 1e-6}

    def update(self, n: Lowering, kind: DType, x: Expr, g: Expr, state: Sequence[Expr]) -> tuple[Expr, ...]:
        rate = ex.cast(self.rate(n) / (self.steps(n) * self.factor(n, "decay_factor", dt.float64) + 1.0), kind)
        squares = state[0] + g * g
        return x - rate * g / (ex.unary("sqrt", squares) + self.factor(n, "epsilon", kind)), squares

    def samples(self) -> Iterator[Sample]:
        yield from optimiser_samples(1, norm_coefficient=0.01, decay_factor=0.1, epsilon=1e-4)


@register
class Adam(Optimiser):
    """Step along the mean gradient, divided by the root of its mean square. Source: ONNX Adam-1; Kingma and Ba 2015."""

    name, states = "Adam", 2
    attributes = {"alpha": 0.9, "beta": 0.999, "epsilon": 1e-6, "norm_coefficient": 0.0, "norm_coefficient_post": 0.0}

    def update(self, n: Lowering, kind: DType, x: Expr, g: Expr, state: Sequence[Expr]) -> tuple[Expr, ...]:
        alpha, beta = float(n.attr("alpha")), float(n.attr("beta"))  # type: ignore[arg-type]
        steps, rate = self.steps(n), self.rate(n)
        missing = ex.unary("sqrt", 1.0 - ex.binary("pow", ex.const(beta, dt.float64), steps)) / (1.0 - ex.binary("pow", ex.const(alpha, dt.float64), steps))
        rate = ex.cast(ex.where(steps > 0.0, rate * missing, rate), kind)  # both means start at zero
        mean = state[0] * alpha + g * (1 - alpha)
        square = state[1] * beta + g * g * (1 - beta)
        new = x - rate * mean / (ex.unary("sqrt", square) + self.factor(n, "epsilon", kind))
        return new * (1 - float(n.attr("norm_coefficient_post"))), mean, square  # type: ignore[arg-type]

    def samples(self) -> Iterator[Sample]:
        yield from optimiser_samples(2, norm_coefficient=0.01, alpha=0.95, beta=0.85, epsilon=1e-2, norm_coefficient_post=0.0625)


@register
class Momentum(Optimiser):
    """Step along a sum of gradients that forgets, or ahead of it (Nesterov). Source: ONNX Momentum-1."""

    name = "Momentum"
    attributes = {"alpha": REQUIRED, "beta": REQUIRED, "mode": REQUIRED, "norm_coefficient": REQUIRED}

    def update(self, n: Lowering, kind: DType, x: Expr, g: Expr, state: Sequence[Expr]) -> tuple[Expr, ...]:
        mode = n.attr("mode")
        if mode not in ("standard", "nesterov"):
            raise n.error(f"mode is '{mode}'; 'standard' or 'nesterov' was expected")
        alpha, beta = self.factor(n, "alpha", kind), self.factor(n, "beta", kind)
        velocity = state[0] * alpha + g * ex.where(self.steps(n) > 0.0, beta, ex.const(1.0, kind))
        direction = velocity if mode == "standard" else g + velocity * alpha
        return x - ex.cast(self.rate(n), kind) * direction, velocity

    def samples(self) -> Iterator[Sample]:
        yield from optimiser_samples(1, alpha=0.95, beta=0.1, mode="standard", norm_coefficient=0.001)
        yield from optimiser_samples(1, alpha=0.95, beta=1.0, mode="nesterov", norm_coefficient=0.01)
