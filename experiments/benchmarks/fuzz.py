"""What does the tool make of damaged and hostile input? From the repository's root, where the small seeds are:

    PYTHONPATH=. python experiments/benchmarks/fuzz.py OUT.txt [--minutes 15] [--seed 0] [--only KIND] [--index N]

Every file that the tool reads, and its command line, is taken from a seed of `tests`, changed by mutations that know
text, numbers, archives and databases, and read by the public reader in a child process. Inputs are told apart by
(seed, index), so that `--only KIND --index N` repeats one. Counted are: read; refused (a `UserError`, or exit code 2);
traceback (anything else); hang (20 s); over memory (1 GiB beyond what the modules take).
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import hashlib
import io
import json
import os
import random
import re
import resource
import select
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch

from evaluators.checkpoints import RunFolder
from evaluators.combined import Predictor
from evaluators.datasets.checking import check
from evaluators.datasets.class_lists import class_list
from evaluators.datasets.description import EXAMPLE, read_description
from evaluators.datasets.named import any_dataset_named
from experiments.cli import main as cli
from experiments.export.formats import Network
from experiments.export.formats.onnx import onnx_graph
from experiments.export.study_file import read_archive
from experiments.front.lookup import chosen
from experiments.store.ledger import read_records
from experiments.store.store import Store
from experiments.study_config import StudyConfig
from experiments.training.recipe_files import recipe_named
from experiments.trust.standing import TrustReport, standing
from experiments.views.studies import study_rows, study_summary
from latency_lut.counting import CountTable
from latency_lut.runtimes.pnnx import read_onnx
from latency_lut.table import LatencyTable
from tests.support import trees
from tests.support.topformer_oracle import released_segmentation_checkpoint
from topformer.config import Task, content_key
from topformer.errors import UserError, ran_out_of_memory
from topformer.reading import file_text
from topformer.weights import load_model, saved_classes, saved_model, saved_protocol

LIMIT_S = 20
MORE_BYTES = 2**30
SHOWN = 30
HERE = Path(__file__).parents[2]
SEEDS = HERE / "tests" / "experiments" / "made_before"
ODD = [
    *("0", "-1", "1e999", "-0.0", "NaN", "Infinity", "null", "true", "[]", "{}", '""', "[[[[[]]]]]", "1e-320"),
    *("9" * 30, "9" * 5000, "0x" + "f" * 4400, "18446744073709551616", "-9223372036854775809", "1_000", "0b1"),
    *(
        '"\\ud800"',
        '"\\u0000"',
        '"\x1b]0;x\x07"',
        '"\u202e"',
        '"../../etc/passwd"',
        '"/dev/zero"',
        '"' + "a" * 10**5 + '"',
    ),
    *("[" * 3000, "{" * 3000, ".".join("a" * 3000), '{"a":' * 500, "inf", "-inf", "1979-05-27", "'''", '"""', "\x00"),
]
CLASS_LISTS = {
    "class_dict.csv": b"name,r,g,b\nroad,128,64,128\nsky,70,130,180\n",
    "classes.csv": b"Name; Red; Green; Blue\nroad; 128; 64; 128\nsky; 70; 130; 180\n",
    "labelmap.txt": b"# label:color_rgb:parts:actions\nroad:128,64,128::\nsky:70,130,180:a,b:\n",
    "labels.txt": b"0: road\n2: sky\n",
    "id2label.json": b'{"id2label": {"0": "road", "1": "sky"}}',
    "label_map.json": b'{"road": 0, "sky": 1}',
    "_classes.csv": b"Pixel Value, Class\n0, road\n1, sky\n",
    "classes.txt": "road\nH\u00e4user\n".encode("utf-16"),
}
"""Of other tools, by the names that they have."""
TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|true|false|null|[A-Za-z_]+')


class Kind(NamedTuple):
    """An input the tool reads: its seeds by file name, how one is changed, and who reads it."""

    seeds: Mapping[str, bytes]
    change: Callable[[random.Random, bytes], bytes]
    read: Callable[[Path], object]


