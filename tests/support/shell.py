"""The command line as a person types it, in this process."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from experiments.cli import main as cli
from tests.support.toys import toy_url


class Shell:
    """Runs `topformer-nas` in this process, in a folder of its own."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.capsys = capsys
        self.monkeypatch = monkeypatch
        self.folder = folder
        monkeypatch.chdir(folder)
        monkeypatch.setenv("TOPFORMER_NAS_TABLES", str(folder / "tables"))
        monkeypatch.setenv("TOPFORMER_NAS_STORAGE", toy_url(folder))
        monkeypatch.setenv("COLUMNS", "200")  # whatever the terminal, which the processes of xdist lack

    def __call__(self, *words: str) -> tuple[int, str, str]:
        self.monkeypatch.setattr(sys, "argv", ["topformer-nas", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = self.capsys.readouterr()
        return int(end.value.code or 0), out, err

    def json(self, *words: str) -> object:
        code, out, err = self(*words, "--json")
        assert code == 0, err
        return json.loads(out)

    def refusal(self, *words: str) -> str:
        """The sentence, after checking that it is one and that nothing was written."""
        before = self.files()
        code, out, err = self(*words)
        assert (code, out) == (2, ""), err
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert self.files() == before
        return err

    def files(self) -> list[Path]:
        """But for what SQLite itself keeps beside a database that is open."""
        return sorted(path for path in self.folder.rglob("*") if not path.name.endswith(("-wal", "-shm")))
