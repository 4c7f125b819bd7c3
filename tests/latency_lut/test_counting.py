"""Counts in a file: what is kept, what is counted again, what is refused."""

from __future__ import annotations

import dataclasses
import gzip
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from latency_lut.counting import MOST_BYTES, CountSource, CountTable, count_blocks
from latency_lut.devices.qemu import NOTHING, QEMU, Counts, count, count_block
from latency_lut.runtimes.ncnn import candidate_network
from topformer import TINY, Candidate, Task, UserError
from topformer.blocks import candidate_blocks, total
from topformer.progress import silent

SOURCE = CountSource(ncnn="1", ncnn_sha256="ab", compiler="c", payload="cd", plugin="ef")
TABLE = CountTable(
    source=SOURCE,
    date="2026-11-21",
    rows={"stem(a=1) 3x4": dataclasses.replace(NOTHING, instructions=7), "argmax(b=2) 5x6": NOTHING},
)
NETWORK = Candidate(arch=TINY, task=Task(image_size=(64, 64)))
BLOCKS = candidate_blocks(NETWORK)

missing = [name for name in (QEMU, "cc") if not shutil.which(name)]
missing += [name for name in ("ziglang", "unearth") if not find_spec(name)]
needs_qemu = pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def test_counts_survive_their_file_and_are_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    TABLE.save(tmp_path / "a")
    dataclasses.replace(TABLE, rows=dict(reversed(TABLE.rows.items()))).save(tmp_path / "b")
    assert CountTable.load(tmp_path / "a") == TABLE
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def packed(content: bytes) -> bytes:
    """The same bytes in every process: a name of a test must not hold the time."""
    return gzip.compress(content, mtime=0)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "not counts"),
        (b"not compressed", "truncated or damaged"),
        (packed(TABLE.text.encode())[:-9], "truncated or damaged"),
        (packed(TABLE.text.encode())[:40] + bytes(20), "truncated or damaged"),
        (packed(b"another file\n{}\n\n"), "not counts"),
        (packed(TABLE.text.replace("\t7\t", "\tseven\t").encode()), "not counts"),
        (packed((TABLE.text + TABLE.text.splitlines()[-1]).encode()), "not counts"),  # a row twice
        (packed(TABLE.text.replace('"date": "2026-11-21"', '"date": "soon"').encode()), "not counts"),
    ],
)
def test_a_damaged_file_of_counts_is_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "damaged").write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        CountTable.load(tmp_path / "damaged")


@needs_qemu
@pytest.mark.qemu
def test_what_is_known_is_not_counted_again(tmp_path: Path) -> None:
    known = CountTable(source=CountSource.here(), date="2026-01-01", rows={BLOCKS[0].key: NOTHING})
    out = tmp_path / "own.counts.gz"
    counts = count_blocks(BLOCKS[:2], out=out, known=known, workers=2, progress=silent)
    assert counts.rows[BLOCKS[0].key] == NOTHING
    assert counts.rows[BLOCKS[1].key] == count_block(BLOCKS[1])  # and alone it is the same again
    assert set(CountTable.load(out).rows) == {BLOCKS[1].key}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own.counts.gz"]


class StoppedError(Exception):
    pass


@needs_qemu
@pytest.mark.qemu
def test_a_count_goes_on_where_it_was_stopped_even_in_the_middle_of_a_line(tmp_path: Path) -> None:
    out = tmp_path / "own.counts.gz"

    def stop_after_two(done: int, total: int, what: str) -> None:
        if done == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        count_blocks(BLOCKS[:4], out=out, workers=1, progress=stop_after_two)
    partial = out.with_name("own.counts.gz.partial")
    with partial.open("a") as journal:
        journal.write("inverted_residual(in_cha")
    steps: list[int] = []
    counts = count_blocks(BLOCKS[:4], out=out, workers=1, progress=lambda done, total, what: steps.append(total))
    assert steps == [2, 2]
    assert counts.rows.keys() == {block.key for block in BLOCKS[:4]}
    assert not partial.exists()


@needs_qemu
@pytest.mark.qemu
def test_counts_of_another_payload_are_refused(tmp_path: Path) -> None:
    TABLE.save(tmp_path / "other.counts.gz")
    with pytest.raises(UserError, match=r"have ncnn '1', but here it is '1\.0\.\d+': .* count into another file"):
        count_blocks(BLOCKS[:1], out=tmp_path / "other.counts.gz", workers=1, progress=silent)


@needs_qemu
@pytest.mark.qemu
@pytest.mark.slow
def test_lone_blocks_execute_the_vector_work_of_the_whole_network(tmp_path: Path) -> None:
    whole = sum(count(candidate_network(NETWORK)).values(), NOTHING)
    lone = sum((count_block(block) for block in BLOCKS), NOTHING)
    assert lone.vector_fma == whole.vector_fma > 0.25 * total(block.cost for block in BLOCKS).macs
    assert vector_work(lone) == pytest.approx(vector_work(whole), rel=1e-3)


def vector_work(counts: Counts) -> int:
    return counts.vector_fma + counts.vector_other


def test_counts_that_unpack_without_end_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bomb.counts.gz").write_bytes(gzip.compress(b"\n" * (MOST_BYTES + 1)))
    with pytest.raises(UserError, match="counts of over 64 MiB"):
        CountTable.load(tmp_path / "bomb.counts.gz")
