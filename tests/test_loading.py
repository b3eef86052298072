"""Objects loaded into this process, by our own loader and by LLVM's: equal results, references of every kind, damage, and what a start imports."""
from __future__ import annotations

import ctypes
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
import plans
import pytest
from sardonyx.codegen.driver import driver_kernel
from sardonyx.ir.errors import TargetError
from sardonyx.runtime import elf_objects, host, objects
from sardonyx.runtime.elf_objects import PlacedCode, Unfit
from sardonyx.runtime.llvm_objects import EngineCode, prepare
from sardonyx.runtime.objects import LoadedObjects, call_kernel

served = pytest.mark.skipif(not elf_objects.is_served(), reason="objects of this machine are not of the kind that the loader takes")
HYPOT = "declare double @hypot(double, double)\n"


def compiled(text: str, triple: str = "") -> bytes:
    """The object of LLVM assembly, position-independent as kernels are."""
    prepare()
    target = llvm.Target.from_triple(triple or llvm.get_process_triple())
    module = llvm.parse_assembly(text)
    return target.create_target_machine(reloc="pic", codemodel="default").emit_object(module)


def called(address: int, *values: float) -> float:
    return float(ctypes.CFUNCTYPE(ctypes.c_double, *[ctypes.c_double] * len(values))(address)(*values))


@served
@pytest.mark.parametrize("load", [PlacedCode, lambda images: EngineCode(images, [plans.ADD.symbol])], ids=["placed", "engine"])
def test_kernels_run_from_either(load: Callable[[list[bytes]], PlacedCode | EngineCode]) -> None:
    code = load([plans.image(plans.ADD), plans.image(driver_kernel())])
    a, b = np.random.default_rng(0).standard_normal((2, 40)).astype(np.float32)
    c = np.zeros_like(a)
    call_kernel(code.symbols[plans.ADD.symbol], [a, b, c], [8], 0, 5)
    np.testing.assert_array_equal(c, a + b)


@served
def test_references_to_constants_to_the_system_and_between_objects() -> None:
    """Relocations near, through trampolines and through slots: a table of constants, a function of libm called and its address taken, and one of another object."""
    table = ", ".join(f"double {k}.5" for k in range(16))
    one = compiled(HYPOT + "declare double @other(double)\n@table = private constant [16 x double] [" + table + "]\n"
                   "define double @called(double %x, double %y) {\n  %z = call double @hypot(double %x, double %y)\n  %w = call double @other(double %z)\n  ret double %w\n}\n"
                   "define double @looked_up(double %x) {\n  %k = fptosi double %x to i64\n  %p = getelementptr [16 x double], ptr @table, i64 0, i64 %k\n"
                   "  %v = load double, ptr %p\n  ret double %v\n}\n"
                   "define ptr @taken() {\n  ret ptr @hypot\n}\n")
    two = compiled("define double @other(double %x) {\n  %y = fmul double %x, 3.0\n  ret double %y\n}\n")
    code = LoadedObjects([one, two], ["called", "looked_up", "taken"])
    assert isinstance(code._code, PlacedCode)
    assert called(code.address("called"), 3.0, 4.0) == 15.0
    assert [called(code.address("looked_up"), float(k)) for k in range(16)] == [k + 0.5 for k in range(16)]
    taken = ctypes.CFUNCTYPE(ctypes.c_void_p)(code.address("taken"))()
    assert called(taken, 6.0, 8.0) == 10.0


@served
def test_what_the_loader_does_not_take_goes_to_llvm() -> None:
    count = compiled("@count = internal global double 0.0\ndefine double @next() {\n  %x = load double, ptr @count\n  %y = fadd double %x, 1.0\n"
                     "  store double %y, ptr @count\n  ret double %y\n}\n")
    with pytest.raises(Unfit):
        PlacedCode([count])
    code = LoadedObjects([count], ["next"])
    assert isinstance(code._code, EngineCode)
    assert [called(code.address("next")) for _ in range(3)] == [1.0, 2.0, 3.0]


