"""MNN: converted from our ONNX graph by the package's own converter, and run by its interpreter.

The converter runs in a process of its own: it prints from C++, ends the process where it fails, and the command that
comes with the package would send what it converted to its makers.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.export.formats import INPUT, Network, Options, Session, Written, in_order
from experiments.export.verify import quiet
from topformer.errors import UserError

_CONVERT = "import sys, _tools; _tools.mnnconvert(['mnnconvert', *sys.argv[1:]])"
_PATIENCE_S = 600
_NOT_MNN = (b"TFL3", b"ET")


class Mnn:
    """The `Format` of MNN, float32."""

    name = "mnn"
    title = "MNN, float32"
    extra = "mnn"
    packages = ("MNN", "_tools")
    suffixes = (".mnn",)
    tolerance = 1e-4

    def why_not(self, network: Network, options: Options) -> str | None:
        return "its graph is converted for one image size" if network.dynamic else None

    def write(self, network: Network, folder: Path, stem: str, options: Options) -> Written:
        from experiments.export.formats.onnx import onnx_graph  # noqa: PLC0415, a reader of files needs no exporter

        path = folder / f"{stem}{self.suffixes[0]}"
        with tempfile.TemporaryDirectory() as scratch:
            source = Path(scratch) / "network.onnx"
            source.write_bytes(onnx_graph(network))
            _convert("-f", "ONNX", "--modelFile", source, "--MNNModel", path, "--bizCode", "topformer-nas")
        return Written(files=(path,))

    def load(self, files: Sequence[Path], *, threads: int = 1) -> Session:
        return _Session(files[0], threads)

    def operators(self, files: Sequence[Path]) -> Mapping[str, int]:
        return Counter(kind for _, kind in _Session(files[0], 1).nodes())

    def unsupported(self, files: Sequence[Path]) -> tuple[str, ...]:
        """The converter refuses what it cannot say, but for operators that it hands to a plug-in."""
        return tuple(f"{name} ({kind})" for name, kind in _Session(files[0], 1).nodes() if kind in ("Plugin", "Extra"))

    def recognises(self, head: bytes) -> bool:
        """A flatbuffer without a mark of its own; those of others have one at byte 4."""
        root = int.from_bytes(head[:4], "little")
        return len(head) >= 16 and 8 <= root < 256 and root % 4 == 0 and not head[4:8].startswith(_NOT_MNN)


MNN = Mnn()


def _convert(*words: str | Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _CONVERT, *map(str, words)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_PATIENCE_S,
        check=False,
    )
    target = Path(words[words.index("--MNNModel") + 1])
    if done.returncode or not target.is_file() or not target.stat().st_size:
        said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise UserError(f"MNN's converter failed ({said[-1] if said else f'exit code {done.returncode}'}).")


class _Session:
    """An interpreter with its session; calling it is one inference."""

    def __init__(self, path: Path, threads: int) -> None:
        with quiet():
            import MNN as mnn  # noqa: N811, PLC0415, comes with an extra

            self.mnn = mnn
            self.interpreter = mnn.Interpreter(str(path))
            self.session = self.interpreter.createSession({"backend": "CPU", "numThread": threads, "precision": "high"})
        self.input = self.interpreter.getSessionInput(self.session, INPUT)
        outputs = self.interpreter.getSessionOutputAll(self.session)
        self.outputs = [outputs[name] for name in in_order(outputs)]

    def __call__(self, image: NDArray[np.float32]) -> tuple[NDArray[Any], ...]:
        singles = [self._run_one(one[None]) for one in image]
        return tuple(np.concatenate(parts) for parts in zip(*singles, strict=True))

    def nodes(self) -> tuple[tuple[str, str], ...]:
        """Name and operator of every node, as it is run."""
        found: list[tuple[str, str]] = []

        def note(_tensors: object, node: Any) -> bool:
            found.append((node.getName(), node.getOpType() if hasattr(node, "getOpType") else node.getType()))
            return True

        self.interpreter.runSessionWithCallBackInfo(self.session, note, lambda *_: True)
        return tuple(found)

    def _run_one(self, image: NDArray[np.float32]) -> list[NDArray[Any]]:
        mnn = self.mnn
        given = mnn.Tensor(
            image.shape, mnn.Halide_Type_Float, np.ascontiguousarray(image), mnn.Tensor_DimensionType_Caffe
        )
        self.input.copyFrom(given)
        self.interpreter.runSession(self.session)
        return [self._taken(output) for output in self.outputs]

    def _taken(self, output: Any) -> NDArray[Any]:
        mnn = self.mnn
        kind = np.int32 if output.getDataType() == mnn.Halide_Type_Int else np.float32
        shape = output.getShape()
        host = mnn.Tensor(shape, output.getDataType(), np.zeros(shape, kind), mnn.Tensor_DimensionType_Caffe)
        output.copyToHostTensor(host)
        return np.array(host.getNumpyData())
