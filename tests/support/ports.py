"""Ports on this machine for servers that cannot choose one themselves."""

from __future__ import annotations

import random
import socket

LOWEST, HIGHEST = 20_000, 29_999
"""Below those that systems give to connections (32768 on Linux): between the look and the use only a server, told the
same number by chance, could take one."""


def free_port() -> int:
    """One that nobody listens on now."""
    while True:
        port = random.SystemRandom().randint(LOWEST, HIGHEST)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
