"""Instruction sets of processors that are given by name alone (`TRIPLE:CPU`), by LLVM's account."""
from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import llvmlite.binding as llvm

from ..ir.errors import TargetError
from ..ir.target import Target
from .host import TILES, x86_family
from .native.processor import BITS

BASE = "fxsr"  # what every 64-bit processor has; one that LLVM does not know has nothing


def described(target: Target) -> Target:
    """A target with its instruction sets named, where its processor is one of x86-64 that a user named: kernels use them, and who loads the code asks for them.

    Tile registers are left out: a package or library for a processor's name should run wherever the processor does, and systems refuse them.

    Raises:
        TargetError: LLVM knows no such processor.
    """
    if target.arch != "x86_64" or target.features or target.cpu.startswith("x86-64-v"):
        return target
    has = features_of(target.cpu)
    if BASE not in has:
        version = ".".join(map(str, llvm.llvm_version_info))
        raise TargetError(f"LLVM {version} knows no processor of x86-64 named '{target.cpu}'; names are LLVM's, such as haswell, znver3 or skylake-avx512")
    names = sorted(has - {BASE})
    isa, vector_bytes, registers = x86_family(has)
    wide = ["-prefer-256-bit"] if isa == "avx512" else []
    return replace(target, features=",".join([*(f"+{n}" for n in names), *wide]), isa=isa, vector_bytes=vector_bytes, vector_registers=registers)


@lru_cache
def features_of(cpu: str) -> frozenset[str]:
    """The instruction sets of `native.processor.BITS`, and `BASE`, that a processor of x86-64 has.

    LLVM takes a function into another only if the other may use all that it uses: one function for each instruction set is called by one for the processor, and
    those that are still called afterwards use what the processor lacks.
    """
    names = [n for n in (*BITS, BASE) if n not in TILES]
    triple = "x86_64-unknown-linux-gnu"
    lines = [f'target triple = "{triple}"']
    for k in range(len(names)):
        lines += [f"define internal i32 @uses{k}(i32 %x) #{k} {{", f"  %y = add i32 %x, {k}", "  ret i32 %y", "}"]
    lines.append(f"define void @processor(ptr %p) #{len(names)} {{")
    for k in range(len(names)):
        lines += [f"  %x{k} = load volatile i32, ptr %p", f"  %y{k} = call i32 @uses{k}(i32 %x{k})", f"  store volatile i32 %y{k}, ptr %p"]
    lines += ["  ret void", "}"]
    lines += [f'attributes #{k} = {{ "target-cpu"="x86-64" "target-features"="+{name}" }}' for k, name in enumerate(names)]
    lines.append(f'attributes #{len(names)} = {{ "target-cpu"="{cpu}" "target-features"="+64bit" }}')
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    module = llvm.parse_assembly("\n".join(lines))
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu="x86-64")
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=2))
    builder.getModulePassManager().run(module, builder)
    called = "\n".join(str(block) for block in module.get_function("processor").blocks)
    return frozenset(n for k, n in enumerate(names) if f"@uses{k}(" not in called)
