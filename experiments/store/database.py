"""How is the database of a URL opened, and which sentence says what is wrong with it?"""

from __future__ import annotations

import functools
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import FunctionType
from typing import Any, TypeVar
from urllib.parse import quote

from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DataError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
    ProgrammingError,
)
from sqlalchemy.pool import NullPool

from experiments import without_password
from experiments.store.artefacts import Artefacts
from topformer.errors import UserError, first_line

ARTEFACTS = ".artefacts"
ARTEFACTS_VARIABLE = "TOPFORMER_NAS_ARTEFACTS"
"""Names the folder of weights where the database is no file; it may be a mounted bucket."""
BUSY_TIMEOUT_S = 30
PATIENCE_S = 120.0
"""For a database server to come back."""
RETRY_S = 0.5


class ConnectionLost(UserError):  # noqa: N818, what happened, not an error of a person's
    """A database server went away in the middle of something: restarted, often, and soon back."""


BEGUN_AGAIN: ContextVar[bool] = ContextVar("begun_again", default=False)
"""Whether the transaction is not the first try, so that what it is to write may be written already."""
T = TypeVar("T")


def outlasting(kind: type[T]) -> type[T]:
    """A class each of whose public methods is a transaction that is begun again where the server went away meanwhile.

    Whether the server still kept what it was told last is not known then, so that each must do no harm when it is done
    twice. Raises `ConnectionLost` when the server stays away.
    """
    for name, method in list(vars(kind).items()):
        if isinstance(method, FunctionType) and not name.startswith("_"):
            setattr(kind, name, _begun_again(method))
    return kind


def _begun_again(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def lasting(*arguments: Any, **named: Any) -> Any:
        arguments = tuple(list(one) if isinstance(one, Iterator) else one for one in arguments)
        named = {name: list(one) if isinstance(one, Iterator) else one for name, one in named.items()}
        end = time.monotonic() + PATIENCE_S
        again = BEGUN_AGAIN.set(False)
        try:
            while True:
                try:
                    return method(*arguments, **named)
                except ConnectionLost:
                    if time.monotonic() > end:
                        raise
                    time.sleep(RETRY_S)
                    BEGUN_AGAIN.set(True)
        finally:
            BEGUN_AGAIN.reset(again)

    return lasting


def sqlite_file(url: str, *, suffix: str) -> Path | None:
    """A file beside that of a SQLite store; None for a server's database."""
    parsed = make_url(url)
    file = Path(str(parsed.database))
    return file.with_name(file.name + suffix) if parsed.get_backend_name() == "sqlite" else None


def engine_of(url: str, *, create: bool, read_only: bool) -> tuple[Engine, Artefacts]:
    shown = without_password(url)
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise UserError(
            f"storage {shown!r} is not a database URL; use sqlite:///FILE or postgresql://USER@HOST/NAME."
        ) from None
    if parsed.get_backend_name() != "sqlite":
        try:
            engine = create_engine(parsed, pool_pre_ping=True)
            return engine, Artefacts(os.environ.get(ARTEFACTS_VARIABLE) or f"topformer-nas{ARTEFACTS}")
        except (NoSuchModuleError, ModuleNotFoundError) as error:
            raise UserError(f"storage {shown!r} needs a database driver that is not installed ({error}).") from None
    if "?" in url:
        raise UserError(
            f"storage {shown!r}: what follows '?' has no meaning for a file; write a '?' in its name as %3F."
        )
    if not parsed.database or parsed.database == ":memory:":
        raise UserError(
            "storage must be a file, sqlite:///FILE: workers and the dashboard cannot see a database in memory."
        )
    path = Path(parsed.database)
    if not path.is_file() and not create:
        raise UserError(
            f"no database {str(path)!r}; launch a study first: topformer-nas search quickstart --storage {shown}"
        )
    if path.is_dir():
        raise UserError(f"storage {str(path)!r} is a folder; name a file.")
    if create:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot make the folder {str(path.parent)!r} for the database ({error.strerror})."
            ) from None
    opened = f"file:{quote(str(path.absolute()))}?mode={'ro' if read_only else 'rwc' if create else 'rw'}"
    if read_only and not os.access(path.parent, os.W_OK) and not path.with_name(f"{path.name}-wal").exists():
        opened += "&immutable=1"  # nothing can change, and the index of a write-ahead log could not be made there

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(opened, uri=True, timeout=BUSY_TIMEOUT_S)

    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)
    if not read_only:
        event.listen(engine, "connect", _tune_sqlite)
    return engine, Artefacts(f"{path}{ARTEFACTS}")


