"""Where does a training keep its state, so that nothing is lost? In a run folder, every file whole or not there.

run.json            what is trained: a run goes on only with the same
state.pt            all that the next iteration needs
last.safetensors    the weights at that point (the averaged ones, where weights are averaged)
best.safetensors    the weights that scored best so far
log.jsonl           a line per score
"""

from __future__ import annotations

import fcntl
import io
import json
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from topformer.errors import UserError
from topformer.writing import write_whole


@dataclass
class RunFolder:
    """The state of one training, on disk."""

    folder: Path
    describes: Mapping[str, Any]
    """What makes it this training and no other; JSON."""
    _lock: Any = field(default=None, repr=False)

    @property
    def state_path(self) -> Path:
        return self.folder / "state.pt"

    @property
    def last_path(self) -> Path:
        return self.folder / "last.safetensors"

    @property
    def best_path(self) -> Path:
        return self.folder / "best.safetensors"

    @property
    def log_path(self) -> Path:
        return self.folder / "log.jsonl"

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Raises `UserError` where another process is at work here, or the folder is of another training."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:
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
            known = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            if self.state_path.exists():
                raise UserError(f"{self.folder} has a state.pt but no run.json; choose another --out.") from None
            write_whole(path, (json.dumps(wanted, indent=1) + "\n").encode())
            return
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({error}); restore it, or choose another --out.") from None
        if change := _first_difference(known, wanted, ""):
            raise UserError(
                f"{self.folder} was started with another {change}. Go on with what it was started with, or choose "
                "another --out; nothing was changed."
            )

    def load(self) -> dict[str, Any] | None:
        """The state last written; None: there is none."""
        try:
            state: dict[str, Any] = torch.load(self.state_path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except (OSError, RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile, EOFError, ValueError) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"{self.state_path} cannot be read ({first}); remove it to start anew: {self.last_path.name} and "
                f"{self.best_path.name} stay."
            ) from None
        return state

    def save(self, state: Mapping[str, Any]) -> None:
        content = io.BytesIO()
        torch.save(dict(state), content)
        write_whole(self.state_path, content.getvalue())

    def scores(self, *, until: int) -> list[dict[str, Any]]:
        """Of the log, up to an iteration; what comes after it is taken out: it will come again."""
        rows = []
        if self.log_path.exists():
            for line in self.log_path.read_text(encoding="utf-8").splitlines():
                try:
                    rows.append(json.loads(line))
                except ValueError:  # cut off by a kill
                    continue
        kept = [row for row in rows if row["iteration"] <= until]
        if len(kept) < len(rows):
            write_whole(self.log_path, "".join(f"{json.dumps(row)}\n" for row in kept).encode())
        return kept

    def add_score(self, row: Mapping[str, Any]) -> None:
        with self.log_path.open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps(row)}\n")


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
