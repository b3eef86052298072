"""Native libraries for other machines, made by the compiler of package ziglang: the same numbers under an emulator, under Wine, and in Node.js."""
from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import sardonyx
from sardonyx.ir.errors import TargetError
from sardonyx.ir.target import ABOUT, NAMED, parse
from sardonyx.runtime.host import host_target
from sardonyx.runtime.model import CompileOptions, obtain
from sardonyx.runtime.native.library import Library, write_library
from sardonyx.runtime.native.macho import hidden
from test_native import MODELS, SOURCE, read_tensors, serialised, write_tensors

HOST = host_target()
DIGITS = str(files("sardonyx.runtime").joinpath("data", "digits.onnx"))
LOADER = files("sardonyx.runtime").joinpath("native", "sardonyx.mjs")
EMULATED = {"aarch64": ("qemu-aarch64", "aarch64-linux-musl"), "armv7": ("qemu-arm", "arm-linux-musleabihf"), "riscv64": ("qemu-riscv64", "riscv64-linux-musl"),
            "android-aarch64": ("qemu-aarch64", "aarch64-linux-musl")}
pytest.importorskip("ziglang")


def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 17, (5, 8, 8)).astype(np.uint8)


def expected() -> list[np.ndarray]:
    return sardonyx.InferenceSession(DIGITS).run(None, {"image": images()})


def build(target: str, path: Path) -> Library:
    machine = parse(target, HOST)
    return write_library(obtain(DIGITS, CompileOptions(), machine), path, machine, HOST)


def close(got: np.ndarray, wanted: np.ndarray) -> bool:
    """Probabilities within the rounding of another order of additions: the network sums some 800 products and exponentiates."""
    return bool(np.abs(got - wanted).max() <= 64 * np.finfo(np.float32).eps)


