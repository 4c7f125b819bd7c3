"""How is a file written so that it is whole or not there?"""

from __future__ import annotations

import errno
import os
from pathlib import Path

_DATABASE = b"SQLite format 3\0"


def write_whole(path: Path, content: bytes) -> None:
    """The old file stays until the new one is on the disk.

    Raises `OSError` with the path, also where a folder, a device or a database is in the place.
    """
    if not path.name or path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists() and not path.is_file():
        raise OSError(errno.EEXIST, "this is no ordinary file", str(path))
    if path.is_file() and _starts_with(path, _DATABASE):
        raise OSError(errno.EEXIST, "this is a database, which is not overwritten", str(path))
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None  # what failed to write has no name of its own
    finally:
        partial.unlink(missing_ok=True)


def require_writable(folder: Path) -> None:
    """Raise `OSError` where files could not be written into a folder, which need not be there yet; creates nothing."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(there))
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(there))


def _starts_with(path: Path, start: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(start)) == start
    except OSError:
        return False
