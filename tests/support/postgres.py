"""A PostgreSQL server of the tests' own, on a socket in a folder, reachable from nowhere else."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

USER = "postgres"


def binaries() -> Path | None:
    """Where `initdb` and `pg_ctl` are; Debian leaves them off the PATH."""
    found = shutil.which("initdb")
    places = [Path(found).resolve().parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "pg_ctl").exists()), None)


@dataclass(frozen=True)
class Server:
    folder: Path
    place: Path

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://{USER}@/postgres?host={self.folder}"

    def run(self, program: str, *arguments: str) -> None:
        as_user = ["runuser", "-u", USER, "--"] if os.getuid() == 0 else []
        subprocess.run(
            [*as_user, str(self.place / program), "-D", str(self.folder / "data"), *arguments],
            check=True,
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=300,
        )

    def start(self) -> None:
        log = str(self.folder / "log")
        self.run("pg_ctl", "-w", "-l", log, "-o", f"-c listen_addresses='' -k {self.folder}", "start")

    def stop(self) -> None:
        self.run("pg_ctl", "-w", "-m", "immediate", "stop")


@contextmanager
def running() -> Iterator[Server]:
    place = binaries()
    assert place is not None, "a test that needs a server is skipped where there is none"
    folder = Path(tempfile.mkdtemp(prefix="nas-pg-"))  # short: the path of a socket has at most 107 bytes
    server = Server(folder, place)
    try:
        if os.getuid() == 0:
            shutil.chown(folder, USER)
        server.run("initdb", "-A", "trust", "-U", USER, "-N")
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
