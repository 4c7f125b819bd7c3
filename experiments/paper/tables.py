"""Which tables does the paper have, and what is in them? One TOML file each, read by name."""

from __future__ import annotations

import importlib.resources
import re
from functools import cache
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, PositiveInt, ValidationError

from evaluators.trust import Ordering, published_orderings
from experiments.store.records import first_mistake
from experiments.study_config import Strict
from topformer.config import Candidate, Task, TopFormerConfig, named_arch, parse_image_size
from topformer.errors import UserError, located, unknown_name
from topformer.reading import parse_toml

FOLDER = "experiments.studies.paper"
ADE20K = "mIoU on ADE20K val, %"
_NUMBER = r"[0-9]{1,6}(\.[0-9]{1,4})?"

Figure = Annotated[str, Field(pattern=f"^{_NUMBER}$")]
"""A published number as it is printed: its digits say how far it was rounded."""


def _size(text: str) -> str:
    parse_image_size(text)
    return text


class Published(Strict):
    """What the paper prints in a row; None where it prints nothing, or where the number is not at hand."""

    params_m: Figure | None = None
    flops_g: Figure | None = None
    """Multiply-adds as fvcore counts them."""
    score: Figure | None = None
    """In the measure of the table."""
    latency_ms: Figure | None = None


class Row(Strict):
    """A network of a table: one of ours by its anchor and what is changed, or a row of the paper alone."""

    name: str
    arch: str | None = None
    changes: dict[str, Any] = Field(default_factory=dict)
    size: Annotated[str, AfterValidator(_size)] = "512x512"
    classes: PositiveInt = 150
    classification: bool = False
    published: Published = Published()
    params: Literal["trainable", "with-buffers"] = "trainable"
    """How the published parameters were counted: running means and variances of batch norms are buffers."""
    flops: Literal["fvcore", "without-norms"] = "fvcore"
    """How the published multiply-adds were counted: by fvcore, or without its 2 for each element of a batch norm."""
    flops_changes: dict[str, Any] = Field(default_factory=dict)
    """How the network of the published multiply-adds differs from the released one."""

    @property
    def candidate(self) -> Candidate | None:
        """The network and its task; None for a row of the paper alone."""
        return (
            None if self.arch is None else Candidate(arch=_changed(named_arch(self.arch), self.changes), task=self.task)
        )

    @property
    def counted(self) -> Candidate | None:
        """The network that the published multiply-adds are of."""
        own = self.candidate
        return None if own is None else Candidate(arch=_changed(own.arch, self.flops_changes), task=own.task)

    @property
    def task(self) -> Task:
        return Task(
            kind="classification" if self.classification else "segmentation",
            image_size=parse_image_size(self.size),
            num_classes=self.classes,
        )


class PaperTable(Strict):
    """A table of the paper as its file states it."""

    name: str
    title: str
    question: str
    source: str
    measure: str = ADE20K
    """What the column of scores is."""
    shows: Literal["costs", "shares", "configurations"] = "costs"
    """What is printed of its networks: costs and scores, shares of the modules, or their rows."""
    trains: bool = True
    """Whether its mIoU is found again on whatever data set: not where the table is about a data set of its own."""
    note: str | None = None
    rows: Annotated[list[Row], Field(min_length=1)]

    @classmethod
    def from_toml(cls, name: str, text: str) -> Self:
        """Raises `UserError` naming the file and the key that is wrong."""
        where = f"{name}.toml"
        with located(where):
            try:
                return cls.model_validate({"name": name, **parse_toml(text, where)})
            except ValidationError as error:
                raise UserError(f"{first_mistake(error)}.") from None

    @property
    def orderings(self) -> tuple[Ordering, ...]:
        """What the paper states of two networks that are both in this table, on one task."""
        own = {row.candidate.arch for row in self.rows if row.candidate is not None and self.trains}
        return tuple(one for one in published_orderings() if one.first in own and one.second in own)


@cache
def paper_tables() -> dict[str, PaperTable]:
    """All of them by name, in the order of the paper."""
    files = importlib.resources.files(FOLDER)
    names = [item.name.removesuffix(".toml") for item in files.iterdir() if item.name.endswith(".toml")]
    return {
        name: PaperTable.from_toml(name, (files / f"{name}.toml").read_text(encoding="utf-8"))
        for name in sorted(names, key=_place)
    }


def paper_table(name: str) -> PaperTable:
    """Raises `UserError` naming all that there are."""
    known = paper_tables()
    if name not in known:
        raise unknown_name("table of the paper", name, known)
    return known[name]


def _place(name: str) -> tuple[bool, int, str]:
    """The paper before its supplement, by number."""
    number = re.search(r"[0-9]+", name)
    return name.startswith("supplementary"), int(number[0]) if number else 0, name


def _changed(arch: TopFormerConfig, changes: dict[str, Any]) -> TopFormerConfig:
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in changes.items()}
    return arch.replace(**values) if values else arch
