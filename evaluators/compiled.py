"""What does every candidate of a space cost? A latency table over a whole space, for millions of candidates a second.

The table is additive over blocks, and a block depends on few knobs. So the blocks are grouped by the knobs they depend
on, each group gets one array over those knobs' choices, filled through `decompose` itself, and the latency of a column
of candidates is a sum of look-ups. May import numpy, search_space, latency_lut.table and topformer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise, product
from operator import or_

import numpy as np
from numpy.typing import NDArray

from latency_lut.table import LatencyDifference, LatencyTable, MissingRows
from search_space.space import Choice, Point, SearchSpace
from topformer.blocks import Block, candidate_blocks
from topformer.config import STAGE_STRIDES, Candidate
from topformer.errors import UserError

Columns = Mapping[str, NDArray[np.int32]]
"""For every knob, the index of its choice in each candidate; knobs of absent rows may have any."""

CHUNK = 65_536
"""Candidates at once: the working arrays stay in the second-level cache."""
MOST_EXHAUSTIVE = 50_000_000
_WIDTHS = tuple(f"width_{stride}" for stride in STAGE_STRIDES)
_SEMANTICS = "semantic_channels"
"""A derived column: blocks of the semantics depend on the sum of the widths, not on each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Saving:
    """One knob changed in an architecture, and what that saves."""

    knob: str
    old: Choice
    new: Choice
    candidate: Candidate
    saved: LatencyDifference
    """In ms, with its interval; positive where the change is faster."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Blocks that depend on the same columns."""

    columns: tuple[str, ...]
    ms: NDArray[np.float64]
    """Flat, over the choices of `columns` in row-major order."""
    strides: tuple[int, ...]
    """Of each column in the flat array."""


