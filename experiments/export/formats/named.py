"""Which formats are there? By the name that `--format` takes, and by the content of a file."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import cast

from experiments.export.formats import HEAD_BYTES, Format
from topformer.errors import UserError, unknown_name
from topformer.reading import ordinary_file
from topformer.version import DISTRIBUTION

FORMATS: Mapping[str, tuple[str, str]] = {
    "onnx": ("experiments.export.formats.onnx", "ONNX"),
    "onnx-int8": ("experiments.export.formats.onnx_int8", "ONNX_INT8"),
    "mnn": ("experiments.export.formats.mnn", "MNN"),
    "ncnn": ("experiments.export.formats.ncnn", "FLOAT32"),
    "ncnn-fp16": ("experiments.export.formats.ncnn", "FLOAT16"),
}
"""Module of each format and its name there: loaded when the format is asked for, and its runtime when it is used."""


def format_named(name: str) -> Format:
    """The format of that name, whether or not what it needs is installed."""
    if name not in FORMATS:
        raise unknown_name("format", name, FORMATS, advice="Several are given with commas between: onnx,mnn.")
    module, constant = FORMATS[name]
    return cast("Format", getattr(import_module(module), constant))


def formats_asked(text: str) -> tuple[Format, ...]:
    """Formats from names with commas between, each of them installed.

    Raises `UserError` for a name that is unknown or there twice, and for a format whose extra is missing.
    """
    names = [word.strip() for word in text.split(",")]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"format {twice!r} is named twice; name each once.")
    found = tuple(format_named(name) for name in names)
    for one in found:
        require_installed(one)
    return found


def require_installed(one: Format) -> None:
    """Raise `UserError`, with the command that installs it, where a package that the format needs is missing."""
    if missing := [name for name in one.packages if importlib.util.find_spec(name) is None]:
        raise UserError(
            f"format {one.name} needs {', '.join(missing)}; install with: pip install '{DISTRIBUTION}[{one.extra}]' "
            f"(or '.[{one.extra}]' in a checkout)."
        )


def format_of(path: Path) -> Format | None:
    """The format whose file this is, told by its first bytes; None for any other file.

    Raises `UserError` where the file cannot be read.
    """
    with ordinary_file(path, "the network") as file:
        head = file.read(HEAD_BYTES)
    return next((one for one in map(format_named, FORMATS) if one.recognises(head)), None)


def files_of(one: Format, first: Path) -> tuple[Path, ...]:
    """All files of an exported network, from the one that is opened first."""
    stem = first.name.removesuffix(one.suffixes[0])
    return (first, *(first.with_name(f"{stem}{suffix}") for suffix in one.suffixes[1:]))
