"""What a native library checks of the processor that it is opened on."""
from __future__ import annotations

from ...ir.target import Target
from ..package import used_features

EAX, EBX, ECX, EDX = range(4)
AVX_STATE, AVX512_STATE = 0x06, 0xE6  # of XCR0: registers that the system saves
# LLVM's name -> leaf and subleaf of CPUID, register, bit: what compiled loops may hold. Source: Intel, Software Developer's Manual, volume 2A, CPUID.
BITS = {
    "sse3": (1, 0, ECX, 0), "ssse3": (1, 0, ECX, 9), "sse4.1": (1, 0, ECX, 19), "sse4.2": (1, 0, ECX, 20), "popcnt": (1, 0, ECX, 23),
    "avx": (1, 0, ECX, 28), "f16c": (1, 0, ECX, 29), "fma": (1, 0, ECX, 12), "movbe": (1, 0, ECX, 22),
    "bmi": (7, 0, EBX, 3), "avx2": (7, 0, EBX, 5), "bmi2": (7, 0, EBX, 8), "avx512f": (7, 0, EBX, 16), "avx512dq": (7, 0, EBX, 17), "avx512ifma": (7, 0, EBX, 21),
    "avx512cd": (7, 0, EBX, 28), "avx512bw": (7, 0, EBX, 30), "avx512vl": (7, 0, EBX, 31),
    "avx512vbmi": (7, 0, ECX, 1), "avx512vbmi2": (7, 0, ECX, 6), "gfni": (7, 0, ECX, 8), "avx512vnni": (7, 0, ECX, 11), "avx512bitalg": (7, 0, ECX, 12),
    "avx512vpopcntdq": (7, 0, ECX, 14), "amx-bf16": (7, 0, EDX, 22), "avx512fp16": (7, 0, EDX, 23), "amx-tile": (7, 0, EDX, 24), "amx-int8": (7, 0, EDX, 25),
    "avxvnni": (7, 1, EAX, 4), "avx512bf16": (7, 1, EAX, 5), "lzcnt": (0x80000001, 0, ECX, 5),
}


def checks(target: Target) -> list[tuple[str, int, int, int, int]]:
    """(name, leaf, subleaf, register, bit) of every instruction set that code for a target may use and that CPUID tells; none on other processors than x86-64."""
    if target.arch != "x86_64":
        return []
    used = used_features(target.key)
    return [(name, *where) for name, where in BITS.items() if name in used]


def saved_state(target: Target) -> int:
    """Bits of XCR0 that must be set for the vector registers that code for a target uses."""
    names = {name for name, *_ in checks(target)}
    return AVX512_STATE if "avx512f" in names else AVX_STATE if "avx" in names else 0


def table(target: Target) -> list[str]:
    """C text of what `library.c` checks."""
    rows = checks(target)
    lines = [f"#define SDX_FEATURES {len(rows)}", f"#define SDX_SAVED_STATE {saved_state(target)}u"]
    if rows:
        lines.append("static const struct { const char *name; uint32_t leaf, subleaf, word, bit; } sdx_features[] = {")
        lines += [f'    {{"{name}", {leaf}u, {subleaf}u, {word}u, {bit}u}},' for name, leaf, subleaf, word, bit in rows]
        lines.append("};")
    return lines
