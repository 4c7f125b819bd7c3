"""Is a bundle what it says? All that its own `verify.py` checks, by our copy of that, and what only this tool knows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.export import verify
from experiments.front.lookup import CARD_FORMAT
from topformer.blocks import decompose
from topformer.config import Task, TopFormerConfig, anchor_name
from topformer.errors import UserError


def verified(folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(what is wrong, what was done). Nothing of the bundle is run but its networks, each by its runtime.

    Raises `UserError` where there is no folder.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {str(folder)!r} to verify; name one that export wrote with --out.")
    problems, notes = verify.check(folder)
    if not problems:
        problems += _told_by_this_tool(folder)
    return tuple(problems), tuple(notes)


def _told_by_this_tool(folder: Path) -> Iterator[str]:
    card = verify.read_card(folder)
    if (said := card.get("format")) != CARD_FORMAT:
        yield f"the card is of format {str(said)[:20]}, this tool reads {CARD_FORMAT}"
        return
    if (folder / verify.SELF).read_bytes() != Path(verify.__file__).read_bytes():
        yield f"{verify.SELF} is not that of this version of the tool ({card['made_by']['topformer-nas']} made it)"
    try:
        arch, task = TopFormerConfig.from_dict(card["architecture"]), Task.from_dict(card["task"])
    except UserError as error:
        yield f"the card: {error}"
        return
    yield from _wrong_counts(card, arch, task)


def _wrong_counts(card: dict[str, Any], arch: TopFormerConfig, task: Task) -> Iterator[str]:
    """Blocks are counted again from the architecture."""
    blocks = [
        {"name": one.name, "parameters": one.parameters, "macs": one.macs, "output": list(one.output)}
        for one in decompose(arch, task)
    ]
    if blocks != card["blocks"]:
        yield "the card's blocks are not those of its architecture"
    if anchor_name(arch) != card["anchor"]:
        yield f"the card calls its architecture {card['anchor']}, it is {anchor_name(arch)}"
