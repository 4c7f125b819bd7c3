"""One core of an Arm machine at the other end of a transport, timed by the ncnn payload.

Of what the device says only what was expected is used, and nothing of it ever reaches a shell unquoted.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

from latency_lut.devices import Burst, DeviceInfo
from latency_lut.devices.machine import LONGEST_LABEL, Machine, machine_of, positive, printable, require_label
from latency_lut.payload import build
from latency_lut.runtimes import Runtime, RuntimeInfo
from latency_lut.runtimes.ncnn import EVICT_BYTES
from topformer.errors import UserError

_T = TypeVar("_T")
_R = TypeVar("_R")

FOLDER_NAME = "topformer-nas"
"""How the name of a work folder on a device begins; `mktemp -d` adds a dot and letters."""

_FOLDER = re.compile(rf"/([^\x00-\x1f\x7f]*/)?{FOLDER_NAME}\.\w+", re.ASCII)
_ELF = b"\x7fELF"
_MACHINES = ("Linux aarch64", "Linux arm64")
_RUN = 'cd "$1" && "./$2" @jobs; exit $?'
_PROBE = "7767517\n2 2\nInput in 0 1 in 0=1 1=1 2=4\nReLU out 1 1 in out\n"
"""A network that asks nothing but which core runs it."""
_MOST_CORES = 1024

_THROTTLED = 0.98
"""A burst that ends below this share of the core's maximum frequency was slowed down."""


class Transport(Protocol):
    """Carries files to a device and runs programs there. Every failure is a `UserError`."""

    @property
    def name(self) -> str:
        """The device's, as on the command line."""

    @property
    def new_folder(self) -> Sequence[str]:
        """The command that makes a fresh work folder where programs may run, and prints its path."""

    @property
    def soc_commands(self) -> Sequence[Sequence[str]]:
        """Commands of which the first that prints something names the SoC."""

    def connected(self) -> AbstractContextManager[None]:
        """What follows works only inside."""

    def push(self, files: Sequence[Path], folder: str) -> None:
        """Into a folder of the device, under their own names and modes."""

    def run(self, *argv: str) -> Generator[str, None, None]:
        """Its output, line by line as it comes; where its exit status is not 0, `CommandError` behind the last line.
        Closing the generator ends the command."""


