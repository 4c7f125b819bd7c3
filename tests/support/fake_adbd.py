"""A phone's end of the Android Debug Bridge on a loopback port, for the real `adb` client: shell: and sync: services.

A message is six little-endian words (command, two stream ids, length, sum of the bytes, complement of the command) and
its payload; every WRTE waits for an OKAY. Shell commands run on this machine, in the folder that stands for
/data/local/tmp, with the programs in `bin` before all others. Old phones' protocol: no shell_v2, no stat_v2.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue

from tests.support.ports import free_port

VERSION = 0x01000001
LARGEST = 1 << 18
BANNER = b"device::ro.product.name=fake;ro.product.model=Fake;ro.product.device=fake;features=cmd"
SHELL_FOLDER = "/data/local/tmp"


class ClosedError(Exception):
    """The other end is gone."""


class FakeAdbd:
    """Listens from the start; `kill` tears down everything, as pulling the cable does."""

    def __init__(self, root: Path, port: int | None = None) -> None:
        """On a free port, or on one that it had before."""
        self.tmp = root / "tmp"
        self.bin = root / "bin"
        for folder in (self.tmp, self.bin):
            folder.mkdir(parents=True, exist_ok=True)
        self.full = False
        """No file can be stored."""
        self.emulator: str | None = None
        """A command line that runs this phone's programs on this machine."""
        self.killed = False
        self.programs: set[subprocess.Popen[bytes]] = set()
        self._sockets: set[socket.socket] = set()
        self.port = port or free_port()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.serial = f"127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> FakeAdbd:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        self.killed = True
        for end in (self._listener, *self._sockets):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        for program in [each for each in self.programs if each.poll() is None]:
            with suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)

    def local(self, text: str) -> str:
        return text.replace(SHELL_FOLDER, str(self.tmp))

    def start(self, command: str) -> subprocess.Popen[bytes]:
        program = subprocess.Popen(
            ["/bin/sh", "-c", self.local(command)],
            cwd=self.tmp,
            env=os.environ | {"PATH": f"{self.bin}:{os.environ['PATH']}"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.programs.add(program)
        return program

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                end, _ = self._listener.accept()
                self._sockets.add(end)
                threading.Thread(target=_Connection(self, end).serve, daemon=True).start()


class _Connection:
    def __init__(self, phone: FakeAdbd, end: socket.socket) -> None:
        self.phone = phone
        self._end = end
        self._lock = threading.Lock()
        self._streams: dict[int, _Stream] = {}

    def serve(self) -> None:
        with suppress(ClosedError, OSError):
            while True:
                command, theirs, ours, size, _, _ = struct.unpack("<4s5I", self._receive(24))
                self._handle(command, theirs, ours, self._receive(size))
        for stream in self._streams.values():
            stream.given.put(None)
            stream.allowed.put(False)

    def send(self, command: bytes, ours: int, theirs: int, payload: bytes = b"") -> None:
        magic = struct.unpack("<I", command)[0] ^ 0xFFFFFFFF
        head = struct.pack("<4s5I", command, ours, theirs, len(payload), sum(payload) & 0xFFFFFFFF, magic)
        with self._lock:
            self._end.sendall(head + payload)

    def _handle(self, command: bytes, theirs: int, ours: int, payload: bytes) -> None:
        if command == b"CNXN":
            self.send(b"CNXN", VERSION, LARGEST, BANNER)
        elif command == b"OPEN":
            ours = len(self._streams) + 1
            stream = self._streams[ours] = _Stream(self, ours, theirs, payload.rstrip(b"\0").decode())
            threading.Thread(target=stream.serve, daemon=True).start()
        elif command == b"WRTE":
            self._streams[ours].given.put(payload)
            self.send(b"OKAY", ours, theirs)
        elif command == b"OKAY":
            self._streams[ours].allowed.put(True)
        elif command == b"CLSE" and ours in self._streams:
            self._streams[ours].close()

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self._end.recv(size - len(data))
            if not part:
                raise ClosedError
            data += part
        return data


class _Stream:
    def __init__(self, connection: _Connection, ours: int, theirs: int, service: str) -> None:
        self.given: SimpleQueue[bytes | None] = SimpleQueue()
        self.allowed: SimpleQueue[bool] = SimpleQueue()
        self._connection = connection
        self._ids = (ours, theirs)
        self._service = service
        self._rest = b""

    def serve(self) -> None:
        name, _, argument = self._service.partition(":")
        with suppress(ClosedError, OSError):
            if name in {"shell", "sync"}:
                self._connection.send(b"OKAY", *self._ids)
                self._shell(argument) if name == "shell" else self._sync()
            self._connection.send(b"CLSE", *self._ids)

    def close(self) -> None:
        self.given.put(None)
        self.allowed.put(False)

    def _shell(self, command: str) -> None:
        """Where the client has gone, the next line that the program prints is its last."""
        with self._connection.phone.start(command) as program:
            assert program.stdout
            while data := os.read(program.stdout.fileno(), 1 << 16):
                self._write(data)

    def _sync(self) -> None:
        """Requests of four letters, a length and a path."""
        while True:
            request, size = struct.unpack("<4sI", self._read(8))
            if request == b"QUIT":
                return
            text = self._connection.phone.local(self._read(size).decode())
            if request == b"STAT":
                self._write(b"STAT" + _stat(Path(text)))
            elif request == b"SEND":
                self._store(*text.rsplit(",", 1))
            else:
                raise ClosedError

    def _store(self, path: str, mode: str) -> None:
        parts = []
        while True:
            mark, size = struct.unpack("<4sI", self._read(8))
            if mark == b"DONE":  # `size` is the time of its last change
                break
            parts.append(self._read(size))
        phone, file = self._connection.phone, Path(path)
        try:
            Path("/dev/full" if phone.full else path).write_bytes(b"".join(parts))
            file.chmod(int(mode) & 0o777)
            if phone.emulator and file.read_bytes()[:4] == b"\x7fELF":
                file = file.rename(f"{path}.elf")
                Path(path).write_text(f'#!/bin/sh\nexec {phone.emulator} "$0.elf" "$@"\n')
                Path(path).chmod(0o755)
        except OSError as error:
            said = str(error.strerror).encode()
            self._write(b"FAIL" + struct.pack("<I", len(said)) + said)
        else:
            self._write(b"OKAY" + bytes(4))

    def _read(self, size: int) -> bytes:
        while len(self._rest) < size:
            data = self.given.get()
            if data is None:
                raise ClosedError
            self._rest += data
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def _write(self, data: bytes) -> None:
        for start in range(0, len(data), LARGEST):
            self._connection.send(b"WRTE", *self._ids, data[start : start + LARGEST])
            if not self.allowed.get():
                raise ClosedError


def _stat(path: Path) -> bytes:
    if not path.exists():
        return bytes(12)
    found = path.stat()
    return struct.pack("<3I", found.st_mode, found.st_size & 0xFFFFFFFF, int(found.st_mtime))
