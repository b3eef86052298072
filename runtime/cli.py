"""The command line: `sardonyx COMMAND`. Commands live in `runtime.commands`; this file only says what exists, so that `--help` is quick."""
from __future__ import annotations

import sys

import click

from ..ir.dtypes import PRECISIONS
from ..ir.errors import SardonyxError

MODEL = click.Path(exists=True, dir_okay=False)
PRECISION = click.option("--precision", type=click.Choice(list(PRECISIONS)), default="float32", show_default=True,
                         help="bf16: operands of float32 products with weights are rounded to bfloat16, sums stay float32.")

TUNE = click.option("--tune", is_flag=True, help="Measure alternatives of the kernels on this machine, once; what is found is remembered in the cache.")


def list_targets(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """`--target list`: print the names and leave."""
    if value == "list":
        from ..ir.target import ABOUT

        for name, text in ABOUT.items():
            click.echo(f"{name:16s} {text}")
        context.exit()
    return value


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="sardonyx")
def cli() -> None:
    """Compile ONNX models to fused native kernels, run them, and see what became of them.

    \b
    sardonyx demo                          recognise handwritten digits, and see what was fused
    sardonyx run model.onnx                run a model on random inputs
    sardonyx bench model.onnx              latency, throughput, memory, share of the roofline
    sardonyx compile model.onnx -o m.sdx   a package that loads without compiling
    sardonyx compile model.onnx -o libm.so a native library with a C header
    sardonyx explain model.onnx            per node: fused into what, or why not
    """


@cli.command("compile")
@click.argument("model", type=MODEL)
@click.option("-o", "--output", type=click.Path(dir_okay=False),
              help="File to write: MODEL.sdx (default), or a native library: libNAME.so, NAME.dll, libNAME.dylib, libNAME.a, NAME.wasm.")
@click.option("--target", default=None, callback=list_targets, is_eager=True,
              help="Machine to compile for: host, a name (--target list shows them), or TRIPLE:CPU. A package may be for several: A,B.")
@click.option("-O", "--level", type=click.IntRange(0, 3), default=3, show_default=True, help="0 nothing, 1 folding, 2 fusion, 3 everything.")
@click.option("--dim", "dims", multiple=True, metavar="NAME=SIZE", help="Fix a symbolic dimension; may be repeated.")
@click.option("--shape", "shapes", multiple=True, metavar="INPUT=D,D,...", help="Compile for this shape of an input alone; may be repeated.")
@click.option("--weights", type=click.Choice(["inside", "beside"]), default="inside", show_default=True, help="Where a native library keeps its weights.")
@click.option("--bare", is_flag=True, help="A native library without allocation, threads and files: for microcontrollers.")
@PRECISION
@TUNE
@click.option("--tune-dim", "tune_dims", multiple=True, metavar="NAME=SIZE", help="Size of a symbolic dimension to measure with, for --tune; may be repeated.")
@click.option("--dump", metavar="STAGE", help="Also print a stage: import, simplify, recognise, decompose, lower, fuse, layout, precision, kernels, plan or assembly.")
def compile_command(model: str, output: str | None, target: str | None, level: int, dims: tuple[str, ...], shapes: tuple[str, ...], weights: str, bare: bool,
                    precision: str, tune: bool, tune_dims: tuple[str, ...], dump: str | None) -> None:
    """Compile MODEL to a package that later loads without compiling, or to a native library for C, C++ and whatever calls C.

    The ending of the output chooses. A library comes with its C header, and needs nothing of Python or Sardonyx. For other machines than this one:
    pip install 'sardonyx[aot]'.
    """
    from .commands.packaging import CompileRequest, compile_model

    compile_model(CompileRequest(model, output, target, level, parse_dims(dims), parse_shapes(shapes), weights, bare, dump, precision,
                                 parse_dims(tune_dims) if tune else None))


@cli.command()
@click.argument("model", type=MODEL)
@click.option("-i", "--input", "inputs", multiple=True, metavar="NAME=FILE", help=".npy or .npz file for an input; what is not given is random.")
@click.option("--dim", "dims", multiple=True, metavar="NAME=SIZE", help="Size of a symbolic dimension of random inputs (default 1).")
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="Write the outputs to this .npz file.")
@click.option("-t", "--threads", type=click.IntRange(0), default=0, help="0: one per core.")
@click.option("--seed", default=0, show_default=True, help="Of the random inputs.")
@PRECISION
@TUNE
def run(model: str, inputs: tuple[str, ...], dims: tuple[str, ...], output: str | None, threads: int, seed: int, precision: str,
        tune: bool) -> None:
    """Run MODEL once and print (or save) its outputs."""
    from .commands.running import run_once

    run_once(model, inputs, parse_dims(dims), output, threads, seed, precision, tune)


