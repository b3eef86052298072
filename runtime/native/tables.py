"""A compiled model as C tables: what `library.c` includes, and the header that users of the library include."""
from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...ir import driver_abi as dv
from ...ir.errors import UnsupportedError
from ...ir.plan import ControlStep, HostStep, Plan
from ...ir.target import Target
from .. import host
from ..bodies import BodyTables, body_tables
from ..build import dtype_of
from ..frames import find_driver, round_up
from ..model import CompiledModel
from ..tables import PlanTables, numpy_type
from . import processor

HERE = Path(__file__).parent
MAX_RANK = 8  # SARDONYX_MAX_RANK
ALIGNMENT = 64
# Words of contexts and other numbers of the driver's interface that library.c uses; some have other names there.
_WORDS = ("SELF STEPS STEP_COUNT OPERANDS PROGRAM EAGER NUMBERS POINTERS KERNELS THREADS START STATE FIRST_SCRATCH FIRST_STRIDE ARGUMENTS DRIVER TEAM PARALLEL YIELD "
          "THREAD_NUMBER CREW ALLOCATE RELEASE SEGMENTS SEGMENT_COUNT BODIES BODY GIVEN LOOP PARENT PARENT_STEP IDENTITY CONTEXT_WORDS MODE_RUN MODE_TEAM MODE_EVALUATE "
          "STATE_WORDS STOPPED FAILURE FAILED_IN FAILED_A FAILED_B FAILED NO_MEMORY CREW_WORDS LINE_WORDS BLOCK_WORDS").split()
_RENAMED = {"ARGUMENTS_EACH": "ARGUMENT_STRIDE", "BLOCK_TABLE": "BLOCKS"}
_FAILURES = {
    dv.NO_CONTROL: "the driver was compiled without control flow",
    dv.BROKEN_BRANCH: "the branch that these inputs choose cannot run",
    dv.WRONG_INPUT: "a size does not fit an input of the body: expected and found",
    dv.WRONG_SIZES: "sizes do not fit the operators of the body",
    dv.WRONG_RESULT: "a result has another size than the model says: dimension and size",
    dv.UNEQUAL_ENTRIES: "results of the iterations have different shapes and cannot be stacked: dimension and size",
    dv.UNEQUAL_SLICES: "the scanned inputs have different numbers of elements along their axes",
    dv.NOT_ONE_CONDITION: "the condition is not one element: its bytes",
    dv.NOT_ONE_LIMIT: "the number of iterations is not one element: its bytes",
    dv.NOT_ONE_GIVEN: "the condition that the body returns is not one element: its elements",
}


@dataclass(frozen=True)
class Sources:
    """C sources of one model's library.

    Args:
        header: for users.
        tables: included by library.c.
        weights: all constants, each at a multiple of 64 bytes, behind a key of 64 bytes.
        symbols: kernels and driver that are needed.
        exports: functions that the library defines for its users.
    """

    header: str
    tables: str
    weights: bytes
    symbols: list[str]
    exports: list[str]


def c_name(text: str) -> str:
    """A C identifier made of a file's name."""
    name = re.sub(r"\W", "_", text, flags=re.ASCII)
    return name if name and not name[0].isdigit() else f"model_{name}"


def sources(model: CompiledModel, name: str, target: Target, beside: str | None, threads: bool, bare: bool = False) -> Sources:
    """The C sources of a model's library.

    Args:
        model: compiled for the library's target.
        name: prefix of everything that the library defines, a C identifier.
        target: what it was compiled for; instances check the processor, and ask the system for the tile registers of AMX where kernels may use them.
        beside: name of the file that the weights lie in; None if they lie inside.
        threads: whether the target may have an OpenMP runtime.
        bare: without allocation, threads and files.

    Raises:
        UnsupportedError: the model needs the Python host, or its interface cannot be said in C; names the node or port.
    """
    plan = model.plan
    _refuse(plan, bare)
    weights, offsets = _weights(model)
    computed = _computed(plan)
    root = PlanTables(plan, [np.zeros(1, np.uint8)] * plan.constants)
    bodies = body_tables(root, [np.zeros(1, np.uint8)] * plan.constants)
    driver = find_driver(model.objects)
    exports = [f"{name}_{f}" for f in ("instance_bytes", "open_in", "open", "close", "error", "threads", "input_count", "output_count", "input", "output", "prepare",
                                       "workspace_bytes", "set_workspace", "output_dims", "run") if not bare or f not in ("open", "close")]
    lines = [f'#include "{name}.h"', ""]
    lines += [f"#define SDX_{w} {getattr(dv, w)}LL" for w in _WORDS]
    lines += [f"#define SDX_{new} {getattr(dv, old)}" for new, old in _RENAMED.items()]
    lines += _sizes(plan, root, bodies, name, driver)
    lines += _weights_text(name, len(weights), beside, weights[:ALIGNMENT], threads)
    lines += processor.table(target)
    lines += [f"#define SDX_TILES {int(host.has_tiles(target))}", *(f"#define SDX_{w} {getattr(host, w)}" for w in ("ARCH_PRCTL", "REQUEST_STATE", "TILE_DATA"))]
    lines += _kernels_text(plan, driver)
    lines += [f"static const int64_t sdx_constant_offsets[] = {_list(~computed[k] if k in computed else at for k, at in enumerate(offsets))};"]
    lines += _preparations_text(plan)
    lines += _parts_text(root, bodies)
    lines += _ports_text(plan)
    lines += _failures_text()
    return Sources(_header(plan, name, beside, bare), "\n".join(lines) + "\n", weights, [*dict.fromkeys(plan.kernels), driver], exports)


