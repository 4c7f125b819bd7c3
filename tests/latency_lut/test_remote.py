"""Devices at the other end of a transport: the real payload, under QEMU, behind a real sshd and behind the real adb
client with a daemon of our own (fake_adbd)."""

from __future__ import annotations

import getpass
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

from latency_lut.devices import Burst, device_named
from latency_lut.devices.adb import READY, Adb, connected_phones
from latency_lut.devices.machine import Machine, require_label
from latency_lut.devices.qemu import QEMU
from latency_lut.devices.remote import FOLDER_NAME, Remote, Transport
from latency_lut.devices.ssh import Ssh
from latency_lut.measure import Timing, measure_table
from latency_lut.payload import build
from latency_lut.runtimes.ncnn import Ncnn
from latency_lut.runtimes.onnxruntime import OnnxRuntime
from latency_lut.table import LatencyTable
from tests.support.fake_adbd import FakeAdbd
from tests.support.ports import free_port
from tests.support.shell import Shell
from topformer import TINY, Candidate, Task, UserError
from topformer.blocks import candidate_blocks
from topformer.cache import CACHE_VARIABLE

ROOT = Path(__file__).parents[2]
TASK = Task(image_size=(64, 64))
BLOCKS = candidate_blocks(Candidate(arch=TINY, task=TASK))[:4]
QUICK = Timing(burst_ms=0.01, min_runs=1, warm_up_runs=0, min_passes=2, max_passes=2)
BURST = Burst(warm_up=0, runs=2, ms=0)
A77 = "0x00000000411fd0d0"
SSHD = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
CORE = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0


def lacking(**programs: str | None) -> pytest.MarkDecorator:
    """Skips, with the names of what is not there; the payload needs the extra `arm` too."""
    missing = [name for name, found in programs.items() if not found]
    missing += [] if shutil.which(QEMU) else [QEMU]
    missing += [name for name in ("ziglang", "unearth") if not find_spec(name)]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


needs_adb = [pytest.mark.adb, lacking(adb=shutil.which("adb"))]
needs_ssh = [pytest.mark.ssh, lacking(sshd=SSHD, ssh=shutil.which("ssh"), keygen=shutil.which("ssh-keygen"))]


class Phone:
    """What stands for a device: a transport to it, a program that runs the payload under QEMU, and its plug."""

    transport: Transport
    program: Path
    folders: Path
    """Where its work folders are."""

    def unplug(self) -> None: ...

    def plug(self) -> None: ...

    def remote(self, *, core: int | None = CORE, soc: str | None = None) -> Remote:
        return Remote(self.transport, core=core, soc=soc, program=self.program)


class AdbPhone(Phone):
    def __init__(self, folder: Path) -> None:
        self.root = folder
        self.program = emulated(folder)
        self.daemon = FakeAdbd(folder)
        self.folders = self.daemon.tmp
        self.transport = Adb(self.daemon.serial)
        self.plug()

    def unplug(self) -> None:
        self.daemon.kill()

    def plug(self) -> None:
        """adb's server forgets the lost phone before the new one answers: else it may drop the new one for the old."""
        serial = self.daemon.serial
        if self.daemon.killed:
            adb("disconnect", serial)
            wait_for(lambda: serial not in connected_phones())
            self.daemon = FakeAdbd(self.root, self.daemon.port)
        wait_for(lambda: "connected to" in adb("connect", serial) and connected_phones().get(serial) == READY)


