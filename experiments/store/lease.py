"""Who drives a study? One process at a time, by a lease that it renews and that runs out when it is gone."""

from __future__ import annotations

import socket
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import CursorResult, update

from experiments.store.database import outlasting
from experiments.store.rows import now, study_row
from experiments.store.schema import StudyRow
from topformer.errors import UserError

if TYPE_CHECKING:
    from experiments.store.store import Store

LEASE = timedelta(seconds=60)
RENEWAL_S = 5.0
"""Sooner a lease is not prolonged again: trials may take less."""


@outlasting
class Lease:
    """The right to drive a study, renewed by `beat`."""

    def __init__(self, store: Store, name: str, owner: str) -> None:
        self._store = store
        self._name = name
        self._owner = owner
        self._renewed = 0.0

    def take(self) -> None:
        with self._store.session() as session:
            row = study_row(session, self._name, lock=True)
            if (driver := driver_of(row)) and driver != self._owner:
                raise UserError(
                    f"study {self._name!r} is being driven by {driver} (lease until {row.lease_until}); "
                    "wait for it, or stop it first."
                )
            taken = session.execute(
                update(StudyRow)
                .where(StudyRow.id == row.id, StudyRow.lease_owner.is_not_distinct_from(row.lease_owner))
                .values(lease_owner=self._owner, lease_until=_lease_end())
            )
            if cast("CursorResult[Any]", taken).rowcount != 1:  # another driver was faster by a moment
                raise UserError(f"study {self._name!r} has just been taken by another driver; wait for it, or stop it.")

    def beat(self) -> None:
        """Prolong, a few seconds after the last time; raises `UserError` if another driver took over meanwhile."""
        if time.monotonic() - self._renewed < RENEWAL_S:
            return
        with self._store.session() as session:
            row = study_row(session, self._name, lock=True)
            if row.lease_owner != self._owner:
                raise UserError(f"study {self._name!r} was taken over by {row.lease_owner}; this driver stops.")
            row.lease_until = _lease_end()
        self._renewed = time.monotonic()

    def give_back(self) -> None:
        with self._store.session() as session:
            row = study_row(session, self._name)
            if row.lease_owner == self._owner:
                row.lease_owner = row.lease_until = None


def driver_of(row: StudyRow) -> str | None:
    """Who holds the study's lease; None where nobody does, or it ran out, or its process is gone."""
    held = row.lease_owner and row.lease_until and row.lease_until > now() and not _is_dead(row.lease_owner)
    return row.lease_owner if held else None


def _is_dead(owner: str) -> bool:
    """Whether the owner was a process of this machine that is gone."""
    host, _, rest = owner.partition(" process ")
    if not rest.strip():
        return True  # no owner that this tool wrote
    return (
        host == socket.gethostname() and not Path(f"/proc/{rest.split()[0]}").exists() and Path("/proc/self").exists()
    )


def _lease_end() -> str:
    return (datetime.now(UTC) + LEASE).isoformat()