def _refuse(plan: Plan, bare: bool) -> None:
    for step in plan.steps:
        if isinstance(step, HostStep):
            raise UnsupportedError(f"a native library has no Python to run it on: {step.reason}", ", ".join(step.origin) or plan.host_functions[step.function][0])
    if bare and plan.preparations:
        raise UnsupportedError("constants are computed when the library is opened, which a bare library does not do; compile the model without `compact`")
    if bare and (plan.bodies or len(plan.segments) > 1):
        raise UnsupportedError("control flow and sizes that depend on data need allocation while running, which a bare library does not have")
    for p in (*plan.inputs, *plan.outputs):
        if p.buffer < 0:
            raise UnsupportedError(f"'{p.name}' is a {p.type}; a native library takes and gives tensors of numbers only")
        if len(plan.buffers[p.buffer].shape) > MAX_RANK:
            raise UnsupportedError(f"'{p.name}' has rank {len(plan.buffers[p.buffer].shape)}; the interface of native libraries goes up to {MAX_RANK}")


def _weights(model: CompiledModel) -> tuple[bytes, list[int]]:
    """All constants in one piece, and where each starts."""
    offsets, at = [], ALIGNMENT
    parts: list[bytes] = []
    for a in model.constants:
        data = np.ascontiguousarray(a).reshape(-1).view(np.uint8).tobytes()
        offsets.append(at)
        parts += [data, bytes(-len(data) % ALIGNMENT)]
        at += len(parts[-2]) + len(parts[-1])
    digest = hashlib.sha256()
    for p in parts:
        digest.update(p)
    key = b"SARDONYX WEIGHTS" + digest.digest() + at.to_bytes(16, "little")
    return b"".join([key, *parts]), offsets


def _sizes_of(plan: Plan, buffer: int) -> int:
    """Bytes of a buffer whose sizes are known."""
    spec = plan.buffers[buffer]
    return math.prod(plan.numbers[d] for d in spec.shape) * numpy_type(spec).itemsize


def _computed(plan: Plan) -> dict[int, int]:
    """Where each constant that is computed when the library is opened lies in the memory for them."""
    offsets, at = {}, 0
    for p in plan.preparations:
        for b in p.results:
            offsets[plan.buffers[b].index] = at
            at += round_up(_sizes_of(plan, b))
    return offsets


def _preparations_text(plan: Plan) -> list[str]:
    """Launches that compute constants: kernel, units, number of buffers and of parameters, then constants and parameters."""
    size = sum(round_up(_sizes_of(plan, b)) for p in plan.preparations for b in p.results)
    rows = [w for p in plan.preparations for w in (p.kernel, p.units, len(p.buffers), len(p.parameters), *(plan.buffers[b].index for b in p.buffers), *p.parameters)]
    scratch = max((p.scratch for p in plan.preparations), default=0)
    return [f"#define SDX_COMPUTED_BYTES {size}u", f"#define SDX_COMPUTING_SCRATCH {round_up(scratch)}u",
            f"#define SDX_COMPUTING_BUFFERS {max((len(p.buffers) for p in plan.preparations), default=1)}",
            f"static const int64_t sdx_preparations[] = {_list([*rows, -1])};"]


