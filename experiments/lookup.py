"""What does an `ARCH` argument name? tiny, small, base, a JSON file, STUDY#TRIAL, STUDY@50ms or STUDY@small."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from topformer.config import ANCHORS, Task, TopFormerConfig, anchor_name, named_arch
from topformer.errors import UserError

if TYPE_CHECKING:
    from experiments.store import Study, Trial


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """An architecture, and the trial it comes from where it comes from one."""

    arch: TopFormerConfig
    task: Task | None = None
    study: Study | None = None
    trial: Trial | None = None

    @property
    def label(self) -> str:
        """A name for people and for files."""
        if self.study is not None and self.trial is not None:
            return f"{self.study.name}-{self.trial.number}"
        return anchor_name(self.arch) or f"arch-{self.arch.key}"


def chosen(text: str, *, storage: str) -> Chosen:
    """Raises `UserError` saying what is legal."""
    if match := re.fullmatch(r"(?P<study>.+)#(?P<number>\d+)", text):
        return _trial(match["study"], int(match["number"]), storage)
    if match := re.fullmatch(r"(?P<study>.+)@(?P<budget>[^@]+)", text):
        return _under_budget(match["study"], match["budget"], storage)
    path = Path(text)
    if text in ANCHORS or not (path.suffix == ".json" or path.exists()):
        return Chosen(arch=_named(text))
    return _from_file(path)


def _named(text: str) -> TopFormerConfig:
    try:
        return named_arch(text)
    except UserError as error:
        raise UserError(f"{error} So do STUDY#TRIAL and STUDY@50ms.") from None


def _from_file(path: Path) -> Chosen:
    try:
        return Chosen(arch=TopFormerConfig.from_json(path.read_text(encoding="utf-8"), where=str(path)))
    except OSError as error:
        raise UserError(f"cannot read the architecture {str(path)!r} ({error.strerror}).") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file.") from None


def _trial(name: str, number: int, storage: str) -> Chosen:
    from experiments.store import Store  # an anchor or a file needs no database

    with Store.open(storage, read_only=True) as store:
        study = store.study(name)
        trials = store.trials(name)
    if number >= len(trials):
        raise UserError(f"study {name!r} has trials 0 to {len(trials) - 1}, not {number}.")
    return _chosen(study, trials[number])


def _under_budget(name: str, budget: str, storage: str) -> Chosen:
    from experiments.pareto import best_under, budget_ms
    from experiments.store import Store

    with Store.open(storage, read_only=True) as store:
        study = store.study(name)
        trials = store.trials(name)
    latency_max_ms = budget_ms(budget, trials, fidelity=study.fidelity)
    return _chosen(study, best_under(trials, latency_max_ms, fidelity=study.fidelity))


def _chosen(study: Study, trial: Trial) -> Chosen:
    return Chosen(arch=trial.candidate.arch, task=trial.candidate.task, study=study, trial=trial)
