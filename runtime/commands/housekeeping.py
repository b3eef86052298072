"""`sardonyx cache` and `sardonyx doctor`."""
from __future__ import annotations

import importlib.util
import platform
from importlib.metadata import PackageNotFoundError, version

import click

from .. import knobs
from ..cache import default_cache
from .common import bytes_text


def cache_command(action: str) -> None:
    """Show, clear or trim the cache."""
    cache = default_cache()
    if cache.folder is None:
        click.echo(f"no cache: {cache.reason}")
        return
    if action == "clear":
        click.echo(f"freed {bytes_text(cache.clear())}")
    elif action == "trim":
        click.echo(f"freed {bytes_text(cache.trim())}")
    entries = list(cache.entries())
    for kind, ending in (("kernels", ".sdo"), ("models", ".sdx")):
        chosen = [e for e in entries if e.path.suffix == ending]
        click.echo(f"{kind}: {len(chosen)}, {bytes_text(sum(e.size_bytes for e in chosen))}")
    click.echo(f"folder: {cache.folder} (kept below {bytes_text(cache.limit_bytes)})")


def doctor_report() -> str:
    """What this machine has, what would be used, and what is missing."""
    from ..host import host_target
    from ..threads import default_threads, find_openmp

    target = host_target()
    openmp = find_openmp()
    cache = default_cache()
    lines = [f"sardonyx {_version('sardonyx')} on Python {platform.python_version()}, {platform.platform()}",
             "", "packages"]
    lines += [f"  {n:12s} {_version(n)}" for n in ("numba", "llvmlite", "numpy", "onnx", "ml_dtypes", "click", "rich")]
    lines += ["", "processor",
              f"  target       {target.triple} {target.cpu}, {target.isa}: {target.vector_bytes * 8}-bit vectors, {target.vector_registers} registers",
              f"  caches       {bytes_text(target.l1_bytes)}, {bytes_text(target.l2_bytes)}, {bytes_text(target.l3_bytes)}",
              f"  cores        {target.cores} usable, {default_threads()} threads by default",
              f"  OpenMP       {openmp.name if openmp is not None else 'not found: models run on one thread; install libgomp (Debian: libgomp1)'}",
              "", "cache", f"  {cache.folder if cache.folder is not None else 'not used: ' + cache.reason}", "", "settings"]
    lines += [f"  {k.name:28s} {k.read() or '-':12s} {k.help}" for k in knobs.ALL]
    lines += ["", "optional packages"]
    for name, use in (("onnxruntime", "compared with in the tests"), ("hypothesis", "fuzzing in the tests"), ("sklearn", "examples/digits/train.py"), ("PIL", "ImageDecoder")):
        lines.append(f"  {name:12s} {'installed' if importlib.util.find_spec(name) else 'not installed'} ({use})")
    return "\n".join(lines)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
