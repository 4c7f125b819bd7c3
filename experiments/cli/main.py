"""The `topformer-nas` command, from its start to its exit code: mistakes are sentences, whatever happens."""

import sys
import warnings
from typing import NoReturn, TextIO

from experiments.cli.streams import Stops, begin_again_in_utf8, give_up, text_streams
from topformer.errors import LeftOut, UserError, ran_out_of_memory, shortened

STOPPED = 130


def main() -> None:
    """Run the command line; a mistake of the user's is one sentence on standard error and exit code 2."""
    begin_again_in_utf8()
    with text_streams(), Stops.awaited() as stops, warnings.catch_warnings():
        warnings.showwarning = _note
        warnings.simplefilter("always", LeftOut)
        try:
            code = _run()
            sys.stdout.flush()
        except BrokenPipeError:
            give_up(sys.stdout)
            code = 1
        except BaseException as error:  # what a library makes of being stopped may be anything
            if not (stops.asked or isinstance(error, KeyboardInterrupt)):
                _fail_by(error)
            code = STOPPED
        if code == STOPPED:
            _tell("stopped; the same command goes on from here.")
        sys.exit(code)


def _run() -> int:
    """The exit code. All but the lightest imports wait, so that to be stopped meanwhile is no error."""
    import typer

    from experiments.cli.commands import app

    if "" in sys.argv[1:]:
        _fail("an argument is empty; is it a variable of the shell that was not set?")
    if strange := next((word for word in sys.argv[1:] if not _is_text(word)), None):
        _fail(f"argument {strange!r} is not UTF-8; rename the file or folder.")
    try:
        code = app(standalone_mode=False)
    except typer.TyperException as error:
        sentence = error.format_message()
        if sentence.startswith("Usage:"):  # a command group without a command
            print(sentence)
            return 2
        _fail(f"{sentence.rstrip('.')}. See topformer-nas --help.")
    except typer.Abort:
        return STOPPED
    return code if isinstance(code, int) else 0


def _fail_by(error: BaseException) -> NoReturn:
    """Say what a person can mend; raise what is nobody's mistake but ours."""
    match error:
        case UserError():
            _fail(str(error))
        case OSError():
            _flush()
            where = f": {str(error.filename)[:200]}" if error.filename else ""
            _fail(f"{error.strerror or error}{where}; nothing is lost.")
        case MemoryError() | RuntimeError() if ran_out_of_memory(error):
            _fail("out of memory; choose a smaller network or image, or fewer workers.")
    raise error


def _note(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """A warning of ours is a sentence; those of libraries are told as Python does."""
    if issubclass(category, LeftOut):
        _tell(f"note: {shortened(str(message))}")
    else:
        _tell(warnings.formatwarning(message, category, filename, lineno, line).rstrip())


def _flush() -> None:
    """What a full disk does not take is told of once, not again when the process ends."""
    try:
        sys.stdout.flush()
    except OSError:
        give_up(sys.stdout)


def _is_text(word: str) -> bool:
    """What the shell gave as other bytes can be neither printed nor kept."""
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def _fail(sentence: str) -> NoReturn:
    _tell(f"error: {shortened(' '.join(sentence.split()))}")
    sys.exit(2)


def _tell(sentence: str) -> None:
    try:
        print(sentence, file=sys.stderr, flush=True)
    except OSError:
        give_up(sys.stderr)