def _list(values: Iterable[int]) -> str:
    numbers = [f"{v}LL" if abs(v) >= 1 << 31 else str(v) for v in values]
    lines = [", ".join(numbers[k:k + 40]) for k in range(0, len(numbers), 40)]
    return "{" + ",\n".join(lines) + "}" if numbers else "{0}"


def _text(s: str) -> str:
    """A C string."""
    return '"' + "".join(chr(b) if 32 <= b < 127 and chr(b) not in '"\\?' else f"\\{b:03o}" for b in s.encode()) + '"'


def _sizes(plan: Plan, root: PlanTables, bodies: Sequence[BodyTables], name: str, driver: str) -> list[str]:
    tables = [root, *bodies]
    facts = {
        "NAME(f)": f"{name}_##f", "INSTANCE": name, "TEXT_NAME": _text(name), "DRIVER_SYMBOL": driver, "BODY_COUNT": len(bodies), "KERNEL_COUNT": len(plan.kernels),
        "INPUT_COUNT": len(plan.inputs), "OUTPUT_COUNT": len(plan.outputs), "ARGUMENT_STRIDE": max(t.argument_words for t in tables) + dv.SPARE_WORDS,
        "BLOCKS": sum(t.block_count for t in tables), "SCRATCH_NUMBER": plan.scratch, "FIRST_SEGMENT": plan.segments[0] if plan.segments else -1,
    }
    return [f"#define SDX_{k} {v}" for k, v in facts.items()]


def _weights_text(name: str, size: int, beside: str | None, key: bytes, threads: bool) -> list[str]:
    lines = [f"#define SDX_WEIGHTS_BYTES {size}u", f"#define SDX_HAS_THREADS {int(threads)}", f"#define SDX_WEIGHTS_BESIDE {int(beside is not None)}"]
    if beside is not None:
        return [*lines, f"#define SDX_WEIGHTS_NAME {_text(beside)}", f"static const unsigned char sdx_weights_key[{ALIGNMENT}] = {_list(key)};"]
    return [*lines, f'''\
#ifdef __wasm__
static const unsigned char sdx_weights[] __attribute__((aligned({ALIGNMENT}))) = {{
#embed "weights.bin"
}};
#else
#if defined(__APPLE__)
#define SDX_SECTION ".section __TEXT,__const\\n"
#elif defined(_WIN32)
#define SDX_SECTION ".section .rdata,\\"dr\\"\\n"
#else
#define SDX_SECTION ".section .rodata\\n"
#endif
__asm__(SDX_SECTION ".balign {ALIGNMENT}\\nL_{name}_weights:\\n.incbin \\"weights.bin\\"\\n.text\\n");
extern const unsigned char sdx_weights[] __asm__("L_{name}_weights") __attribute__((visibility("hidden")));
#endif''']


def _kernels_text(plan: Plan, driver: str) -> list[str]:
    declared = [f"void {s}(void **, const int64_t *, int64_t, int64_t, void *);" for s in [*dict.fromkeys(plan.kernels), driver]]
    rows = ", ".join(plan.kernels)
    return [*declared, f"static void (*const sdx_kernels[])(void **, const int64_t *, int64_t, int64_t, void *) = {{{rows or '0'}}};"]


def _parts_text(root: PlanTables, bodies: Sequence[BodyTables]) -> list[str]:
    lines = ["typedef struct sdx_part {",
             "    const int64_t *steps, *operands, *program, *segments, *first_numbers, *constants, *body;",
             "    int64_t step_count, eager, segment_count, numbers, pointers, given, loop, first_block, parent, parent_step;",
             "    const char *name;", "} sdx_part;"]
    rows = []
    block = 0
    for k, t in enumerate([root, *bodies]):
        body = t if isinstance(t, BodyTables) else None
        constants = [b.index if b.storage == "constant" else -1 for b in t.plan.buffers]
        tables: dict[str, Iterable[int]] = {
            "steps": t.steps, "operands": t.operands, "program": t.program, "segments": t.segments, "numbers": t.plan.numbers, "constants": constants,
            "body": body.body if body is not None else []}
        lines += [f"static const int64_t sdx_{what}_{k}[] = {_list(map(int, values))};" for what, values in tables.items()]
        counts = [len(t.plan.steps), t.plan.eager, len(t.plan.segments), len(t.plan.numbers), len(constants), body.given if body is not None else 0,
                  body.loop_words if body is not None else 0, block, body.parent if body is not None else 0, body.step if body is not None else 0]
        origin = ", ".join(body.control.origin) if body is not None else ""
        rows.append("{" + ", ".join([*(f"sdx_{what}_{k}" for what in tables), *map(str, counts), _text(f"{body.control.kind} '{origin}'") if body is not None else '""']) + "}")
        block += t.block_count
    return [*lines, "static const sdx_part sdx_parts[] = {" + ",\n".join(rows) + "};"]