class SshPhone(Phone):
    """Its home is a folder of the test's, its keys are made for it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        self.program = emulated(folder)
        self.home = folder / "home"
        self.folders = self.home / ".cache"
        self.folders.mkdir(parents=True)
        for name in ("host_key", "user_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
        self.port = free_port()
        host_key = " ".join((folder / "host_key.pub").read_text().split()[:2])
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {host_key}\n")
        lines = [
            f"ListenAddress 127.0.0.1:{self.port}",
            f"HostKey {folder}/host_key",
            f"AuthorizedKeysFile {folder}/user_key.pub",
            f"PidFile {folder}/pid",
            f"SetEnv HOME={self.home}",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "StrictModes no",
            "UsePAM no",
        ]
        (folder / "sshd_config").write_text("\n".join(lines) + "\n")
        self.name = f"ssh://{getpass.getuser()}@127.0.0.1:{self.port}"
        self.options = ("-F", "none", "-o", f"UserKnownHostsFile={folder}/known_hosts")
        self.options += ("-o", "StrictHostKeyChecking=yes", "-o", "IdentitiesOnly=yes", "-i", f"{folder}/user_key")
        self.transport = Ssh(self.name, ssh_options=self.options)
        self.plug()

    def plug(self) -> None:
        assert SSHD
        self.server = subprocess.Popen(
            [SSHD, "-D", "-f", str(self.root / "sshd_config"), "-E", str(self.root / "log")], start_new_session=True
        )
        wait_for(lambda: answers(self.port) or self.server.poll() is not None)
        assert self.server.poll() is None, (self.root / "log").read_text()

    def unplug(self) -> None:
        """With every connection that it serves: each is a session of its own."""
        for pid in (self.server.pid, *descendants(self.server.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.server.wait()


def descendants(parent: int) -> list[int]:
    listing = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [(int(pid), int(ppid)) for pid, ppid in (line.split() for line in listing.splitlines())]
    found = [parent]
    for above in found:  # grows meanwhile
        found += [pid for pid, ppid in pairs if ppid == above]
    return found[1:]


def emulated(folder: Path) -> Path:
    """A program that runs the payload here, on a machine that says it is a Snapdragon 865's prime core."""
    machine(folder)
    emulator = folder / "emulator"  # of another name than what counts on this machine
    emulator.symlink_to(str(shutil.which(QEMU)))
    program = folder / "emulated-lutbench"
    words = shlex.join([str(emulator), "-L", str(folder / "machine"), str(build.payload())])
    program.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    return program


def machine(folder: Path, *, midr: str = A77, max_khz: int = 2_841_600, now_khz: int = 2_841_600) -> None:
    for cpu in (folder / f"machine/sys/devices/system/cpu/cpu{index}" for index in range(CORE + 1)):
        texts = {"midr_el1": midr, "cpuinfo_max_freq": max_khz, "scaling_cur_freq": now_khz, "scaling_governor": "toy"}
        for name, text in texts.items():
            path = cpu / ("regs/identification" if name == "midr_el1" else "cpufreq") / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")


