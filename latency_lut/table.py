"""What does a network cost on one device, and how sure is that? The latency lookup table and its text format.

Imports light modules of `topformer` and the standard library alone: a query never waits for torch. Times are
milliseconds for one image on the table's device, runtime, precision and number of threads.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from datetime import datetime
from functools import cached_property
from math import prod
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal, NamedTuple, Self, TypeVar, get_args

from topformer.blocks import Block
from topformer.cache import given_folder, home_folder
from topformer.errors import UserError, unknown_name
from topformer.reading import file_text
from topformer.writing import write_whole

RowKind = Literal["measured", "interpolated", "estimated"]
"""Strongest first: an estimate is of the weakest kind among its rows."""

FORMAT = 1
SUFFIX = ".lut"
ESTIMATING_DEVICE = "qemu"
"""Device of the tables whose times are estimated from instructions that qemu counts."""
TABLES_VARIABLE = "TOPFORMER_NAS_TABLES"
LEAST_SHARE = 0.1
"""Of a row's time is left by the correction, however much it takes off."""
LEVEL = 0.90
"""Probability of every interval, unless a table's error model says otherwise."""

_MAGIC = "topformer-nas latency table, format "
_COLUMNS = ("median_ms", "p5_ms", "p95_ms", "n", "kind", "key")
_ROW_KINDS: tuple[RowKind, ...] = get_args(RowKind)
_P95 = NormalDist().inv_cdf(0.95)
_MEDIAN_ERROR = math.sqrt(math.pi / 2)
"""Standard error of a median over that of a mean, for a normal distribution."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_DIGEST = re.compile(r"sha256 [0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyRow:
    """The time of one block.

    Measured rows have `n` samples (what one sample is, the header's protocol says) with these percentiles; of a row
    that was not measured, p5 and p95 bound the value itself at 90 % and `n` is 0.
    """

    key: str
    """`topformer.blocks.Block.key`."""
    median_ms: float
    p5_ms: float
    p95_ms: float
    n: int
    kind: RowKind

    def __post_init__(self) -> None:
        if not self.key or not self.key.isprintable():
            raise UserError(f"a row's key must be one line of printable text, not {self.key!r}.")
        if self.kind not in _ROW_KINDS:
            raise UserError(f"row {self.key}: kind must be one of {', '.join(_ROW_KINDS)}, not {self.kind!r}.")
        for name in ("p5_ms", "median_ms", "p95_ms"):
            _require_positive(f"row {self.key}: {name}", getattr(self, name))
            object.__setattr__(self, name, float(getattr(self, name)))  # 2 and 2.0 are one text, so one checksum
        if not self.p5_ms <= self.median_ms <= self.p95_ms:
            raise UserError(
                f"row {self.key}: percentiles must ascend, not p5 {self.p5_ms}, median {self.median_ms}, "
                f"p95 {self.p95_ms} ms."
            )
        least = 1 if self.kind == "measured" else 0
        if isinstance(self.n, bool) or not isinstance(self.n, int) or self.n < least:
            raise UserError(f"row {self.key}: a {self.kind} row needs a count n of at least {least}, not {self.n!r}.")

    @property
    def deviation_ms(self) -> float:
        """Standard error of the median: sqrt(pi / 2) * (p95 - p5) / (2 * 1.645) / sqrt(n), normal samples assumed."""
        spread = (self.p95_ms - self.p5_ms) / (2 * _P95)
        return _MEDIAN_ERROR * spread / math.sqrt(self.n) if self.kind == "measured" else spread


@dataclass(frozen=True, kw_only=True, slots=True)
class Correction:
    """What a lone block takes more, or less, than the same block within a network; fitted on whole networks.

    Rows stay as they were measured, so that it can be fitted anew when the table grows.
    """

    block_ms: float = 0.0
    """Less within a network: the call."""
    edge_ns: float = 0.0
    """Less for each element of its inputs and output: onnxruntime changes their layout at the ends of a graph."""
    weight_ns: float = 0.0
    """More for each parameter: a lone block finds its weights in the caches."""

    def __post_init__(self) -> None:
        for name in ("block_ms", "edge_ns", "weight_ns"):
            _require_number(f"correction: {name}", getattr(self, name))

    def within_network_ms(self, block: Block, alone_ms: float) -> float:
        """At least `LEAST_SHARE` of the time alone, so positive."""
        change_ms = 1e-6 * (self.weight_ns * block.parameters - self.edge_ns * edge_elements(block)) - self.block_ms
        return max(alone_ms + change_ms, LEAST_SHARE * alone_ms)


@dataclass(frozen=True, kw_only=True, slots=True)
class ErrorModel:
    """How far a sum of rows may be from the whole network; half-widths in percent, at the level.

    What is called an error here multiplies times: `scale_pct` all of them together (so it cancels where two
    architectures agree), `kind_pct` those of one block kind together, independently of other kinds, and `row_pct` each
    row on its own: a block in a network is not quite the block alone. The noise of its timing is in the row itself.
    """

    scale: float = 1.0
    """Whole network over sum of corrected rows, fitted on the networks in the header's validation; every estimate has
    it."""
    correction: Correction = field(default_factory=Correction)
    """Of every row, before the scale."""
    scale_pct: float | None = None
    """None: no network was compared, so the error of a sum is unknown."""
    kind_pct: Mapping[str, float] = field(default_factory=dict)
    """By block kind; a kind that is not listed takes the largest listed error."""
    row_pct: float = 0.0
    """Of each distinct row, however often a network has it."""
    level: float = LEVEL
    basis: str = "calibrated on whole networks"
    """What the scale and the errors rest on, to print beside the interval."""

    def __post_init__(self) -> None:
        _require_positive("error_model: scale", self.scale)
        if not isinstance(self.correction, Correction):
            raise UserError(f"error_model: correction must be a Correction, not {self.correction!r}.")
        if not isinstance(self.kind_pct, Mapping):
            raise UserError(f"error_model: kind_pct must be a mapping, not {self.kind_pct!r}.")
        if self.scale_pct is not None:
            _require_number("error_model: scale_pct", self.scale_pct)
        _require_number("error_model: row_pct", self.row_pct)
        for kind, percent in self.kind_pct.items():
            _require_number(f"error_model: kind_pct of {kind}", percent)
        _require_positive("error_model: level", self.level)
        if self.level > 0.999:
            raise UserError(f"error_model: level must be a probability up to 0.999, not {self.level}.")
        if not isinstance(self.basis, str) or not self.basis.isprintable():
            raise UserError(f"error_model: basis must be a line of text, not {self.basis!r}.")

    def kind_error_pct(self, kind: str) -> float:
        return self.kind_pct.get(kind, max(self.kind_pct.values(), default=0.0))


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkCheck:
    """One whole network beside the sum of its rows: timed in the same run, or published."""

    name: str
    whole_ms: float
    repeat_ms: float | None
    """The same network loaded and timed a second time, interleaved with the first: the two differ by noise only. None:
    it was not timed, `whole_ms` is a published figure or a person's own."""
    sum_ms: float
    """Sum of the rows as the error model corrects them, before its scale."""
    unseen_ms: float | None = None
    """What a table says that is calibrated on the other networks only; None where that was not worked out."""

    def __post_init__(self) -> None:
        for name in ("whole_ms", "repeat_ms", "sum_ms", "unseen_ms"):
            if (value := getattr(self, name)) is not None or name not in ("repeat_ms", "unseen_ms"):
                _require_positive(f"validation of {self.name}: {name}", value)

    @property
    def reference_ms(self) -> float:
        return self.whole_ms if self.repeat_ms is None else (self.whole_ms + self.repeat_ms) / 2

    @property
    def error_pct(self) -> float:
        """Of the unscaled sum; positive where the sum is too slow."""
        return 100 * (self.sum_ms / self.reference_ms - 1)

    def scaled_error_pct(self, scale: float) -> float:
        """Of the sum as estimates give it."""
        return 100 * (scale * self.sum_ms / self.reference_ms - 1)

    @property
    def noise_pct(self) -> float | None:
        """What no table can know better; None where it was timed once."""
        return None if self.repeat_ms is None else 100 * abs(self.whole_ms - self.repeat_ms) / self.reference_ms


T = TypeVar("T")
Setting = str | int | float | bool | None


@dataclass(frozen=True, kw_only=True, slots=True)
class TableHeader:
    """Where the rows come from: everything that may change a time."""

    name: str
    device: str
    """As on the command line, e.g. "host"."""
    soc: str
    core: str
    frequency_mhz: float | None
    governor: str | None
    threads: int
    precision: str
    runtime: str
    runtime_version: str
    runtime_checksum: str
    protocol: Mapping[str, Setting]
    """How the rows were timed: warm-up, repeats, statistic, clock, and what disturbed the run."""
    tool_version: str
    date: str
    """ISO 8601."""
    error_model: ErrorModel = field(default_factory=ErrorModel)
    validation: tuple[NetworkCheck, ...] = ()

    def __post_init__(self) -> None:
        require_table_name(self.name)
        texts = ("device", "soc", "core", "precision", "runtime", "runtime_version", "runtime_checksum", "tool_version")
        for name in texts:
            if not isinstance(getattr(self, name), str):
                raise UserError(f"table {self.name}: {name} must be text, not {getattr(self, name)!r}.")
        if self.frequency_mhz is not None:
            _require_positive(f"table {self.name}: frequency_mhz", self.frequency_mhz)
        if self.governor is not None and not isinstance(self.governor, str):
            raise UserError(f"table {self.name}: governor must be text or null, not {self.governor!r}.")
        if isinstance(self.threads, bool) or not isinstance(self.threads, int) or self.threads < 1:
            raise UserError(f"table {self.name}: threads must be a whole number from 1, not {self.threads!r}.")
        if not isinstance(self.protocol, Mapping):
            raise UserError(f"table {self.name}: protocol must be a mapping, not {self.protocol!r}.")
        try:
            datetime.fromisoformat(self.date)
        except (TypeError, ValueError):
            raise UserError(f"table {self.name}: date must be ISO 8601, not {self.date!r}.") from None

    @property
    def estimated(self) -> bool:
        """Whether times are worked out from counted instructions, for a core that is not at hand, instead of taken."""
        return self.device == ESTIMATING_DEVICE

    @property
    def source(self) -> dict[str, Setting]:
        """What rows must share to stand in one table."""
        names = ("device", "soc", "core", "frequency_mhz", "governor", "threads", "precision")
        return {name: getattr(self, name) for name in (*names, "runtime", "runtime_version", "runtime_checksum")}


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyEstimate:
    """The time of one network, with an interval."""

    total_ms: float
    low_ms: float
    high_ms: float
    by_block: tuple[tuple[str, float], ...]
    """(block name, milliseconds) in the order they run; they sum to the total."""
    kinds: frozenset[RowKind]
    table: str
    level: float
    """Probability of the interval."""
    basis: str | None
    """What the interval rests on; None where the table's sums were never compared with whole networks: the interval is
    row noise only."""

    @property
    def kind(self) -> RowKind:
        """The weakest of `kinds`."""
        return max(self.kinds, key=_ROW_KINDS.index)

    @property
    def interval_note(self) -> str:
        """What the interval covers, to print beside it."""
        return _interval_note(self.level, self.basis)

    def as_dict(self) -> dict[str, object]:
        """The total with its interval, for JSON; the blocks are left out."""
        return {
            "total_ms": self.total_ms,
            "low_ms": self.low_ms,
            "high_ms": self.high_ms,
            "kind": self.kind,
            "interval": self.interval_note,
        }


class LatencyDifference(NamedTuple):
    """How much slower the first network is, with an interval at the table's level."""

    delta_ms: float
    low_ms: float
    high_ms: float


class MissingRows(UserError):  # noqa: N818, the design's name
    """Blocks that a table has no time for."""

    def __init__(self, header: TableHeader, blocks: tuple[Block, ...]) -> None:
        self.header = header
        self.blocks = blocks
        """Distinct, in the order asked for."""
        super().__init__(self._sentence("--space SPACE"))

    def needed_for(self, options: str) -> UserError:
        """The same, where the options of `latency measure` that say what was asked for are known."""
        return UserError(self._sentence(options))

    def _sentence(self, options: str) -> str:
        shown = "; ".join(block.key for block in self.blocks[:3])
        shown += f"; and {len(self.blocks) - 3} more" if len(self.blocks) > 3 else ""
        how, out = "Measure them on the table's device", self.header.name
        if self.header.estimated:  # such a table has the shipped rows anyway; one of that name would hide it
            how, out = "Count them into a table of your own", f"{out}-mine"
        return (
            f"table {self.header.name} has no row for {len(self.blocks)} block{'s' if len(self.blocks) > 1 else ''}: "
            f"{shown}. {how} with: topformer-nas latency measure --device {self.header.device} {options} --table {out}"
        )

    def __reduce__(self) -> tuple[type[Self], tuple[TableHeader, tuple[Block, ...]]]:
        return type(self), (self.header, self.blocks)


@dataclass(frozen=True, kw_only=True)
class LatencyTable:
    """Rows by block key, and where they come from."""

    header: TableHeader
    rows: Mapping[str, LatencyRow]

    def __post_init__(self) -> None:
        if not self.rows:
            raise UserError(f"table {self.header.name} has no rows; measure it again.")
        assert all(key == row.key for key, row in self.rows.items())

    @classmethod
    def of(cls, header: TableHeader, rows: Iterable[LatencyRow]) -> Self:
        """Refuses two rows of one key."""
        by_key: dict[str, LatencyRow] = {}
        for row in rows:
            if row.key in by_key:
                raise UserError(f"table {header.name}: two rows for {row.key}; keep one.")
            by_key[row.key] = row
        return cls(header=header, rows=by_key)

    @property
    def name(self) -> str:
        return self.header.name

    @property
    def kind(self) -> RowKind:
        """The weakest kind among its rows."""
        return max((row.kind for row in self.rows.values()), key=_ROW_KINDS.index)

    @property
    def validated(self) -> bool:
        """Whether its sums were compared with whole networks."""
        return self.header.error_model.scale_pct is not None

    @property
    def interval_note(self) -> str:
        """What this table's intervals cover, to print beside them."""
        return _interval_note(self.header.error_model.level, self.basis)

    @property
    def basis(self) -> str | None:
        """What its intervals rest on; None where no network was compared."""
        return self.header.error_model.basis if self.validated else None

    def coverage(self, blocks: Iterable[Block]) -> float:
        """Share of the distinct blocks that have a row, 0 to 1; 1 where there are no blocks."""
        keys = {block.key for block in blocks}
        return sum(key in self.rows for key in keys) / len(keys) if keys else 1.0

    def block_ms(self, block: Block) -> float:
        """Time of its row within a network, before the error model's scale; KeyError where there is no row."""
        if (known := self._corrected.get(block.key)) is None:
            correction = self.header.error_model.correction
            known = self._corrected[block.key] = correction.within_network_ms(block, self.rows[block.key].median_ms)
        return known

    def estimate(self, blocks: Iterable[Block]) -> LatencyEstimate:
        """Sum of the corrected rows times the error model's scale; MissingRows where one is not there.

        The interval is the root of summed squares of three half-widths: scale error x total; for every block kind,
        its error x its time; for every row, (its noise and its error x its time) x how often the network has it.
        """
        network = tuple(blocks)
        if not network:
            raise UserError("a latency estimate needs at least one block.")
        rows = self._rows_of(network)
        scale = self.header.error_model.scale
        by_block = tuple((block.name, scale * self.block_ms(block)) for block in network)
        total_ms = math.fsum(ms for _, ms in by_block)
        half_ms = self._half_width_ms([(block, 1) for block in network])
        return LatencyEstimate(
            total_ms=total_ms,
            low_ms=max(total_ms - half_ms, 0.0),
            high_ms=total_ms + half_ms,
            by_block=by_block,
            kinds=frozenset(row.kind for row in rows),
            table=self.name,
            level=self.header.error_model.level,
            basis=self.basis,
        )

    def difference(self, a_blocks: Iterable[Block], b_blocks: Iterable[Block]) -> LatencyDifference:
        """a minus b. What both have in common has no error: identical rows, and the scale and kind errors of the rest
        apply to the differences of the times only."""
        a, b = tuple(a_blocks), tuple(b_blocks)
        self._rows_of((*a, *b))
        terms = [(block, 1) for block in a] + [(block, -1) for block in b]
        delta_ms = self.header.error_model.scale * math.fsum(sign * self.block_ms(block) for block, sign in terms)
        half_ms = self._half_width_ms(terms)
        return LatencyDifference(delta_ms, delta_ms - half_ms, delta_ms + half_ms)

    def error_terms(self, blocks: Iterable[Block]) -> dict[str, float]:
        """What one standard deviation of each independent source of error adds to the estimate, in ms.

        Sources are the scale, kinds and rows, by name; two networks that share one err together, so that the error of
        a difference is the root of the summed squares of the differences of their terms.
        """
        network = tuple(blocks)
        self._rows_of(network)
        scale = self.header.error_model.scale / self._z
        return {name: scale * half_ms for name, half_ms in self._half_widths_ms([(block, 1) for block in network])}

    def _rows_of(self, blocks: tuple[Block, ...]) -> list[LatencyRow]:
        rows = self.rows
        try:
            return [rows[block.key] for block in blocks]
        except KeyError:
            missing = {block.key: block for block in blocks if block.key not in rows}
            raise MissingRows(self.header, tuple(missing.values())) from None

    def _half_width_ms(self, terms: Iterable[tuple[Block, int]]) -> float:
        """Of a signed sum of rows."""
        return self.header.error_model.scale * math.hypot(*(half_ms for _, half_ms in self._half_widths_ms(terms)))

    def _half_widths_ms(self, terms: Iterable[tuple[Block, int]]) -> Iterator[tuple[str, float]]:
        """Of a signed sum of rows, before the scale: each independent source with its share."""
        model = self.header.error_model
        by_kind: dict[str, float] = {}
        counts: dict[str, int] = {}
        for block, sign in terms:
            key, kind = block.key, block.spec.kind
            counts[key] = counts.get(key, 0) + sign
            by_kind[kind] = by_kind.get(kind, 0.0) + sign * self.block_ms(block)
        yield "scale", (model.scale_pct or 0.0) / 100 * math.fsum(by_kind.values())
        for kind, ms in by_kind.items():
            yield f"kind {kind}", model.kind_error_pct(kind) / 100 * ms
        for key, count in counts.items():
            yield f"row {key}", count * self._row_half_ms(key)

    def _row_half_ms(self, key: str) -> float:
        """Half-width of one row: its noise and its error."""
        known = self._row_halves.get(key)
        if known is None:
            error_ms = self.header.error_model.row_pct / 100 * self._corrected[key]
            known = self._row_halves[key] = math.hypot(self._z * self.rows[key].deviation_ms, error_ms)
        return known

    @cached_property
    def _corrected(self) -> dict[str, float]:
        """By key; a query reads it thousands of times."""
        return {}

    @cached_property
    def _row_halves(self) -> dict[str, float]:
        return {}

    @cached_property
    def _z(self) -> float:
        return NormalDist().inv_cdf((1 + self.header.error_model.level) / 2)

    @cached_property
    def text(self) -> str:
        """The file: a first line, the checksum of everything after it, the header as JSON, the rows as CSV."""
        return f"{_MAGIC}{FORMAT}\nsha256 {self.checksum}\n{self._body}"

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of header and rows."""
        return hashlib.sha256(self._body.encode()).hexdigest()

    @cached_property
    def _body(self) -> str:
        header = {item.name: getattr(self.header, item.name) for item in fields(self.header)}
        header["error_model"] = asdict(self.header.error_model)
        if self.header.error_model.correction == Correction():
            del header["error_model"]["correction"]  # as in files from before there was one
        header["validation"] = [
            {name: value for name, value in asdict(check).items() if value is not None or name != "unseen_ms"}
            | {"error_pct": check.error_pct}
            for check in self.header.validation
        ]
        header["protocol"] = dict(self.header.protocol)
        out = io.StringIO()
        out.write(json.dumps(header, indent=2, allow_nan=False) + "\n")
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for row in self.rows.values():
            writer.writerow([getattr(row, column) for column in _COLUMNS])
        return out.getvalue()

    @classmethod
    def from_text(cls, text: str, *, where: str = "latency table") -> Self:
        """Inverse of `text`; `where` names the source in errors."""
        if not isinstance(text, str):
            raise UserError(f"{where}: not a latency table (not text).")
        magic, _, rest = text.partition("\n")
        if not magic.startswith(_MAGIC):
            raise UserError(f"{where}: not a latency table (its first line must be '{_MAGIC}{FORMAT}').")
        if (version := magic.removeprefix(_MAGIC).strip()) != str(FORMAT):
            raise UserError(f"{where}: table format {version}, but this version reads {FORMAT}; measure it again.")
        digest, _, body = rest.partition("\n")
        if not _DIGEST.fullmatch(digest) or digest != f"sha256 {hashlib.sha256(body.encode()).hexdigest()}":
            raise UserError(f"{where}: truncated or edited (checksum does not match); take a fresh copy of the table.")
        try:
            return cls._from_body(body)
        except (UserError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError, csv.Error) as error:
            raise UserError(f"{where}: {error}") from None

    @classmethod
    def _from_body(cls, body: str) -> Self:
        values, end = json.JSONDecoder(parse_constant=_refuse_constant).raw_decode(body)
        header = _header_from(values)
        columns, *lines = csv.reader(io.StringIO(body[end:].removeprefix("\n")), strict=True)
        if tuple(columns) != _COLUMNS:
            raise UserError(f"columns must be {','.join(_COLUMNS)}, not {','.join(columns)}.")
        return cls.of(header, map(_row_from, lines))

    @classmethod
    def load(cls, path: Path) -> Self:
        return cls.from_text(file_text(path, "the latency table"), where=str(path))

    def save(self, path: Path) -> None:
        """Write the whole file or leave what was there."""
        write_whole(path, self.text.encode())


def edge_elements(block: Block) -> int:
    """Of its inputs and output."""
    return sum(map(prod, block.inputs)) + prod(block.output)


def user_tables_folder() -> Path:
    """Where a person's own tables are: $TOPFORMER_NAS_TABLES, or ~/.local/share/topformer-nas/tables."""
    given = os.environ.get(TABLES_VARIABLE)
    return (
        given_folder(given, TABLES_VARIABLE)
        if given
        else home_folder() / ".local" / "share" / "topformer-nas" / "tables"
    )


def available_tables() -> tuple[Path, ...]:
    """Files that `find_table` knows by name (their stem), the user's own before the shipped ones."""
    found: dict[str, Path] = {}
    for folder in (user_tables_folder(), Path(__file__).parent / "tables"):
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            found.setdefault(path.stem, path)
    return tuple(found.values())


def find_table(name_or_path: str | Path) -> LatencyTable:
    """A table by the path of its file, or by name from the user's folder or else from those shipped."""
    if "\0" in str(name_or_path):
        raise UserError(f"a latency table's name cannot hold a null character: {str(name_or_path)!r}.")
    path = Path(name_or_path)
    if path.suffix == SUFFIX or len(path.parts) > 1:
        return LatencyTable.load(path)
    by_name = {found.stem: found for found in available_tables()}
    if str(name_or_path) not in by_name:
        raise unknown_name(
            "latency table",
            str(name_or_path),
            by_name,
            advice=f"A path to a {SUFFIX} file works too; a file in {user_tables_folder()} is found by its name.",
        )
    return LatencyTable.load(by_name[str(name_or_path)])


def _header_from(values: object) -> TableHeader:
    given = _fields_from(TableHeader, values, "header")
    if "error_model" in given:
        model = _fields_from(ErrorModel, given["error_model"], "error_model")
        if "correction" in model:
            model["correction"] = _built(Correction, model["correction"], "correction")
        given["error_model"] = ErrorModel(**model)
    if "validation" in given:
        checks = given["validation"]
        if not isinstance(checks, list):
            raise UserError(f"header: validation must be a list, not {checks!r}.")
        for check in checks:
            if isinstance(check, dict):
                check.pop("error_pct", None)  # written for readers; it follows from the times
        given["validation"] = tuple(_built(NetworkCheck, check, "validation") for check in checks)
    return TableHeader(**given)


def _built(kind: Callable[..., T], values: object, where: str) -> T:
    return kind(**_fields_from(kind, values, where))


def _fields_from(kind: Any, values: object, where: str) -> dict[str, Any]:
    known = {item.name: item for item in fields(kind)}
    if not isinstance(values, dict):
        raise UserError(f"{where} must have {', '.join(known)}, not be {values!r}.")
    if unknown := [name for name in values if name not in known]:
        raise UserError(f"{where}: unknown key {unknown[0]!r}; legal keys: {', '.join(known)}.")
    required = [name for name, item in known.items() if item.default is MISSING and item.default_factory is MISSING]
    if missing := [name for name in required if name not in values]:
        raise UserError(f"{where}: missing {', '.join(missing)}.")
    return dict(values)


def _refuse_constant(name: str) -> object:
    raise UserError(f"numbers must be finite, not {name}.")


def require_table_name(name: object) -> None:
    """A table's name is a file's stem and is typed on command lines."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(
            f"a table's name must consist of letters, digits, '.', '_' and '-', and start with a letter or digit, "
            f"not {name!r}."
        )


def _row_from(cells: list[str]) -> LatencyRow:
    if len(cells) != len(_COLUMNS):
        raise UserError(f"a row must have {','.join(_COLUMNS)}, not {','.join(cells)}.")
    median_ms, p5_ms, p95_ms, n, kind, key = cells
    try:
        return LatencyRow(
            key=key,
            median_ms=float(median_ms),
            p5_ms=float(p5_ms),
            p95_ms=float(p95_ms),
            n=int(n),
            kind=kind,  # type: ignore[arg-type]  # the row refuses others
        )
    except ValueError:
        raise UserError(f"row {key}: times and counts must be numbers, not {','.join(cells[:4])}.") from None


def _interval_note(level: float, basis: str | None) -> str:
    if basis is not None:
        return f"{level:.0%} interval: common scale, block kinds and rows, {basis}".replace("+-", "±")  # as tables say
    return f"{level:.0%} interval of row noise only: not validated on whole networks"


def _require_number(what: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e12:
        raise UserError(f"{what} must be a number from 0 to 1e12, not {str(value)[:40]}.")


def _require_positive(what: str, value: object) -> None:
    _require_number(what, value)
    if value == 0:
        raise UserError(f"{what} must be above 0, not {value!r}.")
