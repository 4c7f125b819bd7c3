"""Why is a person's own measurement not what the table says? Each candidate cause in numbers, alone and in pairs.

Some causes are exact (rows of the table: post-processing, image size, classes; arithmetic: the batch), others have a
bound only, and for a few no number is known; nothing is fitted to the gap. May import `latency_lut.table`, topformer
and the standard library.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal, NamedTuple, get_args

from latency_lut.table import LatencyEstimate, LatencyTable, MissingRows
from topformer.blocks import decompose
from topformer.config import OutputKind, Task, TopFormerConfig
from topformer.errors import UserError, unknown_name
from topformer.keys import ParsedKey, kind_of, parse_key

Topic = Literal["output", "threads", "precision", "frequency", "size", "bits", "classes", "batch", "runtime", "core"]
"""What may differ, likeliest first. The order is a judgement: deployed graphs often end in labels, runtimes take
several threads and half precision unless told, phones throttle; who runs a batch knows it."""
Role = Literal["equal", "applied", "candidate", "unknown"]
"""equal: said to be the table's, so no cause; applied: said to differ, its factor is in the comparison; candidate: not
said; unknown: no number is known for it."""

LANES = {"fp32": 4, "fp16": 8, "int8": 16}
"""Values in one 128-bit vector register."""
PRECISIONS = {"float32": "fp32", "float16": "fp16", "int8": "int8", "fp32": "fp32", "fp16": "fp16"}
INSTRUCTIONS_32_BIT = 1.13
"""A 32-bit Arm build over a 64-bit one, whole TopFormers counted instruction by instruction."""
MOST_CORES = 8
LEAST_CLOCK = 844.8 / 2841.6
LIKELY_BATCHES = (2, 4, 8)

_ROWS = "rows of this table"
_ARITHMETIC = "arithmetic: the table is for one image, and one core does them one after the other"
_CLOCKS = "ratio of the clocks; less where memory is waited for"
_LONGEST_NAME = 60
_LEAST_CLOCK = "lowest over highest clock of the Snapdragon 865's fastest core (Linux sm8250.dtsi, 844.8 / 2841.6 MHz)"
_THREADS = "n threads are at most n times as fast"
_MOST_THREADS = f"{_THREADS}; the Snapdragon 865 and most phones have {MOST_CORES} cores"
_LANES = "values per 128-bit vector register: 4 fp32, 8 fp16, 16 int8; conversions take some of it back"
_BITS = "a 32-bit Arm build of TopFormer runs about 13 % more instructions; instructions are not all of the time"
_OUTPUTS: Mapping[OutputKind, str] = {
    "logits": "the graph ends at the logits",
    "resized": "the graph resizes the logits to the image",
    "labels": "the graph resizes the logits to the image and takes the argmax",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """What a person says of their measurement; None: they do not say."""

    output: OutputKind | None = None
    image_size: tuple[int, int] | None = None
    num_classes: int | None = None
    batch: int | None = None
    threads: int | None = None
    precision: str | None = None
    runtime: str | None = None
    bits: int | None = None
    frequency_mhz: float | None = None
    core: str | None = None

    def __post_init__(self) -> None:
        for name in ("batch", "threads"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= 1024:
                raise UserError(f"{name} must be a whole number from 1 to 1024, not {value}.")
        if self.precision is not None and self.precision not in LANES:
            raise unknown_name("precision", self.precision, LANES)
        if self.bits not in (None, 32, 64):
            raise UserError(f"bits must be 32 or 64, not {self.bits}.")
        if self.frequency_mhz is not None and not 1 <= self.frequency_mhz <= 100_000:
            raise UserError(f"a clock must be from 1 to 100000 MHz, not {self.frequency_mhz}.")
        for name in ("runtime", "core"):
            text = getattr(self, name)
            if text is not None and not (text.strip() and text.isprintable() and len(text) <= _LONGEST_NAME):
                raise UserError(f"{name} must be a name of at most {_LONGEST_NAME} printable characters, not {text!r}.")
        if self.output is not None and self.output not in get_args(OutputKind):
            raise unknown_name("output", self.output, get_args(OutputKind))


@dataclass(frozen=True, kw_only=True, slots=True)
class Cause:
    """One thing that may differ between the measurement and the table."""

    topic: Topic
    role: Role
    says: str
    """What it is, in words."""
    least: float = 1.0
    """Time with it over time without, at least ..."""
    greatest: float = 1.0
    """... and at most."""
    task: Task | None = None
    """For what is exact by the table's rows: what is priced instead."""
    source: str

    @property
    def exact(self) -> bool:
        return self.least == self.greatest


