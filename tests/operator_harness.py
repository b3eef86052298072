"""One harness for operator definitions: official ONNX cases and the definitions' own samples, run by the interpreter, fixed and with symbolic sizes."""
from __future__ import annotations

import functools
import importlib
import pkgutil
import warnings
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import onnx
from sardonyx.compiler.importer import import_model
from sardonyx.compiler.lower import decompose, lower
from sardonyx.ir import dtypes as dt
from sardonyx.ir import expr as ex
from sardonyx.ir import infer
from sardonyx.ir.graph import Graph, TensorType
from sardonyx.ir.interpret import run_graph, run_nests
from sardonyx.ir.ops.base import Op, Sample

# Files of ir/ops by the test file that holds their operators against a reference; test_extension_operators takes all others.
TENSOR_FAMILIES = ("elementwise", "unary", "activation", "casting", "dropout", "generation", "indexing", "movement", "normalisation", "padding", "rearrangement", "reduction",
                   "selection")
LAYER_FAMILIES = ("matmul", "attention", "convolution", "pooling", "recurrent", "resize", "image", "signal", "random_numbers", "quantisation")


def family(op: Op) -> str:
    """The file of ir/ops that defines an operator."""
    return type(op).__module__.rpartition(".")[2]


def equal(got: object, want: object, rtol: float, atol: float) -> None:
    """Raise unless two results agree in kind, shape, type and value; bfloat16 within two units in the last place, as ONNX's own comparison has it."""
    if want is None or isinstance(want, list):
        assert isinstance(got, list) == isinstance(want, list)
        for g, w in zip(got or [], want or [], strict=True):
            equal(g, w, rtol, atol)
        return
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape, f"shape {got.shape}, expected {want.shape}"
    if want.dtype.kind in "OUT":
        assert [str(s) for s in got.reshape(-1)] == [s.decode() if isinstance(s, bytes) else str(s) for s in want.reshape(-1)]
        return
    assert got.dtype == want.dtype, f"type {got.dtype}, expected {want.dtype}"
    if want.dtype.name == "bfloat16":
        rtol = max(rtol, 2.0**-6)
    if (want.dtype.kind not in "iub" and want.dtype.itemsize < 4) or want.dtype.kind == "V":
        got, want = got.astype(np.float32), want.astype(np.float32)
    np.testing.assert_allclose(got, want, rtol=rtol, atol=atol)


def array_of(value: object) -> object:
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


# ---------------------------------------------------------------------------------------------------------- official cases
@functools.cache
def official_cases(modules: tuple[str, ...]) -> tuple[object, ...]:
    """The official node cases that modules of `onnx.backend.test.case.node` define."""
    from onnx.backend.test.case import node

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = {m.name for m in pkgutil.iter_modules(node.__path__)}
        for m in modules:
            assert m in names, f"ONNX has no cases {m}"
            importlib.import_module(f"{node.__name__}.{m}")
    return tuple(node._NodeTestCases)


def failures(cases: Iterable[object]) -> list[str]:
    """What goes wrong when the interpreter runs official cases at their own tolerances."""
    problems = []
    for case in cases:
        try:
            graph = import_model(case.model)
            for inputs, outputs in case.data_sets:
                got = run_graph(graph, {v.name: array_of(x) for v, x in zip(graph.inputs, inputs, strict=True)})
                assert len(got) == len(outputs)
                for g, w in zip(got, outputs, strict=True):
                    equal(g, array_of(w), case.rtol or 1e-3, case.atol or 1e-7)
        except Exception as e:  # all failures are reported together
            problems.append(f"{case.name}: {type(e).__name__}: {str(e)[:400]}")
    return problems


# ----------------------------------------------------------------------------------------------------------------- samples
def sample_graph(op: Op, s: Sample, symbolic: Callable[[int, int, np.ndarray], bool] | None = None,
                 constant: Callable[[int, np.ndarray], bool] | None = None) -> tuple[Graph, dict[str, np.ndarray], dict[str, int]]:
    """A one-node graph, its feeds, and the sizes of its symbols.

    Args:
        symbolic: which dimensions above 1 are symbols, by input, dimension and array.
        constant: which inputs are constants of the graph, by input and array.
    """
    graph, feeds, sizes, values = Graph("sample"), {}, {}, []
    for k, a in enumerate(s.inputs):
        if a is None:
            values.append(None)
            continue
        array = np.asarray(a)
        if constant is not None and constant(k, array):
            values.append(graph.constant(f"x{k}", array))
            continue
        dims = []
        for m, d in enumerate(array.shape):
            if symbolic is not None and d > 1 and symbolic(k, m, array):
                sizes[f"d{k}_{m}"] = d
                dims.append(ex.sym(f"d{k}_{m}"))
            else:
                dims.append(ex.const(d))
        feeds[f"x{k}"] = array
        values.append(graph.input(f"x{k}", TensorType(dt.of_numpy(array.dtype), tuple(dims))))
    node = graph.add(op.name, values, dict(s.attributes), outputs=s.outputs, domain=op.domain, version=s.version or op.versions[-1], name="n")
    infer.infer(node)
    graph.outputs = [o for o in node.outputs if o is not None]
    return graph, feeds, sizes


def interpret(graph: Graph, feeds: dict[str, np.ndarray]) -> list[object]:
    """The graph's results, node by node with actual sizes."""
    return run_graph(graph, feeds)


def interpret_lowered(graph: Graph, feeds: dict[str, np.ndarray], sizes: dict[str, int]) -> list[object]:
    """The graph's results through one lowered program."""
    decompose(graph)
    program = lower(graph)
    return run_nests(program, {r: feeds[r.name] for r in program.inputs}, sizes)


def oracle(op: Op, s: Sample, opset: int | None = None) -> Sequence[object] | None:
    """The results of ONNX Runtime if it is installed and has the operator on this processor, else of ONNX's reference evaluator; None where neither has it."""
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    names = ["" if a is None else f"x{k}" for k, a in enumerate(s.inputs)]
    attributes = {k: onnx.numpy_helper.from_array(v) if isinstance(v, np.ndarray) else v for k, v in s.attributes.items()}
    node = helper.make_node(op.name, names, [f"y{k}" for k in range(s.outputs)], domain=op.domain, **attributes)
    feeds = {n: np.asarray(a) for n, a in zip(names, s.inputs, strict=True) if a is not None}
    inputs = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in feeds.items()]
    graph = helper.make_graph([node], "g", inputs, [onnx.ValueInfoProto(name=o) for o in node.output])
    version = s.version or op.versions[-1]
    imports = [helper.make_opsetid(op.domain, opset or version)] + ([helper.make_opsetid("", 21)] if op.domain else [])
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    try:
        import onnxruntime as ort

        ort.set_default_logger_severity(4)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1  # what it quantises by range it takes in as many parts as it has threads
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, feeds)
    except ImportError:
        pass
    except Exception as e:  # ONNX Runtime's own exceptions derive from Exception alone
        if "not yet supported on this hardware platform" in str(e):
            return None
        if op.domain == "com.microsoft":
            raise AssertionError(f"ONNX Runtime refuses the sample: {e}") from e
    try:
        return ReferenceEvaluator(model).run(None, feeds)
    except (NotImplementedError, RuntimeError):
        return None
