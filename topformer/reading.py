"""How is a file from outside read? One reader for its kind, size and text, and for numbers and depth of its content.

Whoever made the file may have meant harm: a pipe that never ends, a number of a million digits, lists in lists.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from topformer.errors import UserError, first_line

MIB = 2**20
MOST_TEXT_BYTES = 64 * MIB
MOST_DEPTH = 64
"""Tables and lists within each other."""
LARGEST_INTEGER = 2**63 - 1
MOST_VALUES = 250_000
"""Of a record, or a trial."""
_SHOWN = 200
_LONGEST_INTEGER = 20
_HALF_LETTER = re.compile(r"\\u[dD][89a-fA-F]")
_UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_DEEP_KEY = re.compile(rf"(?<![\w'\"-])(?:[\w'\"-]++[ \t]*+\.[ \t]*+){{{MOST_DEPTH},}}+")


def file_content(path: Path, what: str, *, most_bytes: int) -> bytes:
    """All of a file; `what` is what a sentence calls it, such as "the recipe".

    Raises `UserError` for what is no ordinary file, larger than `most_bytes`, or cannot be read.
    """
    with ordinary_file(path, what) as file:  # in parts: asked for all at once, memory for the limit would be taken
        content = b"".join(islice(iter(lambda: file.read(MIB), b""), most_bytes // MIB + 1))
    if len(content) > most_bytes:
        raise UserError(f"{what} {_named(path)} has over {most_bytes // MIB} MiB, which is more than this tool reads.")
    return content


@contextmanager
def ordinary_file(path: Path, what: str) -> Iterator[BinaryIO]:
    """A file that is open for reading; raises `UserError` for what is no ordinary file, or cannot be read."""
    try:
        if path.exists() and not path.is_file():  # a device or a pipe may have no end
            raise UserError(f"cannot read {what} {_named(path)} (not a file).")
        file = path.open("rb")
    except ValueError as error:  # a name that no file can have
        raise UserError(f"cannot read {what} {_named(path)} ({first_line(error)}).") from None
    except OSError as error:
        raise _unreadable(path, what, error) from None
    with file:
        try:
            yield file
        except OSError as error:
            raise _unreadable(path, what, error) from None


def file_text(path: Path, what: str, *, most_bytes: int = MOST_TEXT_BYTES) -> str:
    """The text of a file, in UTF-8 or, where its first bytes say so, UTF-16; raises `UserError` likewise."""
    content = file_content(path, what, most_bytes=most_bytes)
    try:
        return content.decode("utf-16" if content.startswith(_UTF_16_MARKS) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{str(path)[:_SHOWN]}: not a text file{_other_encoding(content, error)}.") from None


def _other_encoding(content: bytes, error: UnicodeDecodeError) -> str:
    """Where a text stops to be UTF-8, with a blank before it; empty for what is no text in any encoding."""
    if b"\0" in content:
        return "" if content.startswith(_UTF_16_MARKS) else " in UTF-8 (it holds null bytes); save it as UTF-8"
    line = content.count(b"\n", 0, error.start) + 1
    return (
        f" in UTF-8: line {line} has the byte 0x{content[error.start]:02x}, as Latin-1 and Windows' encodings write "
        "letters with accents; save it as UTF-8"
    )


def parse_json(text: str, where: str) -> Any:
    """What a JSON text says; raises `UserError` that names the source for anything that is no JSON."""
    try:
        return plain(strict_json(text))
    except (ValueError, TypeError, RecursionError) as error:  # also thousands of digits or brackets, or no text
        raise UserError(f"{where}: not JSON ({str(error)[:_SHOWN]}).") from None


def strict_json(text: str | bytes) -> Any:
    """What a JSON text says; raises `ValueError` also for what no program should believe.

    Those are numbers that are not finite or beyond 64 bits, and halves of letters. Of lists that are nested thousands
    deep it raises `RecursionError`.
    """
    text = text.decode() if isinstance(text, bytes) else text
    values = json.loads(text, parse_constant=_finite, parse_float=_finite, parse_int=_bounded)
    return _without_half_letters(values) if _HALF_LETTER.search(text) else values


def require_few(values: Any) -> None:
    """Raise `ValueError` where JSON holds more values than any record: each wrong one would get an error of its own."""
    rest, count = [values] if isinstance(values, dict | list) else [], 0
    while rest:
        value = rest.pop()
        inside = value.values() if isinstance(value, dict) else value
        count += len(inside)
        if count > MOST_VALUES:
            raise ValueError(f"it has over {MOST_VALUES:,} values")
        rest += [one for one in inside if isinstance(one, dict | list)]


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """What a TOML text says; raises `UserError` that names the source for anything that is no TOML."""
    if _DEEP_KEY.search(text):  # the parser itself would take gigabytes for a key of 100,000 parts
        raise UserError(f"{where}: not TOML (a key has more than {MOST_DEPTH} parts).")
    try:
        found: dict[str, Any] = plain(tomllib.loads(text))
    except (ValueError, RecursionError) as error:  # also too long a number, too deep a list
        raise UserError(f"{where}: not TOML ({str(error)[:_SHOWN]}).") from None
    return found


def plain(values: Any) -> Any:
    """The same values; raises `ValueError` for integers beyond 64 bits, and for lists and tables nested too deeply."""
    rest = [(values, 0)]
    while rest:
        value, depth = rest.pop()
        if depth > MOST_DEPTH:
            raise ValueError(f"it is nested more than {MOST_DEPTH} deep")
        if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
            raise ValueError("an integer has more than 64 bits")
        if isinstance(value, dict):
            rest += [(one, depth + 1) for one in value.values()]
        elif isinstance(value, list):
            rest += [(one, depth + 1) for one in value]
    return values


def _without_half_letters(values: Any) -> Any:
    """The same values; raises `ValueError` for letters of UTF-16 that are cut in two: no file can hold them."""
    try:
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("a letter is cut in two (a surrogate)") from None
    return values


def _bounded(text: str) -> int:
    if len(text) > _LONGEST_INTEGER or abs(number := int(text)) > LARGEST_INTEGER:
        raise ValueError("an integer has more than 64 bits")
    return number


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text[:20]} is no finite number")
    return number


def _unreadable(path: Path, what: str, error: OSError) -> UserError:
    return UserError(f"cannot read {what} {_named(path)} ({error.strerror or first_line(error)}).")


def _named(path: Path) -> str:
    return repr(str(path)[:_SHOWN])
