"""What does an `ARCH` argument name? tiny, small, base, base-cityscapes, a JSON file, STUDY#TRIAL, STUDY@50ms or
STUDY@small."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from evaluators.base import short_names
from experiments.front.confidence import MOST_COMPARED
from experiments.front.pareto import nearest, non_dominated
from latency_lut import tables
from latency_lut.table import LatencyTable, find_table
from topformer.config import ANCHORS, Task, TopFormerConfig, anchor_name, named_arch, parse_image_size
from topformer.errors import UserError, unknown_name
from topformer.published import CITYSCAPES
from topformer.reading import MIB, file_text, parse_json

if TYPE_CHECKING:
    from experiments.store.records import Outlines, Study, Trial
    from experiments.store.store import Store

CARD_FORMAT = 1
"""Version of an export's card; a card that does not say it is of this one. See docs/formats.md."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """An architecture, and the trial it comes from where it comes from one."""

    text: str
    """The `ARCH` that names it again."""
    arch: TopFormerConfig
    task: Task | None = None
    study: Study | None = None
    trial: Trial | None = None

    @property
    def label(self) -> str:
        """A name for people and for files."""
        if self.study is not None and self.trial is not None:
            return f"{self.study.name}-{self.trial.number}"
        if self.text in CITYSCAPES:
            return self.text
        return anchor_name(self.arch) or f"arch-{self.arch.key}"


def chosen(text: str, *, storage: str, fidelity: str | None = None) -> Chosen:
    """A trial is as the study's own fidelity has it, or as a confirmation does.

    Raises `UserError` saying what is legal.
    """
    if match := re.fullmatch(r"(?P<study>.+)#(?P<number>\d{1,9})", text):
        return _trial(match["study"], int(match["number"]), storage, fidelity)
    if match := re.fullmatch(r"(?P<study>.+)@(?P<budget>[^@]+)", text):
        return _under_budget(match["study"], match["budget"], storage, fidelity)
    if fidelity is not None:
        raise UserError(f"--fidelity is of a study's trials; {text!r} is none: give STUDY#TRIAL or STUDY@50ms.")
    if text in CITYSCAPES:
        return Chosen(text=text, arch=CITYSCAPES[text].arch, task=CITYSCAPES[text].task)
    path = Path(text)
    if text in ANCHORS or not (path.suffix == ".json" or _is_there(path)):
        return Chosen(text=text, arch=_named(text))
    return _from_file(text, path)


def task_of(
    found: Chosen | None,
    size: str | None,
    classes: int | None,
    *,
    output: str = "logits",
    classification: bool = False,
) -> Task:
    """The task asked for; what is not given is the trial's, or the published one's."""
    base = found.task if found is not None else None
    base = base or (Task(kind="classification", image_size=(224, 224), num_classes=1000) if classification else Task())
    return Task(
        kind="classification" if classification else "segmentation",
        image_size=parse_image_size(size) if size is not None else base.image_size,
        num_classes=classes if classes is not None else base.num_classes,
        output=output,  # type: ignore[arg-type]  # checked by Task
    )


def table_of(found: Chosen, name: str | None) -> LatencyTable:
    """The latency table asked for; where none is, the one that priced the trial, or the Snapdragon 865's."""
    if name is None and found.study is not None:
        return found.study.table
    return find_table(tables.SNAPDRAGON_865 if name is None else name)


