"""What did a person time on their own phone, and which table does it give? From the command line to `anchored`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from experiments.front.lookup import chosen, task_of
from experiments.latency.plan import network_name, saying_what_measures, table_path
from latency_lut.anchoring import OwnTime, Residual, anchored, residuals
from latency_lut.table import SUFFIX, LatencyTable, available_tables, find_table
from topformer.blocks import decompose
from topformer.errors import UserError

_SIZED = re.compile(r"(?P<arch>.+)@(?P<size>\d+(?:[xX]\d+)?)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Anchoring:
    """A table, and the new one that is written at `path`."""

    before: LatencyTable
    after: LatencyTable
    residuals: tuple[Residual, ...]
    path: Path
    noise_pct: float
    """How far one measurement may be off by chance."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences about what the new table cannot be trusted with."""
        found = [
            f"{item.name} disagrees with the others: it is {-item.residual_pct:+.1f} % from the new scale, where the "
            f"table's shapes and the noise allow {item.allowed_pct:.1f} %; measure it again, with the phone cool"
            for item in self.residuals
            if item.disagrees
        ]
        if not self.after.validated:
            found.append(
                f"table {self.before.name} was never compared with whole networks, so one measurement gives a scale "
                "but no interval; give two or more"
            )
        return tuple(found)

    def as_dict(self) -> dict[str, Any]:
        old, new = self.before, self.after
        return {
            "table": new.name,
            "path": str(self.path),
            "rows": len(new.rows),
            "kind": new.kind,
            "anchored_from": {"table": old.name, "checksum": old.checksum, "interval": old.interval_note},
            "old_scale": old.header.error_model.scale,
            "scale": new.header.error_model.scale,
            "scale_pct": new.header.error_model.scale_pct,
            "noise_pct": self.noise_pct,
            "interval": new.interval_note,
            "measurements": [
                {
                    "network": item.name,
                    "measured_ms": item.measured_ms,
                    "old": item.before.as_dict(),
                    "new": item.after.as_dict(),
                    "residual_pct": item.residual_pct,
                    "allowed_pct": item.allowed_pct,
                    "disagrees": item.disagrees,
                }
                for item in self.residuals
            ],
            "warnings": list(self.warnings),
        }


def anchor(
    table: str,
    measured: Iterable[str],
    *,
    size: str | None,
    classes: int | None,
    output: str,
    out: str,
    noise_pct: float,
    storage: str,
) -> Anchoring:
    """Write a new table; raises `UserError` where anything is there by that name or at that path already."""
    path = table_path(out)
    if path.exists() or (not out.endswith(SUFFIX) and out in {known.stem for known in available_tables()}):
        raise UserError(
            f"there is a table {out!r} already, and re-anchoring never changes one; choose another --out name."
        )
    before = find_table(table)
    times: dict[str, OwnTime] = {}
    for text in measured:
        name, own = own_time(text, before, size=size, classes=classes, output=output, storage=storage)
        if name in times:
            raise UserError(f"--measured has {name} twice; give its time once, the median of yours.")
        times[name] = own
    date = datetime.now(UTC).isoformat(timespec="seconds")
    after = anchored(before, times, name=path.stem, date=date, noise_pct=noise_pct)
    after.save(path)
    left = residuals(before, after, times, noise_pct=noise_pct)
    return Anchoring(before=before, after=after, residuals=left, path=path, noise_pct=noise_pct)


def own_time(
    text: str, table: LatencyTable, *, size: str | None, classes: int | None, output: str, storage: str
) -> tuple[str, OwnTime]:
    """(name of the network, its time) from `ARCH[@SIZE]=MS`; `size` is for those that do not say one.

    A number behind the last @ is a size, so a best-under-a-budget is written with its unit: STUDY@50ms.
    """
    arch, equals, ms = text.rpartition("=")
    if not equals or not arch:
        raise UserError(f"--measured must look like base=131.5 or tiny@448=40.2 (ms), not {text[:60]!r}.")
    sized = _SIZED.fullmatch(arch)
    arch = sized["arch"] if sized else arch
    found = chosen(arch, storage=storage)
    task = task_of(found, sized["size"] if sized else size, classes, output=output)
    own = OwnTime(blocks=decompose(found.arch, task), ms=_milliseconds(ms, text))
    with saying_what_measures(arch, task):
        table.estimate(own.blocks)  # rows that are not there are named with the options that measure them
    return network_name(found.label, task), own


def _milliseconds(text: str, whole: str) -> float:
    try:
        ms = float(text.strip().removesuffix("ms"))
    except ValueError:
        ms = math.nan
    if not 0 < ms <= 1e12:
        raise UserError(f"--measured {whole[:60]!r}: the time must be a positive number of ms, not {text[:20]!r}.")
    return ms
