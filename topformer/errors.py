"""Errors a person can fix: the command line prints their text and exits with 2."""

from __future__ import annotations

from collections.abc import Iterable


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
    known = ", ".join(sorted(legal)) or "none"
    return UserError(f"unknown {what} {name!r}; available: {known}.{' ' + advice if advice else ''}")


def first_line(error: BaseException) -> str:
    """What an error of another library says, without the rest of it."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