def _named(text: str) -> TopFormerConfig:
    try:
        return named_arch(text)
    except UserError as error:
        raise UserError(f"{error} So do STUDY#TRIAL and STUDY@50ms, and {' and '.join(CITYSCAPES)}.") from None


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _from_file(argument: str, path: Path) -> Chosen:
    """An architecture's JSON, or the card of an export."""
    values = parse_json(file_text(path, "the architecture", most_bytes=MIB), where=str(path))
    if not (isinstance(values, dict) and isinstance(values.get("architecture"), dict)):
        return Chosen(text=argument, arch=TopFormerConfig.from_dict(values, where=str(path)))
    if (said := values.get("format", CARD_FORMAT)) != CARD_FORMAT:
        raise UserError(
            f"{path} is a card of format {str(said)[:20]}, this tool reads {CARD_FORMAT}; save its "
            '"architecture" alone as a JSON file.'
        )
    task = Task.from_dict(values.get("task", {}), where=f"{path}, task")
    arch = TopFormerConfig.from_dict(values["architecture"], where=str(path))
    return Chosen(text=argument, arch=arch, task=task)


def _trial(name: str, number: int, storage: str, fidelity: str | None) -> Chosen:
    from experiments.store.store import Store  # an anchor or a file needs no database

    with Store.open(storage, read_only=True) as store:
        study = store.study(name)
        found = store.trials(name, numbers=[number])
        known = store.counts(name).trials
        if found and fidelity not in (None, study.fidelity):
            study, confirmed = at_rung(store, name, fidelity)
            if not (found := tuple(trial for trial in confirmed if trial.number == number)):
                numbers = ", ".join(str(trial.number) for trial in confirmed) or "none"
                raise UserError(
                    f"trial {number} of study {name!r} was not confirmed by {fidelity}; those are {numbers}."
                )
    if not found:
        there = f"trials 0 to {known - 1}" if known else "no trials yet"
        raise UserError(f"study {name!r} has {there}, not {number}.")
    return _chosen(f"{name}#{number}", study, found[0])


def _under_budget(name: str, budget: str, storage: str, fidelity: str | None) -> Chosen:
    if name in ANCHORS:
        raise UserError(
            f"{name}@{budget}: {name} is an anchor, not a study; its image size is said with --size {budget}."
        )
    from experiments.front.pareto import best_under, budget_ms
    from experiments.store.store import Store

    with Store.open(storage, read_only=True) as store:
        study, trials = at_rung(store, name, fidelity, every=False)
    latency_max_ms = budget_ms(budget, trials, fidelity=study.fidelity)
    return _chosen(f"{name}@{budget}", study, best_under(trials, latency_max_ms, fidelity=study.fidelity))


def _chosen(text: str, study: Study, trial: Trial) -> Chosen:
    return Chosen(text=text, arch=trial.candidate.arch, task=trial.candidate.task, study=study, trial=trial)


def at_rung(store: Store, name: str, label: str | None, *, every: bool = True) -> tuple[Study, tuple[Trial, ...]]:
    """A study and its trials, as its own fidelity has them or as one of its confirmations does.

    Unless `every` is wanted, only those that decide what is said of the front: of a large study the others take long
    to read.
    """
    study = store.study(name)
    short = short_names([study.fidelity, *(rung.label for rung in study.rungs)])
    label = next((full for full, one in short.items() if label in (full, one)), label)
    if label is None or label == study.fidelity:
        return study, store.trials(name, numbers=None if every else leading(store.outlines(name)))
    rung = next((rung for rung in study.rungs if rung.label == label), None)
    if rung is None:
        raise unknown_name("fidelity", label, short.values())
    return replace(study, fidelity=label, evaluator=rung.evaluator), store.confirmed(name, rung)


def leading(outlines: Outlines) -> list[int]:
    """Numbers of the front, of as many near it as are compared, of the anchors and the slowest of the first batch."""
    done = np.flatnonzero(~np.isnan(outlines.miou_pct))
    known = np.stack([outlines.total_ms[done], outlines.miou_pct[done]], axis=1)
    near = done[list(nearest(known, MOST_COMPARED))], done[list(non_dominated(known))]
    chosen = [*near, np.flatnonzero(outlines.is_anchor)]
    if len(first := np.flatnonzero(outlines.batch == 0)):
        chosen.append(first[[np.argmax(outlines.total_ms[first])]])
    return [int(number) for number in outlines.number[np.unique(np.concatenate(chosen))]]
