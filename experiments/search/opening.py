"""What must hold before a study begins or goes on: its rows, its stored configuration, its evaluator, its screens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from evaluators.base import Evaluator
from experiments.search.schedule import Schedule
from experiments.store.records import Study
from experiments.store.store import Store
from experiments.study_config import StudyConfig
from latency_lut.table import LatencyTable, find_table
from search_space import blocks, require_anchors
from topformer.errors import UserError


def opened(
    config: StudyConfig, store: Store, *, table: LatencyTable | None, evaluator: Evaluator, schedule: Schedule
) -> tuple[StudyConfig, LatencyTable]:
    """Create or reopen the stored study; gives its configuration, and the table as it was when the study began.

    The configuration is that of the file with no fewer trials than the store remembers: a study stays extended.
    Raises `UserError` for anchors outside the space, a table without a needed row, or a stored study of the same name
    with another configuration, evaluator or screens.
    """
    require_anchors(config.search_space(), config.search.anchors)
    screens = [screen.scorer.fingerprint for screen in schedule.screens]
    stored = store.find_study(config.name)
    if stored is not None and store.counts(config.name).trials:
        _require_as_before(config, store, stored, evaluator, screens)
        return config.extended(max(config.search.trials, stored.config.search.trials)), stored.table
    if stored is not None:
        store.delete_study(config.name)  # it never began: nothing is lost by beginning anew
    table = table or find_table(config.latency.table)
    require_rows(config, table)
    store.create_study(config, evaluator=evaluator.fingerprint, fidelity=evaluator.fidelity, table_text=table.text)
    store.set_screens(config.name, screens)
    return config, table


@contextmanager
def nothing_left_of_no_start(name: str, store: Store) -> Iterator[None]:
    """A study that is refused before its first trial, by a cluster that is not there for one, is none."""
    try:
        yield
    except UserError:
        if not store.counts(name).trials:
            store.delete_study(name)
        raise


def _require_as_before(
    config: StudyConfig, store: Store, stored: Study, evaluator: Evaluator, screens: list[str]
) -> None:
    """A study goes on as it began; what a trust report says of its screens may have changed since."""
    if changed := _changed_keys(stored.config.model_dump(), config.model_dump()):
        raise UserError(
            f"study {config.name!r} is in {store.url} with another {changed[0]}; restore it, give the changed study "
            f"a new name, or drop the old one with: topformer-nas study delete {config.name} "
            "(only search.trials and confirm may change)."
        )
    if stored.evaluator != evaluator.fingerprint:
        raise UserError(
            f"study {config.name!r} was evaluated by {stored.evaluator}, now it would be {evaluator.fingerprint}: "
            "results would not compare; give the study a new name."
        )
    if (before := store.screens(config.name)) != screens:
        raise UserError(
            f"study {config.name!r} began with {len(before)} of its screens in use, now it would be {len(screens)}, or "
            "others: a trust report or a supernet has changed; give the study a new name."
        )


def require_rows(config: StudyConfig, table: LatencyTable) -> None:
    """Raise `UserError` with the command that measures what the study's space needs and the table lacks."""
    missing = [block.key for block in blocks(config.search_space()) if block.key not in table.rows]
    if missing:
        name, then = config.latency.table, ""
        if table.header.estimated:  # as in MissingRows: a table of one's own, beside the shipped one
            name = f"{name}-mine"
            then = f'; then set table = "{name}" in [latency]'
        raise UserError(
            f"table {table.name} lacks {len(missing)} of the rows that study {config.name!r} needs, {missing[0]} among "
            f"them; get them with: topformer-nas latency measure --device {table.header.device} "
            f"--study FILE.toml --table {name}{then}"
        )


def _changed_keys(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Keys whose values differ; other numbers of trials and confirmations change nothing that is there."""
    changed = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            changed += _changed_keys(before, after, f"{prefix}{key}.")
        elif before != after and f"{prefix}{key}" not in ("confirm", "search.trials"):
            changed.append(f"{prefix}{key} ({before!r}, now {after!r})")
    return changed