@served
def test_references_to_nothing_are_named() -> None:
    with pytest.raises(TargetError, match="no_such_function"):
        LoadedObjects([compiled("declare double @no_such_function()\ndefine double @f() {\n  %x = call double @no_such_function()\n  ret double %x\n}\n")], ["f"])


@served
def test_memory_is_executed_and_not_written() -> None:
    code = PlacedCode([plans.image(plans.ADD)])
    address = code.symbols[plans.ADD.symbol]
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(x, 16) for x in line.split()[0].split("-"))
        if start <= address < end:
            assert line.split()[1].startswith("r-x")
            return
    pytest.fail("the code is in no mapping")


@served
def test_damaged_objects_end_in_errors() -> None:
    """Bytes of the headers, of the tables and of anything are changed, and objects are cut short: loaded, refused or left to LLVM, never a crash."""
    whole, rng = plans.image(plans.THREAD_SUMS), random.Random(5)
    tables = int.from_bytes(whole[40:48], "little")
    places = [*range(64), *(rng.randrange(tables, len(whole)) for _ in range(300)), *(rng.randrange(len(whole)) for _ in range(300))]
    outcomes = set()
    for at in places:
        data = bytearray(whole)
        data[at] ^= 1 << rng.randrange(8)
        outcomes.add(outcome(bytes(data)))
    for _ in range(100):
        outcomes.add(outcome(whole[:rng.randrange(len(whole))]))
    assert outcomes == {"loaded", "error", "unfit"}


def outcome(image: bytes) -> str:
    try:
        PlacedCode([image])
    except TargetError:
        return "error"
    except Unfit:
        return "unfit"
    return "loaded"


def test_other_systems_load_by_llvm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects.elf_objects, "is_served", lambda: False)
    code = LoadedObjects([plans.image(plans.ADD)], [plans.ADD.symbol])
    assert isinstance(code._code, EngineCode)
    a = np.arange(16, dtype=np.float32)
    c = np.zeros_like(a)
    call_kernel(code.address(plans.ADD.symbol), [a, a, c], [16], 0, 1)
    np.testing.assert_array_equal(c, a + a)


# ------------------------------------------------------------------------------------------------------------ the processor
CPUINFO = """processor\t: 0
vendor_id\t: GenuineIntel
cpu MHz\t\t: {mhz}
core id\t\t: {core}
flags\t\t: fpu sse {more}

processor\t: 1
"""


def test_words_for_a_processor(tmp_path: Path) -> None:
    """What changes from moment to moment or between cores is left out; an instruction set more is seen."""
    found = []
    for n, (mhz, core, more) in enumerate(((1000, 0, ""), (2000, 3, ""), (1000, 0, "avx2"))):
        (tmp_path / str(n)).write_text(CPUINFO.format(mhz=mhz, core=core, more=more))
        found.append(host.processor_words(tmp_path / str(n)))
    assert found[0] and found[0] == found[1] != found[2]
    assert host.processor_words(tmp_path / "none") == []
    (tmp_path / "cut").write_text("flags: sse")
    assert host.processor_words(tmp_path / "cut") == []


def test_processor_is_remembered(tmp_path: Path) -> None:
    """With and without a cache, at first and again: the same target; the second time LLVM is not imported."""
    program = ("import sys\nfrom sardonyx.runtime.host import host_target\nprint(repr(host_target()))\nprint('llvmlite.binding' in sys.modules)")
    found = []
    for folder in ("off", str(tmp_path), str(tmp_path)):
        env = {"SARDONYX_CACHE_DIR": folder}
        result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env={**os.environ, **env})
        found.append(result.stdout.splitlines())
    assert found[0][0] == found[1][0] == found[2][0]
    assert [f[1] for f in found[:2]] == ["True", "True"]
    if host.processor_words():
        assert found[2][1] == "False"
