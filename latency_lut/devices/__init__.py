"""Where is it timed? The device protocol and the built-in names; one file per device."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from latency_lut.runtimes import Runtime
from topformer.errors import unknown_name

DEVICES = ("host",)


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceInfo:
    """What a table's header says of its device."""

    name: str
    """As on the command line."""
    soc: str
    core: str
    frequency_mhz: float | None
    governor: str | None


class Timer(Protocol):
    def __call__(self, runs: int) -> tuple[float, ...]:
        """Milliseconds of each of `runs` inferences in a row."""


class Device(Protocol):
    """A core that can be held for a while and times graphs."""

    def info(self) -> DeviceInfo: ...

    def hold(self) -> AbstractContextManager[None]:
        """Pin, connect, whatever timing needs; undone on leaving. Timers run only inside."""

    def load(self, runtime: Runtime, graph: bytes) -> Timer:
        """Put a graph where it is timed."""

    def conditions(self) -> Mapping[str, str | float]:
        """For the table's protocol: the clock, and what disturbed the timings so far."""


def device_named(name: str) -> Device:
    """A built-in device."""
    if name == "host":
        from latency_lut.devices.host import Host  # noqa: PLC0415, a listing of names waits for no device

        return Host()
    raise unknown_name("device", name, DEVICES)
