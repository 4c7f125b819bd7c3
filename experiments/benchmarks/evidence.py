"""What every measured file says of its making."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from latency_lut.devices.host import cpu_model
from topformer.writing import write_whole


def keep(found: Mapping[str, object], out: Path | None) -> None:
    """Print it, and write it to a JSON file, with command, date and machine."""
    content = {
        "command": shlex.join(("python", *sys.argv)),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"cpu": cpu_model(), "cores": os.cpu_count()},
        **found,
    }
    text = json.dumps(content, indent=1)
    print(text)
    if out is not None:
        write_whole(out, f"{text}\n".encode())
