"""A machine behind OpenSSH's `ssh` program; keys, aliases and jumps are those of the user's own ssh configuration.

Files go as a tar archive through standard input: it needs no second program here, and no sftp server there.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
import subprocess
import tarfile
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from latency_lut.devices.remote import FOLDER_NAME, command_error, connection_error, program_path, started, tail
from topformer.errors import UserError

_NAME = re.compile(
    r"ssh://(?:(?P<user>[A-Za-z_][A-Za-z0-9._-]*)@)?"
    r"(?:(?P<host>[A-Za-z0-9][A-Za-z0-9._-]*)|\[(?P<ipv6>[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?)\])"
    r"(?::(?P<port>[0-9]{1,5}))?"
)
_LARGEST_PORT = 65535
_OWN_FAILURE = 255
"""What `ssh` itself ends with; any other exit code is the command's."""
_OPTIONS = (
    "BatchMode=yes",  # asks nothing
    "ConnectTimeout=10",
    "ServerAliveInterval=15",
    "ServerAliveCountMax=3",
    "ClearAllForwardings=yes",
    "RemoteCommand=none",
    "LogLevel=ERROR",
)
_NEW_FOLDER = (
    f'(mkdir -p "$HOME/.cache" && mktemp -d "$HOME/.cache/{FOLDER_NAME}.XXXXXX") 2>/dev/null '
    f"|| mktemp -d /tmp/{FOLDER_NAME}.XXXXXX"
)


class Ssh:
    """The `Transport` to `name`, as "ssh://user@host:2222" or "ssh://[fe80::1]"; `ssh_options` go to the program."""

    soc_commands: Sequence[Sequence[str]] = ()
    new_folder = ("sh", "-c", _NEW_FOLDER)

    def __init__(self, name: str, *, ssh_options: Sequence[str] = ()) -> None:
        found = _NAME.fullmatch(name)
        if not found or not _legal(found["ipv6"], found["port"]):
            raise UserError(
                f"a device over ssh is ssh://[USER@]HOST[:PORT], as ssh://pi@board.local:2222, not {name[:200]!r}."
            )
        self.name = name
        self._host = found["host"] or found["ipv6"]
        self._port = found["port"]
        self._to = [
            *(("-p", found["port"]) if found["port"] else ()),
            *(("-l", found["user"]) if found["user"] else ()),
        ]
        self._by_hand = shlex.join(["ssh", *self._to, self._host])
        self._ssh_options = tuple(ssh_options)
        self._control: Path | None = None

    @contextmanager
    def connected(self) -> Iterator[None]:
        """The first command connects, the others share its connection."""
        program_path("ssh", "openssh-client")
        with tempfile.TemporaryDirectory(prefix="lut-") as folder:
            self._control = Path(folder) / "c"  # a short path: the system allows a socket's no more than 100 characters
            try:
                yield
            finally:
                leave = self._command("-O", "exit")
                subprocess.run(leave, stdin=subprocess.DEVNULL, capture_output=True, check=False)
                self._control = None

    def push(self, files: Sequence[Path], folder: str) -> None:
        with tempfile.TemporaryFile() as archive:
            with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                for file in files:
                    tar.add(file, arcname=file.name, filter=_nobodys)
            archive.seek(0)
            for _ in self._run(("tar", "-C", folder, "-xmof", "-"), archive):
                pass

    def run(self, *argv: str) -> Generator[str, None, None]:
        yield from self._run(argv, None)

    def _run(self, argv: Sequence[str], stdin: IO[bytes] | None) -> Generator[str, None, None]:
        with started([*self._command(), shlex.join(argv)], stdin or subprocess.DEVNULL) as program:
            yield from program.lines()
            status, said = program.ended()
        if status == _OWN_FAILURE:
            raise self._failure(said)
        if status:
            raise command_error(self.name, argv, status, said)

    def _command(self, *more: str) -> list[str]:
        """Up to the host; what follows is for the device."""
        options = [*_OPTIONS]
        if self._control:
            options += ["ControlMaster=auto", f"ControlPath={self._control}", "ControlPersist=60"]
        flags = [word for option in options for word in ("-o", option)]
        return [
            program_path("ssh", "openssh-client"),
            "-T",
            *flags,
            *self._ssh_options,
            *self._to,
            *more,
            "--",
            self._host,
        ]

    def _failure(self, said: str) -> UserError:
        if "IDENTIFICATION HAS CHANGED" in said:
            return UserError(
                f"the host key of {self.name} is not the one known: if it was set up anew, forget the old key with "
                f"ssh-keygen -R, and connect once by hand: {self._by_hand}"
            )
        sentences = {
            "Could not resolve hostname": "has an unknown host name: check its spelling, or give the IP address.",
            "Connection refused": f"refuses connections on port {self._port or 22}: does an ssh server run there?",
            "timed out": "does not answer: is it switched on, and in this network?",
            "No route to host": "cannot be reached: is it switched on, and in this network?",
            "Network is unreachable": "cannot be reached: is this machine in the network?",
            "Host key verification failed": f"has an unknown host key: compare it once by hand, {self._by_hand}",
            "Permission denied": "does not let this user in without a password: give it a key, with ssh-copy-id, "
            f"and try {self._by_hand}",
        }
        for mark, sentence in sentences.items():
            if mark in said:
                return UserError(f"{self.name} {sentence} (ssh: {tail(said).removeprefix('ssh: ')})")
        return connection_error(self.name, said)


def _legal(ipv6: str | None, port: str | None) -> bool:
    if ipv6:
        try:
            ipaddress.IPv6Address(ipv6)
        except ValueError:
            return False
    return port is None or 0 < int(port) <= _LARGEST_PORT


def _nobodys(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = int(entry.mtime)
    return entry
