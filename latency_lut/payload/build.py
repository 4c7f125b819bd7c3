"""Builds `lutbench`, a static aarch64 program, from ncnn's source distribution with compilers that pip provides.

Everything is pinned: the source by its SHA-256, the compiler (zig's clang, from the `ziglang` wheel) by its version.
What is built is kept in the user's cache folder under a key of all that went into it, so that a change of anything
builds anew. Needs the extra `arm`: pip install 'topformer-nas[arm]'. Standard library besides.
"""

from __future__ import annotations

import ast
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from topformer.cache import cache_folder
from topformer.errors import UserError

NCNN_VERSION = "1.0.20261020"
NCNN_SHA256 = "ad8cdd63e9755cfa8e23b9b6d9ce46156077d80298a89e7c3ba325ffccfca200"
"""Of `ncnn-1.0.20261020.tar.gz` on PyPI (BSD-3-Clause)."""
ZIG_VERSION = "0.17.0"
TARGET = "aarch64-linux-musl"
CPU = "generic"
"""The oldest 64-bit cores: ncnn's float32 kernels need no more, and the program then runs on any of them."""

_FOLDER = Path(__file__).parent
_FLAGS = ("-O3", "-g0", "-DNDEBUG")
_OUR_FLAGS = ("-std=c++11", "-fno-rtti", "-fno-exceptions", "-static", "-s")
_OFF = (  # one thread, float32
    *("VULKAN", "OPENMP", "THREADS", "BENCHMARK", "C_API", "PIXEL", "INT8", "WEIGHT_QUANT", "BF16"),
    *("ARM82", "ARM82DOT", "ARM82FP16FML", "ARM84BF16", "ARM84I8MM", "ARM86SVE"),
    *("BUILD_TOOLS", "BUILD_EXAMPLES", "BUILD_BENCHMARK", "BUILD_TESTS"),
)
_ADVICE = "install the tools with: pip install 'topformer-nas[arm]'"


def payload() -> Path:
    """The program `lutbench` for aarch64 Linux and Android; the first call builds ncnn, which takes minutes."""
    return _cached(_payload_name(), _build_payload)


def waits_for() -> str:
    """Why the first call of `payload` takes minutes, in a sentence; empty where the program is there."""
    if (cache_folder() / _payload_name()).exists():
        return ""
    if _is_locked(_payload_name()) or _is_locked(f"ncnn-{_ncnn_key()}.tar"):
        return "another process is building the program for Arm cores: waiting for it, which may take minutes"
    return "building the program for Arm cores, once: this takes a few minutes"


def _payload_name() -> str:
    return f"lutbench-{_key(_ncnn_key(), *_OUR_FLAGS, (_FOLDER / 'lutbench.cpp').read_text())}"


def counting_plugin() -> Path:
    """The QEMU plugin `lutcount.so`, for this machine; needs a C compiler, as `cc`."""
    source = _FOLDER / "lutcount.c"
    return _cached(f"lutcount-{_key(source.read_text())}.so", _build_plugin)


def plugin_checksum() -> str:
    """Of the counting plugin's source: compilers differ from machine to machine, what it counts does not."""
    return checksum(_FOLDER / "lutcount.c")