class CommandError(UserError):
    """A command that the device did run, and that failed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Graph:
    file: Path
    alone: bool


@dataclass(kw_only=True, slots=True)
class _Workplace:
    """A folder here and its twin on the device, with the program in it."""

    here: Path
    there: str
    program: str
    pushed: set[Path]
    running: ExitStack


class Remote:
    """The `Device` at the other end of `transport`.

    `core`: its number; None: the core with the highest maximum frequency. `soc`: what a person calls the system on chip
    (checked where it can be, see `require_label`). `program`: what to push and run in place of the payload.
    One pass over the graphs is one run of the program, which prints a line as soon as a graph is timed.
    """

    def __init__(
        self, transport: Transport, *, core: int | None = None, soc: str | None = None, program: Path | None = None
    ) -> None:
        if core is not None and not 0 <= core < _MOST_CORES:
            raise UserError(f"--core must be a number from 0 to {_MOST_CORES - 1}, not {core}.")
        if soc is not None and not (soc.strip() and soc.isprintable() and len(soc) <= LONGEST_LABEL):
            raise UserError(
                f"--soc must be a name of at most {LONGEST_LABEL} printable characters, not {soc[:LONGEST_LABEL]!r}."
            )
        self.transport = transport
        self.core = core
        self.soc = soc
        self.program = program
        self._machine: Machine | None = None
        self._info: DeviceInfo | None = None
        self._workplace: _Workplace | None = None
        self._seen_khz: list[int] = []

    def require(self, runtime: RuntimeInfo) -> None:
        if runtime.name != "ncnn":
            raise UserError(
                f"--device {self.transport.name} runs ncnn's payload, not {runtime.name}: use --runtime ncnn."
            )

    def info(self) -> DeviceInfo:
        """Asks the device once; raises `UserError` where the core cannot be held, or is not of the SoC named."""
        if not self._info:
            with ExitStack() as stack:
                if not self._workplace:
                    stack.enter_context(self.hold())
                machine = self._probe()
                soc = self.soc or self._found_soc() or machine.soc or "unknown SoC"
            if self.soc:
                require_label(self.soc, machine, self.transport.name)
            self._machine = machine
            self._info = DeviceInfo(
                name=self.transport.name,
                soc=soc,
                core=machine.label,
                frequency_mhz=machine.max_khz / 1000 if machine.max_khz else None,
                governor=machine.governor or None,
            )
        return self._info

    @contextmanager
    def hold(self) -> Iterator[None]:
        program = self.program or build.payload()
        with ExitStack() as stack:
            here = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lutbench-")))
            stack.enter_context(self.transport.connected())
            self._require_arm(program)
            there = self._new_folder()
            stack.callback(self._remove, there)
            name = f"lutbench-{build.checksum(program)}"
            shutil.copy(program, here / name)
            (here / name).chmod(0o755)
            self.transport.push([here / name], there)
            running = stack.enter_context(ExitStack())
            self._workplace = _Workplace(here=here, there=there, program=name, pushed=set(), running=running)
            try:
                yield
            finally:
                self._workplace = None

    def load(self, runtime: Runtime, graph: bytes, *, alone: bool) -> _Graph:
        """It goes to the device with the first pass that times it."""
        assert self._workplace, "graphs are loaded only while held"
        file = self._workplace.here / f"{hashlib.sha256(graph).hexdigest()[:32]}.param"
        file.write_bytes(graph)
        return _Graph(file=file, alone=alone)

    def time(self, graphs: Sequence[_Graph], burst: Burst) -> Iterator[tuple[float, ...]]:
        if not graphs:
            return
        self.info()
        assert self._machine
        words = ["--core", str(self._machine.core), "--warm", str(burst.warm_up)]
        for graph in graphs:
            if graph.alone:
                words += ["--runs", str(burst.cold_runs), "--burst-ms", "0", "--evict", str(EVICT_BYTES)]
            else:
                words += ["--runs", str(burst.runs), "--burst-ms", repr(float(burst.ms)), "--evict", "0"]
            words.append(graph.file.name)
        lines = self._bench(words, [graph.file for graph in graphs])
        machine = self._understood(next(lines, {}), machine_of)
        self._require_pinned(machine)
        if machine.label != self._machine.label:
            raise UserError(f"{self.transport.name} was {self._machine.label}, but now it is {machine.label}.")
        done = 0
        for line in lines:
            if "error" in line:
                raise UserError(f"{self.transport.name}: the payload failed: {printable(str(line['error']))}.")
            times_ms = self._understood(line, _times_ms)
            if line.get("core") != machine.core:
                raise UserError(
                    f"{self.transport.name} moved the payload from cpu{machine.core} to cpu{line.get('core')}: stop "
                    "what moves programs there, or choose another core with --core."
                )
            if len(times_ms) < burst.runs or done == len(graphs):
                raise self._not_understood(line)
            if khz := positive(line.get("now_khz")):
                self._seen_khz.append(khz)
            done += 1
            yield times_ms
        if done < len(graphs):
            raise UserError(f"{self.transport.name}: the payload ended after {done} of {len(graphs)} graphs.")

    def conditions(self) -> Mapping[str, str | float]:
        """`throttled_pct`: share of the bursts at whose end the clock was more than 2 % below the core's maximum."""
        seen, machine = self._seen_khz, self._machine
        found: dict[str, str | float] = {
            "clock": "CLOCK_MONOTONIC on the device",
            "lone_blocks": f"caches evicted before each run, {EVICT_BYTES} bytes",
            "compiler": machine.compiler if machine else "unknown",
            "frequency_seen_mhz": f"{min(seen) / 1000:g} to {max(seen) / 1000:g}" if seen else "unknown",
        }
        if seen and machine and machine.max_khz:
            slow = sum(khz < _THROTTLED * machine.max_khz for khz in seen)
            found["throttled_pct"] = round(100 * slow / len(seen), 2)
        return found

    def _probe(self) -> Machine:
        assert self._workplace
        file = self._workplace.here / "probe.param"
        file.write_text(_PROBE, encoding="ascii")
        words = [*(() if self.core is None else ("--core", str(self.core))), file.name]
        with closing(self._bench(words, [file])) as lines:
            machine = self._understood(next(lines, {}), machine_of)
            self._require_pinned(machine)
            for line in lines:
                if "error" in line:
                    raise self._not_understood(line)
        return machine

    def _require_pinned(self, machine: Machine) -> None:
        if not machine.pinned:
            raise UserError(
                f"{self.transport.name} does not give cpu{machine.core} to a program: it is switched off, or not for "
                "this user; choose another with --core."
            )

    def _bench(self, words: Sequence[str], files: Sequence[Path]) -> Generator[Mapping[str, Any], None, None]:
        """The JSON lines of one run of the payload; what else the device prints tells why it failed."""
        place = self._workplace
        assert place, "a device times only while held"
        jobs = place.here / "jobs"
        jobs.write_text("".join(f"{word}\n" for word in words), encoding="ascii")
        new = sorted({file for file in files if file not in place.pushed})
        self.transport.push([*new, jobs], place.there)
        place.pushed.update(new)
        run = self.transport.run("sh", "-c", _RUN, "sh", place.there, place.program)
        place.running.callback(run.close)  # who asks for times may stop in the middle
        rest: list[str] = []
        try:
            for line in run:
                if line.startswith("{"):
                    yield self._understood(line, _json_object)
                elif line:
                    rest.append(line)
        except CommandError as error:
            if rest:
                raise CommandError(f"{error} {printable('; '.join(rest[-3:]))}") from None
            raise

    def _require_arm(self, program: Path) -> None:
        """Before a shell takes the program for a script, as some do."""
        with program.open("rb") as file:
            if file.read(len(_ELF)) != _ELF:
                return
        machine = self._last_line("uname", "-sm")
        if machine not in _MACHINES:
            raise UserError(
                f"{self.transport.name} is {printable(machine) or 'unknown'}, but the payload is a program for 64-bit "
                "Arm under Linux or Android (aarch64): choose such a device, with a 64-bit system."
            )

    def _new_folder(self) -> str:
        """Its path is checked, because it is deleted in the end."""
        path = self._last_line(*self.transport.new_folder)
        if not _FOLDER.fullmatch(path) or ".." in path.split("/"):
            raise UserError(f"{self.transport.name} gives no work folder: mktemp printed {printable(path)!r}.")
        return path

    def _remove(self, folder: str) -> None:
        """Where the connection is gone the folder stays, and the error is the one that said so."""
        with suppress(UserError):
            self._last_line("rm", "-rf", folder)

    def _found_soc(self) -> str:
        for argv in self.transport.soc_commands:
            with suppress(CommandError):  # a board under Linux knows no Android properties
                if found := printable(self._last_line(*argv))[:LONGEST_LABEL]:
                    return found
        return ""

    def _last_line(self, *argv: str) -> str:
        """Before it, a login script may greet."""
        return ([line.strip() for line in self.transport.run(*argv) if line.strip()] or [""])[-1]

    def _understood(self, what: _T, read: Callable[[_T], _R]) -> _R:
        try:
            return read(what)
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
            raise self._not_understood(what) from None

    def _not_understood(self, what: object) -> UserError:
        return UserError(f"{self.transport.name}: the payload's line cannot be read: {printable(str(what))}.")