def changed_text(rng: random.Random, content: bytes) -> bytes:
    """Some of its numbers, words and texts replaced, or some lines and bytes."""
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        if rng.random() < 0.3:
            content = changed_bytes(rng, content)
            continue
        tokens = list(TOKEN.finditer(content))
        if not tokens:
            return changed_bytes(rng, content)
        at = rng.choice(tokens)
        new = rng.choice(ODD).encode("utf-8", "surrogatepass") if rng.random() < 0.7 else rng.choice(tokens).group()
        content = content[: at.start()] + new + content[at.end() :]
    return content


def changed_bytes(rng: random.Random, content: bytes) -> bytes:
    start = rng.randrange(len(content) + 1)
    end = min(len(content), start + rng.choice([1, 1, 2, 8, 100, 5000]))
    match rng.randrange(6):
        case 0:
            return content[:start]
        case 1:
            return content[:start] + content[end:]
        case 2:
            return content[:start] + content[start:end] * rng.choice([2, 3, 50]) + content[end:]
        case 3:
            return content[:start] + rng.randbytes(end - start) + content[end:]
        case 4:
            return content[:start] + rng.choice([b"\0", b"\xff", b"\n", b"\xef\xbb\xbf", b"\r"]) * 3 + content[end:]
        case _:
            flipped = bytearray(content)
            for _ in range(rng.choice([1, 1, 3, 20])):
                if flipped:
                    flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
            return bytes(flipped)


def changed_archive(rng: random.Random, content: bytes) -> bytes:
    """A member changed and, mostly, the checksums made again over it."""
    if rng.random() < 0.1:
        return changed_bytes(rng, content)
    with zipfile.ZipFile(io.BytesIO(content)) as old:
        members = {name: old.read(name) for name in old.namelist()}
    name = rng.choice([*members, "trials.jsonl", "study.json", "front.json"])
    members[name] = changed_text(rng, members[name])
    if name == "table.lut":
        members[name] = with_digest(members[name])
    if name != "manifest.json" and rng.random() < 0.9:
        manifest = json.loads(members["manifest.json"])
        manifest["sha256"][name] = hashlib.sha256(members[name]).hexdigest()
        members["manifest.json"] = json.dumps(manifest).encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name, member in members.items():
            new.writestr(name, member)
    return packed.getvalue()


def with_digest(content: bytes) -> bytes:
    magic, _, rest = content.partition(b"\n")
    _, _, body = rest.partition(b"\n")
    return magic + b"\nsha256 " + hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def changed_table(rng: random.Random, content: bytes) -> bytes:
    found = changed_text(rng, content)
    return with_digest(found) if rng.random() < 0.9 else found


def changed_counts(rng: random.Random, content: bytes) -> bytes:
    if rng.random() < 0.2:
        return changed_bytes(rng, content)
    return gzip.compress(changed_text(rng, gzip.decompress(content)), compresslevel=1)


def some_counts() -> bytes:
    """The first rows of the shipped counts, whole."""
    shipped = next((HERE / "latency_lut" / "tables").glob("*.counts.gz")).read_bytes()
    rows, end, _ = gzip.decompress(shipped)[:20_000].rpartition(b"\n")
    return gzip.compress(rows + end)


def changed_records(rng: random.Random, content: bytes) -> bytes:
    """A line with its checksum made again, mostly."""

    head, *lines = content.splitlines()
    at = rng.randrange(len(lines))
    line = changed_text(rng, lines[at])
    with contextlib.suppress(ValueError, RecursionError, AttributeError, TypeError):
        entry = json.loads(line)
        entry["checksum"] = content_key({key: value for key, value in entry.items() if key != "checksum"})
        line = json.dumps(entry).encode()
    lines[at] = line
    return b"\n".join([changed_text(rng, head) if rng.random() < 0.1 else head, *lines]) + b"\n"


def changed_safetensors(rng: random.Random, content: bytes) -> bytes:
    """Its header, with the length said anew."""
    if rng.random() < 0.2:
        return changed_bytes(rng, content)
    end = 8 + int.from_bytes(content[:8], "little")
    header = changed_text(rng, content[8:end])
    return len(header).to_bytes(8, "little") + header + content[end:]


