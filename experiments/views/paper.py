"""Does a table of the paper come out again? Its rows with our own counts, latency and scores beside what is printed.

Imports the paper's tables and latency tables, and nothing that prints or draws.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from experiments.paper.accuracy import Decided, Scores, Training
from experiments.paper.counting import Counted, counted
from experiments.paper.tables import PaperTable, Row, paper_tables
from latency_lut.table import LatencyTable
from topformer.blocks import MODULES, Block, MBConvSpec, StemSpec, candidate_blocks, total
from topformer.config import Candidate

Cells = Mapping[str, str | None]
"""A row by column; None for what is not known or does not apply."""

COSTS = ("network", "M", "paper's M", "G", "paper's G", "ms", "paper's ms")
ACCURACY = ("network", "paper's score", "mIoU here")
"""Columns of `PaperView.cells` that eighty characters hold, and those that come after them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperView:
    """A table of the paper beside our own numbers."""

    table: PaperTable
    counted: Mapping[str, Counted]
    """By the name of the row."""
    prices: LatencyTable
    scores: Scores | None
    """None where nothing was trained, or the table is about a data set of its own."""

    @property
    def cells(self) -> tuple[Cells, ...]:
        match self.table.shows:
            case "shares":
                return tuple(_share_cells(self.counted.values(), self.prices))
            case "configurations":
                return tuple(_configuration_cells(self.counted.values()))
            case _:
                return self._with_columns_that_say_something()

    @property
    def orderings(self) -> tuple[Cells, ...]:
        """The paper's orderings among these networks, and what trainings here say of them."""
        return tuple(_ordering_cells(one) for one in (self.scores.decided if self.scores else ()))

    @property
    def sentences(self) -> tuple[str, ...]:
        """What the numbers are, what matches, and what must be assumed."""
        said = [f"Published: {self.table.source}."]
        if self.table.note:
            said.append(self.table.note)
        if self.table.shows == "costs":
            said += self._matches()
        said += [f"{name}: {reading}." for name, one in self.counted.items() for reading in one.readings]
        if self.scores:
            said.append(self._about_scores(self.scores))
        return tuple(said)

    def _matches(self) -> list[str]:
        pairs = [
            (name, what, match)
            for name, one in self.counted.items()
            for what, match in (("parameters", one.params_match), ("multiply-adds", one.flops_match))
            if match
        ]
        wrong = [f"{name} ({what})" for name, what, match in pairs if match == "mismatch"]
        said = []
        if pairs:
            good = f"{len(pairs) - len(wrong)} of {len(pairs)} published counts of parameters and multiply-adds match"
            said.append(f"{good}{'; not those of ' + ', '.join(wrong) if wrong else ''}.")
        timed = [(name, one.latency_match) for name, one in self.counted.items() if one.latency_match]
        if timed:
            outside = [name for name, match in timed if match == "mismatch"]
            said.append(
                f"{len(timed) - len(outside)} of {len(timed)} published latencies lie in the interval of table "
                f"{self.prices.name}{'; not those of ' + ', '.join(outside) if outside else ''}."
            )
        missing = [
            name for name, one in self.counted.items() if one.latency is None and one.row.task.kind == "segmentation"
        ]
        if missing:
            said.append(
                f"Table {self.prices.name} has no row for some block of {', '.join(missing)}: latency query ARCH names "
                "what measures them."
            )
        return said

    def _about_scores(self, scores: Scores) -> str:
        trained = sum(bool(found) for found in scores.by_row.values())
        where = "images by which nothing was chosen" if scores.judged else "its validation images"
        noise = (
            ""
            if scores.noise_pct is None
            else f"; two trainings of one network differ by {scores.noise_pct:.2f} points (s.d.)"
        )
        return (
            f"mIoU here: {scores.dataset} by {scores.fidelity} on {where}, mean of the seeds, {trained} of "
            f"{len(self.counted)} networks trained{noise}. It is another data set than the paper's: only the order "
            "compares."
        )

    def _with_columns_that_say_something(self) -> tuple[Cells, ...]:
        rows = [self._cost_cells(row) for row in self.table.rows]
        kept = [column for column in rows[0] if any(row[column] for row in rows)]
        return tuple({column: row[column] for column in kept} for row in rows)

    def _trained(self, row: Row) -> Sequence[Training]:
        return self.scores.by_row.get(row.name, ()) if self.scores else ()

    def _cost_cells(self, row: Row) -> Cells:
        one, said = self.counted.get(row.name), row.published
        return {
            "network": row.name,
            "M": None if one is None else f"{one.params / 1e6:.3f}",
            "paper's M": said.params_m,
            "G": None if one is None else f"{one.fvcore_g:.3f}",
            "paper's G": said.flops_g,
            "ms": None if one is None or one.latency is None else _latency_text(one),
            "paper's ms": said.latency_ms,
            "paper's score": said.score,
            "mIoU here": _mean_text([found.miou_pct for found in self._trained(row)]),
        }

    def as_dict(self) -> dict[str, Any]:
        return {
            "table": self.table.name,
            "title": self.table.title,
            "question": self.table.question,
            "source": self.table.source,
            "measure": self.table.measure,
            "note": self.table.note,
            "latency_table": self.prices.name,
            "rows": [self._row_dict(row) for row in self.table.rows],
            "data": self.scores.dataset if self.scores else None,
            "fidelity": self.scores.fidelity if self.scores else None,
            "judged": self.scores.judged if self.scores else None,
            "noise_pct": self.scores.noise_pct if self.scores else None,
            "orderings": [one.as_dict() for one in (self.scores.decided if self.scores else ())],
            "shown": [dict(cells) for cells in self.cells],
        }

    def _row_dict(self, row: Row) -> dict[str, Any]:
        one = self.counted.get(row.name)
        own = None
        if one is not None and row.candidate is not None:
            own = {
                "architecture": row.candidate.arch.as_dict(),
                "task": row.candidate.task.as_dict(),
                "params": one.params,
                "macs_g": one.macs_g,
                "backbone_macs_g": one.backbone_macs_g,
                "fvcore_g": one.fvcore_g,
                "latency": None if one.latency is None else one.latency.as_dict(),
                "params_match": one.params_match,
                "flops_match": one.flops_match,
                "latency_match": one.latency_match,
                "readings": list(one.readings),
            }
        return {
            "name": row.name,
            "published": row.published.model_dump(exclude_none=True),
            "own": own,
            "miou_pct": [found.miou_pct for found in self._trained(row)],
        }


