"""ONNX in integers of 8 bits: the float32 graph, quantised by onnxruntime on images of a data set, and run by it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx

from experiments.export.formats import Network, Options, Session, Written
from experiments.export.formats.onnx import ALLOWED_OPERATORS, ONNX, onnx_session
from experiments.export.integers import MAX_DROP_PCT, Judged, quantised
from topformer.blocks import decompose

_QUANTISING = frozenset(("QuantizeLinear", "DequantizeLinear"))


class OnnxInt8:
    """The `Format` of ONNX with weights and activations of 8 bits, in QDQ form."""

    name = "onnx-int8"
    title = "ONNX, int8"
    extra = None
    packages = ONNX.packages
    suffixes = (".int8.onnx",)
    tolerance = None

    def why_not(self, network: Network, options: Options) -> str | None:
        if network.dynamic:
            return "the ranges of its integers are measured at one image size"
        if not options.calibration or options.validation is None or options.validation.labels is None:
            return "integers are chosen by labelled images; name a data set with --calibration"
        return ONNX.why_not(network, options)

    def write(self, network: Network, folder: Path, stem: str, options: Options) -> Written:
        """Raises `UserError` where the loss allowed leaves too few multiply-adds in integers."""
        validation = options.validation
        assert validation is not None, "why_not was asked first"
        assert validation.labels is not None
        with tempfile.TemporaryDirectory() as scratch:
            exact = ONNX.write(network, Path(scratch), stem, options)
            graph = exact.files[0].read_bytes()
        judged = Judged(
            source=validation.source,
            inputs=validation.inputs(network),
            labels=tuple(validation.labels),
            num_classes=network.task.num_classes,
        )
        made = quantised(
            graph,
            options.calibration,
            judged,
            macs=sum(block.macs for block in decompose(network.arch, network.task)),
            max_drop_pct=MAX_DROP_PCT if options.max_drop_pct is None else options.max_drop_pct,
            report=options.report,
        )
        path = folder / f"{stem}{self.suffixes[0]}"
        path.write_bytes(made.graph)
        return Written(files=(path,), report={**exact.report, **made.as_dict(), "sentence": made.sentence})

    def load(self, files: Sequence[Path], *, threads: int = 1) -> Session:
        return onnx_session(files[0], threads)

    def operators(self, files: Sequence[Path]) -> Mapping[str, int]:
        return ONNX.operators(files)

    def unsupported(self, files: Sequence[Path]) -> tuple[str, ...]:
        nodes = onnx.load_model(files[0]).graph.node
        legal = ALLOWED_OPERATORS | _QUANTISING
        return tuple(f"{node.name} ({node.op_type})" for node in nodes if node.op_type not in legal)

    def recognises(self, head: bytes) -> bool:
        return ONNX.recognises(head)


ONNX_INT8 = OnnxInt8()
