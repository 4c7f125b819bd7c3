"""How does long work say how far it is? One function type, so that libraries print nothing."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int, str], None]
"""Called with (steps done, steps in all, what is going on); the number in all is an estimate and may change.
The last call is (1, 1, what came of it)."""


def silent(_done: int, _total: int, _description: str) -> None:
    """For callers without a bar."""