def paper_view(table: PaperTable, prices: LatencyTable, scores: Scores | None) -> PaperView:
    return PaperView(table=table, counted=counted(table, prices), prices=prices, scores=scores)


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperList:
    """The tables that there are."""

    tables: Sequence[PaperTable]

    @property
    def cells(self) -> tuple[Cells, ...]:
        return tuple({"table": one.name, "title": one.title, "question": one.question} for one in self.tables)

    def as_dict(self) -> dict[str, Any]:
        return {
            "tables": [
                {
                    "name": one.name,
                    "title": one.title,
                    "question": one.question,
                    "source": one.source,
                    "networks": sum(row.arch is not None for row in one.rows),
                    "trains": one.trains,
                }
                for one in self.tables
            ]
        }


def paper_list() -> PaperList:
    return PaperList(tables=tuple(paper_tables().values()))


def _latency_text(one: Counted) -> str:
    assert one.latency is not None
    return f"{one.latency.total_ms:.1f} ±{one.latency.high_ms - one.latency.total_ms:.1f}"


def _mean_text(values: Sequence[float]) -> str | None:
    if not values:
        return None
    return f"{fmean(values):.1f} ({len(values)} seed{'s' if len(values) > 1 else ''})"


def _ordering_cells(one: Decided) -> Cells:
    return {
        "ordering": one.ordering.name,
        "paper": None if one.ordering.published_pct is None else f"+{one.ordering.published_pct:g}",
        "here": f"{one.difference_pct:+.1f}"
        + ("" if one.low_pct is None or one.high_pct is None else f" ({one.low_pct:.1f} to {one.high_pct:.1f})"),
        "trainings": " + ".join(map(str, one.trainings)),
        "verdict": one.verdict + (f": {one.why}" if one.why else ""),
    }


def _share_cells(every: Iterable[Counted], prices: LatencyTable) -> Iterable[Cells]:
    for one in every:
        blocks = _blocks(one)
        whole = total(block.cost for block in blocks).macs
        for module in MODULES:
            own = [block for block in blocks if block.module == module]
            if not own:
                continue
            latency = prices.estimate(own).total_ms if one.latency else None
            yield {
                "network": one.row.name,
                "module": module,
                "parameters %": f"{100 * sum(block.parameters for block in own) / one.params:.1f}",
                "multiply-adds %": f"{100 * total(block.cost for block in own).macs / whole:.1f}",
                "latency %": None
                if latency is None or one.latency is None
                else f"{100 * latency / one.latency.total_ms:.1f}",
            }


def _configuration_cells(every: Iterable[Counted]) -> Iterable[Cells]:
    """A row of the token pyramid in each line, then the rest of the network."""
    for one in every:
        for block in _blocks(one):
            spec = block.spec
            conv = spec if isinstance(spec, MBConvSpec) else None
            yield {
                "network": one.row.name,
                "block": block.name,
                "kernel": None if conv is None else str(conv.kernel),
                "expansion": None if conv is None else f"{conv.hidden_channels / conv.in_channels:g}",
                "stride": str(conv.stride) if conv else "2" if isinstance(spec, StemSpec) else None,
                "output C x H x W": " x ".join(map(str, block.output)),
            }


def _blocks(one: Counted) -> tuple[Block, ...]:
    candidate = one.row.candidate
    assert isinstance(candidate, Candidate), "only networks of ours are counted"
    return candidate_blocks(candidate)
