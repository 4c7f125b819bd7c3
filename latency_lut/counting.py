"""What does every block execute on the Arm core? Counts blocks under QEMU, resumably, and keeps them in one file.

Counts are exact, and the same wherever the same payload is counted: they are the evidence an estimated table is made
from, and anyone can count them again.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import zlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, astuple, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from latency_lut.devices.qemu import COUNT_NAMES, Counts, count_block
from latency_lut.payload import build
from topformer.blocks import Block
from topformer.errors import UserError
from topformer.keys import kind_of
from topformer.progress import Progress
from topformer.reading import MIB, file_content
from topformer.writing import write_whole

SUFFIX = ".counts.gz"
MOST_BYTES = 64 * MIB
"""Of counts, also unpacked."""
_SECONDS_PER_BLOCK = 0.15
_SECONDS_PER_GMAC = 10.0
"""Of one core: fitted to 24 random blocks of `pyramid` at 384x512, counted on a 2.5 GHz Xeon; another machine takes
another time, so that it is said as "about"."""
_MAGIC = "topformer-nas counts, format 1"


@dataclass(frozen=True, kw_only=True, slots=True)
class CountSource:
    """What was counted, and by what; counts of two sources do not go into one file."""

    ncnn: str
    ncnn_sha256: str
    compiler: str
    payload: str
    """Start of the program's SHA-256."""
    plugin: str
    """Start of the SHA-256 of the counting plugin's source."""

    @classmethod
    def here(cls) -> Self:
        """Of the payload that this version builds."""
        return cls(
            ncnn=build.NCNN_VERSION,
            ncnn_sha256=build.NCNN_SHA256,
            compiler=f"ziglang {build.ZIG_VERSION}",
            payload=build.checksum(build.payload()),
            plugin=build.plugin_checksum(),
        )


@dataclass(frozen=True, kw_only=True)
class CountTable:
    """Counts by block key."""

    source: CountSource
    date: str
    """ISO 8601, of the last count."""
    rows: Mapping[str, Counts]

    @property
    def text(self) -> str:
        """First line, source as JSON, column names, and one line for each row, sorted by key."""
        lines = [_MAGIC, json.dumps(asdict(self.source) | {"date": self.date}), "\t".join(("key", *COUNT_NAMES))]
        lines += [_line_of(key, self.rows[key]) for key in sorted(self.rows)]
        return "\n".join(lines) + "\n"

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write the whole file or leave what was there; the same counts are the same bytes."""
        write_whole(path, gzip.compress(self.text.encode(), compresslevel=9, mtime=0))

    @classmethod
    def load(cls, path: Path) -> Self:
        packed = file_content(path, "the counts", most_bytes=MOST_BYTES)
        try:
            with gzip.open(io.BytesIO(packed)) as unpacked:
                content = unpacked.read(MOST_BYTES + 1)
            text = content.decode()
        except (OSError, EOFError, ValueError, zlib.error):
            raise UserError(f"{path}: counts are truncated or damaged; take a fresh copy.") from None
        if len(content) > MOST_BYTES:
            raise UserError(f"{path}: counts of over {MOST_BYTES // MIB} MiB, which is more than this tool reads.")
        try:
            return cls._from_text(text)
        except (ValueError, TypeError, AttributeError, KeyError):
            raise UserError(
                f"{path}: not counts that this version reads (its first line must be {_MAGIC!r})."
            ) from None

    @classmethod
    def _from_text(cls, text: str) -> Self:
        magic, source, columns, *lines = text.splitlines()
        if magic != _MAGIC or columns.split("\t") != ["key", *COUNT_NAMES]:
            raise ValueError
        rows: dict[str, Counts] = {}
        for line in lines:
            key, counts = _row_of(line)
            if key in rows:
                raise ValueError
            rows[key] = counts
        values = json.loads(source)
        date = values.pop("date")
        datetime.fromisoformat(date)
        return cls(source=CountSource(**values), date=date, rows=rows)


def counting_seconds(blocks: Iterable[Block]) -> float:
    """About how long they take to count on one core that does nothing else."""
    return sum(_SECONDS_PER_BLOCK + _SECONDS_PER_GMAC * block.macs / 1e9 for block in blocks)


def not_counted(blocks: Iterable[Block], *, out: Path, known: CountTable) -> tuple[Block, ...]:
    """Distinct blocks, in the order they come, that neither `known` nor `out` nor its unfinished journal has."""
    there = set(known.rows) | set(CountTable.load(out).rows if out.exists() else ())
    partial = _partial(out)
    if partial.exists():
        there |= {line.partition("\t")[0] for line in partial.read_text(encoding="utf-8").splitlines(keepends=True)[1:]}
    return tuple({block.key: block for block in blocks if block.key not in there}.values())


def _partial(out: Path) -> Path:
    return out.with_name(f"{out.name}.partial")


def count_blocks(
    blocks: Iterable[Block], *, out: Path, known: CountTable | None = None, workers: int, progress: Progress
) -> CountTable:
    """Counts of all `blocks`, and of whatever `known` and the file `out` have; what both lack is counted, into `out`.

    Killed at any moment, the next call goes on from `OUT.partial`. Raises UserError where files come from another
    payload.
    """
    source = CountSource.here()
    own = CountTable.load(out) if out.exists() else None
    for table, where in ((own, str(out)), (known, "the shipped counts")):
        if table and table.source != source:
            different = next(name for name, value in asdict(table.source).items() if getattr(source, name) != value)
            raise UserError(
                f"{where} have {different} {getattr(table.source, different)!r}, but here it is "
                f"{getattr(source, different)!r}: counts of two payloads do not go together; count into another file."
            )
    old = dict(own.rows) if own else {}
    counted = dict(known.rows if known else {}) | old
    wanted = {block.key: block for block in blocks if block.key not in counted}
    partial = _partial(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    added = _journal(partial, source)
    todo = [block for key, block in wanted.items() if key not in added]
    with partial.open("a", encoding="utf-8") as journal, ThreadPoolExecutor(workers) as pool:
        if not journal.tell():
            journal.write(json.dumps(asdict(source)) + "\n")
        futures = {pool.submit(count_block, block): block.key for block in todo}
        try:
            for done, future in enumerate(as_completed(futures), start=1):
                key = futures[future]
                added[key] = future.result()
                journal.write(_line_of(key, added[key]) + "\n")
                journal.flush()
                progress(done, len(todo), f"counting {kind_of(key)}")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    date = datetime.now(UTC).date().isoformat() if added else max(table.date for table in (own, known) if table)
    if added:
        CountTable(source=source, date=date, rows=old | added).save(out)
    partial.unlink()
    return CountTable(source=source, date=date, rows=counted | added)


def _journal(path: Path, source: CountSource) -> dict[str, Counts]:
    """Rows counted before an interruption; a last line cut short is dropped from the file."""
    if not path.exists():
        return {}
    complete, newline, _ = path.read_text(encoding="utf-8").rpartition("\n")
    os.truncate(path, len((complete + newline).encode()))
    first, *lines = complete.splitlines() or [json.dumps(asdict(source))]
    if json.loads(first) != asdict(source):
        raise UserError(f"{path} is an unfinished count of another payload; delete it.")
    return dict(map(_row_of, lines))


def _line_of(key: str, counts: Counts) -> str:
    return "\t".join((key, *map(str, astuple(counts))))


def _row_of(line: str) -> tuple[str, Counts]:
    """Raises `ValueError` for what `_line_of` does not write."""
    key, *numbers = line.split("\t")
    return key, Counts(**dict(zip(COUNT_NAMES, map(int, numbers), strict=True)))
