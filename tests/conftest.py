"""One thread for each test: on shared cores a second one only waits for the first, and costs as much again."""

from __future__ import annotations

import os

for library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")  # read when numpy and torch are loaded
