"""Where are the weights of a store? In a folder, or in object storage, read and written through a local copy.

Object storage is any URL that fsspec knows: s3://bucket/folder with s3fs, gs://bucket/folder with gcsfs, ...
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec

from experiments import without_password
from topformer.cache import cache_folder
from topformer.errors import UserError


class Artefacts:
    """Files by name. Raises `UserError` where object storage is not reachable, or its package is missing."""

    def __init__(self, location: str) -> None:
        self.location = location
        self._remote: Any = None  # fsspec has no types
        self._prefix = ""
        if "://" not in location:
            self.folder = Path(location)
            return
        with self._reachable():
            self._remote, self._prefix = fsspec.url_to_fs(location.rstrip("/"))
        self.folder = cache_folder() / "artefacts" / hashlib.sha256(location.rstrip("/").encode()).hexdigest()[:16]

    def path(self, name: str) -> Path:
        """Where a file is written, and then given to `keep`. Raises `ValueError` for what is no plain file name.

        Names come from databases, which may be somebody else's: a path would reach files outside the folder.
        """
        if name in ("", ".", "..") or any(sign in name for sign in "/\\:\0"):
            raise ValueError(f"{name[:100]!r} is no plain file name")
        return self.folder / name

    def keep(self, name: str) -> None:
        """Bring a written file to object storage."""
        path = self.path(name)
        if self._remote is not None:
            with self._reachable():
                self._remote.makedirs(self._prefix, exist_ok=True)
                self._remote.put_file(str(path), self._url(name))

    def fetched(self, name: str, *, sha256: str | None) -> Path | None:
        """The local file, brought from object storage where none of this checksum is here; None where there is none."""
        path = self.path(name)
        if self._remote is not None and not (path.is_file() and file_sha256(path) == sha256):
            with self._reachable():
                if not self._remote.exists(self._url(name)):
                    return None
                path.parent.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                    self._remote.get_file(self._url(name), str(Path(folder) / name))
                    (Path(folder) / name).replace(path)
        return path if path.is_file() else None

    def delete(self, name: str) -> None:
        """Delete a file that may be gone already. Raises `ValueError` as `path` does, before anything is deleted."""
        self.path(name).unlink(missing_ok=True)
        if self._remote is not None:
            with self._reachable():
                if self._remote.exists(self._url(name)):
                    self._remote.rm_file(self._url(name))

    def _url(self, name: str) -> str:
        return f"{self._prefix}/{name}"

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of whichever package the URL's scheme belongs to
            told = " ".join(str(error).split()) or type(error).__name__
            reason, shown = without_password(self.location, told=told), without_password(self.location)
            raise UserError(
                f"the weights' place {shown!r} cannot be used ({reason}); "
                "name a folder, or a URL as s3://BUCKET/FOLDER whose package and credentials are here."
            ) from error


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
