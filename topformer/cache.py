"""Where does what can be made again lie?"""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "TOPFORMER_NAS_CACHE"


def cache_folder() -> Path:
    """$TOPFORMER_NAS_CACHE, or topformer-nas in $XDG_CACHE_HOME or ~/.cache."""
    if given := os.environ.get(CACHE_VARIABLE):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "topformer-nas"
