"""What random models may be made of: one small function a kind of operator, which chooses valid operands and attributes. Arithmetic; see `random_movement` for the rest."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
from random_models import Discard, Generator, Known, broadcasts, fixed
from sardonyx.ir import dtypes as dt

Template = Callable[[Generator], object]
TEMPLATES: list[tuple[Template, float]] = []


def template(weight: float) -> Callable[[Template], Template]:
    def register(f: Template) -> Template:
        TEMPLATES.append((f, weight))
        return f
    return register


# -------------------------------------------------------------------------------------------------------------- elementwise
ANYWHERE = ("Abs", "Neg", "Ceil", "Floor", "Round", "Sign", "Sin", "Cos", "Tanh", "Asinh", "Atan", "Erf", "Sigmoid", "HardSigmoid", "HardSwish", "Elu", "Selu", "Celu",
            "LeakyRelu", "Relu", "Relu", "ThresholdedRelu", "Softplus", "Softsign", "Mish", "Gelu", "Swish", "Identity", "Dropout", "IsNaN", "IsInf", "Shrink")
GUARDED = ("Exp", "Log", "Sqrt", "Reciprocal", "Tan", "Asin", "Acos", "Sinh", "Cosh", "Acosh", "Atanh", "Clip")


def attributes_of(g: Generator, op: str) -> dict[str, object]:
    alpha = g.one((0.1, 0.5, 1.0, 1.5))
    if op in ("Elu", "LeakyRelu", "ThresholdedRelu", "Celu", "Swish") and g.chance(0.5):
        return {"alpha": alpha}
    if op in ("HardSigmoid", "Selu") and g.chance(0.4):
        return {"alpha": alpha, **({"beta": 0.3} if op == "HardSigmoid" else {"gamma": 1.2})}
    if op == "Gelu":
        return {"approximate": g.one(("none", "tanh"))}
    if op == "Shrink":
        return {"lambd": 0.5, "bias": g.one((0.0, 0.25))}
    return {}


@template(14)
def unary(g: Generator) -> None:
    op = g.one(ANYWHERE)
    g.add(op, g.pick_float(), **attributes_of(g, op))


@template(6)
def guarded(g: Generator) -> None:
    op, x = g.one(GUARDED), g.pick_float()
    if op == "Clip":
        low, high = sorted((g.one((-2.0, -0.5, 0.0)), g.one((0.25, 1.0, 6.0))))
        bounds = [g.scalar(low, x) if g.chance(0.8) else None, g.scalar(high, x) if g.chance(0.8) else None]
        g.add("Clip", x, *bounds)
        return
    if op in ("Exp", "Sinh", "Cosh", "Tan") and x.top > (1.2 if op == "Tan" else 6):
        x = g.add(g.one(("Tanh", "Softsign")), x)
    elif op in ("Asin", "Acos", "Atanh"):
        x = g.add("Mul", g.add("Tanh", x), g.scalar(0.875, x))
    elif op in ("Log", "Sqrt", "Reciprocal", "Acosh"):
        x = g.add("Add", g.add("Abs", x), g.scalar(1.5 if op == "Acosh" else 0.25, x))
    g.add(op, x)


@template(3)
def whole_unary(g: Generator) -> None:
    x = g.pick(lambda k: not k.dtype.is_float)
    if x.dtype is dt.boolean:
        g.add("Not", x)
    else:
        op = g.one(("Abs", "Neg", "Sign", "Identity", "BitwiseNot", "Relu", "Clip"))
        g.add(op, x, *([g.scalar(1, x), g.scalar(7, x)] if op == "Clip" else []))


def swapped(g: Generator, a: Known, b: Known) -> tuple[Known, Known]:
    return (b, a) if g.chance(0.4) else (a, b)


@template(16)
def binary(g: Generator) -> None:
    op = g.one(("Add", "Add", "Sub", "Mul", "Mul", "Div", "Min", "Max", "Mean", "Sum", "PRelu", "Pow", "Mod"))
    x = g.pick_float()
    if op in ("Min", "Max", "Mean", "Sum"):
        parts = [g.partner(x) for _ in range(g.one((0, 1, 1, 2)))]
        if len(parts) == 2 and not broadcasts(*parts):
            parts.pop()
        g.add(op, x, *parts)
    elif op == "Div":
        g.add("Div", x, g.add("Add", g.add("Abs", g.partner(x)), g.scalar(0.5, x)))
    elif op == "PRelu":
        g.add("PRelu", x, g.source(x.dtype, [d if g.chance(0.5) else (1,) * g.runs for d in x.dims[g.rng.randrange(x.rank + 1):]]))
    elif op == "Pow":
        exponent = g.one((2.0, 3.0, 0.5, -1.0, 1.0, 0.0, 1.7, -0.5))
        whole = exponent in (2.0, 3.0, 1.0, 0.0)
        base = x if whole else g.add("Add", g.add("Abs", x), g.scalar(0.5, x))
        g.add("Pow", base, g.constant(np.asarray(exponent, np.int64)) if whole and g.chance(0.3) else g.scalar(exponent, x))
    elif op == "Mod":
        g.add("Mod", x, g.add("Add", g.add("Abs", g.partner(x)), g.scalar(0.5, x)), fmod=1)
    else:
        g.add(op, *swapped(g, x, g.partner(x)))


@template(5)
def whole_binary(g: Generator) -> None:
    x = g.pick(lambda k: k.dtype.is_integer)
    op = g.one(("Add", "Sub", "Mul", "Min", "Max", "Div", "Mod", "Mod", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitShift", "Pow"))
    if op in ("Div", "Mod"):
        y = g.add("Max", g.partner(x), g.scalar(g.one((1, 2, 5)), x)) if g.chance(0.5) else g.source(x.dtype, x.dims[-1:], make=lambda s: g.numbers.integers(1, 8, s))
        g.add(op, x, y, **({"fmod": g.one((0, 1))} if op == "Mod" else {}))
    elif op == "BitShift":
        g.add(op, x, g.source(x.dtype, x.dims[-1:], make=lambda s: g.numbers.integers(0, 7, s)), direction=g.one(("LEFT", "RIGHT")))
    elif op == "Pow":
        g.add(op, g.add("Min", g.add("Max", x, g.scalar(0, x)), g.scalar(9, x)), g.scalar(g.one((0, 1, 2)), x))
    else:
        g.add(op, *swapped(g, x, g.partner(x)))


@template(5)
def comparison(g: Generator) -> None:
    x = g.pick(lambda k: k.dtype is not dt.boolean)
    g.add(g.one(("Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal")), x, g.scalar(0, x) if g.chance(0.3) else g.partner(x))


@template(2)
def logic(g: Generator) -> None:
    x = g.pick(lambda k: k.dtype is dt.boolean)
    g.add(g.one(("And", "Or", "Xor", "Equal")), x, g.partner(x))


@template(5)
def where(g: Generator) -> None:
    x = g.pick()
    y, condition = g.partner(x), g.partner(x, dt.boolean)
    if not broadcasts(y, condition):
        raise Discard("the three do not broadcast")
    g.add("Where", condition, *swapped(g, x, y))


@template(7)
def cast(g: Generator) -> None:
    x, to = g.pick(), g.one((*g.dtypes, *dt.NUMBERS, dt.boolean))
    if x.dtype.is_float and to.is_integer:
        low, high = np.iinfo(to.numpy).min, np.iinfo(to.numpy).max
        if to.kind == "uint" or x.top > high // 2:
            x = g.add("Clip", x, g.scalar(max(low, -100), x), g.scalar(min(high, 100), x))
    elif x.dtype.is_integer and to.is_float and x.top > 2000:
        raise Discard("too large for the narrower type")
    if g.chance(0.15):
        g.add("CastLike", x, g.source(to, ()))
    else:
        g.add("Cast", x, to=to.code)


@template(2)
def tame(g: Generator) -> None:
    x = g.pick_float(where=lambda k: k.top > 20)
    g.add(g.one(("Tanh", "Sigmoid", "Softsign")), x) if g.chance(0.6) else g.add("Mul", x, g.scalar(0.03125, x))


# --------------------------------------------------------------------------------------------------------------- reductions
def axes_of(g: Generator, x: Known) -> list[int]:
    axes = [k for k in range(x.rank) if g.chance(0.5)] or [g.rng.randrange(x.rank)]
    g.rng.shuffle(axes)
    return [a - x.rank if g.chance(0.3) else a for a in axes]


@template(9)
def reduction(g: Generator) -> None:
    op = g.one(("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare"))
    whole = g.chance(0.2)
    x = g.pick(lambda k: k.rank > 0 and (k.dtype.is_integer if whole else k.dtype.is_float))
    if whole and op in ("LogSum", "LogSumExp", "L2", "Prod", "Mean"):
        raise Discard("not of integers")
    if x.least == 0 and op in ("Max", "Min", "Mean", "LogSum", "LogSumExp"):
        raise Discard("nothing to reduce")
    if op == "LogSum":
        x = g.add("Add", g.add("Abs", x), g.scalar(0.125, x))
    if op == "Prod":
        x = g.add("Tanh", x)
    axes: list[int] | None = axes_of(g, x) if g.chance(0.9) else None
    keep = {"keepdims": g.one((0, 1))} if g.chance(0.9) else {}
    if op == "Sum" or g.opset >= 18:
        g.add(f"Reduce{op}", x, axes, **keep, **({"noop_with_empty_axes": 1} if g.chance(0.1) else {}))
    else:
        g.add(f"Reduce{op}", x, **keep, **({} if axes is None else {"axes": tuple(axes)}))


@template(6)
def normalised(g: Generator) -> None:
    x = g.pick_float((1, 2, 3, 4), lambda k: k.least > 0)
    op = g.one(("Softmax", "Softmax", "LogSoftmax", "Hardmax", "LpNormalization", "MeanVarianceNormalization", "LayerNormalization", "LayerNormalization", "RMSNormalization"))
    axis = g.rng.randrange(-x.rank, x.rank)
    if op == "MeanVarianceNormalization":
        if x.dtype is not dt.float32:
            raise Discard("its function body has a float32 constant")
        axes = tuple(sorted(a % x.rank for a in axes_of(g, x)))
        if any((a.astype(np.float64).std(axes) < 0.1 * np.abs(a).max(axes, initial=0) + 0.01).any() for a in x.arrays):
            raise Discard("variance by a difference of squares: nearly equal elements give a root of less than nothing")
        g.add(op, x, axes=axes)
    elif op == "LpNormalization":
        if x.dtype.bits < 32:
            raise Discard("norms of nearly nothing")
        g.add(op, x, axis=axis, p=g.one((1, 2)))
    elif op in ("LayerNormalization", "RMSNormalization"):
        dims = x.dims[axis % x.rank:]
        extra = [g.source(x.dtype, dims)] + ([g.source(x.dtype, dims)] if op[0] == "L" and g.chance(0.6) else [])
        g.add(op, x, *extra, axis=axis, epsilon=g.one((1e-5, 1e-3)))
    else:
        g.add(op, x, axis=axis)


@template(4)
def channel_normalised(g: Generator) -> None:
    x = g.pick_float((3, 4, 5), lambda k: k.least > 0)
    channels = x.dims[1]
    op = g.one(("BatchNormalization", "InstanceNormalization", "GroupNormalization", "LRN"))
    if op == "LRN" and x.rank != 4:
        op = "InstanceNormalization"  # ONNX Runtime has it of images only
    if op == "LRN":
        g.add(op, x, size=g.one((1, 3, 5)), alpha=0.1)
        return
    scale, bias = g.source(x.dtype, [channels]), g.source(x.dtype, [channels])
    if op == "BatchNormalization":
        g.add(op, x, scale, bias, g.source(x.dtype, [channels]), g.source(x.dtype, [channels], make=lambda s: g.numbers.uniform(0.5, 2, s)))
    elif op == "InstanceNormalization":
        g.add(op, x, scale, bias, epsilon=1e-3)
    else:
        groups = [n for n in range(1, min(channels) + 1) if all(c % n == 0 for c in channels)]
        n = g.one(groups)
        g.add(op, x, scale, bias, num_groups=n, epsilon=1e-3)


# ----------------------------------------------------------------------------------------------------------------- products
@template(7)
def matmul(g: Generator) -> None:
    x = g.pick_float((1, 2, 3, 4))
    inner = x.dims[-1]
    rank = g.one((1, 2, 2, 2, x.rank))
    if rank <= 2:
        dims = (inner, *(g.dim() for _ in range(rank - 1)))
    else:
        dims = (*(d if g.chance(0.6) else (1,) * g.runs for d in x.dims[:-2]), inner, g.dim())
    if g.chance(0.25) and x.rank >= 2:
        flipped = g.add("Transpose", x, perm=(*range(x.rank - 2), x.rank - 1, x.rank - 2))
        g.add("MatMul", *swapped(g, x, flipped))
    elif g.chance(0.2) and x.rank >= 2:
        g.add("MatMul", g.source(x.dtype, [g.dim(), x.dims[-2]]), x)
    else:
        g.add("MatMul", x, g.source(x.dtype, dims))


@template(3)
def gemm(g: Generator) -> None:
    x = g.pick(lambda k: k.rank == 2 and (k.dtype.is_float or k.dtype in (dt.int32, dt.int64)))
    left, right = g.one((0, 1)), g.one((0, 1))
    rows, inner = (x.dims[1], x.dims[0]) if left else x.dims
    columns = g.dim()
    w = g.source(x.dtype, (columns, inner) if right else (inner, columns))
    shape = g.one(((), (columns,), (rows, columns), (rows, (1,) * g.runs), ((1,) * g.runs, columns)))
    extra = [g.source(x.dtype, shape)] if g.chance(0.7) else []
    whole = x.dtype.is_integer
    g.add("Gemm", x, w, *extra, transA=left, transB=right, alpha=1.0 if whole else g.one((1.0, 0.5)), beta=1.0 if whole else g.one((1.0, 2.0)))


EQUATIONS = ("ij,jk->ik", "bij,bjk->bik", "ij->ji", "ij,ij->", "bij->bi", "i,j->ij", "...ij,...jk->...ik", "bhid,bhjd->bhij", "ij,kj,kl->il", "bij,bkj->bik", "ijk,k->ij",
             "ij,ij->ij", "bij->", "bi,bj->bij", "ijkl,jk->il", "i,i", "ij,jk")


@template(3)
def einsum(g: Generator) -> None:
    equation = g.one(EQUATIONS)
    terms = equation.split("->")[0].split(",")
    first = g.pick_float([len(terms[0].replace("...", "Z"))], lambda k: k.numel < 3000)
    sizes = dict(zip(terms[0].replace("...", "Z"), first.dims, strict=True))
    operands = [first]
    for t in terms[1:]:
        dims = [sizes.setdefault(c, g.dim(8)) for c in t.replace("...", "Z")]
        operands.append(g.source(first.dtype, dims))
    g.add("Einsum", *operands, equation=equation)


@template(1)
def whole_product(g: Generator) -> None:
    x = g.pick(lambda k: k.dtype in (dt.uint8, dt.int8) and k.rank >= 2)
    w = g.source(g.one((dt.uint8, dt.int8)), [x.dims[-1], g.dim()])
    points = [g.scalar(3, x), g.scalar(1, w)][:g.one((0, 1, 2))]
    g.add("MatMulInteger", x, w, *points)


# ---------------------------------------------------------------------------------------------------------- windows of space
def image(g: Generator, ranks: tuple[int, ...] = (3, 4, 4, 4, 5)) -> Known:
    """A float value with space, or a new one."""
    if g.chance(0.75):
        return g.pick_float(ranks, lambda k: k.least > 0)
    rank = g.one(ranks)
    return g.source(g.one([d for d in g.dtypes if d.is_float]), [g.dim(3), (g.one((1, 2, 3, 4, 8, 16)),) * g.runs, *((g.one((4, 5, 7, 9)),) * g.runs if rank < 5 else (4,) * g.runs for _ in range(rank - 2))])


def window(g: Generator, x: Known, most: int = 3, dilated: bool = True) -> dict[str, tuple[int, ...]]:
    """kernel_shape, strides, dilations and pads that fit the space in every run."""
    space = x.dims[2:]
    kernel = tuple(g.rng.randint(1, min(most, *s)) for s in space)
    out: dict[str, tuple[int, ...]] = {"kernel_shape": kernel}
    dilations = tuple(2 if dilated and g.chance(0.2) and 2 * (k - 1) + 1 <= min(s) else 1 for k, s in zip(kernel, space, strict=True))
    if any(d > 1 for d in dilations):
        out["dilations"] = dilations
    if g.chance(0.5):
        out["strides"] = tuple(g.one((1, 2, 2, 3)) for _ in kernel)
    if g.chance(0.6):
        out["pads"] = tuple(g.rng.randint(0, k - 1) for k in (*kernel, *kernel))
    return out


@template(6)
def convolution(g: Generator) -> None:
    x = image(g)
    channels = x.dims[1][0]
    if not all(c == channels for c in x.dims[1]):
        raise Discard("symbolic channels")
    w = window(g, x)
    groups = [n for n in range(1, channels + 1) if channels % n == 0]
    group = channels if g.chance(0.3) else 1 if g.chance(0.6) else g.one(groups)
    outputs = group * g.one((1, 1, 2, 3)) if group > 1 else g.one((1, 2, 3, 4, 8, 16, 17))
    weights = g.source(x.dtype, [(outputs,) * g.runs, (channels // group,) * g.runs, *((k,) * g.runs for k in w["kernel_shape"])], constant=None if g.chance(0.3) else True)
    extra = [g.source(x.dtype, [(outputs,) * g.runs])] if g.chance(0.6) else []
    if g.chance(0.1):
        w.pop("pads", None)
        w.pop("dilations", None)
        g.add("Conv", x, weights, *extra, group=group, auto_pad=g.one(("SAME_UPPER", "SAME_LOWER", "VALID")), **w)
    else:
        g.add("Conv", x, weights, *extra, group=group, **w)


@template(2)
def transposed_convolution(g: Generator) -> None:
    x = image(g, (3, 4, 4))
    channels = x.dims[1][0]
    if x.numel > 3000 or not all(c == channels for c in x.dims[1]):
        raise Discard("too large")
    w = window(g, x)
    group = g.one([n for n in range(1, channels + 1) if channels % n == 0])
    each = g.one((1, 2, 3))
    weights = g.source(x.dtype, [(channels,) * g.runs, (each,) * g.runs, *((k,) * g.runs for k in w["kernel_shape"])], constant=None if g.chance(0.3) else True)
    extra = [g.source(x.dtype, [(group * each,) * g.runs])] if g.chance(0.6) else []
    reach = [d * (k - 1) for d, k in zip(w.get("dilations", (1,) * (x.rank - 2)), w["kernel_shape"], strict=True)]
    shrunk = [s * (min(n) - 1) + r + 1 - a - b for s, n, r, a, b in zip(w.get("strides", (1, 1)), x.dims[2:], reach, w.get("pads", (0,) * 4)[:x.rank - 2],
                                                                       w.get("pads", (0,) * 4)[x.rank - 2:], strict=False)]
    if any(n < 1 for n in shrunk):
        raise Discard("nothing left")
    further = {"output_padding": tuple(s - 1 for s in w["strides"])} if "strides" in w and g.chance(0.3) else {}
    g.add("ConvTranspose", x, weights, *extra, group=group, **w, **further)


@template(4)
def pooling(g: Generator) -> None:
    op = g.one(("MaxPool", "MaxPool", "AveragePool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool"))
    x = image(g)
    if op.startswith("Global"):
        g.add(op, x)
        return
    w = window(g, x, 3, dilated=op == "MaxPool" or (op == "AveragePool" and g.opset >= 19))
    further: dict[str, object] = {"ceil_mode": 1} if g.chance(0.25) and op != "LpPool" and "pads" not in w else {}  # whether a window may begin in the padding is told apart by versions only
    ones = (1,) * (x.rank - 2)
    beyond = any(-(-(n - 1 - d * (k - 1)) // s) * s >= n for k, d, s, sizes in zip(w["kernel_shape"], w.get("dilations", ones), w.get("strides", ones), x.dims[2:], strict=True)
                 for n in sizes)
    if "ceil_mode" in further and beyond:
        raise Discard("ONNX Runtime infers a window that begins beyond the image, and leaves it out when running")
    if op == "AveragePool" and g.chance(0.5):
        further["count_include_pad"] = 1
    if op == "LpPool":
        further["p"] = g.one((1, 2))
    g.add(op, x, outputs=2 if op == "MaxPool" and g.chance(0.3) else 1, **w, **further)


@template(3)
def resize(g: Generator) -> None:
    x = g.pick_float((3, 4), lambda k: k.least > 0 and k.numel < 4000)
    mode = g.one(("nearest", "linear", "linear", "cubic"))
    if mode == "cubic" and x.rank != 4:
        raise Discard("ONNX Runtime has it of images only")
    space = x.rank - 2
    further: dict[str, object] = {"mode": mode, "coordinate_transformation_mode": g.one(("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"))}
    if mode == "nearest":
        further["nearest_mode"] = g.one(("round_prefer_floor", "floor", "ceil", "round_prefer_ceil"))
    factors = [g.one((2.0, 0.5, 2.0, 4.0)) for _ in range(space)]
    if any(min(n) * f < 1 for n, f in zip(x.dims[2:], factors, strict=True)):
        raise Discard("nothing left")
    by_sizes = g.chance(0.3) and all(map(fixed, x.dims))
    if not by_sizes and further["coordinate_transformation_mode"] == "align_corners" and any(n * f % 1 for d, f in zip(x.dims[2:], factors, strict=True) for n in d):
        raise Discard("ONNX's own cases go by size * scale, ONNX Runtime by the size of the output")
    if by_sizes:
        g.add("Resize", x, None, None, [d[0] for d in x.dims[:2]] + [int(d[0] * f) for d, f in zip(x.dims[2:], factors, strict=True)], **further)
    else:
        g.add("Resize", x, None, np.asarray([1.0, 1.0, *factors], np.float32), **further)


@template(3)
def quantised(g: Generator) -> None:
    x = g.pick_float(range(1, 5))
    if g.chance(0.2):
        y, scale, point = g.add("DynamicQuantizeLinear", x, outputs=3)
        g.add("DequantizeLinear", y, scale, point)
        return
    kind = g.one((dt.uint8, dt.int8))
    axis = g.rng.randrange(x.rank)
    channel = x.dims[axis]
    if g.chance(0.4) and all(n == channel[0] for n in channel):
        dims, further = [channel], {"axis": axis}
    else:
        dims, further = [], {}
    scale = g.source(x.dtype, dims, True, lambda s: g.numbers.choice([0.015625, 0.03125, 0.1, 0.0625], s))
    point = g.source(kind, dims, True, lambda s: g.numbers.integers(0, 20, s))
    y = g.add("QuantizeLinear", x, scale, point, **further)
    g.add("DequantizeLinear", y, scale, point, **further)


import random_extensions  # noqa: E402, F401  these register their templates behind those above
import random_movement  # noqa: E402, F401