class CompiledTable:
    """A latency table compiled for a search space; raises `MissingRows` where a block of the space has no row."""

    def __init__(self, table: LatencyTable, space: SearchSpace) -> None:
        self.table = table
        self.space = space
        self._choices = space.distributions()
        self._sums, self._sum_of = self._semantic_sums()
        self._fill = _Filler(table, space)
        self._groups = tuple(self._group(columns, names) for columns, names in self._plan())
        self._fill.require_complete()

    def estimate_ms(self, columns: Columns) -> NDArray[np.float64]:
        """Total latency in ms of each candidate, equal to `LatencyTable.estimate` within rounding."""
        missing = [name for name in self._choices if name not in columns]
        if missing:
            raise UserError(f"column {missing[0]!r} of search space {self.space.name!r} is missing.")
        arrays = {name: np.ascontiguousarray(columns[name], dtype=np.int32) for name in self._choices}
        count = len(next(iter(arrays.values()))) if arrays else 1
        for name, values in arrays.items():
            legal = len(self._choices[name])
            if values.shape != (count,) or (count and not 0 <= int(values.min()) <= int(values.max()) < legal):
                raise UserError(
                    f"column {name!r} must have {count} choice indices from 0 to {legal - 1}, one for each candidate."
                )
        total = np.empty(count)
        for start in range(0, count, CHUNK):
            part = slice(start, min(start + CHUNK, count))
            total[part] = self._sum({name: values[part] for name, values in arrays.items()}, part.stop - part.start)
        return total * self.table.header.error_model.scale

    def encode(self, points: Sequence[Point]) -> dict[str, NDArray[np.int32]]:
        """Columns of points, one choice for every knob each."""
        index = {name: {choice: i for i, choice in enumerate(choices)} for name, choices in self._choices.items()}
        return {
            name: np.array([index[name][point[name]] for point in points], dtype=np.int32) for name in self._choices
        }

    def sample(self, count: int, rng: np.random.Generator) -> dict[str, NDArray[np.int32]]:
        """Columns of candidates drawn uniformly from the distinct candidates of the space."""
        columns = {}
        for name, choices in self._choices.items():
            weights = self._depth_weights(name) if name.startswith("depth_") else None
            columns[name] = rng.choice(len(choices), size=count, p=weights).astype(np.int32)
        return columns

    def every(self) -> Iterator[dict[str, NDArray[np.int32]]]:
        """Columns of all distinct candidates, chunk by chunk; for spaces of at most 50 million."""
        if self.space.size > MOST_EXHAUSTIVE:
            raise UserError(
                f"search space {self.space.name!r} has {self.space.size:,} candidates, too many to go through; "
                "draw from it with `sample`."
            )
        waiting: list[Point] = []
        for candidate in self.space.candidates():
            waiting.append(self.space.encode(candidate))
            if len(waiting) == CHUNK:
                yield self.encode(waiting)
                waiting = []
        if waiting:
            yield self.encode(waiting)

    def savings(self, candidate: Candidate, *, least_ms: float = 0.0) -> tuple[Saving, ...]:
        """Single changes within the space that save more than `least_ms`, most first; exact: the table is additive."""
        before = candidate_blocks(candidate)
        point = self.space.encode(candidate)
        found = []
        for other in self.space.neighbours(candidate):
            saved = self.table.difference(before, candidate_blocks(other))
            if saved.delta_ms > least_ms:
                after = self.space.encode(other)
                # a change of depth moves the placeholders of its rows too: the depth is what was changed
                changed = sorted((name for name in point if point[name] != after[name]), key=_depth_first)
                knob = changed[0]
                found.append(Saving(knob=knob, old=point[knob], new=after[knob], candidate=other, saved=saved))
        return tuple(sorted(found, key=lambda saving: (-saving.saved.delta_ms, saving.knob, str(saving.new))))

    def _sum(self, columns: dict[str, NDArray[np.int32]], count: int) -> NDArray[np.float64]:
        columns[_SEMANTICS] = self._semantic_column(columns, count)
        total = np.zeros(count)
        for group in self._groups:
            index = np.zeros(count, dtype=np.int32)
            for name, stride in zip(group.columns, group.strides, strict=True):
                index += columns[name] * np.int32(stride)
            total += group.ms.take(index)
        return total

    def _plan(self) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
        """(columns, names of blocks that depend on them and on nothing else), each block once."""
        arch = self.space.base
        semantic = (_SEMANTICS, "token_stride")
        yield (), ("token_pyramid.stem", *_row_names("stride2", len(arch.stride2)))
        for before, stride in pairwise((None, *STAGE_STRIDES)):
            own = (f"width_{stride}",)
            first = (f"width_{before}",) if before else ()
            yield (*first, *own, f"kernel_{stride}_0", f"expand_{stride}_0"), (f"token_pyramid.stage{stride}.0",)
            deepest = max(
                map(int, self._choices.get(f"depth_{stride}", (len(arch.stages[STAGE_STRIDES.index(stride)]),)))
            )
            for row in range(1, deepest):
                varied = (f"depth_{stride}", f"kernel_{stride}_{row}", f"expand_{stride}_{row}")
                yield (*own, *varied), (f"token_pyramid.stage{stride}.{row}",)
            yield (*own, "token_stride"), (f"pooling.{stride}",)
            received = (_SEMANTICS,) if arch.token_source == "last" and arch.head == "topformer" else ()
            columns = (*own, *received, "token_stride", "injection_channels", "injected_strides")
            yield columns, (f"semantic_injection.{stride}",)
        yield semantic, ("pooling.concatenation",)
        blocks = max(map(int, self._choices.get("num_blocks", (max(arch.num_blocks, 1),))))
        extractor = tuple(f"transformer.{index}" for index in range(blocks))
        yield (*semantic, "num_heads", "key_dim", "num_blocks"), extractor
        yield (*semantic, "injection_channels"), ("semantic_injection.semantics",)
        head = (_SEMANTICS,) if self.space.task.kind == "classification" else ("injection_channels", "head_fuse")
        yield (*head, "injected_strides"), ("head",)
        yield ("injected_strides",), ("post_processing.resize", "post_processing.argmax")

    def _group(self, columns: Iterable[str], names: tuple[str, ...]) -> _Group:
        """All depend on the image size; a column that the space does not vary is left out."""
        varied = tuple(name for name in ("image_size", *columns) if name in self._choices or self._is_varied_sum(name))
        lengths = [len(self._sums) if name == _SEMANTICS else len(self._choices[name]) for name in varied]
        options = [
            list(self._sums.values()) if name == _SEMANTICS else [{name: choice} for choice in self._choices[name]]
            for name in varied
        ]
        ms = [self._fill.ms(reduce(or_, parts, {}), names) for parts in product(*options)]
        strides = [int(np.prod(lengths[i + 1 :])) for i in range(len(lengths))]
        return _Group(varied, np.array(ms), tuple(strides))

    def _is_varied_sum(self, name: str) -> bool:
        return name == _SEMANTICS and len(self._sums) > 1

    def _semantic_widths(self) -> tuple[str, ...]:
        """Width knobs that the number of semantic channels depends on."""
        names = _WIDTHS if self.space.base.token_source == "pyramid" else _WIDTHS[-1:]
        return tuple(name for name in names if name in self._choices)

    def _semantic_sums(self) -> tuple[dict[int, dict[str, Choice]], NDArray[np.int32]]:
        """One choice of widths for each number of semantic channels, and its index by flat index of the widths."""
        names = self._semantic_widths()
        sums: dict[int, dict[str, Choice]] = {}
        flat = []
        for combination in product(*(self._choices[name] for name in names)):
            total = sum(map(int, combination))
            sums.setdefault(total, dict(zip(names, combination, strict=True)))
            flat.append(total)
        order = {total: index for index, total in enumerate(sums)}
        return sums, np.array([order[total] for total in flat], dtype=np.int32)

    def _semantic_column(self, columns: Columns, count: int) -> NDArray[np.int32]:
        index = np.zeros(count, dtype=np.int32)
        for name in self._semantic_widths():
            index = index * np.int32(len(self._choices[name])) + columns[name]
        return self._sum_of.take(index)

    def _depth_weights(self, name: str) -> NDArray[np.float64]:
        """Share of the distinct candidates that have each depth of a stage."""
        stride = name.removeprefix("depth_")
        variants = []
        for depth in self._choices[name]:
            rows = [
                len(self._choices[f"{part}_{stride}_{row}"])
                for part in ("kernel", "expand")
                for row in range(int(depth))
                if f"{part}_{stride}_{row}" in self._choices
            ]
            variants.append(float(np.prod(rows)))
        return np.array(variants) / sum(variants)


