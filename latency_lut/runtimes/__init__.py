"""What runs a block or a network? The runtime protocol and the built-in names; one file per runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from topformer.blocks import Block
from topformer.config import Candidate
from topformer.errors import unknown_name

RUNTIMES = ("onnxruntime", "ncnn")


@dataclass(frozen=True, kw_only=True, slots=True)
class RuntimeInfo:
    """What a table's header says of its runtime."""

    name: str
    version: str
    checksum: str
    """Of the library that computes, so that two builds of one version are told apart."""
    precision: str
    threads: int


class Inference(Protocol):
    """One call is one inference on fixed inputs."""

    @property
    def inputs(self) -> Sequence[NDArray[np.float32]]:
        """What it reads, not copies."""

    def __call__(self) -> None: ...


class Runtime(Protocol):
    """Turns a block or a whole network into a graph file, and such a file into something this process can call."""

    def info(self) -> RuntimeInfo: ...

    def build(self, what: Block | Candidate) -> bytes:
        """The runtime's graph file for one image, the same bytes each time; weights are made up."""

    def load(self, graph: bytes) -> Inference:
        """In this process; UserError where the runtime cannot."""


def runtime_named(name: str) -> Runtime:
    """A built-in runtime."""
    if name == "onnxruntime":
        from latency_lut.runtimes.onnxruntime import OnnxRuntime  # noqa: PLC0415, a listing of names waits for no runtime

        return OnnxRuntime()
    if name == "ncnn":
        from latency_lut.runtimes.ncnn import Ncnn  # noqa: PLC0415

        return Ncnn()
    raise unknown_name("runtime", name, RUNTIMES)
