"""What does a latency-table key say? The format of the texts that name the rows of every table, and its reader.

A key is all that decides a block's time, and nothing else: the block's kind, its settings and the shapes it runs on.
Tables that were measured elsewhere hold these texts, so a text once written may never change. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from topformer.errors import LONGEST_NAME, UserError

KEY_VERSION = 1
"""Version of the format. Raise it if a block that can be built today would get another key: its rows are then lost."""

Shape = tuple[int, int, int]
"""(channels, height, width) of one image's feature map."""

SIZE_SETTINGS = frozenset(
    {
        "channels",
        "in_channels",
        "hidden_channels",
        "out_channels",
        "local_channels",
        "semantic_channels",
        "num_heads",
        "key_dim",
        "num_classes",
    }
)
"""Settings that make a block larger, and so slower; every other setting makes it another block."""

_NUMBER = r"(?:0|[1-9][0-9]*)"
_SHAPE = rf"{_NUMBER}x{_NUMBER}x{_NUMBER}"
_SETTING = rf"[a-z][a-z0-9_]*=(?:{_NUMBER}|[a-z][a-z0-9_]*)"
_KEY = re.compile(
    rf"(?P<kind>[a-z][a-z0-9_]*)\((?P<settings>(?:{_SETTING}(?:,{_SETTING})*)?)\) "
    rf"(?:(?P<inputs>{_SHAPE}(?:\+{_SHAPE})*)->)?(?P<output>{_SHAPE})"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ParsedKey:
    """What a key says of its block."""

    kind: str
    settings: Mapping[str, int | str]
    """In the order the key has them; yes and no are 1 and 0."""
    inputs: tuple[Shape, ...]
    """Empty for a concatenation: its time depends on how much it copies, not on where one input ends."""
    output: Shape


def write_key(kind: str, settings: Mapping[str, object], inputs: tuple[Shape, ...], output: Shape) -> str:
    """The key `kind(setting=value,...) CxHxW+CxHxW->CxHxW`, without the inputs and the arrow where there are none.

    This is a file format: `parse_key` reads it, and every user's tables hold such texts.
    """
    values = {name: int(value) if isinstance(value, bool) else value for name, value in settings.items()}
    listed = ",".join([f"{name}={value}" for name, value in values.items()])
    arrow = "+".join(map(_text, inputs)) + "->" if inputs else ""
    return f"{kind}({listed}) {arrow}{_text(output)}"


def parse_key(key: str) -> ParsedKey:
    """What a text that `write_key` wrote says; UserError for any other."""
    match = _KEY.fullmatch(key)
    if match is None:
        raise UserError(
            f"{key[:LONGEST_NAME]!r} is no latency-table key; one reads like 'resize(channels=150) "
            "150x64x64->150x512x512'. Take keys as the rows of a table have them."
        )
    settings = (item.split("=") for item in match["settings"].split(",") if item)
    return ParsedKey(
        kind=match["kind"],
        settings={name: int(value) if value.isdigit() else value for name, value in settings},
        inputs=tuple(map(_shape, match["inputs"].split("+"))) if match["inputs"] else (),
        output=_shape(match["output"]),
    )


def kind_of(key: str) -> str:
    """The kind of block that a key names, without reading the rest of it."""
    return key.partition("(")[0]


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape))


def _shape(text: str) -> Shape:
    channels, height, width = map(int, text.split("x"))
    return channels, height, width