@cli.command()
@click.argument("model", type=MODEL)
@click.option("--dim", "dims", multiple=True, metavar="NAME=SIZE", help="Size of a symbolic dimension (default 1).")
@click.option("-t", "--threads", type=click.IntRange(0), default=0, help="0: one per core.")
@click.option("--seconds", default=2.0, show_default=True, help="How long to measure.")
@click.option("--streams", type=click.IntRange(1), default=1, show_default=True, help="Python threads that run the model at the same time.")
@click.option("--json", "as_json", is_flag=True, help="Figures as JSON.")
@PRECISION
@TUNE
def bench(model: str, dims: tuple[str, ...], threads: int, seconds: float, streams: int, as_json: bool, precision: str,
          tune: bool) -> None:
    """Measure MODEL: latency, throughput, memory, compile and load time, each kernel's share of the roofline; with --precision, the error against float32 too."""
    from .commands.benching import bench_model

    bench_model(model, parse_dims(dims), threads, seconds, streams, as_json, precision, tune)


@cli.command()
@click.argument("model", type=MODEL)
@click.option("--html", type=click.Path(dir_okay=False), help="Write one self-contained page with a picture of the graph.")
@click.option("--stage", default="layout", show_default=True, help="Which stage to show beside the model: simplify, recognise, decompose, lower, fuse, layout, precision.")
@click.option("--dim", "dims", multiple=True, metavar="NAME=SIZE", help="Size of a symbolic dimension, for the memory in bytes.")
def inspect(model: str, html: str | None, stage: str, dims: tuple[str, ...]) -> None:
    """Show MODEL before and after compilation, with a formula of the memory that it needs, as text or as an HTML page."""
    from .commands.inspecting import inspect_model

    inspect_model(model, html, stage, parse_dims(dims))


@cli.command()
@click.argument("model", type=MODEL)
@click.argument("node", required=False)
@PRECISION
def explain(model: str, node: str | None, precision: str) -> None:
    """Say what became of each node of MODEL (or of NODE): fused into what, or why not."""
    from .commands.explaining import explain_model

    explain_model(model, node, precision)


@cli.command()
@click.argument("model", type=MODEL)
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="Trace file; by default sardonyx_profile_DATE.json.")
@click.option("--dim", "dims", multiple=True, metavar="NAME=SIZE", help="Size of a symbolic dimension (default 1).")
@click.option("-t", "--threads", type=click.IntRange(0), default=0, help="0: one per core.")
@click.option("--runs", type=click.IntRange(1), default=10, show_default=True)
def profile(model: str, output: str | None, dims: tuple[str, ...], threads: int, runs: int) -> None:
    """Time every kernel of MODEL; writes a Chrome trace and prints the slowest kernels."""
    from .commands.profiling import profile_model

    profile_model(model, output, parse_dims(dims), threads, runs)


@cli.command()
@click.argument("action", type=click.Choice(["show", "clear", "trim"]), default="show")
def cache(action: str) -> None:
    """Show, clear or trim the disk cache."""
    from .commands.housekeeping import cache_command

    cache_command(action)


@cli.command()
def doctor() -> None:
    """Say what this machine has, what would be used, and what is missing."""
    from .commands.housekeeping import doctor_report

    click.echo(doctor_report())


@cli.command()
@click.option("--samples", type=click.IntRange(1), default=8, show_default=True, help="Digits to draw.")
def demo(samples: int) -> None:
    """Recognise handwritten digits with a small trained network; shows what was fused and how long it takes."""
    from .commands.demo import run_demo

    run_demo(samples)


def parse_dims(items: tuple[str, ...]) -> dict[str, int]:
    """`NAME=SIZE` options as a dictionary."""
    out = {}
    for item in items:
        name, _, size = item.partition("=")
        if not name or not size.isdigit():
            raise click.BadParameter(f"{item!r}: NAME=SIZE was expected, such as batch=4")
        out[name] = int(size)
    return out


def parse_shapes(items: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """`INPUT=D,D,...` options as a dictionary; nothing after the sign is a scalar."""
    out = {}
    for item in items:
        name, sign, text = item.rpartition("=")
        sizes = [d.strip() for d in text.split(",")] if text else []
        if not name or not sign or not all(d.isdigit() for d in sizes):
            raise click.BadParameter(f"{item!r}: INPUT=D,D,... was expected, such as image=1,3,224,224")
        out[name] = tuple(map(int, sizes))
    return out


def main() -> None:
    """Entry point: errors of this package and of files are one line, not a traceback."""
    try:
        cli(standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("stopped", err=True)
        sys.exit(130)
    except click.BadParameter as e:
        click.echo(f"sardonyx: {e.format_message()}", err=True)
        sys.exit(e.exit_code)
    except click.ClickException as e:
        e.show()
        sys.exit(e.exit_code)
    except (SardonyxError, OSError) as e:
        click.echo(f"sardonyx: {e}", err=True)
        sys.exit(1)
