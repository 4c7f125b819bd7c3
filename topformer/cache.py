"""Where does what can be made again lie, and what is one's own?"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from topformer.errors import UserError

CACHE_VARIABLE = "TOPFORMER_NAS_CACHE"


def cache_folder() -> Path:
    """$TOPFORMER_NAS_CACHE, or topformer-nas in $XDG_CACHE_HOME or ~/.cache."""
    if given := os.environ.get(CACHE_VARIABLE):
        return given_folder(given, CACHE_VARIABLE)
    return Path(os.environ.get("XDG_CACHE_HOME") or home_folder() / ".cache") / "topformer-nas"


def given_folder(given: str, variable: str) -> Path:
    """The folder that a variable of the shell names; raises `UserError` where its `~` is nobody's home."""
    try:
        return Path(given).expanduser()
    except RuntimeError:
        raise UserError(f"{variable} is {given!r}, and that home folder is not known; name a whole path.") from None


def home_folder() -> Path:
    """The user's home; where the machine knows none (a container, often), a folder of the user's own in /tmp.

    Raises `UserError` where that one is another user's.
    """
    try:
        return Path.home()
    except RuntimeError:
        found = Path(tempfile.gettempdir()) / f"topformer-nas-{os.getuid()}"
        found.mkdir(mode=0o700, exist_ok=True)
        about = found.lstat()
        if found.is_symlink() or about.st_uid != os.getuid() or about.st_mode & 0o022:
            raise UserError(f"no home folder is known, and {found} is another user's; set HOME to a folder.") from None
        return found