def checksum(path: Path) -> str:
    """16 hexadecimal digits of a file's SHA-256, as tables' headers have them."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _cached(name: str, build: Callable[[Path, Path], None]) -> Path:
    """The file of that name in the cache; `build(folder, out)` makes it, in a folder that is deleted afterwards."""
    out = cache_folder() / name
    if out.exists():
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    with _lock(out.with_name(f"{name}.lock")), tempfile.TemporaryDirectory(prefix=f"{name}-") as folder:
        if not out.exists():  # another process may have built it meanwhile
            made = Path(folder) / "made"
            build(Path(folder), made)
            part = out.with_name(f"{name}.part")
            shutil.copy(made, part)
            part.chmod(0o755)
            part.replace(out)
    return out


def _is_locked(name: str) -> bool:
    """Does a process build the file of that name just now?"""
    try:
        with (cache_folder() / f"{name}.lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _ncnn_key() -> str:
    return _key(NCNN_SHA256, ZIG_VERSION, TARGET, CPU, *_FLAGS, *_OFF)


def _build_payload(folder: Path, out: Path) -> None:
    with tarfile.open(_cached(f"ncnn-{_ncnn_key()}.tar", _build_ncnn)) as library:
        library.extractall(folder, filter="data")
    own = (*_target_flags(folder), *_FLAGS, *_OUR_FLAGS, "-I", str(folder / "include/ncnn"))
    files = (str(_FOLDER / "lutbench.cpp"), str(folder / "lib/libncnn.a"))
    _run(str(_zig()), "c++", *own, "-o", str(out), *files)


def _build_ncnn(folder: Path, out: Path) -> None:
    """The static library and its headers, in a tar file."""
    zig = _zig()
    source = _ncnn_source(folder / "ncnn")
    toolchain = folder / "toolchain.cmake"
    toolchain.write_text(_toolchain(zig, folder))
    build, installed = folder / "build", folder / "installed"
    cmake = _tool("cmake")
    configure = [cmake, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={_tool('ninja')}", f"-DCMAKE_TOOLCHAIN_FILE={toolchain}"]
    configure += ["-DCMAKE_BUILD_TYPE=Release", "-DNCNN_VERSION=20261020"]  # left alone, it is the day of the build
    configure += [f"-DCMAKE_INSTALL_PREFIX={installed}", *(f"-DNCNN_{feature}=OFF" for feature in _OFF)]
    _run(*configure, "-S", str(source), "-B", str(build))
    _run(cmake, "--build", str(build), "--target", "install")
    with tarfile.open(out, "w") as library:
        for name in ("lib/libncnn.a", "include/ncnn"):
            library.add(installed / name, arcname=name)


def _build_plugin(_folder: Path, out: Path) -> None:
    compiler = shutil.which("cc")
    if not compiler:
        raise UserError("counting needs a C compiler for this machine; on Debian: apt-get install gcc libc6-dev")
    _run(compiler, "-O2", "-std=c11", "-Wall", "-fPIC", "-shared", "-o", str(out), str(_FOLDER / "lutcount.c"))


def _toolchain(zig: Path, folder: Path) -> str:
    """zig has compiler and archiver in one program."""
    flags = " ".join(_target_flags(folder))
    lines = [
        "set(CMAKE_SYSTEM_NAME Linux)",
        "set(CMAKE_SYSTEM_PROCESSOR aarch64)",
        "set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)",
    ]
    for language, driver in (("C", "cc"), ("CXX", "c++")):
        lines += [
            f'set(CMAKE_{language}_COMPILER "{zig}" {driver})',
            f'set(CMAKE_{language}_FLAGS_INIT "{flags}")',
            f'set(CMAKE_{language}_FLAGS_RELEASE "{" ".join(_FLAGS)}")',
            f'set(CMAKE_{language}_ARCHIVE_CREATE "{zig} ar qcD <TARGET> <OBJECTS>")',
            f'set(CMAKE_{language}_ARCHIVE_APPEND "{zig} ar qD <TARGET> <OBJECTS>")',
            f'set(CMAKE_{language}_ARCHIVE_FINISH "{zig} ranlib <TARGET>")',
        ]
    return "\n".join(lines) + "\n"


def _target_flags(folder: Path) -> tuple[str, ...]:
    """Paths of the build stay out of the result."""
    maps = (f"-ffile-prefix-map={path}=." for path in (folder, _FOLDER))
    return ("-target", TARGET, f"-mcpu={CPU}", *maps)


def _zig() -> Path:
    try:
        found = version("ziglang")
    except PackageNotFoundError:
        raise UserError(f"no ziglang package, which cross-compiles for Arm; {_ADVICE}") from None
    if found != ZIG_VERSION:
        raise UserError(f"ziglang must be {ZIG_VERSION}, not {found}: counts depend on the compiler; {_ADVICE}")
    import ziglang  # noqa: PLC0415, of the extra `arm`

    return Path(ziglang.__file__).parent / "zig"


def _tool(name: str) -> str:
    """A program that pip installed beside this interpreter, or any other of the name."""
    beside = Path(sys.executable).parent / name
    if found := str(beside) if beside.exists() else shutil.which(name):
        return found
    raise UserError(f"no {name} program; {_ADVICE}")


def _ncnn_source(folder: Path) -> Path:
    """ncnn's source distribution, unpacked, from the package index that pip uses.

    `pip download` refuses it: its metadata have the day of the build as version.
    """
    try:
        from unearth import PackageFinder  # noqa: PLC0415, of the extra `arm`
    except ImportError:
        raise UserError(f"no unearth package, which fetches ncnn's source; {_ADVICE}") from None
    indexes, links = _pip_sources()
    finder = PackageFinder(index_urls=indexes, find_links=links, no_binary=[":all:"])
    best = finder.find_best_match(f"ncnn=={NCNN_VERSION}").best
    if best is None:
        raise UserError(f"ncnn {NCNN_VERSION} has no source distribution on {', '.join(indexes)}.")
    archive = folder.with_name("archive")
    for part in (folder, archive):
        part.mkdir()
    umask = os.umask(0o022)
    try:
        finder.download_and_unpack(best.link, folder, archive)
    finally:
        os.umask(umask)  # unpacking leaves another one: all files after it could be written by anyone
    files = list(archive.iterdir())
    digest = hashlib.sha256(files[0].read_bytes()).hexdigest() if len(files) == 1 else "no archive"
    if digest != NCNN_SHA256:
        raise UserError(f"{best.link.filename} has SHA-256 {digest}, not {NCNN_SHA256}: it is not built.")
    return folder


def _pip_sources() -> tuple[list[str], list[str]]:
    """(index URLs, places of loose files) as pip is configured, PyPI where it is not."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    values: dict[str, list[str]] = {}
    for line in listing.splitlines():  # global.index-url='https://...'
        name, _, text = line.partition("=")
        if text.startswith(("'", '"')):
            values.setdefault(name.rpartition(".")[2], []).extend(str(ast.literal_eval(text)).split())
    index = values.get("index-url", ["https://pypi.org/simple/"])[-1:]
    return index + values.get("extra-index-url", []), values.get("find-links", [])


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-20:])
        raise UserError(f"{' '.join(command[:4])} ... failed with exit code {done.returncode}:\n{tail}")