def changed_database(rng: random.Random, content: bytes) -> bytes:
    """A cell of a row, or bytes of the file."""
    if rng.random() < 0.2:
        return changed_bytes(rng, content)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "db"
        path.write_bytes(content)
        with contextlib.closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode=DELETE")
            connection.execute("PRAGMA ignore_check_constraints=ON")
            table = rng.choice(["studies", "candidates", "records", "proposals", "batches", "trust_reports"])
            names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            column = rng.choice(names)
            rows = connection.execute(f"SELECT rowid, {column} FROM {table}").fetchall()
            row, value = rng.choice(rows)
            new: object = rng.choice([None, -1, 0, 2**62, 1e308, float("inf"), b"\0\xff", "", "x", 1, 0.5])
            if isinstance(value, str) and rng.random() < 0.7:
                new = changed_text(rng, value.encode()).decode("utf-8", "replace")
            with contextlib.suppress(sqlite3.Error):
                where = "" if rng.random() < 0.2 else f" WHERE rowid = {row}"
                connection.execute(f"UPDATE {table} SET {column} = ?{where}", (new,))
                connection.commit()
        return path.read_bytes()


def changed_words(rng: random.Random, content: bytes) -> bytes:
    """A command line: words left out, there twice, or replaced."""
    words = content.split(b"\0")
    for _ in range(rng.choice([1, 1, 2, 3])):
        at = rng.randrange(1, len(words)) if len(words) > 1 else 0
        match rng.randrange(4):
            case 0:
                del words[at]
            case 1:
                words.insert(at, words[at])
            case 2:
                words[at] = rng.choice(ODD).strip('"').encode("utf-8", "surrogatepass").replace(b"\0", b"")
            case _:
                words[at] = changed_bytes(rng, words[at]).replace(b"\0", b"")
        if not words:
            return b"describe"
    return b"\0".join([words[0], *words[1:]])