@pytest.mark.parametrize("target", EMULATED)
def test_under_an_emulator(target: str, tmp_path: Path) -> None:
    emulator, triple = EMULATED[target]
    if shutil.which(emulator) is None:
        pytest.skip(f"{emulator} is not installed (Debian's qemu-user)")
    made = build(target, tmp_path / "libdigits.a")
    command = [sys.executable, "-m", "ziglang", "cc", "-target", triple, "-O1", "-static", "-DMODEL=digits", '-DHEADER="digits.h"', f"-I{tmp_path}", str(SOURCE), str(made.path),
               "-o", str(tmp_path / "program")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    write_tensors(tmp_path / "in", [(2, images())])
    options = ["-cpu", "rv64,v=true"] if target == "riscv64" else []
    subprocess.run([emulator, *options, tmp_path / "program", tmp_path / "in", tmp_path / "out", "1", "2"], check=True, capture_output=True)
    for (shape, data), wanted in zip(read_tensors(tmp_path / "out"), expected(), strict=True):
        assert shape == wanted.shape
        assert close(np.frombuffer(data, wanted.dtype).reshape(shape), wanted)


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
def test_in_node(tmp_path: Path) -> None:
    made = build("wasm32", tmp_path / "digits.wasm")
    program = tmp_path / "main.mjs"
    program.write_text(f"""
import fs from "fs";
import {{ Model }} from "{LOADER}";
const module = await WebAssembly.compile(fs.readFileSync("{made.path}"));
const model = await Model.load(fs.readFileSync("{made.path}"), "digits");
const data = Uint8Array.from({images().reshape(-1).tolist()});
const out = model.run({{ image: {{ data, dims: [5, 8, 8] }} }});
const failures = [];
for (const bad of [{{}}, {{ image: {{ data, dims: [5, 8, 7] }} }}, {{ image: {{ data: new Float32Array(320), dims: [5, 8, 8] }} }}, {{ image: {{ data, dims: [320] }} }}])
  try {{ model.run(bad); }} catch (e) {{ failures.push(e.message); }}
const again = model.run({{ image: {{ data: data.slice(0, 64), dims: [1, 8, 8] }} }});
model.close();
console.log(JSON.stringify({{ imports: WebAssembly.Module.imports(module).length, inputs: model.inputs, dims: out.probabilities.dims, probabilities: [...out.probabilities.data],
  digits: [...out.digit.data].map(Number), again: [...again.probabilities.data], failures }}));
""")
    done = subprocess.run(["node", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    probabilities, digits = expected()
    assert found["imports"] == 0
    assert found["inputs"] == [{"name": "image", "type": 2, "itemSize": 1, "dims": ["batch", 8, 8]}]
    assert found["dims"] == [5, 10] and found["digits"] == digits.tolist()
    assert close(np.array(found["probabilities"]).reshape(5, 10), probabilities)
    assert close(np.array(found["again"]), probabilities[0])
    assert [text.split(";")[0] for text in found["failures"]] == ["input 'image' is missing", "dimension 2 of input 'image' is 7, 8 was expected", "input 'image' must be a Uint8Array",
                                                                  "input 'image' has rank 1, the model takes rank 3"]


@pytest.mark.skipif(shutil.which("chromium") is None, reason="Chromium is not installed")
def test_in_a_browser_page(tmp_path: Path) -> None:
    build("wasm32", tmp_path / "digits.wasm")
    for source in (str(LOADER), Path(__file__).parent.parent / "examples" / "deploy" / "digits.html"):
        shutil.copy(source, tmp_path)
    handler = partial(Quiet, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=20000", "--dump-dom",
                   f"http://127.0.0.1:{server.server_port}/digits.html"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        server.shutdown()
    assert done.returncode == 0, done.stderr
    assert '<pre id="answer">0 (100%)</pre>' in done.stdout


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        pass


def test_every_named_target_has_a_kind_of_library() -> None:
    from sardonyx.runtime.native.toolchain import platform, zig_triple

    assert {platform(t) for t in NAMED.values()} == {"linux", "android", "windows", "macos", "wasm"}
    assert zig_triple(NAMED["armv7"]) == "arm-linux-gnueabihf" and zig_triple(NAMED["macos-arm64"]) == "aarch64-macos"
    assert set(ABOUT) == {"host", *NAMED}


FILES = {"aarch64": "libdigits.so", "android-aarch64": "libdigits.so", "windows-x86-64": "digits.dll", "macos-arm64": "libdigits.dylib", "wasm32": "digits.wasm", "riscv64": "libdigits.a"}


@pytest.mark.parametrize("target", FILES)
def test_equal_inputs_give_equal_bytes(target: str, tmp_path: Path) -> None:
    """Nothing of the time, the folder or the machine is in a library."""
    found = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        made = build(target, tmp_path / folder / FILES[target])
        found.append(made.path.read_bytes() + (made.imports.read_bytes() if made.imports else b""))
        time.sleep(1.1)  # linkers count seconds
    assert found[0] == found[1]
    assert str(tmp_path).encode() not in found[0] and b"sardonyx-" not in found[0]


# ------------------------------------------------------------------------------------------------------ files of other systems
@dataclass(frozen=True)
class Elf:
    """What the loader reads of a 64-bit ELF library (System V ABI, chapter 5): libraries it needs, its own name, undefined and defined symbols, alignments of what
    it maps, addresses and places in the file alike within a page."""

    needed: set[str]
    name: str
    missing: set[str]
    defined: set[str]
    alignments: set[int]
    executable_stack: bool


def read_elf(data: bytes) -> Elf:
    assert data[:5] == b"\x7fELF\x02"
    start, size, count = struct.unpack_from("<Q", data, 32)[0], *struct.unpack_from("<HH", data, 54)
    headers = [struct.unpack_from("<IIQQQQQQ", data, start + size * k) for k in range(count)]
    loads = [h for h in headers if h[0] == 1]
    assert all((h[3] - h[2]) % h[7] == 0 for h in loads)

    def place(address: int) -> int:
        return next(address - h[3] + h[2] for h in loads if h[3] <= address < h[3] + h[5])
    dynamic = next(h for h in headers if h[0] == 2)
    entries = [struct.unpack_from("<QQ", data, dynamic[2] + k) for k in range(0, dynamic[5], 16)]
    tags = dict(entries)
    strings, symbols = place(tags[5]), place(tags[6])

    def text(at: int) -> str:
        return data[strings + at:data.index(b"\0", strings + at)].decode()
    table = [struct.unpack_from("<IBBHQQ", data, symbols + 24 * k) for k in range(1, struct.unpack_from("<II", data, place(tags[4]))[1])]  # DT_HASH tells how many
    return Elf({text(v) for t, v in entries if t == 1}, text(tags[14]), {text(s[0]) for s in table if s[3] == 0}, {text(s[0]) for s in table if s[3]},
               {h[7] for h in loads}, any(h[0] == 0x6474E551 and h[1] & 1 for h in headers))


ANDROID = {"android-aarch64": 183, "android-x86-64": 62}


@pytest.mark.parametrize("target", ANDROID)
def test_an_android_library_is_complete(target: str, tmp_path: Path) -> None:
    made = build(target, tmp_path / "libdigits.so")
    data = made.path.read_bytes()
    found = read_elf(data)
    assert struct.unpack_from("<H", data, 18)[0] == ANDROID[target]
    assert found.name == "libdigits.so" and found.needed == {"libc.so", "libdl.so"}
    assert found.missing <= {"malloc", "free", "madvise", "memcpy", "memmove", "memset", "memcmp", "sched_yield", "dlopen", "dlsym"}
    assert {"digits_open", "digits_run"} <= found.defined and all(s.startswith("digits_") for s in found.defined)
    assert found.alignments == {16384} and not found.executable_stack


def test_what_an_android_library_may_not_need_fails_the_link(tmp_path: Path) -> None:
    machine = parse("android-aarch64", HOST)
    found = obtain(DIGITS, CompileOptions(), machine)
    symbol = found.plan.kernels[0]
    found.objects[symbol] = elsewhere(symbol, tmp_path)
    with pytest.raises(TargetError, match="not_in_android"):
        write_library(found, tmp_path / "libdigits.so", machine, HOST)


def elsewhere(symbol: str, folder: Path) -> bytes:
    """An object that defines `symbol` by a function that is in no library."""
    (folder / "kernel.c").write_text(f"void not_in_android(void);\nvoid {symbol}(void) {{ not_in_android(); }}\n")
    subprocess.run([sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl", "-c", "-fPIC", "kernel.c", "-o", "kernel.o"], cwd=folder, check=True)
    return (folder / "kernel.o").read_bytes()


@pytest.mark.skipif(sys.platform != "linux" or HOST.arch != "x86_64", reason="runs code for Linux on x86-64")
def test_code_for_android_runs(tmp_path: Path) -> None:
    """The library itself, beside empty libraries of the names that it needs: what it calls is found in this system's libc, which is in the process already."""
    build("android-x86-64", tmp_path / "libdigits.so")
    for name in ("libc.so", "libdl.so"):
        subprocess.run([sys.executable, "-m", "ziglang", "cc", "-target", "x86_64-linux-musl", "-shared", "-nostdlib", "-xc", "/dev/null", f"-Wl,-soname,{name}",
                        "-o", str(tmp_path / name)], check=True, capture_output=True)
    np.save(tmp_path / "images.npy", images())
    program = (f"import sys; sys.path[:0] = {sys.path!r}\nimport numpy as np\nfrom pathlib import Path\nfrom native_client import NativeModel\n"
               "np.savez('out.npz', *NativeModel(Path('libdigits.so').absolute()).run({'image': np.load('images.npy')}))\n")
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}, check=True)
    with np.load(tmp_path / "out.npz") as found:
        for got, wanted in zip(found.values(), expected(), strict=True):
            assert close(got, wanted)


def pe_exports(data: bytes) -> tuple[str, set[str]]:
    """The name of a 64-bit Windows library, and the names that it exports (Microsoft's PE format)."""
    at = struct.unpack_from("<I", data, 60)[0]
    sections, optional = struct.unpack_from("<H", data, at + 6)[0], struct.unpack_from("<H", data, at + 20)[0]
    table = [struct.unpack_from("<8sIIII", data, at + 24 + optional + 40 * k) for k in range(sections)]

    def place(address: int) -> int:
        return next(address - start + offset for _, size, start, raw, offset in table if start <= address < start + max(size, raw))
    directory = place(struct.unpack_from("<I", data, at + 24 + 112)[0])
    count, names = struct.unpack_from("<I", data, directory + 24)[0], place(struct.unpack_from("<I", data, directory + 32)[0])

    def text(start: int) -> str:
        return data[start:data.index(b"\0", start)].decode()
    return text(place(struct.unpack_from("<I", data, directory + 12)[0])), {text(place(a)) for a in struct.unpack_from(f"<{count}I", data, names)}


@dataclass(frozen=True)
class MachO:
    """What the loader reads of a 64-bit Mach-O library (Apple's mach-o/loader.h): its own name, the libraries it needs, what it exports, what it takes from each library
    by number, the version of macOS that it is for, whether it is signed."""

    name: str
    libraries: list[str]
    exported: set[str]
    missing: dict[str, int]
    version: tuple[int, int]
    signed: bool


def read_macho(data: bytes) -> MachO:
    assert data[:4] == b"\xcf\xfa\xed\xfe" and struct.unpack_from("<I", data, 12)[0] == 6  # MH_DYLIB
    at, name, libraries, exported, missing, version, signed = 32, "", [], set(), {}, (0, 0), False

    def text(start: int) -> str:
        return data[start:data.index(b"\0", start)].decode()
    for _ in range(struct.unpack_from("<I", data, 16)[0]):
        command, size = struct.unpack_from("<II", data, at)
        if command == 2:  # LC_SYMTAB
            symbols, count, strings, _ = struct.unpack_from("<4I", data, at + 8)
            for k in range(count):
                start, kind, _, description, _ = struct.unpack_from("<IBBHQ", data, symbols + 16 * k)
                if kind & 0xEF == 1:  # external and undefined, not for debuggers
                    missing[text(strings + start)] = description >> 8
        elif command == 0x0D:  # LC_ID_DYLIB
            name = text(at + struct.unpack_from("<I", data, at + 8)[0])
        elif command & 0x7FFFFFFF in (0x0C, 0x18, 0x1F):  # LC_LOAD_DYLIB, weak and exported again
            libraries.append(text(at + struct.unpack_from("<I", data, at + 8)[0]))
        elif command == 0x80000022:  # LC_DYLD_INFO_ONLY
            exported |= trie_names(data, struct.unpack_from("<I", data, at + 40)[0])
        elif command == 0x80000033:  # LC_DYLD_EXPORTS_TRIE
            exported |= trie_names(data, struct.unpack_from("<I", data, at + 8)[0])
        elif command == 0x32:  # LC_BUILD_VERSION: platform 1 is macOS
            platform, lowest = struct.unpack_from("<II", data, at + 8)
            assert platform == 1
            version = (lowest >> 16, lowest >> 8 & 255)
        elif command == 0x1D:  # LC_CODE_SIGNATURE
            signed = True
        at += size
    return MachO(name, libraries, exported, missing, version, signed)


def trie_names(data: bytes, root: int) -> set[str]:
    """Names in a trie of exports: a node is the size of its own entry, the entry, the number of children, and for each its piece of the name and its place."""
    def number(at: int) -> tuple[int, int]:
        value, shift = 0, 0
        while True:
            value |= (data[at] & 127) << shift
            shift, at = shift + 7, at + 1
            if not data[at - 1] & 128:
                return value, at
    found, left = set(), [(root, "")]
    while left:
        at, name = left.pop()
        size, at = number(at)
        if size:
            found.add(name)
        at += size
        children, at = data[at], at + 1
        for _ in range(children):
            end = data.index(b"\0", at)
            place, after = number(end + 1)
            left.append((root + place, name + data[at:end].decode()))
            at = after
    return found


def test_a_windows_library_exports_its_interface(tmp_path: Path) -> None:
    made = build("windows-x86-64", tmp_path / "digits.dll")
    name, exported = pe_exports(made.path.read_bytes())
    assert name == "digits.dll"  # what programs that were linked with it look for
    assert {"digits_open", "digits_run", "digits_close", "digits_error"} <= exported
    assert all(e.startswith("digits_") for e in exported)


@pytest.fixture(scope="module")
def wine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of Wine with settings of its own."""
    if shutil.which("wine") is None:
        pytest.skip("wine is not installed (Debian's wine and wine64)")
    return {**os.environ, "WINEPREFIX": str(tmp_path_factory.mktemp("wine") / "settings"), "WINEDEBUG": "-all"}


@pytest.mark.parametrize("name", ["digits", "loop"])
def test_a_windows_library_under_wine(name: str, wine: dict[str, str], tmp_path: Path) -> None:
    """A program that was linked with its imports finds the library beside itself and gets the session's results, threads asked for or not."""
    source, feeds = (DIGITS, {"image": images()}) if name == "digits" else (serialised(name), MODELS[name][1](13))
    machine = parse("windows-x86-64", HOST)
    made = write_library(obtain(source, CompileOptions(), machine), tmp_path / f"{name}.dll", machine, HOST)
    command = [sys.executable, "-m", "ziglang", "cc", "-target", "x86_64-windows-gnu", "-O1", "-s", f"-DMODEL={name}", f'-DHEADER="{name}.h"', f"-I{tmp_path}", str(SOURCE),
               str(made.imports), "-o", str(tmp_path / "program.exe")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    session = sardonyx.InferenceSession(source)
    codes = {np.dtype(np.uint8): 2, np.dtype(np.float32): 1, np.dtype(np.int64): 7}
    write_tensors(tmp_path / "in", [(codes[feeds[p.name].dtype], feeds[p.name]) for p in session.get_inputs()])
    for threads in ("1", "4"):
        done = subprocess.run(["wine", "program.exe", "in", "out", threads, "2"], cwd=tmp_path, env=wine, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        for (shape, data), wanted in zip(read_tensors(tmp_path / "out"), session.run(None, feeds), strict=True):
            assert shape == wanted.shape
            assert close(np.frombuffer(data, wanted.dtype).reshape(shape), wanted)
        (tmp_path / "out").unlink()


def test_a_macos_library_is_complete(tmp_path: Path) -> None:
    """It shows its interface (and two names by which its linker calls the start of the file), and takes all it needs from libSystem."""
    made = build("macos-arm64", tmp_path / "libdigits.dylib")
    found = read_macho(made.path.read_bytes())
    assert found.name == "@rpath/libdigits.dylib" and found.libraries == ["/usr/lib/libSystem.B.dylib"]
    interface = set(re.findall(r"\b(digits_\w+)\(", made.header.read_text().split("#ifdef __cplusplus\n}")[0]))
    assert {"digits_open", "digits_run"} <= interface
    assert found.exported - {"__mh_dylib_header", "___dso_handle"} == {f"_{f}" for f in interface}
    assert set(found.missing) <= {"_dlopen", "_dlsym", "_free", "_malloc", "_memcpy", "_memmove", "_memset", "_memcmp", "_bzero", "_sched_yield", "dyld_stub_binder", "___stack_chk_fail",
                                  "___stack_chk_guard"}
    assert set(found.missing.values()) == {1}  # the first library
    assert found.version >= (11, 0) and found.signed  # Apple silicon runs signed code only


def test_only_macho_objects_are_hidden() -> None:
    with pytest.raises(ValueError, match="Mach-O object was expected"):
        hidden(b"\x7fELF" + bytes(100))
