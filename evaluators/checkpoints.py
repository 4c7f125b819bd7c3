"""Where does a training keep its state, so that nothing is lost? In a run folder, every file whole or not there.

run.json            what is trained: a run goes on only with the same
state.pt            all that the next iteration needs
last.safetensors    the weights at that point (the averaged ones, where weights are averaged)
best.safetensors    the weights that scored best so far
log.jsonl           a line per score
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import math
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from topformer.errors import UserError
from topformer.reading import file_text, parse_json
from topformer.writing import write_whole


@dataclass
class RunFolder:
    """The state of one training, on disk."""

    folder: Path
    describes: Mapping[str, Any]
    """What makes it this training and no other; JSON."""

    def __post_init__(self) -> None:
        self.state_path = self.folder / "state.pt"
        self.last_path = self.folder / "last.safetensors"
        self.best_path = self.folder / "best.safetensors"
        self.log_path = self.folder / "log.jsonl"

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Raises `UserError` where another process is at work here, or the folder is of another training."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.folder / "lock").open("w")
        except OSError as error:
            raise UserError(
                f"no training can be kept in {self.folder} ({error.strerror}); choose another --out: a folder that can "
                "be written to."
            ) from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(
                    f"another process trains in {self.folder}; wait for it, or choose another --out."
                ) from None
            self._require_same()
            for left in self.folder.glob("*.partial"):  # by a process that was killed while writing
                left.unlink()
            yield

    def _require_same(self) -> None:
        path = self.folder / "run.json"
        wanted = json.loads(json.dumps(self.describes))
        try:
            known = parse_json(file_text(path, "the run"), str(path)) if path.exists() else None
        except (OSError, UserError) as error:
            raise UserError(f"{path} cannot be read ({_reason(error)}); restore it, or choose another --out.") from None
        if known == wanted:
            return
        begun = next((kept for kept in (self.state_path, self.last_path, self.best_path) if kept.exists()), None)
        if begun is None:  # what was refused before anything was learnt may be put right
            write_whole(path, (json.dumps(wanted, indent=1) + "\n").encode())
            return
        if known is None:
            raise UserError(f"{self.folder} has a {begun.name} but no run.json; choose another --out.")
        if not isinstance(known, dict):
            raise UserError(f"{path} does not say what was trained; restore it, or choose another --out.")
        raise UserError(
            f"{self.folder} was started with another {_first_difference(known, wanted, '')}. Go on with what it was "
            "started with, or choose another --out; nothing was changed."
        )

    def load(self) -> dict[str, Any] | None:
        """The state last written, with the `iteration` it is of; None: there is none.

        Raises `UserError` where it is damaged or of another training.
        """
        if not self.state_path.exists():
            return None
        try:
            state = _read_state(self.state_path)
        except MemoryError:
            raise
        except Exception as error:  # of a damaged or hostile file the unpickler raises anything
            raise self._unusable(_reason(error)) from None
        if state.pop("run", None) != self._key:
            raise self._unusable("it is of another training than run.json tells")
        iteration = state.get("iteration")
        if not isinstance(iteration, int) or iteration < 0:
            raise self._unusable("it does not say its iteration")
        if damaged := next((name for name, tensor in _tensors(state, "") if not torch.isfinite(tensor).all()), None):
            raise self._unusable(f"{damaged} has values that are not finite")
        return state

    def _unusable(self, reason: str) -> UserError:
        return UserError(
            f"{self.state_path} cannot be used ({reason}); remove it to start anew: {self.last_path.name} and "
            f"{self.best_path.name} stay until they are written again."
        )

    @property
    def _key(self) -> str:
        return hashlib.sha256(json.dumps(self.describes, sort_keys=True).encode()).hexdigest()

    def save(self, state: Mapping[str, Any]) -> None:
        content = io.BytesIO()
        torch.save({**state, "run": self._key}, content)
        write_whole(self.state_path, content.getvalue())

    def scores(self, metric: str, *, until: int) -> list[dict[str, Any]]:
        """Of the log, up to an iteration; what comes after it is taken out: it will come again."""
        try:
            content = file_text(self.log_path, "the log") if self.log_path.exists() else ""
        except UserError as error:
            raise UserError(f"{self.log_path} cannot be read ({_reason(error)}); restore or remove it.") from None
        *lines, cut_off = content.split("\n")  # cut off by a kill: it will come again too
        rows = [self._score(line, number, metric) for number, line in enumerate(lines, start=1)]
        kept = [row for row in rows if row["iteration"] <= until]
        if len(kept) < len(rows) or cut_off:
            write_whole(self.log_path, "".join(f"{json.dumps(row)}\n" for row in kept).encode())
        return kept

    def _score(self, line: str, number: int, metric: str) -> dict[str, Any]:
        try:
            row = parse_json(line, "it")
        except UserError:
            row = None
        if isinstance(row, dict) and isinstance(row.get("iteration"), int):
            value = row.get(metric)
            if isinstance(value, int | float) and math.isfinite(value):
                return row
        raise UserError(
            f"{self.log_path}, line {number} is no score ({line[:40]!r}); wanted is a line such as "
            f'{{"iteration": 100, "{metric}": 1.5}}: restore or remove it.'
        )

    def add_score(self, row: Mapping[str, Any]) -> None:
        with self.log_path.open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps(row)}\n")


def _read_state(path: Path) -> dict[str, Any]:
    """Raises anything where it is damaged. The checksums are looked at here: torch does not."""
    if not path.is_file():
        raise ValueError("not a file")
    with zipfile.ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise ValueError(f"{damaged} in it is damaged")
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise TypeError("no state of a training")
    return state


def _tensors(values: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    """Of nested dictionaries and lists, with the path to each."""
    if isinstance(values, Tensor):
        yield name, values
    elif isinstance(values, Mapping | list):
        for key, value in values.items() if isinstance(values, Mapping) else enumerate(values):
            yield from _tensors(value, f"{name}.{key}" if name else str(key))


def _reason(error: Exception) -> str:
    """In a line."""
    if isinstance(error, pickle.UnpicklingError):  # torch's text tells how to run what is in it
        return "it holds more than numbers"
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (said.splitlines() or [type(error).__name__])[0][:200]


def _first_difference(known: Any, wanted: Any, name: str) -> str:
    if isinstance(known, dict) and isinstance(wanted, dict):
        for key in sorted(known.keys() | wanted.keys()):
            if found := _first_difference(known.get(key), wanted.get(key), f"{name}.{key}" if name else key):
                return found
        return ""
    return "" if known == wanted else f"{name}: {_shown(known)}, now {_shown(wanted)}"


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
