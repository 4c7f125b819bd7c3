"""An Android phone behind the real `adb` client, by USB or network."""

from __future__ import annotations

import re
import shlex
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from latency_lut.devices.machine import printable
from latency_lut.devices.remote import (
    FOLDER_NAME,
    command_error,
    connection_error,
    program_path,
    started,
    tail,
)
from topformer.errors import UserError

READY = "device"
"""The state of a phone that answers."""
_SERIAL = re.compile(r"[A-Za-z0-9\[][A-Za-z0-9._:%\[\]-]*")
_STATUS = re.compile(r"(.*)RC=([0-9]{1,3})")
_NEW_FOLDER = f"mktemp -d /data/local/tmp/{FOLDER_NAME}.XXXXXX 2>/dev/null || mktemp -d /tmp/{FOLDER_NAME}.XXXXXX"
"""Where Android's shell may run programs, or where a board's under Linux may."""
_ADVICE = {
    "unauthorized": "unlock it, and allow USB debugging from this computer in the question on its screen",
    "offline": "plug it in anew, or reconnect it with adb connect",
    "no permissions": "this user may not open it; on Debian: apt-get install android-sdk-platform-tools-common, and "
    "plug it in anew",
}


class Adb:
    """The `Transport` to the phone of that serial; None: to the only one that is connected."""

    new_folder = ("sh", "-c", _NEW_FOLDER)
    soc_commands: Sequence[Sequence[str]] = (("getprop", "ro.soc.model"), ("getprop", "ro.board.platform"))

    def __init__(self, serial: str | None) -> None:
        self.serial = _only_serial() if serial is None else serial
        if not _SERIAL.fullmatch(self.serial):
            raise UserError(
                "a phone over adb is adb:SERIAL, with a serial as `adb devices` lists them, not "
                f"{f'adb:{self.serial}'[:200]!r}."
            )
        self.name = f"adb:{self.serial}"

    @contextmanager
    def connected(self) -> Iterator[None]:
        """adb's own server keeps the connection."""
        states = connected_phones()
        if self.serial not in states:
            raise UserError(f"no phone {self.serial!r} is connected; `adb devices` lists: {_listing(states)}.")
        _require_ready(self.serial, states[self.serial])
        yield

    def push(self, files: Sequence[Path], folder: str) -> None:
        with started([_adb(), "-s", self.serial, "push", *map(str, files), f"{folder}/"]) as program:
            printed = list(program.lines())
            status, said = program.ended()
        if not status:
            return
        said = said or "; ".join(printed[-3:])
        if "No space left on device" in said:
            raise command_error(self.name, ("push",), status, said)
        raise connection_error(self.name, said)

    def run(self, *argv: str) -> Generator[str, None, None]:
        """Old phones tell no exit code, and mix both outputs of a program: the code comes in a last line."""
        status: int | None = None
        last = ""
        with started([_adb(), "-s", self.serial, "shell", f"{shlex.join(argv)}; echo RC=$?"]) as program:
            for given in program.lines():
                found = _STATUS.fullmatch(given)
                line = found[1] if found else given
                status = int(found[2]) if found else None
                last = line or last
                if line:
                    yield line
            _, said = program.ended()
        if status is None:
            raise connection_error(self.name, said)
        if status:
            raise command_error(self.name, argv, status, said or last)


def connected_phones() -> Mapping[str, str]:
    """State of every phone by serial, as `adb devices` lists them."""
    with started([_adb(), "devices"]) as program:
        lines = [line.split("\t", 1) for line in program.lines() if "\t" in line]
        status, said = program.ended()
    if status:
        raise UserError(f"`adb devices` failed with exit code {status}: {tail(said) or 'it says nothing'}.")
    return dict(lines)


def _only_serial() -> str:
    states = connected_phones()
    ready = [serial for serial, state in states.items() if state == READY]
    if len(ready) == 1:
        return ready[0]
    if len(states) == 1:
        _require_ready(*next(iter(states.items())))
    if not ready:
        raise UserError(
            f"no phone is ready; `adb devices` lists: {_listing(states)}. Connect one by USB, with USB debugging "
            "switched on in its developer options, or with adb connect."
        )
    raise UserError(
        f"{len(ready)} phones are connected; name one: {', '.join(f'adb:{serial}' for serial in sorted(ready))}."
    )


def _require_ready(serial: str, state: str) -> None:
    if state == READY:
        return
    advice = next((text for begin, text in _ADVICE.items() if state.startswith(begin)), "start it as usual")
    raise UserError(f"phone {serial} is {printable(state)}, as `adb devices` says: {advice}.")


def _listing(states: Mapping[str, str]) -> str:
    return ", ".join(f"{printable(serial)} ({printable(state)})" for serial, state in sorted(states.items())) or "none"


def _adb() -> str:
    """It asks the server that $ANDROID_ADB_SERVER_PORT names, and starts one if need be."""
    return program_path("adb", "adb")