def kinds(folder: Path) -> dict[str, Kind]:
    """All of them; seeds that are made are made in `folder`."""

    def seeds(*names: str) -> dict[str, bytes]:
        return {name: (SEEDS / name).read_bytes() for name in names}

    def study(path: Path) -> object:
        return StudyConfig.load(str(path)).search_space()

    def weights(path: Path) -> object:
        return saved_model(path), saved_classes(path), saved_protocol(path)

    def database(path: Path) -> object:
        with Store.open(f"sqlite:///{path}", read_only=True) as store:
            rows = study_rows(store)
            for one in store.studies():
                study_summary(store, one.name)
                standing(one.evaluator, store, one.config.search_space())
                store.outlines(one.name)
            return rows, store.evaluations()

    def with_file(name: str) -> Callable[[Path], object]:
        """A data set one of whose files is the input."""

        def read(path: Path) -> object:
            with tempfile.TemporaryDirectory(dir=path.parent) as copy:
                tree = Path(copy) / "data"
                shutil.copytree(folder / "tree", tree)
                shutil.copy(path, tree / name)
                return check(any_dataset_named(str(tree)))

        return read

    def class_file(path: Path) -> object:
        with tempfile.TemporaryDirectory(dir=path.parent) as home:
            shutil.copy(path, Path(home) / path.name.partition("-")[2])
            return class_list(Path(home))

    def run_state(path: Path) -> object:
        return (
            RunFolder(path.parent / "run", {}).load() if shutil.copy(path, path.parent / "run" / "state.pt") else None
        )

    def command(path: Path) -> object:
        return run_words(path.read_bytes().decode("utf-8", "surrogateescape").split("\0"))

    trees.folder_tree(folder / "tree", masks="colours", split="lists")
    tree = {path.relative_to(folder / "tree"): path.read_bytes() for path in (folder / "tree").rglob("*.*")}
    of_tree = {
        str(name): Kind({name.name: content}, changed_bytes, with_file(str(name))) for name, content in tree.items()
    }
    of_tree |= {
        name: kind._replace(change=changed_text) for name, kind in of_tree.items() if name.endswith((".txt", ".csv"))
    }
    (folder / "run").mkdir()
    released_segmentation_checkpoint("tiny", folder / "released.pth", seed=1)
    run = RunFolder(folder / "run", {})

    run.save({"iteration": 1, "model": {"a": torch.zeros(2)}})
    store = f"sqlite:///{SEEDS / 'toy.db'}"
    lines = [
        f"describe toy#5 --storage {store} --json",
        "latency query tiny --size 64 --classes 59 --json",
        f"latency query tiny --table {SEEDS / 'toy.lut'} --size 64 --classes 59",
        f"front toy --all --storage {store}",
        f"front toy --latency-max 50 --storage {store} --json",
        f"study show toy --storage {store}",
        f"study compare toy toy --storage {store}",
        f"study verify {SEEDS / 'study.zip'}",
        "recipes released --json",
        "describe tiny --size 512x1024 --classes 19",
        f"trust show toy-report --storage {store}",
        "latency tables --json",
    ]
    every = {
        "study": Kind(seeds("study.toml"), changed_text, study),
        "recipe": Kind(
            seeds("recipe.toml"), changed_text, lambda path: recipe_named(str(path), dataset="scenes", anchor="tiny")
        ),
        "setting": Kind(
            {"set": b"protocol.short_side_px=512", "other": b"training.iterations=2000"},
            changed_text,
            lambda path: recipe_named(
                "released", dataset="scenes", anchor=None, changes=[path.read_bytes().decode("utf-8", "replace")]
            ),
        ),
        "architecture": Kind(
            seeds("architecture.json", "card.json"), changed_text, lambda path: chosen(str(path), storage=store)
        ),
        "table": Kind(seeds("toy.lut"), changed_table, LatencyTable.load),
        "counts": Kind(
            {"a.counts.gz": some_counts()},
            changed_counts,
            CountTable.load,
        ),
        "combined evaluator": Kind(seeds("combined.json"), changed_text, Predictor.load),
        "description": Kind(seeds("dataset.toml") | {"example.toml": EXAMPLE.encode()}, changed_text, read_description),
        "class list": Kind(CLASS_LISTS, changed_text, class_file),
        "archive": Kind(seeds("study.zip"), changed_archive, read_archive),
        "trust report": Kind(
            seeds("trust_report.json"),
            changed_text,
            lambda path: TrustReport.from_json(file_text(path, "the report"), where="it"),
        ),
        "records": Kind(seeds("records.jsonl"), changed_records, read_records),
        "weights": Kind(seeds("weights.safetensors"), changed_safetensors, weights),
        "checkpoint": Kind(
            {"released.pth": (folder / "released.pth").read_bytes()},
            changed_bytes,
            lambda path: load_model("tiny", weights=path),
        ),
        "training state": Kind({"state.pt": (folder / "run" / "state.pt").read_bytes()}, changed_bytes, run_state),
        "database": Kind(seeds("toy.db"), changed_database, database),
        "command line": Kind(
            {f"{number}.words": "\0".join(line.split(" ")).encode() for number, line in enumerate(lines)},
            changed_words,
            command,
        ),
    }
    every["ONNX"] = onnx_kind()
    for name, kind in of_tree.items():
        every[f"data: {Path(name).suffix[1:]} {Path(name).parts[0].partition('.')[0]}"] = kind
    return every


def onnx_kind() -> Kind:

    model = saved_model(SEEDS / "weights.safetensors")
    graph = onnx_graph(Network(model=model, task=Task(image_size=(64, 64), num_classes=model.num_classes)))
    return Kind({"a.onnx": graph}, changed_bytes, lambda path: read_onnx(path, size=None))


def run_words(words: list[str]) -> object:
    """The command in this process; raises what it would end with a traceback by."""

    if set(words) & {"dashboard", "search", "train", "measure", "supernet", "run"}:
        return None  # they would work for long
    sys.argv = ["topformer-nas", *words]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            cli.main()
        except SystemExit as end:
            if end.code == 2:
                raise UserError(said.getvalue()) from None
            return end.code
    raise AssertionError("a command ends by its exit code")


