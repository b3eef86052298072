"""Linking for Android without its SDK: its system libraries are stood in for by ones that define the same names, and are found by their names on the device."""
from __future__ import annotations

from pathlib import Path

from .toolchain import CCompiler

PAGE_BYTES = 16384  # pages are of 4 or 16 KiB; code for the larger ones runs on both
# What model libraries may use of each system library, all there since Android 5. Source: the symbol lists of bionic (libc.map.txt, libm.map.txt, libdl.map.txt).
SYSTEM_LIBRARIES = {
    "libc.so": "malloc free memcpy memmove memset memcmp open close fstat mmap munmap madvise sched_yield clock_gettime __stack_chk_fail __stack_chk_guard __cxa_finalize",
    "libdl.so": "dlopen dlsym",
    "libm.so": "acos acosh asin asinh atan atan2 atanh cbrt ceil copysign cos cosh erf erfc exp exp2 expm1 fabs floor fma fmax fmin fmod frexp hypot ldexp lgamma log log10 log1p "
               "log2 modf nearbyint pow remainder rint round scalbn sin sincos sinh sqrt tan tanh tgamma trunc",
}


def link_options(compiler: CCompiler, folder: Path) -> list[str]:
    """Options for a shared library that needs Android's system libraries alone; anything else that is not defined fails the link."""
    stubs = []
    for name, symbols in SYSTEM_LIBRARIES.items():
        source, library = folder / f"{name}.c", folder / "system" / name
        library.parent.mkdir(exist_ok=True)
        both = [s + suffix for s in symbols.split() for suffix in (("", "f") if name == "libm.so" else ("",))]
        source.write_text("".join(f'__asm__(".globl {s}\\n.type {s},%function\\n{s}:\\n");\n' for s in both))
        compiler.link([source], library, ["-shared", "-nostdlib", f"-Wl,-soname,{name}"], folder)
        stubs.append(str(library))
    return ["-nostdlib", f"-Wl,-z,max-page-size={PAGE_BYTES}", "-Wl,-z,defs", "-Wl,--as-needed", *stubs]