@dataclass(frozen=True, slots=True)
class Program:
    """A program of this machine that is running."""

    process: subprocess.Popen[bytes]
    errors: IO[bytes]

    def lines(self) -> Iterator[str]:
        """What it prints, as it comes."""
        assert self.process.stdout
        for line in self.process.stdout:
            yield line.decode(errors="replace").rstrip("\r\n")

    def ended(self) -> tuple[int, str]:
        """Exit status, and what it said on standard error."""
        status = self.process.wait()
        self.errors.seek(0)
        return status, self.errors.read().decode(errors="replace").strip()


@contextmanager
def started(command: Sequence[str], stdin: IO[bytes] | int = subprocess.DEVNULL) -> Iterator[Program]:
    """Ends with the block. It gets no Ctrl-C: that is for us, the work folder still has to be removed."""
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            command, stdin=stdin, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
        ) as process,
    ):
        try:
            yield Program(process, errors)
        finally:
            process.kill()


def command_error(name: str, argv: Sequence[str], status: int, said: str) -> CommandError:
    """For a command that the device ran."""
    if "No space left on device" in said:
        return CommandError(f"no space is left on {name}; delete something there.")
    if "Permission denied" in said and status == 126:
        return CommandError(f"{name} does not let a program run in its work folder: a file system mounted noexec?")
    killed = " (killed by signal 9: out of memory?)" if status == 137 else ""
    return CommandError(
        f"{argv[0]} failed on {name} with exit code {status}{killed}: {tail(said) or 'it says nothing'}."
    )


def connection_error(name: str, said: str) -> UserError:
    return UserError(
        f"the connection to {name} broke{f' ({tail(said)})' if said else ''}; what was timed is kept: the same command "
        "goes on from there."
    )


def program_path(name: str, package: str) -> str:
    """Of a program that this machine must have."""
    if found := shutil.which(name):
        return found
    raise UserError(f"no {name} program; on Debian: apt-get install {package}")


def tail(said: str) -> str:
    """The last lines of a complaint."""
    return printable("; ".join(line.strip() for line in said.splitlines()[-3:])).rstrip(".")


def _json_object(line: str) -> Mapping[str, Any]:
    found = json.loads(line)
    if not isinstance(found, dict):
        raise TypeError
    return found


def _times_ms(line: Mapping[str, Any]) -> tuple[float, ...]:
    times_ms = tuple(float(us) / 1000 for us in line["total_us"])
    if not all(ms > 0 and math.isfinite(ms) for ms in times_ms):
        raise ValueError
    return times_ms