def adb(*arguments: str) -> str:
    return subprocess.run(["adb", *arguments], capture_output=True, text=True, check=True).stdout


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def wait_for(claim: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not claim():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def adb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Of the tests' own, with a home of its own for its keys."""
    cache = build.cache_folder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANDROID_ADB_SERVER_PORT", str(free_port()))
        patch.setenv(CACHE_VARIABLE, str(cache))
        patch.setenv("HOME", str(tmp_path_factory.mktemp("adb-home")))
        adb("start-server")
        yield
        adb("kill-server")


@pytest.fixture
def android(adb_server: None, tmp_path: Path) -> Iterator[AdbPhone]:
    phone = AdbPhone(tmp_path)
    yield phone
    phone.unplug()
    adb("disconnect")  # all


@pytest.fixture
def board(tmp_path: Path) -> Iterator[SshPhone]:
    if os.getuid() == 0:
        try:
            Path("/run/sshd").mkdir(exist_ok=True)  # as the service's own start does
            Path("/run/sshd").chmod(0o755)  # sshd refuses one that others may write to; a test before left no umask
        except OSError as error:
            pytest.skip(f"sshd needs /run/sshd: {error}")
    phone = SshPhone(tmp_path)
    yield phone
    phone.unplug()


@pytest.fixture(params=[pytest.param("android", marks=needs_adb), pytest.param("board", marks=needs_ssh)])
def phone(request: pytest.FixtureRequest) -> Phone:
    found: Phone = request.getfixturevalue(request.param)
    return found


def measured(phone: Phone, out: Path, **changes: object) -> LatencyTable:
    settings: dict[str, object] = {"networks": {}, "device": phone.remote(), "runtime": Ncnn(), "timing": QUICK}
    return measure_table(BLOCKS, out=out, name="phone", **(settings | changes))  # type: ignore[arg-type]


def journalled(out: Path) -> list[str]:
    return out.with_name(f"{out.name}.partial").read_text().splitlines()[1:]


@pytest.mark.slow
def test_a_table_is_measured_and_says_where(phone: Phone, tmp_path: Path) -> None:
    network = Candidate(arch=TINY, task=TASK)
    table = measured(phone, tmp_path / "phone.lut", networks={"tiny": network}, device=phone.remote(soc="SM8250"))
    header = table.header
    assert set(table.rows) == {block.key for block in candidate_blocks(network)}
    assert (header.device, header.soc, header.governor) == (phone.transport.name, "SM8250", "toy")
    assert (header.core, header.frequency_mhz) == (f"cpu{CORE} (MIDR 0x411fd0d0, Cortex-A77)", 2841.6)
    assert (header.runtime, header.runtime_checksum) == ("ncnn", build.checksum(build.payload()))
    assert header.protocol["clock"] == "CLOCK_MONOTONIC on the device"
    assert (header.protocol["frequency_seen_mhz"], header.protocol["throttled_pct"]) == ("2841.6 to 2841.6", 0)
    assert list(phone.folders.iterdir()) == []


@pytest.mark.slow
def test_a_device_that_goes_away_loses_no_finished_burst(phone: Phone, tmp_path: Path) -> None:
    out = tmp_path / "phone.lut"
    timed = iter(range(6))

    def pull(_done: int, _total: int, what: str) -> None:
        if what.startswith("timing") and next(timed) == 4:  # the first burst of the second pass is done
            phone.unplug()

    with pytest.raises(
        UserError, match=r"connection to .* broke.*the same command goes on|refuses connections|no phone"
    ):
        measured(phone, out, progress=pull)
    kept = journalled(out)
    assert len(kept) >= 5
    phone.plug()
    seen: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        measured(phone, out, progress=lambda *_: seen.extend(journalled(out)) or stop())
    assert seen[: len(kept)] == kept
    assert len(measured(phone, out).rows) == len(BLOCKS)
    assert not out.with_name("phone.lut.partial").exists()


def stop() -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_ctrl_c_in_a_pass_leaves_no_program_and_no_folder_behind(phone: Phone, tmp_path: Path) -> None:
    def interrupt(_done: int, _total: int, what: str) -> None:
        if what.startswith("timing"):
            assert [path.name.partition(".")[0] for path in phone.folders.iterdir()] == [FOLDER_NAME]
            stop()

    with pytest.raises(KeyboardInterrupt):
        measured(phone, tmp_path / "phone.lut", progress=interrupt)
    assert list(phone.folders.iterdir()) == []
    assert len(journalled(tmp_path / "phone.lut")) == 1
    wait_for(lambda: not running(str(tmp_path / "emulator")))


def running(program: str) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [str(path)] if program in path.read_text() else []
        except OSError:  # it ended meanwhile
            continue
    return found


@pytest.mark.slow
def test_what_is_begun_on_one_core_does_not_go_on_with_another(phone: Phone, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        measured(phone, tmp_path / "phone.lut", progress=lambda *_: stop())
    machine(tmp_path, midr="0x00000000410fd440")
    with pytest.raises(UserError, match="unfinished measurement with another device"):
        measured(phone, tmp_path / "phone.lut")


@pytest.mark.slow
def test_bursts_below_the_maximum_frequency_are_told(phone: Phone, tmp_path: Path) -> None:
    machine(tmp_path, max_khz=2_841_600, now_khz=2_700_000)
    device = phone.remote()
    with device.hold():
        graph = device.load(Ncnn(), Ncnn().build(BLOCKS[0]), alone=True)
        assert [len(times_ms) for times_ms in device.time([graph, graph], BURST)] == [2, 2]
    assert device.conditions()["throttled_pct"] == 100
    assert device.conditions()["frequency_seen_mhz"] == "2700 to 2700"


@pytest.mark.slow
def test_the_label_of_a_snapdragon_865_is_given_to_its_prime_core_alone(phone: Phone, tmp_path: Path) -> None:
    assert phone.remote(soc="snapdragon  865").info().soc == "snapdragon  865"
    machine(tmp_path, midr="0x00000000411fd050", max_khz=1_804_800)
    with pytest.raises(UserError, match=r"Cortex-A77 .*0xd0d.* of 2,841,600 kHz, but .*Cortex-A55.* has 1,804,800 kHz"):
        phone.remote(soc="Snapdragon 865").info()
    assert phone.remote(soc="Raspberry Pi 9").info().soc == "Raspberry Pi 9"


@pytest.mark.parametrize(
    ("midr", "max_khz", "legal"),
    [
        (0x411FD0D0, 2_841_600, True),
        (0x411FD0D0, 2_850_000, True),
        (0x411FD0D0, 3_187_200, False),
        (0x411FD0D0, None, False),
        (None, 2_841_600, False),
        (0x410FD440, 2_841_600, False),
    ],
)
def test_only_an_a77_of_2841600_khz_is_a_snapdragon_865(midr: int | None, max_khz: int | None, legal: bool) -> None:
    found = Machine(core=7, pinned=True, midr=midr, max_khz=max_khz, governor="", soc="", compiler="")
    for label in ("Snapdragon 865", "SM8250", "sm8250"):
        if legal:
            require_label(label, found, "adb:1")
        else:
            with pytest.raises(UserError, match="leave --soc out"):
                require_label(label, found, "adb:1")
    require_label("Snapdragon 870", found, "adb:1")


@pytest.mark.slow
def test_a_core_that_is_not_there_is_refused(phone: Phone) -> None:
    with pytest.raises(UserError, match="does not give cpu999 to a program"):
        phone.remote(core=999).info()


@pytest.mark.slow
@pytest.mark.skipif(os.uname().machine in {"aarch64", "arm64"}, reason="this machine is one")
def test_a_machine_that_is_no_arm_is_refused_before_the_payload_runs(phone: Phone) -> None:
    with pytest.raises(UserError, match=r"is Linux \w+, but the payload is a program for 64-bit Arm"):
        Remote(phone.transport).info()


@pytest.mark.slow
def test_a_program_that_fails_tells_why(phone: Phone, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho $(touch pwned) '\033[31mno memory' >&2\nexit 3\n")
    with pytest.raises(UserError, match=r"failed on .* with exit code 3.*no memory") as error:
        Remote(phone.transport, program=broken).info()
    assert str(error.value).isprintable()


@pytest.mark.slow
@pytest.mark.parametrize("line", ["{", '{"core": 1}', '{"core":"$(touch pwned)","pinned":true,"midr":"x"}', "[1]", ""])
def test_a_device_that_talks_nonsense_is_an_error(phone: Phone, tmp_path: Path, line: str) -> None:
    liar = tmp_path / "liar"
    liar.write_text(f"#!/bin/sh\necho {shlex.quote(line)}\n")
    with pytest.raises(UserError, match="line cannot be read"):
        Remote(phone.transport, program=liar).info()
    assert not list(tmp_path.rglob("pwned"))


def test_only_graphs_of_ncnn_are_run() -> None:
    with pytest.raises(UserError, match="runs ncnn's payload, not onnxruntime: use --runtime ncnn"):
        device_named("ssh://pi@board").require(OnnxRuntime().info())


BAD_NAMES = (
    "ssh://",
    "ssh:board",
    "ssh://-oProxyCommand=touch pwned",
    "ssh://-oProxyCommand=x@board",
    "ssh://board;touch pwned",
    "ssh://$(touch pwned)",
    "ssh://pi@board`touch pwned`",
    "ssh://pi'@board",
    'ssh://"pi"@board',
    "ssh://pi@board\n-oProxyCommand=touch pwned",
    "ssh://pi@board\n",
    "ssh://board:0",
    "ssh://board:65536",
    "ssh://board:22;touch pwned",
    "ssh://[::1;touch pwned]",
    "ssh://[12345::1]",
    "ssh://[::1",
    "ssh://pi:secret@board",
    "ssh://board/folder",
    "adb:-s",
    "adb:1 2",
    "adb:1;touch pwned",
    "adb:$(touch pwned)",
    "adb:'1'",
    "adb:1\n",
    "adb:1?core=7;touch pwned",
)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_are_none_are_refused_and_run_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The only programs to be found say that they ran."""
    for program in ("ssh", "adb", "sh"):
        (tmp_path / program).write_text(f"#!/bin/sh\necho >{tmp_path}/pwned\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"is (ssh|adb):"):
        device_named(name)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("name", ["ssh://pi@board.local:2222", "ssh://board", "ssh://[fe80::1%eth0]:22", "adb:A-1.b:5"])
def test_ordinary_names_are_taken(name: str) -> None:
    assert isinstance(device_named(name, core=7, soc="toy"), Remote)


@pytest.mark.parametrize("core", [-1, 1024])
def test_a_core_is_a_small_number(core: int) -> None:
    with pytest.raises(UserError, match="--core must be a number from 0 to 1023"):
        device_named("adb:1", core=core)


@pytest.mark.parametrize("soc", ["", " ", "a\nb", "\033[31m", "x" * 81])
def test_a_label_is_printable_and_short(soc: str) -> None:
    with pytest.raises(UserError, match="--soc must be a name of at most 80 printable characters"):
        device_named("adb:1", soc=soc)


@pytest.mark.slow
def test_a_label_with_quotes_is_only_a_label(phone: Phone, tmp_path: Path) -> None:
    label = """'; touch pwned; "$(touch pwned)" `touch pwned` \\"""
    assert phone.remote(soc=label).info().soc == label
    assert not list(tmp_path.rglob("pwned"))


class TestSsh:
    pytestmark = needs_ssh

    def test_a_host_that_nobody_knows(self) -> None:
        with pytest.raises(UserError, match=r"ssh://board\.invalid has an unknown host name.*\(ssh: Could not"):
            Remote(Ssh("ssh://board.invalid", ssh_options=("-F", "none"))).info()

    def test_a_port_where_nobody_listens(self) -> None:
        port = free_port()
        with pytest.raises(UserError, match=f"refuses connections on port {port}"):
            Remote(Ssh(f"ssh://127.0.0.1:{port}", ssh_options=("-F", "none"))).info()

    def test_a_machine_whose_key_is_unknown(self, board: SshPhone) -> None:
        (board.root / "known_hosts").write_text("")
        with pytest.raises(UserError, match=r"has an unknown host key: compare it once by hand, ssh -p"):
            board.remote().info()

    def test_a_machine_whose_key_changed(self, board: SshPhone) -> None:
        key = " ".join((board.root / "user_key.pub").read_text().split()[:2])
        (board.root / "known_hosts").write_text(f"[127.0.0.1]:{board.port} {key}\n")
        with pytest.raises(UserError, match=r"is not the one known: .* ssh-keygen -R"):
            board.remote().info()

    def test_a_user_without_a_key(self, board: SshPhone) -> None:
        (board.root / "user_key.pub").write_text("")
        with pytest.raises(UserError, match="does not let this user in without a password: give it a key"):
            board.remote().info()

    @pytest.mark.slow
    def test_home_folders_with_spaces_and_quotes_are_inert(self, board: SshPhone, tmp_path: Path) -> None:
        home = tmp_path / "it's; touch pwned $(touch pwned)"
        home.mkdir()
        config = board.root / "sshd_config"
        config.write_text(config.read_text().replace(f"HOME={board.home}", f'"HOME={home}"'))
        board.unplug()
        board.plug()
        device = board.remote()
        with device.hold():
            graph = device.load(Ncnn(), Ncnn().build(BLOCKS[0]), alone=True)
            assert len(list(device.time([graph], BURST))) == 1
            assert len(list((home / ".cache").iterdir())) == 1
        assert list((home / ".cache").iterdir()) == []
        assert not list(tmp_path.rglob("pwned"))

    @pytest.mark.slow
    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
    def test_a_full_disk(self, board: SshPhone) -> None:
        full = board.root / "bin"
        full.mkdir()
        (full / "tar").write_text("#!/bin/sh\nexec dd of=/dev/full\n")
        (full / "tar").chmod(0o755)
        config = board.root / "sshd_config"
        config.write_text(config.read_text().replace("SetEnv ", f"SetEnv PATH={full}:{os.environ['PATH']} "))
        board.unplug()
        board.plug()
        with pytest.raises(UserError, match="no space is left on ssh://"):
            board.remote().info()


class TestAdb:
    pytestmark = needs_adb

    def test_the_only_phone_needs_no_serial(self, android: AdbPhone) -> None:
        device = device_named("adb:")
        assert isinstance(device, Remote)
        assert device.transport.name == f"adb:{android.daemon.serial}"

    def test_of_two_phones_one_must_be_named(self, android: AdbPhone, tmp_path: Path) -> None:
        with FakeAdbd(tmp_path / "other") as other:
            adb("connect", other.serial)
            with pytest.raises(UserError, match=r"2 phones are connected; name one: adb:127\.0\.0\.1:"):
                device_named("adb:")

    def test_no_phone_at_all(self, adb_server: None) -> None:
        with pytest.raises(UserError, match="no phone is ready; `adb devices` lists: none"):
            device_named("adb:")

    def test_a_phone_that_is_not_there(self, android: AdbPhone) -> None:
        with pytest.raises(
            UserError, match=rf"no phone 'none' .*`adb devices` lists: {android.daemon.serial} \(device\)"
        ):
            device_named("adb:none").info()

    @pytest.mark.parametrize(
        ("state", "advice"),
        [("unauthorized", "allow USB debugging"), ("offline", "adb connect"), ("sideload", "start it")],
    )
    def test_a_phone_that_is_not_ready(
        self, state: str, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As adb prints it; a daemon cannot be made to ask on its screen."""
        (tmp_path / "adb").write_text(f"#!/bin/sh\nprintf 'List of devices attached\\nA1\\t{state}\\n\\n'\n")
        (tmp_path / "adb").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        for name in ("adb:", "adb:A1"):
            with pytest.raises(UserError, match=f"phone A1 is {state}, as `adb devices` says: .*{advice}"):
                device_named(name).info()

    def test_no_adb_program(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(UserError, match="no adb program; on Debian: apt-get install adb"):
            device_named("adb:")

    @pytest.mark.slow
    def test_android_names_its_soc(self, android: AdbPhone) -> None:
        getprop(android, '[ "$1" = ro.board.platform ] && echo kona')
        assert android.remote().info().soc == "kona"
        with tempfile.TemporaryDirectory(dir="/tmp") as folder:  # a short path: names of chips are cut
            getprop(android, f"printf '$(touch {folder}/pwned)\\033[31m\\n'")
            assert android.remote().info().soc == f"$(touch {folder}/pwned) [31m"
            assert not (Path(folder) / "pwned").exists()

    def test_a_work_folder_that_is_none_is_neither_used_nor_removed(self, android: AdbPhone, tmp_path: Path) -> None:
        precious = tmp_path / "precious"
        precious.mkdir()
        for said in (precious, f"{precious}/../{FOLDER_NAME}.x", f"/; touch {tmp_path}/pwned", ""):
            tool(android, "mktemp", f"echo {shlex.quote(str(said))}")
            with pytest.raises(UserError, match="gives no work folder: mktemp printed"):
                android.remote().info()
        assert precious.exists()
        assert not (tmp_path / "pwned").exists()

    def test_a_full_phone(self, android: AdbPhone, monkeypatch: pytest.MonkeyPatch) -> None:
        android.daemon.full = True
        with pytest.raises(UserError, match="no space is left on adb:"):
            android.remote().info()

    def test_the_command_refuses_in_a_sentence(
        self, android: AdbPhone, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shell = Shell(capsys, monkeypatch, tmp_path)
        for more, said in (
            ("--runtime onnxruntime --table phone", "runs ncnn's payload, not onnxruntime: use --runtime ncnn"),
            ("", "needs a name: choose one with --table"),
            (
                "--runtime ncnn --table phone --core 7;touch",
                "Invalid value for .--core.: Input should be a valid integer",
            ),
        ):
            words = ("latency", "measure", "--device", f"adb:{android.daemon.serial}", "--size", "64", *more.split())
            assert re.search(said, shell.refusal(*words))

    @pytest.mark.slow
    def test_the_command_times_on_a_phone_until_ctrl_c_and_goes_on(self, android: AdbPhone, tmp_path: Path) -> None:
        """The phone says that it is an Arm, and runs what is pushed under QEMU."""
        tool(android, "uname", "echo Linux aarch64")
        android.daemon.emulator = shlex.join([str(tmp_path / "emulator"), "-L", str(tmp_path / "machine")])
        out = tmp_path / "phone.lut"
        counts: list[int] = []
        for _ in range(2):
            begun = len(journalled(out)) if counts else 0
            words = ("--runtime", "ncnn", "--table", str(out), "--core", str(CORE), "--soc", "Snapdragon 865")
            with command(android, *words) as process:
                wait_for(lambda begun=begun: lines_in(out) > begun + 3 or process.poll() is not None, seconds=300)
                process.send_signal(signal.SIGINT)
                _, error = process.communicate()
            assert (process.returncode, "stopped; the same command goes on" in error) == (130, True), error
            counts.append(len(journalled(out)))
            assert list(android.folders.iterdir()) == []
        assert 0 < counts[0] < counts[1]
        assert '"soc": "Snapdragon 865"' in out.with_name("phone.lut.partial").read_text().splitlines()[0]


@contextmanager
def command(phone: AdbPhone, *more: str) -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, "-m", "experiments", "latency", "measure", "--device", f"adb:{phone.daemon.serial}"]
    words += ["--size", "64", *more]
    with subprocess.Popen(
        words,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509, ignored in the background
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def lines_in(out: Path) -> int:
    return len(journalled(out)) if out.with_name(f"{out.name}.partial").exists() else 0


def tool(phone: AdbPhone, name: str, script: str) -> None:
    (phone.daemon.bin / name).write_text(f"#!/bin/sh\n{script}\n")
    (phone.daemon.bin / name).chmod(0o755)


def getprop(phone: AdbPhone, script: str) -> None:
    tool(phone, "getprop", script)
