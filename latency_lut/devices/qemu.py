"""qemu-user: runs the ncnn payload's Arm instructions on this machine. It counts them; it never times them.

Counts are exact and the same everywhere: source and compiler of the program are pinned, and it sees one core with the
caches of a Snapdragon 865 (ncnn cuts matrices to the size of the second level), an empty environment and a fixed
address space.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latency_lut.payload import build
from latency_lut.runtimes.ncnn import LONE_BLOCK, NcnnNetwork, block_network
from topformer.blocks import Block
from topformer.errors import UserError

QEMU = "qemu-aarch64"
LINE_BYTES = 64
"""Of the cache model."""

_ADDRESS_SPACE = "0x400000000"  # 16 GiB reserved, so that addresses do not depend on where the host has room
_CACHES = (("1", "Data", "64K"), ("1", "Instruction", "64K"), ("2", "Unified", "512K"), ("3", "Unified", "4096K"))
"""Level, type and size as the kernel of a Snapdragon 865 tells them of its fastest core."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """What a piece of a network executes on one core in one inference."""

    instructions: int
    vector_fma: int
    vector_other: int
    """Other vector operations, moves and permutations too."""
    scalar_fp: int
    vector_load: int
    """Vector registers loaded; an instruction may load several."""
    vector_store: int
    scalar_load: int
    scalar_store: int
    prefetch: int
    branch: int
    """And system instructions."""
    l1_miss: int
    """Of the model: 64 KiB 4-way, 512 KiB 8-way and 4 MiB 16-way, LRU, lines of 64 bytes, no prefetching."""
    l2_miss: int
    l3_miss: int

    def __add__(self, other: object) -> Counts:
        if not isinstance(other, Counts):
            return NotImplemented
        return Counts(**{name: getattr(self, name) + getattr(other, name) for name in COUNT_NAMES})


COUNT_NAMES = tuple(item.name for item in fields(Counts))
NOTHING = Counts(**dict.fromkeys(COUNT_NAMES, 0))


def infer(network: NcnnNetwork, weights: bytes, inputs: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """One inference; `inputs` are (channels, height, width) each, and so is what it gives."""
    if shapes := [given.shape for given in inputs if given.shape not in network.inputs]:
        raise UserError(f"inputs must have shapes {network.inputs}, not {shapes}.")
    with _workplace(network) as folder:
        _run(folder, "--warm", "0", *_given(folder, weights, inputs), "--output", "out")
        values = np.fromfile(folder / "out", "<f4")
    size = prod(network.output)
    return values[-size:].reshape(
        network.output
    )  # before it: blobs that nothing reads, as a share that is not injected


def count(network: NcnnNetwork) -> dict[str, Counts]:
    """Counts of each block, by name, in the order they run (see `count_layers`).

    A lone block's name is `latency_lut.runtimes.ncnn.LONE_BLOCK`. What joins blocks belongs to the block before it.
    """
    block_of = {layer.name: layer.block for layer in network.layers}
    by_block: dict[str, Counts] = {}
    for name, counts in count_layers(network):
        by_block[block_of[name]] = by_block.get(block_of[name], NOTHING) + counts
    return by_block


def count_block(block: Block) -> Counts:
    """Of the block alone, with caches as a network leaves them (`lutbench --evict`)."""
    return count(block_network(block))[LONE_BLOCK]


def count_layers(network: NcnnNetwork) -> tuple[tuple[str, Counts], ...]:
    """Counts of each layer, by name, in the order they run, with weights made up.

    Of a whole network's second inference, which finds the caches as the first left them; of a lone block's first, whose
    caches are made: a second one misses 1 line in 10,000 more or less.
    """
    with _workplace(network) as folder:
        return _count(folder, network)


def count_and_infer(
    network: NcnnNetwork, weights: bytes, inputs: Sequence[NDArray[np.float32]]
) -> tuple[tuple[tuple[str, Counts], ...], NDArray[np.float32]]:
    """`count_layers` with real weights and inputs, and what was computed meanwhile: all outputs in a row."""
    with _workplace(network) as folder:
        counts = _count(folder, network, *_given(folder, weights, inputs), "--output", "out")
        return counts, np.fromfile(folder / "out", "<f4")


def _given(folder: Path, weights: bytes, inputs: Sequence[NDArray[np.float32]]) -> tuple[str, ...]:
    (folder / "net.bin").write_bytes(weights)
    (folder / "in").write_bytes(b"".join(np.ascontiguousarray(x, "<f4").tobytes() for x in inputs))
    return "--weights", "net.bin", "--input", "in"


def _count(folder: Path, network: NcnnNetwork, *arguments: str) -> tuple[tuple[str, Counts], ...]:
    (folder / "lutcount.so").symlink_to(build.counting_plugin())
    evict = ("--evict", str(network.evict_bytes))
    warm = ("--warm", "0" if network.evict_bytes else "1")
    _run(folder, *warm, "--marks", *evict, *arguments, plugin="./lutcount.so,out=counts")
    with (folder / "counts").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return tuple(
        (network.layers[int(row["layer"])].name, Counts(**{name: int(row[name]) for name in COUNT_NAMES}))
        for row in rows
    )


@contextmanager
def _workplace(network: NcnnNetwork) -> Iterator[Path]:
    """A folder with the program, the network and what the program may see of a machine."""
    program = build.payload()
    with tempfile.TemporaryDirectory(prefix="lutbench-") as name:
        folder = Path(name)
        (folder / "lutbench").symlink_to(program)
        (folder / "net.param").write_text(network.param)
        cpu = folder / "machine/sys/devices/system/cpu/cpu0"
        for index, texts in enumerate(_CACHES):
            cache = cpu / f"cache/index{index}"
            cache.mkdir(parents=True)
            for item, text in zip(("level", "type", "size", "shared_cpu_map"), (*texts, "1"), strict=True):
                (cache / item).write_text(f"{text}\n")
        (folder / "machine/proc").mkdir()
        (folder / "machine/proc/cpuinfo").write_text("processor\t: 0\n")
        yield folder


def _run(folder: Path, *arguments: str, plugin: str | None = None) -> None:
    """Program and arguments have the same names each time, because they are on the stack of what is counted."""
    qemu = shutil.which(QEMU)
    if not qemu:
        raise UserError(f"no {QEMU} program; on Debian: apt-get install qemu-user")
    options = ["-L", str(folder / "machine"), "-R", _ADDRESS_SPACE, *(("-plugin", plugin) if plugin else ())]
    command = [qemu, *options, "./lutbench", "--core", "0", *arguments, "net.param"]
    with subprocess.Popen(
        command, cwd=folder, env={}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as process:
        try:
            assert process.stdout is not None
            machine = process.stdout.readline()  # with it, it has pinned itself, and all its kind to one core
            with suppress(ProcessLookupError):
                os.sched_setaffinity(process.pid, os.sched_getaffinity(0))
            rest, errors = process.communicate()
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        complaint = _complaint((machine + rest).decode(), errors.decode())
        raise UserError(f"lutbench failed under {QEMU} with exit code {process.returncode}: {complaint}")


def _complaint(out: str, errors: str) -> str:
    own = [line["error"] for line in map(json.loads, out.splitlines()) if "error" in line]
    return "; ".join([*own, *errors.splitlines()[-3:]]) or "it says nothing"