def _ports_text(plan: Plan) -> list[str]:
    ports = []
    for p in (*plan.inputs, *plan.outputs):
        kind = dtype_of(p.type)
        assert kind is not None
        rank = len(plan.buffers[p.buffer].shape)
        shape = p.shape if p.shape is not None and len(p.shape) == rank else (None,) * rank
        dims = [d if isinstance(d, int) else -1 for d in shape] + [0] * (MAX_RANK - rank)
        names = [_text(d) if isinstance(d, str) else "0" for d in shape] + ["0"] * (MAX_RANK - rank)
        ports.append(f"{{{_text(p.name)}, {kind.code}, {numpy_type(plan.buffers[p.buffer]).itemsize}, {rank}, {_list(dims)}, {{{', '.join(names)}}}}}")
    inside = len(plan.inputs)
    slots = [w for k, b in enumerate(plan.buffers) if b.storage in ("input", "output") for w in (b.index + (inside if b.storage == "output" else 0), k)]
    late = {i.target for i in plan.program[plan.eager:]}
    late |= {number for s in plan.steps if isinstance(s, ControlStep) for o in s.outputs for number, sets in o.dims if sets}
    outputs = []
    for k, p in enumerate(plan.outputs):
        b = plan.buffers[p.buffer]
        direct = (b.storage, b.index) == ("output", k)
        rows = [list(b.shape), list(b.order), [int(d in late) for d in b.shape]]
        outputs.append(f"{{{int(direct)}, {p.buffer}, {', '.join(_list([*r, *[0] * (MAX_RANK - len(r))]) for r in rows)}}}")
    arena = [w for k, b in enumerate(plan.buffers) if b.storage == "arena" and b.index == 0 for w in (k, b.offset)]
    return [
        "typedef struct sdx_output { int32_t direct, buffer; int32_t shape[8], order[8], late[8]; } sdx_output;",
        f"static const sardonyx_port sdx_ports[] = {{{', '.join(ports) or '{0}'}}};",
        f"static const sdx_output sdx_outputs[] = {{{', '.join(outputs) or '{0}'}}};",
        f"static const int64_t sdx_sizes[] = {_list([w for row in plan.sizes for w in row] + [-1])};",
        f"static const int64_t sdx_checks[] = {_list([w for c in plan.checks for w in (c.input, c.dim, c.number)] + [-1])};",
        f"static const int64_t sdx_conditions[] = {_list([c.number for c in plan.conditions])};",
        f"static const char *const sdx_reasons[] = {{{', '.join([*(_text(c.reason) for c in plan.conditions), '0'])}}};",
        f"static const int64_t sdx_slots[] = {_list([*slots, -1])};",
        f"static const int64_t sdx_arena[] = {_list([*arena, -1])};",
    ]


def _failures_text() -> list[str]:
    rows = ", ".join(f"{{{what}, {_text(text)}}}" for what, text in _FAILURES.items())
    return [f"static const struct {{ int64_t what; const char *text; }} sdx_failures[] = {{{rows}, {{0, 0}}}};"]


# ----------------------------------------------------------------------------------------------------------------- header
def _port_comment(plan: Plan) -> list[str]:
    lines = []
    for what, ports in (("input", plan.inputs), ("output", plan.outputs)):
        for k, p in enumerate(ports):
            shape = "?" if p.shape is None else ", ".join("?" if d is None else str(d) for d in p.shape)
            kind = dtype_of(p.type)
            safe = f"{p.name}: {kind.name if kind is not None else p.type}[{shape}]".replace("*/", "* /")
            lines.append(f" *   {what} {k}  {safe}")
    return lines