class _Filler:
    """Times of blocks of points that state only the knobs that matter; collects what the table lacks."""

    def __init__(self, table: LatencyTable, space: SearchSpace) -> None:
        self._table = table
        self._space = space
        self._filler: dict[str, Choice] = {
            name: max(choices, key=int) if name.startswith("depth_") or name == "num_blocks" else choices[0]
            for name, choices in space.distributions().items()
        }
        self._blocks: dict[tuple[tuple[str, Choice], ...], dict[str, Block]] = {}
        self._missing: dict[str, Block] = {}

    def ms(self, choices: dict[str, Choice], names: tuple[str, ...]) -> float:
        """Sum over those of the named blocks that the candidate has."""
        blocks = self._blocks_of(choices)
        total = 0.0
        for name in names:
            if (block := blocks.get(name)) is None:
                continue
            if block.key in self._table.rows:
                total += self._table.block_ms(block)
            else:
                self._missing.setdefault(block.key, block)
        return total

    def require_complete(self) -> None:
        if self._missing:
            raise MissingRows(self._table.header, tuple(self._missing.values()))

    def _blocks_of(self, choices: dict[str, Choice]) -> dict[str, Block]:
        key = tuple(sorted(choices.items()))
        if key not in self._blocks:
            candidate = self._space.decode(self._filler | choices)
            self._blocks[key] = {block.name: block for block in candidate_blocks(candidate)}
        return self._blocks[key]


def _row_names(stage: str, count: int) -> tuple[str, ...]:
    return tuple(f"token_pyramid.{stage}.{index}" for index in range(count))


def _depth_first(name: str) -> tuple[bool, str]:
    return not name.startswith("depth_"), name