def await_server(engine: Engine) -> None:
    """A server that was there may be restarted beneath a study of hours; a file is there or is not."""
    if engine.dialect.name == "sqlite":
        return
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            with engine.connect():
                return
        except OperationalError:
            if time.monotonic() > end:
                raise
            time.sleep(RETRY_S)


def _tune_sqlite(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


@contextmanager
def one_sentence(whole_url: str) -> Iterator[None]:
    """Turn what a person can mend about a database into one sentence, which shows no password of its URL."""
    url = without_password(whole_url)

    def cause(error: DBAPIError) -> str:
        return without_password(whole_url, told=first_line(error.orig or error))

    try:
        yield
    except DBAPIError as error:
        if _went_away(error):
            raise ConnectionLost(
                f"database {url} cannot be used: {cause(error)}. Start it again and run the same command; nothing "
                "written so far is lost."
            ) from error
        with _sentence_of(url, cause):
            raise
    except UnicodeDecodeError as error:  # a damaged name of a table or column
        raise UserError(f"database {url} is damaged ({first_line(error)}); restore a backup.") from error
    except OverflowError as error:  # SQLite's sizes of integers
        raise UserError(f"{url} cannot keep this, nothing was written: {first_line(error)}.") from error


def _went_away(error: DBAPIError) -> bool:
    """Whether a server closed the connection, or is not up yet, by PostgreSQL's codes; a file is there or is not."""
    code = getattr(error.orig, "sqlstate", None)
    if isinstance(error.orig, sqlite3.Error):
        return False
    if error.connection_invalidated or code in ("57P01", "57P02", "57P03") or str(code).startswith("08"):
        return True
    return code is None and isinstance(error, OperationalError | InterfaceError)


@contextmanager
def _sentence_of(url: str, cause: Callable[[DBAPIError], str]) -> Iterator[None]:
    try:
        yield
    except (OperationalError, ProgrammingError) as error:
        if _misses_a_table(error):
            raise UserError(
                f"{url} lacks a table or column of this tool ({cause(error)}): it was edited, or is damaged; restore "
                "a backup."
            ) from error
        if isinstance(error, ProgrammingError) and error.statement is not None:
            raise
        raise UserError(
            f"database {url} cannot be used: {cause(error)}. "
            "Check that it exists, is not read-only, locked or full, and try again; nothing written so far is lost."
        ) from error
    except IntegrityError as error:
        raise UserError(
            f"another process wrote to {url} at the same moment, or its content is damaged ({cause(error)}); "
            "nothing was written, run the same command again."
        ) from error
    except DataError as error:  # PostgreSQL's sizes of texts
        raise UserError(f"{url} cannot keep this, nothing was written: {cause(error)}.") from error
    except DatabaseError as error:
        if "not a database" in str(error) or "malformed" in str(error):
            raise UserError(f"{url} is not a database of this tool, or is damaged: {cause(error)}.") from error
        raise


def _misses_a_table(error: DatabaseError) -> bool:
    """By SQLite's words, or PostgreSQL's codes of undefined tables and columns."""
    return "no such" in str(error.orig) or getattr(error.orig, "sqlstate", None) in ("42P01", "42703")
