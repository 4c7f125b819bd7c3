"""How does long work say how far it is? One function type, so that libraries print nothing."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int, str], None]
"""Called with (steps done, steps in all, what is going on); the number in all is an estimate and may change.
The last call is (1, 1, what came of it)."""


def silent(_done: int, _total: int, _description: str) -> None:
    """For callers without a bar."""


Say = Callable[[str], None]
"""Called with a sentence that a person should read before long work begins."""


def unsaid(_sentence: str) -> None:
    """For callers whom nobody listens to."""


def duration(seconds: float) -> str:
    """For people: two figures at most."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
