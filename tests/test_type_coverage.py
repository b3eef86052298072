"""Every version of every operator of ai.onnx and ai.onnx.ml with every element type that its schema allows: it lowers, or says why not."""
from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from onnx import defs, helper
from sardonyx.compiler.importer import import_model
from sardonyx.compiler.lower import decompose, lower
from sardonyx.ir import dtypes as dt
from sardonyx.ir.errors import ModelError, UnsupportedError
from sardonyx.ir.ops.base import Op, Sample, find

# What the standard allows and no sample reaches: (operator, part of the message).
REFUSED = {
    ("Unique", "complex numbers"),  # which have no order
    ("BitCast", "cannot be read as i32"),  # widths differ
    ("Imputer", "imputed_value_int64s"),  # the sample imputes floats
}
# Element types of opset 28 that this package does not know; a model with them is refused.
UNKNOWN = {"float6e2m3", "float6e3m2"}
# Samples of the newest version that an older one writes in another way are not its nodes.
OTHER_FORM = ("takes", "is missing", "is of type")


def schemas() -> dict[tuple[str, str], dict[int, onnx.defs.OpSchema]]:
    found: dict[tuple[str, str], dict[int, onnx.defs.OpSchema]] = defaultdict(dict)
    for s in defs.get_all_schemas_with_history():
        if s.domain in ("", "ai.onnx.ml") and not s.deprecated:
            found[s.domain, s.name][s.since_version] = s
    return found


SCHEMAS = schemas()
DEFINED = sorted(k for k in SCHEMAS if find(*k) is not None)


def converted(array: object, to: dt.DType) -> np.ndarray | None:
    a = np.asarray(array)
    if to is dt.string:
        out = np.empty(a.size, object)
        out[:] = [str(v) for v in a.reshape(-1)]
        return out.reshape(a.shape)
    return None if a.dtype == object else a.astype(to.numpy)


def variants(s: onnx.defs.OpSchema, sample: Sample) -> Iterator[tuple[str, list]]:
    """The sample's inputs with the inputs of one type parameter in each of its types."""
    for parameter in sorted({i.type_str for i in s.inputs}):
        allowed = next((c.allowed_type_strs for c in s.type_constraints if c.type_param_str == parameter), ())
        for spelled in allowed:
            if not spelled.startswith("tensor(") or spelled[7:-1] in UNKNOWN:
                continue
            to = dt.BY_NAME[spelled[7:-1]]
            arrays = [a if a is None or s.inputs[min(k, len(s.inputs) - 1)].type_str != parameter else converted(a, to) for k, a in enumerate(sample.inputs)]
            if all((a is None) == (b is None) for a, b in zip(arrays, sample.inputs)):
                yield to.name, arrays


def model(op: Op, version: int, s: onnx.defs.OpSchema, sample: Sample, arrays: list) -> onnx.ModelProto:
    names = ["" if a is None else f"x{k}" for k, a in enumerate(arrays)]
    attributes = {k: onnx.numpy_helper.from_array(v) if isinstance(v, np.ndarray) else v for k, v in sample.attributes.items() if k in s.attributes}
    node = helper.make_node(op.name, names, [f"y{k}" for k in range(sample.outputs)], domain=op.domain, **attributes)
    inputs = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(np.asarray(a).dtype), np.shape(a)) for n, a in zip(names, arrays) if a is not None]
    opsets = [helper.make_opsetid(op.domain, version), *([helper.make_opsetid("", 21)] if op.domain else [])]
    return helper.make_model(helper.make_graph([node], "g", inputs, [onnx.ValueInfoProto(name=o) for o in node.output]), opset_imports=opsets, ir_version=10)


def test_every_operator_is_defined_or_has_a_body() -> None:
    missing = [k for k, versions in SCHEMAS.items() if k not in DEFINED and not any(s.has_function or s.has_context_dependent_function for s in versions.values())]
    assert missing == [("", "Constant")]  # which the importer reads itself


@pytest.mark.parametrize("key", DEFINED, ids=lambda k: k[1])
def test_versions_and_types(key: tuple[str, str]) -> None:
    op = find(*key)
    assert op is not None and set(SCHEMAS[key]) <= set(op.versions)
    samples = list(op.samples())
    lowered = 0
    for version, s in SCHEMAS[key].items():
        chosen = next((x for x in samples if x.version == version), None) or next((x for x in samples if x.version is None), None)
        for name, arrays in variants(s, chosen) if chosen is not None else ():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    graph = import_model(model(op, version, s, chosen, arrays))
                    decompose(graph)
                    lower(graph)
                    lowered += 1
                except UnsupportedError as e:
                    assert any(op.name == o and part in str(e) for o, part in REFUSED), f"{op.name}-{version} of {name}: {e}"
                except ModelError as e:
                    older = version != op.versions[-1] and any(part in str(e) for part in OTHER_FORM)
                    assert older or any(op.name == o and part in str(e) for o, part in REFUSED), f"{op.name}-{version} of {name}: {e}"
    assert lowered or not samples or not any(i.type_str in {c.type_param_str for c in s.type_constraints} for i in s.inputs) or chosen is None