class Span(NamedTuple):
    """Milliseconds."""

    low_ms: float
    high_ms: float

    def holds(self, ms: float) -> bool:
        return self.low_ms <= ms <= self.high_ms


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """Candidates that together bring the table to the measurement; none of them does alone, where there are two."""

    causes: tuple[Cause, ...]
    span: Span
    """The estimate with them: its interval, widened by the bounds."""
    needs: str | None
    """What a cause with a bound would have to be."""

    @property
    def exact(self) -> bool:
        return all(cause.exact for cause in self.causes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantified:
    """A cause that the table prices, and what it changes alone."""

    cause: Cause
    span: Span
    change_ms: float
    """Of the total, for an exact cause; of a bound, its farther end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Gap:
    measured_ms: float
    estimate: LatencyEstimate
    """By the table for the task as said."""
    stated: tuple[Cause, ...]
    """Equal, applied, or said to differ with no number known."""
    span: Span
    """The estimate's interval with what was applied."""
    candidates: tuple[Quantified, ...]
    open: tuple[Cause, ...]
    """Not said, and no number is known or the table lacks the rows."""
    explanations: tuple[Explanation, ...]
    """Likeliest first: fewer causes, then the order of `Topic`. Empty where the measurement is inside `span`."""

    @property
    def inside(self) -> bool:
        """Whether the table's own interval has the measurement."""
        return Span(self.estimate.low_ms, self.estimate.high_ms).holds(self.measured_ms)

    @property
    def inside_as_stated(self) -> bool:
        return self.span.holds(self.measured_ms)


def explain(table: LatencyTable, arch: TopFormerConfig, task: Task, measured_ms: float, setup: Setup) -> Gap:
    """`task` is what the person says they ran (with the usual values where they do not say).

    Raises MissingRows where the table does not cover that task. Every bound multiplies the whole interval, so an
    explanation by a bound says "possible", never "so it is".
    """
    if not 0 < measured_ms <= 1e12:
        raise UserError(f"a measured latency must be a positive number of ms, not {measured_ms}.")
    estimate = table.estimate(decompose(arch, task))
    stated = _stated(table, task, setup)
    applied = [cause for cause in stated if cause.role == "applied"]
    span = _widened(estimate, applied)
    pricing = _Pricing(table, arch, task, applied)
    priced: list[Quantified] = []
    unknown: list[Cause] = []
    for cause in (*_exact_candidates(table, task, setup), *_bounded_candidates(table, setup)):
        with_it = pricing.estimate((cause,))
        if with_it is None:
            if cause.topic == "output":  # other sizes and classes are in the table for other architectures only
                unknown.append(replace(cause, role="unknown", source="the table has no rows for it"))
            continue
        change_ms = with_it.total_ms * _farther(cause) - estimate.total_ms
        priced.append(Quantified(cause=cause, span=_widened(with_it, (*applied, cause)), change_ms=change_ms))
    inside = span.holds(measured_ms)
    return Gap(
        measured_ms=measured_ms,
        estimate=estimate,
        stated=stated,
        span=span,
        candidates=tuple(priced),
        open=(*unknown, *_unknown_candidates(table, setup)),
        explanations=() if inside else tuple(_explanations(pricing, priced, measured_ms)),
    )


class _Pricing:
    """The table's estimate of one network with some things different."""

    def __init__(self, table: LatencyTable, arch: TopFormerConfig, task: Task, applied: Iterable[Cause]) -> None:
        self.table = table
        self.arch = arch
        self.task = task
        self.applied = tuple(applied)
        self._known: dict[Task, LatencyEstimate | None] = {}

    def estimate(self, causes: Iterable[Cause]) -> LatencyEstimate | None:
        """None where the table lacks rows."""
        task = self.task
        for cause in causes:
            if cause.task is not None:
                task = replace(task, **_changes(self.task, cause.task))
        if task not in self._known:
            try:
                self._known[task] = self.table.estimate(decompose(self.arch, task))
            except MissingRows:
                self._known[task] = None
        return self._known[task]

    def span(self, causes: tuple[Cause, ...]) -> Span | None:
        estimate = self.estimate(causes)
        return None if estimate is None else _widened(estimate, (*self.applied, *causes))


def _stated(table: LatencyTable, task: Task, setup: Setup) -> tuple[Cause, ...]:
    """What the person said, beside the table."""
    header = table.header
    causes = []
    if setup.output is not None:
        causes.append(Cause(topic="output", role="equal", says=f"output {setup.output}, as priced", source=_ROWS))
    if setup.image_size is not None:
        causes.append(Cause(topic="size", role="equal", says=f"image {task.pixels}, as priced", source=_ROWS))
    if setup.num_classes is not None:
        causes.append(Cause(topic="classes", role="equal", says=f"{task.num_classes} classes, as priced", source=_ROWS))
    if setup.batch is not None:
        causes.append(_batch(setup.batch, "equal" if setup.batch == 1 else "applied"))
    if setup.threads is not None:
        causes.append(_stated_threads(setup.threads, header.threads))
    if setup.precision is not None:
        causes.append(_stated_precision(setup.precision, header.precision))
    if setup.frequency_mhz is not None:
        causes.append(_stated_frequency(setup.frequency_mhz, header.frequency_mhz))
    if setup.bits is not None:
        causes.append(_stated_bits(setup.bits, table_bits(table)))
    for topic, said, known in (("runtime", setup.runtime, header.runtime), ("core", setup.core, header.core)):
        if said is not None:
            same = said.casefold() == known.casefold()
            says = f"{topic} {said}, as the table" if same else f"{topic} {said}, the table's is {known}"
            source = "the table's header" if same else f"another {topic} has times of its own: no factor is known"
            causes.append(Cause(topic=topic, role="equal" if same else "unknown", says=says, source=source))  # type: ignore[arg-type]  # one of two
    return tuple(causes)


def _exact_candidates(table: LatencyTable, task: Task, setup: Setup) -> Iterator[Cause]:
    """What rows or arithmetic tell exactly."""
    if setup.output is None:
        for output in get_args(OutputKind):
            if output != task.output:
                other = replace(task, output=output)
                yield Cause(topic="output", role="candidate", says=_OUTPUTS[output], task=other, source=_ROWS)
    if setup.image_size is None:
        for size in sorted(covered_sizes(table) - {task.image_size}):
            other = replace(task, image_size=size)
            yield Cause(topic="size", role="candidate", says=f"image {other.pixels}", task=other, source=_ROWS)
    if setup.num_classes is None:
        for count in sorted(covered_classes(table) - {task.num_classes}):
            other = replace(task, num_classes=count)
            yield Cause(topic="classes", role="candidate", says=f"{count} classes", task=other, source=_ROWS)
    if setup.batch is None:
        for batch in LIKELY_BATCHES:
            yield _batch(batch, "candidate")


def _bounded_candidates(table: LatencyTable, setup: Setup) -> Iterator[Cause]:
    header = table.header
    if setup.threads is None and header.threads < MOST_CORES:
        says = f"more threads than the table's {header.threads}"
        yield Cause(
            topic="threads", role="candidate", says=says, least=header.threads / MOST_CORES, source=_MOST_THREADS
        )
    own = PRECISIONS.get(header.precision)
    if setup.precision is None and own is not None:
        for precision in LANES:
            if precision != own:
                yield _precision(precision, own, "candidate")
    if setup.frequency_mhz is None:
        clock = "" if header.frequency_mhz is None else f" than the table's {header.frequency_mhz:.0f} MHz"
        says = f"a lower clock{clock}"
        yield Cause(topic="frequency", role="candidate", says=says, greatest=1 / LEAST_CLOCK, source=_LEAST_CLOCK)
    if setup.bits is None:
        known = table_bits(table)
        yield _bits(32 if known == 64 else 64, known, "candidate")


def _unknown_candidates(table: LatencyTable, setup: Setup) -> Iterator[Cause]:
    header = table.header
    if setup.runtime is None:
        says = f"another runtime than {header.runtime} {header.runtime_version}"
        yield Cause(topic="runtime", role="unknown", says=says, source="no factor is known: say it with --runtime")
    if setup.core is None:
        says = f"another core than {header.core}"
        yield Cause(topic="core", role="unknown", says=says, source="no factor is known: say it with --core")
    if setup.precision is None and header.precision not in PRECISIONS:
        says = f"another precision than {header.precision}"
        yield Cause(topic="precision", role="unknown", says=says, source="no bound is known from that precision")


def _explanations(pricing: _Pricing, candidates: Iterable[Quantified], measured_ms: float) -> Iterator[Explanation]:
    """One by one; then pairs of the others. A bound is paired only with what works the same way: against something that
    works the other way, a wide bound would explain anything."""
    rest: list[Quantified] = []
    for item in sorted(candidates, key=lambda item: _rank(item.cause)):
        if item.span.holds(measured_ms):
            yield _explanation(pricing, (item.cause,), item.span, measured_ms)
        else:
            rest.append(item)
    pairs = []
    for first, second in combinations(rest, 2):
        works_together = (first.change_ms > 0) == (second.change_ms > 0)
        if first.cause.topic != second.cause.topic and (works_together or (first.cause.exact and second.cause.exact)):
            pairs.append((first.cause, second.cause))
    for pair in sorted(pairs, key=lambda pair: (_rank(pair[0]) + _rank(pair[1]), _rank(pair[1]))):
        if (span := pricing.span(pair)) is not None and span.holds(measured_ms):
            yield _explanation(pricing, pair, span, measured_ms)


def _explanation(pricing: _Pricing, causes: tuple[Cause, ...], span: Span, measured_ms: float) -> Explanation:
    bounded = [cause for cause in causes if not cause.exact]
    needs = None
    if len(bounded) == 1:
        exact = pricing.span(tuple(cause for cause in causes if cause.exact))
        assert exact is not None, "it was priced together"
        needs = _need(bounded[0], exact, measured_ms, pricing.table)
    return Explanation(causes=causes, span=span, needs=needs)


def _need(cause: Cause, without: Span, measured_ms: float, table: LatencyTable) -> str:
    """What the bounded cause has to be at least, if it alone closes what is left."""
    header = table.header
    if cause.topic == "threads":
        return f"at least {math.ceil(header.threads * without.low_ms / measured_ms - 1e-9)} threads"
    if cause.topic == "frequency":
        share = without.high_ms / measured_ms
        if header.frequency_mhz is None:
            return f"a clock of at most {100 * share:.0f} % of the table's"
        return f"a clock of at most {share * header.frequency_mhz:.0f} MHz"
    if measured_ms < without.low_ms:
        return f"a speed-up of at least {without.low_ms / measured_ms:.2f} times"
    return f"a slow-down of at least {measured_ms / without.high_ms:.2f} times"


def table_bits(table: LatencyTable) -> int:
    """Of the build that the table's times are of: `bits` of its protocol; where it does not say, 64 as our runtimes."""
    return 32 if table.header.protocol.get("bits") == 32 else 64


def covered_sizes(table: LatencyTable) -> set[tuple[int, int]]:
    """Image sizes, (height, width), that some stem of the table has a row for."""
    return {parsed.inputs[0][1:] for parsed in _parsed_keys(table, "stem") if parsed.inputs}


def covered_classes(table: LatencyTable) -> set[int]:
    """Numbers of classes that some head of the table has a row for."""
    counts = (parsed.settings.get("num_classes") for parsed in _parsed_keys(table, "head"))
    return {count for count in counts if isinstance(count, int)}


def _parsed_keys(table: LatencyTable, kind: str) -> Iterator[ParsedKey]:
    """What the keys of one kind of block say; a text that is no key names no block, so it covers nothing."""
    for key in table.rows:
        if kind_of(key) == kind:
            with suppress(UserError):
                yield parse_key(key)


def _batch(count: int, role: Role) -> Cause:
    says = "one image at a time" if count == 1 else f"a batch of {count} images"
    return Cause(topic="batch", role=role, says=says, least=count, greatest=count, source=_ARITHMETIC)


def _stated_threads(count: int, own: int) -> Cause:
    if count == own:
        return Cause(
            topic="threads", role="equal", says=f"{count} thread(s), as the table", source="the table's header"
        )
    says = f"{count} thread(s), the table has {own}"
    least, greatest = _ascending(own / count, 1.0)
    return Cause(topic="threads", role="applied", says=says, least=least, greatest=greatest, source=_THREADS)


def _stated_precision(said: str, written: str) -> Cause:
    own = PRECISIONS.get(written)
    if own is None:
        says = f"precision {said}, the table's is {written}"
        return Cause(topic="precision", role="unknown", says=says, source="no bound is known between the two")
    return _precision(said, own, "equal" if said == own else "applied")


def _precision(said: str, own: str, role: Role) -> Cause:
    if said == own:
        return Cause(topic="precision", role=role, says=f"{said}, as the table", source="the table's header")
    least, greatest = _ascending(LANES[own] / LANES[said], 1.0)
    says = f"{said}, the table has {own}"
    return Cause(topic="precision", role=role, says=says, least=least, greatest=greatest, source=_LANES)


def _stated_frequency(mhz: float, own: float | None) -> Cause:
    if own is None:
        says = f"a clock of {mhz:.0f} MHz; the table does not say its own"
        return Cause(topic="frequency", role="unknown", says=says, source="no ratio without the table's clock")
    if math.isclose(mhz, own, rel_tol=0.005):
        return Cause(topic="frequency", role="equal", says=f"{mhz:.0f} MHz, as the table", source="the table's header")
    least, greatest = _ascending(own / mhz, 1.0)
    says = f"{mhz:.0f} MHz, the table has {own:.0f}"
    return Cause(topic="frequency", role="applied", says=says, least=least, greatest=greatest, source=_CLOCKS)


def _stated_bits(said: int, own: int) -> Cause:
    return _bits(said, own, "equal" if said == own else "applied")


def _bits(said: int, own: int, role: Role) -> Cause:
    if said == own:
        return Cause(topic="bits", role=role, says=f"a {said}-bit build, as the table", source="the table's protocol")
    least, greatest = _ascending(INSTRUCTIONS_32_BIT if said == 32 else 1 / INSTRUCTIONS_32_BIT, 1.0)
    says = f"a {said}-bit build, the table's is taken as {own}-bit"
    return Cause(topic="bits", role=role, says=says, least=least, greatest=greatest, source=_BITS)


def _widened(estimate: LatencyEstimate, causes: Iterable[Cause]) -> Span:
    factors = tuple(causes)
    least, greatest = math.prod(c.least for c in factors), math.prod(c.greatest for c in factors)
    return Span(estimate.low_ms * least, estimate.high_ms * greatest)


def _changes(task: Task, other: Task) -> dict[str, Any]:
    """Fields of a task that another changes."""
    names = ("image_size", "num_classes", "output")
    return {name: getattr(other, name) for name in names if getattr(other, name) != getattr(task, name)}


def _rank(cause: Cause) -> int:
    return get_args(Topic).index(cause.topic)


def _farther(cause: Cause) -> float:
    return max(cause.least, cause.greatest, key=lambda factor: abs(math.log(factor)))


def _ascending(a: float, b: float) -> tuple[float, float]:
    return min(a, b), max(a, b)
