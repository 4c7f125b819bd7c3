"""How does the command meet its terminal and its shell? Closed streams, foreign text, and being told to stop.

Light: it is at work before anything else is imported.
"""

import codecs
import contextlib
import os
import re
import signal
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO, cast

_UNSEEN = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e0fff]"
)
"""What moves a cursor, colours, renames a window, turns round or hides text; all but new lines and tabs."""


def visible(text: str) -> str:
    """The text with its control characters written out, as Python writes them: a file's text commands no terminal."""
    return _UNSEEN.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


class TextOnly:
    """A stream that text is printed to, and nothing else; `beneath` is for who draws on a terminal."""

    def __init__(self, beneath: TextIO) -> None:
        self.beneath = beneath

    def write(self, text: str) -> int:
        self.beneath.write(visible(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.beneath, name)


@contextlib.contextmanager
def text_streams() -> Iterator[None]:
    """Standard output and error that are open, take every letter, and give text alone to the terminal."""
    before = sys.stdout, sys.stderr
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # `>&-`: the next file to be opened would have its number, and be printed to
            os.open(os.devnull, os.O_RDWR)
    streams = [stream or open(os.devnull, "w", encoding="utf-8") for stream in before]  # noqa: SIM115, PTH123
    for stream in streams:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = (cast("TextIO", TextOnly(stream)) for stream in streams)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def begin_again_in_utf8() -> None:
    """Where the shell's language has ASCII alone, files of other names could not be named: Python is told otherwise."""
    if codecs.lookup(sys.getfilesystemencoding()).name == "ascii":
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, "PYTHONUTF8": "1"})


def give_up(stream: TextIO) -> None:
    """Who read it is gone: what is still to be written to it goes nowhere, without another error."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class Stops:
    """Ends by Ctrl-C, and polite ends of the process, which are alike."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, _number: int, _frame: object) -> None:
        self.asked = True
        raise KeyboardInterrupt

    def _swallowed(self, what: Any) -> None:
        """Some code of a library's can raise nothing, and Python would go on after a traceback."""
        if isinstance(what.exc_value, KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        else:
            sys.__unraisablehook__(what)

    @classmethod
    @contextlib.contextmanager
    def awaited(cls) -> Iterator["Stops"]:
        stops, before = cls(), sys.unraisablehook
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stops)
        if before is sys.__unraisablehook__:
            sys.unraisablehook = stops._swallowed
        try:
            yield stops
        finally:
            sys.unraisablehook = before