def outcome(kind: Kind, index: int, rng: random.Random, folder: Path) -> tuple[str, str]:
    """One of the counted words, and what was said."""

    name = rng.choice(sorted(kind.seeds))
    path = folder / f"{index}-{name}"
    path.write_bytes(kind.change(rng, kind.seeds[name]))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind.read(path)
    except UserError as error:
        said = str(error)
        return ("refused", said) if len(said) < 4000 else ("traceback", f"a sentence of {len(said)} characters")
    except Exception as error:
        if ran_out_of_memory(error):
            return "over memory", traceback.format_exc(limit=-3)
        return "traceback", traceback.format_exc(limit=-6)
    finally:
        path.unlink(missing_ok=True)
    return "read", ""


def child(every: Mapping[str, Kind], seed: int, start: int, end: float, out: int, folder: Path) -> None:
    """Read inputs from `start` on, telling of each before and after."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MORE_BYTES, taken + MORE_BYTES))
    names, index = sorted(every), start
    while time.time() < end:
        name = names[index % len(names)]
        os.write(out, f"{json.dumps([index, name, None, ''])}\n".encode())
        found = outcome(every[name], index, random.Random(f"{seed} {index}"), folder)
        os.write(out, f"{json.dumps([index, name, found[0], found[1][-1500:]])}\n".encode())
        index += 1
    os._exit(0)


def watched(every: Mapping[str, Kind], seed: int, minutes: float, folder: Path) -> list[list[Any]]:
    """[index, kind, outcome, said] of every input; a child that hangs or dies is ended, and another goes on."""
    found: list[list[Any]] = []
    start, end = 0, time.time() + 60 * minutes
    while time.time() < end:
        ours, theirs = os.pipe()
        process = os.fork()
        if not process:
            os.close(ours)
            null = os.open(os.devnull, os.O_RDWR)
            for number in range(3):
                os.dup2(null, number)
            child(every, seed, start, end, theirs, folder)
        os.close(theirs)
        begun: list[Any] = [start, "", None, ""]
        rest = b""
        while True:
            if not select.select([ours], [], [], LIMIT_S)[0]:
                os.kill(process, signal.SIGKILL)
                begun[2:] = ["hang", ""]
                break
            if not (part := os.read(ours, 2**16)):
                break
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                begun = json.loads(line)
                if begun[2] is not None:
                    found.append(begun)
        os.close(ours)
        _, status = os.waitpid(process, 0)
        if begun[2] is None or begun[2] == "hang":
            begun[2] = begun[2] or "traceback"
            begun[3] = f"the process ended with status {status}"
            found.append(begun)
        start = begun[0] + 1
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only")
    parser.add_argument("--index", type=int)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["TOPFORMER_NAS_CACHE"] = str(folder / "cache")
        every = kinds(folder)
        if asked.only:
            every = {name: kind for name, kind in every.items() if name == asked.only}
        if asked.index is not None:
            rng = random.Random(f"{asked.seed} {asked.index}")
            print(*outcome(every[asked.only], asked.index, rng, folder), sep="\n")
            return
        found = watched(every, asked.seed, asked.minutes, folder)
    words = ("read", "refused", "traceback", "hang", "over memory")
    counts = Counter((kind, what) for _, kind, what, _ in found)
    lines = [f"{datetime.now(UTC):%Y-%m-%d}, {asked.minutes:g} minutes, seed {asked.seed}, {len(found):,} inputs", ""]
    lines.append(f"{'kind':24s}" + "".join(f"{word:>13s}" for word in words))
    for kind in sorted(every):
        lines.append(f"{kind:24s}" + "".join(f"{counts[kind, word]:13,}" for word in words))
    lines.append(f"{'all':24s}" + "".join(f"{sum(counts[kind, word] for kind in every):13,}" for word in words))
    print("\n".join(lines))
    if asked.out:
        asked.out.write_text("\n".join(lines) + "\n")
    bad = [one for one in found if one[2] in words[2:]]
    firsts = {one[1]: one for one in reversed(bad)}.values()  # of each kind, before others
    bad = [*firsts, *(one for one in bad if one not in firsts)]
    for index, kind, what, said in bad[:SHOWN]:
        print(f"\n== {what}: --only '{kind}' --index {index}\n{said}")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
