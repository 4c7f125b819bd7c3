"""Errors a person can fix: the command line prints their text and exits with 2."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

LONGEST_WORD = 300
LONGEST_SENTENCE = 3000
LONGEST_NAME = 100
MOST_NAMES = 60
"""Of what an error lists: a name from outside, and how many are legal, may be anything."""


class UserError(Exception):
    """One sentence: what is wrong, which value, what is legal, what to do.

    What it quotes comes from outside and may be of any length: it is shortened here, for every sentence alike.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(shortened(sentence))


class CheckpointError(UserError):
    """A weights file that cannot be read safely or does not fit the architecture."""


class LeftOut(UserWarning):
    """Something of a file was not read, and the rest was."""


def shortened(sentence: str) -> str:
    """The sentence with its long words cut, and without its middle where it is still too long for a person."""
    sentence = _LONG_WORD.sub(lambda word: f"{word.group(1)}[and {len(word.group(2)):,} more]", sentence)
    left_out = len(sentence) - LONGEST_SENTENCE
    if left_out <= 0:
        return sentence
    half = LONGEST_SENTENCE // 2
    return f"{sentence[:half]} [{left_out:,} characters are left out] {sentence[-half:]}"


_LONG_WORD = re.compile(rf"(\S{{{LONGEST_WORD // 2}}})(\S{{{LONGEST_WORD // 2},}})")


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