def _header(plan: Plan, name: str, beside: str | None, bare: bool) -> str:
    shared = (HERE / "sardonyx.h").read_text()
    guard = f"{name.upper()}_H"
    text = f"""\
/* {name}: a model compiled by Sardonyx.
 *
{chr(10).join(_port_comment(plan))}
 *   weights   {'inside the library' if beside is None else f"in the file {beside}".replace("*/", "* /")}
 *
 * Functions that can fail return 0 or another number of enum sardonyx_status. An instance serves one thread at a time; several share the weights.
 */
#ifndef {guard}
#define {guard}

{shared}
#ifndef SDX_API
#ifdef _WIN32
#define SDX_API
#else
#define SDX_API __attribute__((visibility("default")))
#endif
#endif

#ifdef __cplusplus
extern "C" {{
#endif

typedef struct {name} {name};
"""
    if not bare:
        text += f"""
/* Make an instance; `options` may be NULL. */
SDX_API int32_t {name}_open(const sardonyx_options *options, {name} **out);
SDX_API void {name}_close({name} *model);
"""
    text += f"""
/* Make an instance in the caller's memory, of at least {name}_instance_bytes() bytes; it has one thread and needs no closing if every output and the workspace
 * are the caller's, too. */
SDX_API size_t {name}_instance_bytes(void);
SDX_API int32_t {name}_open_in(void *memory, size_t bytes, const sardonyx_options *options, {name} **out);

/* What the last failure of an instance was, or, of NULL, that of opening one. */
SDX_API const char *{name}_error(const {name} *model);

/* Number of threads that runs use. */
SDX_API int32_t {name}_threads(const {name} *model);

/* Inputs and outputs by position; NULL beyond the last. */
SDX_API int32_t {name}_input_count(void);
SDX_API int32_t {name}_output_count(void);
SDX_API const sardonyx_port *{name}_input(int32_t k);
SDX_API const sardonyx_port *{name}_output(int32_t k);

/* Tell the shapes of the next runs (types, ranks and dims of the inputs; data is not read). Runs do it themselves; calling it first gives the sizes of workspace
 * and outputs. */
SDX_API int32_t {name}_prepare({name} *model, const sardonyx_tensor *inputs, int32_t count);

/* Bytes of scratch and intermediate results for the prepared shapes, 0 before. */
SDX_API size_t {name}_workspace_bytes(const {name} *model);

/* Use the caller's memory as workspace; NULL: memory of the instance. */
SDX_API int32_t {name}_set_workspace({name} *model, void *memory, size_t bytes);

/* Sizes of an output for the prepared shapes; -1 where only a run can tell. */
SDX_API int32_t {name}_output_dims(const {name} *model, int32_t k, int64_t *dims);

/* Run the model. Outputs are written to their data, of which `bytes` must be enough; where data is NULL, it becomes memory of the instance, valid until its
 * next run. Type, rank and dims of outputs are set. */
SDX_API int32_t {name}_run({name} *model, const sardonyx_tensor *inputs, int32_t input_count, sardonyx_tensor *outputs, int32_t output_count);

#ifdef __cplusplus
}}
"""
    if not bare:
        text += _cplusplus(name)
    return text + "#endif\n\n#endif\n"


def _cplusplus(name: str) -> str:
    """A class that owns an instance and throws what fails."""
    return f"""
#include <stdexcept>
#include <string>
#include <vector>

/* An instance that closes itself; failures are thrown as std::runtime_error. */
class {name}_model {{
  public:
    explicit {name}_model(const sardonyx_options &options = sardonyx_options()) {{
        if ({name}_open(&options, &handle)) throw std::runtime_error({name}_error(nullptr));
    }}
    {name}_model({name}_model &&other) noexcept : handle(other.handle) {{ other.handle = nullptr; }}
    {name}_model(const {name}_model &) = delete;
    {name}_model &operator=(const {name}_model &) = delete;
    ~{name}_model() {{ {name}_close(handle); }}

    /* Outputs in memory of the instance, valid until its next run. */
    std::vector<sardonyx_tensor> run(const std::vector<sardonyx_tensor> &inputs) {{
        std::vector<sardonyx_tensor> outputs(static_cast<size_t>({name}_output_count()));
        run(inputs, outputs);
        return outputs;
    }}
    /* Outputs where they say; those without data as above. */
    void run(const std::vector<sardonyx_tensor> &inputs, std::vector<sardonyx_tensor> &outputs) {{
        check({name}_run(handle, inputs.data(), static_cast<int32_t>(inputs.size()), outputs.data(), static_cast<int32_t>(outputs.size())));
    }}
    size_t workspace_bytes(const std::vector<sardonyx_tensor> &inputs) {{
        check({name}_prepare(handle, inputs.data(), static_cast<int32_t>(inputs.size())));
        return {name}_workspace_bytes(handle);
    }}
    {name} *get() const {{ return handle; }}

  private:
    void check(int32_t status) const {{
        if (status) throw std::runtime_error(std::string({name}_error(handle)));
    }}
    {name} *handle = nullptr;
}};
"""


__all__ = ["Sources", "c_name", "sources"]
