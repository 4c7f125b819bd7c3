"""What is a format that a network leaves the tool in? One protocol; a file per format beside this one.

A format writes files and runs them again in the runtime that devices use, here on this machine. `named.py` lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from topformer.config import Candidate, Task, TopFormerConfig
from topformer.errors import UserError
from topformer.progress import Progress, silent

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from experiments.export.images import Images
    from topformer.model import TopFormer

INPUT = "image"
"""Name of every exported network's input: (B, 3, H, W) float32, RGB, normalised or 0 to 255."""
PROBE = "probe"
HEAD_BYTES = 64
"""As many bytes of a file's beginning as `Format.recognises` gets."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """What is exported: a trained network in eval mode, on one task."""

    model: TopFormer
    task: Task
    normalise_inside: bool = False
    """The input is RGB from 0 to 255, and mean and standard deviation are part of the graph."""
    dynamic: bool = False
    """Batch and image size are chosen by whoever runs it; `task.image_size` is an example."""
    probes: tuple[str, ...] = ()
    """Names of blocks whose outputs are returned, too, behind the output proper: where a runtime diverges is sought."""

    @property
    def arch(self) -> TopFormerConfig:
        return self.model.arch

    @property
    def candidate(self) -> Candidate:
        return Candidate(arch=self.model.arch, task=self.task)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what the network returns, in order; those of probes begin with `PROBE` and sort likewise."""
        return (self.task.output, *(f"{PROBE}{index:04d}" for index in range(len(self.probes))))


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How a format is written, beyond what the network is."""

    opset: int | None = None
    """Of ONNX; None: the format's own choice."""
    calibration: Sequence[NDArray[np.float32]] = ()
    """Inputs of the network, (1, 3, H, W), that ranges of integers are chosen by."""
    validation: Images | None = None
    """Labelled images that say what integers lose."""
    max_drop_pct: float | None = None
    """Most mIoU points that a format with integer weights may lose; None: the format's own choice."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Texts that a format which has a place for them carries along: architecture, classes, palette, mean and std."""
    report: Progress = silent
    """Told how far long work is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """What a format wrote."""

    files: tuple[Path, ...]
    """The one that is opened first."""
    report: Mapping[str, Any] = field(default_factory=dict)
    """JSON for the card: what is delegated, which layers stay in float32."""


Session = Callable[["NDArray[np.float32]"], "tuple[NDArray[Any], ...]"]
"""A loaded network: an image (B, 3, H, W) -> its outputs, as `Network.outputs` names them."""


class Format(Protocol):
    """One way of writing a network, and the runtime that reads it."""

    @property
    def name(self) -> str:
        """As `--format` takes it."""

    @property
    def title(self) -> str:
        """For people."""

    @property
    def extra(self) -> str | None:
        """The extra of this package that installs what it needs; None where that comes with the tool."""

    @property
    def packages(self) -> tuple[str, ...]:
        """Modules that must be importable to write and to run it."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Endings of its files, behind the export's name: the file that is opened first."""

    @property
    def tolerance(self) -> float | None:
        """Largest difference of a logit from torch's, relative to the greatest logit where that is above 1.

        None where weights are integers: how much that costs is measured by mIoU.
        """

    def why_not(self, network: Network, options: Options) -> str | None:
        """Why this cannot be said in the format, as the end of a sentence; None where it can."""

    def write(self, network: Network, folder: Path, stem: str, options: Options) -> Written:
        """Write `folder/stem` + each of the suffixes; the folder is there and is the export's own."""

    def load(self, files: Sequence[Path], *, threads: int = 1) -> Session:
        """Files that `write` wrote, opened in their own runtime. Raises `UserError` where that cannot read them."""

    def operators(self, files: Sequence[Path]) -> Mapping[str, int]:
        """How often each operator is in the file, as the runtime calls it."""

    def unsupported(self, files: Sequence[Path]) -> tuple[str, ...]:
        """Nodes that the runtime cannot do, or that would leave its fast path: name and operator of each."""

    def recognises(self, head: bytes) -> bool:
        """Whether a file that begins with these bytes (`HEAD_BYTES`, or all) may be one of the format's first files."""


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Names of outputs as `Network.outputs` has them, for runtimes that list them in an order of their own."""
    return tuple(sorted(names, key=lambda name: (name.startswith(PROBE), name)))


def require_sayable(one: Format, network: Network, options: Options) -> None:
    """Raise `UserError` where a format cannot express what is asked for."""
    if reason := one.why_not(network, options):
        raise UserError(f"format {one.name} cannot be written: {reason}.")
