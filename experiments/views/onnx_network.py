"""What would any ONNX network take on a core that is not at hand? Counted kernels, with the scale of the core's table.

May import latency_lut and topformer.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from latency_lut.estimate import WHOLE_NETWORK_PCT
from latency_lut.onnx_estimate import FLAGGED_PCT, DeviceModel, NetworkEstimate, device_model_named, estimate_onnx
from latency_lut.table import TableHeader, find_table
from topformer.errors import UserError
from topformer.progress import Progress, silent


@dataclass(frozen=True, kw_only=True, slots=True)
class EstimatedNetwork:
    """A network's latency by a core model, and what the number rests on."""

    model: Path
    device_model: str
    core: DeviceModel
    header: TableHeader
    """Of the table whose scale is taken."""
    found: NetworkEstimate

    @property
    def interval(self) -> str:
        """What the interval covers, in words."""
        errors, found = self.header.error_model, self.found
        text = f"{errors.level:.0%} interval: ±{WHOLE_NETWORK_PCT:g} % of the total, {errors.basis}"
        beyond = [ms for ms in found.rivals_ms.values() if abs(ms / found.total_ms - 1) > WHOLE_NETWORK_PCT / 100]
        if beyond:
            text += f", and what {len(beyond)} of {len(found.rivals_ms)} other core models say beyond that"
        if found.flagged:
            text += f"; the upper end also has {FLAGGED_PCT:g} % of the {found.flagged_ms:.2f} ms that is flagged"
        return text

    def as_dict(self) -> dict[str, Any]:
        found = self.found
        return {
            "model": str(self.model),
            "model_sha256": found.model_sha256,
            "input": list(found.input),
            "total_ms": found.total_ms,
            "low_ms": found.low_ms,
            "high_ms": found.high_ms,
            "kind": found.kind,
            "interval": self.interval,
            "by_operator": [asdict(row) for row in found.by_operator],
            "flagged": [asdict(row) for row in found.flagged],
            "flagged_ms": found.flagged_ms,
            "other_core_models_ms": dict(found.rivals_ms),
            "notes": list(found.notes),
            "difference_from_onnxruntime": found.difference,
            "device_model": self.device_model,
            "core_model": asdict(self.core.core),
            "scale": self.header.error_model.scale,
            "interval_pct": WHOLE_NETWORK_PCT,
            "table": self.header.name,
            "table_payload": self.header.runtime_checksum,
            "counted_with": asdict(found.source) | {"converter": found.converter},
        }


def estimated(
    model: Path, *, device_model: str, size: tuple[int, int] | None = None, report: Progress = silent
) -> EstimatedNetwork:
    """`size` (height, width) is for files that leave it open; counting takes a third of a second for a millisecond.

    Raises `UserError` where the core's table was never compared with whole networks, and what `estimate_onnx` raises.
    """
    core = device_model_named(device_model)
    header = find_table(core.table).header
    if header.error_model.scale_pct is None:
        raise UserError(
            f"table {header.name} was not compared with whole networks, so it has no scale to estimate with."
        )
    found = estimate_onnx(
        model,
        core=core.core,
        scale=header.error_model.scale,
        interval_pct=WHOLE_NETWORK_PCT,
        rivals=core.rivals(),
        size=size,
        progress=report,
    )
    return EstimatedNetwork(model=model, device_model=device_model, core=core, header=header, found=found)
