"""Where is it timed? The device protocol and the built-in names; one file per device."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from latency_lut.runtimes import Runtime, RuntimeInfo
from topformer.errors import UserError, unknown_name

DEVICES = ("host",)
"""Those that are always there."""
REMOTE_FORMS = ("ssh://[USER@]HOST[:PORT]", "adb:SERIAL")


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceInfo:
    """What a table's header says of its device."""

    name: str
    """As on the command line."""
    soc: str
    core: str
    frequency_mhz: float | None
    governor: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Burst:
    """Inferences in a row."""

    warm_up: int
    """First ones, not timed."""
    runs: int
    """At least so many are timed, ..."""
    ms: float
    """... and as many more until they have taken so long together."""

    @property
    def cold_runs(self) -> int:
        """Instead, of a block before each of whose runs the caches are evicted, which takes about a millisecond."""
        return max(self.runs, math.ceil(self.ms))


Loaded = Any
"""A graph as its device keeps it; only that device looks inside."""


class Device(Protocol):
    """A core that can be held for a while and times graphs."""

    def info(self) -> DeviceInfo: ...

    def require(self, runtime: RuntimeInfo) -> None:
        """Raises UserError where it cannot run that runtime's graphs."""

    def hold(self) -> AbstractContextManager[None]:
        """Pin, connect, whatever timing needs; undone on leaving. Loads and times only inside."""

    def load(self, runtime: Runtime, graph: bytes, *, alone: bool) -> Loaded:
        """Put a graph where it is timed. `alone`: it is one block, which in a network finds the caches full of others'
        data; a device that can restore that does."""

    def time(self, graphs: Sequence[Loaded], burst: Burst) -> Iterator[tuple[float, ...]]:
        """Milliseconds of each timed inference of one burst of each graph, in that order, each as soon as it is known.
        Raises UserError where the connection breaks; what was given by then stays valid."""

    def conditions(self) -> Mapping[str, str | float]:
        """For the table's protocol: the clock, and what disturbed the timings so far."""


def device_named(name: str, *, core: int | None = None, soc: str | None = None) -> Device:
    """A built-in device: host, `ssh://...` or `adb:...`, where "adb:" is the only phone that is connected.

    `core` and `soc` are a remote device's: the number of the core that times, and what its system on chip is called.
    """
    if name.startswith(("ssh:", "adb:")):
        return _remote(name, core, soc)
    if name == "qemu":
        raise UserError(
            "qemu counts, it never times; a table's times come from a device of Arm's, ssh://[USER@]HOST[:PORT] or "
            "adb:SERIAL, or from this machine, host."
        )
    if name != "host":
        raise unknown_name("device", name, (*DEVICES, *REMOTE_FORMS, "qemu"))
    if core is not None or soc is not None:
        raise UserError(
            "--core and --soc are for ssh:// and adb: devices; the host takes its fastest core: leave them out."
        )
    from latency_lut.devices.host import Host  # noqa: PLC0415, a listing of names waits for no device

    return Host()


def _remote(name: str, core: int | None, soc: str | None) -> Device:
    from latency_lut.devices.remote import Remote  # noqa: PLC0415

    if name.startswith("ssh:"):
        from latency_lut.devices.ssh import Ssh  # noqa: PLC0415

        return Remote(Ssh(name), core=core, soc=soc)
    from latency_lut.devices.adb import Adb  # noqa: PLC0415

    return Remote(Adb(name.removeprefix("adb:") or None), core=core, soc=soc)
