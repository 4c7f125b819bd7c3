"""What runs a block or a network? The runtime protocol and the built-in names; one file per runtime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from topformer.blocks import Shape
from topformer.errors import unknown_name

if TYPE_CHECKING:
    from torch import nn

RUNTIMES = ("onnxruntime",)


@dataclass(frozen=True, kw_only=True, slots=True)
class RuntimeInfo:
    """What a table's header says of its runtime."""

    name: str
    version: str
    checksum: str
    """Of the library that computes, so that two builds of one version are told apart."""
    precision: str
    threads: int


class Runtime(Protocol):
    """Turns a module into a graph file, and such a file into something this process can call."""

    def info(self) -> RuntimeInfo: ...

    def build(self, module: nn.Module, inputs: tuple[Shape, ...]) -> bytes:
        """The runtime's graph file for one image; `inputs` are (channels, height, width). Leaves `module` as it is."""

    def load(self, graph: bytes) -> Callable[[], None]:
        """One call is one inference on fixed inputs. Only devices that run in this process use it."""


def runtime_named(name: str) -> Runtime:
    """A built-in runtime."""
    if name == "onnxruntime":
        from latency_lut.runtimes.onnxruntime import OnnxRuntime  # noqa: PLC0415, a listing of names waits for no runtime

        return OnnxRuntime()
    raise unknown_name("runtime", name, RUNTIMES)
