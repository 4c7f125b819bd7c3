"""Errors a person can fix: the command line prints their text and exits with 2."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

LONGEST_NAME = 100
MOST_NAMES = 60
"""Of what an error lists: a name from outside, and how many are legal, may be anything."""


class UserError(Exception):
    """One sentence: what is wrong, which value, what is legal, what to do."""


class CheckpointError(UserError):
    """A weights file that cannot be read safely or does not fit the architecture."""


def ran_out_of_memory(error: BaseException) -> bool:
    """torch tells it of a CPU by text alone."""
    said = str(error)
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and any(words in said for words in ("out of memory", "allocate memory", "not enough memory"))
    )


def unknown_name(what: str, name: object, legal: Iterable[str], *, advice: str = "") -> UserError:
    """The sentence for a name outside a closed set."""
    names = sorted(str(one)[:LONGEST_NAME] for one in legal)
    known = ", ".join(names[:MOST_NAMES]) or "none"
    if len(names) > MOST_NAMES:
        known += f" and {len(names) - MOST_NAMES} more"
    return UserError(
        f"unknown {what} {str(name)[:LONGEST_NAME]!r}; available: {known}.{' ' + advice if advice else ''}"
    )


def first_line(error: BaseException) -> str:
    """What an error of another library says, without the rest of it."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def located(where: str) -> Iterator[None]:
    """A user's mistake is told with the place where it was made: a file, a section or a key."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
