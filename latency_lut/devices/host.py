"""One core of this machine."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latency_lut.devices import Burst, DeviceInfo
from latency_lut.runtimes import Inference, Runtime, RuntimeInfo
from latency_lut.runtimes.ncnn import EVICT_BYTES
from topformer.errors import UserError

_LINE_BYTES = 64
_CPUS = Path("/sys/devices/system/cpu")


@dataclass(frozen=True, slots=True)
class _Loaded:
    infer: Inference
    others: NDArray[np.uint8] | None
    """Memory to go through before each run of a lone block, which in a network finds its inputs in the caches and its
    weights not."""

    def wants_more(self, times_ms: Sequence[float], burst: Burst) -> bool:
        if self.others is not None:
            return len(times_ms) < burst.cold_runs
        return len(times_ms) < burst.runs or sum(times_ms) < burst.ms

    def prepare(self) -> None:
        if self.others is None:
            return
        self.others[::_LINE_BYTES] += 1
        for values in self.infer.inputs:
            np.add(values, 0, out=values)


class Host:
    """Times in this process, pinned to the fastest core (the last one among equals) while held.

    The clock is the CPU time of the calling thread: a single-threaded inference takes that long on a core of its own,
    and turns that other processes take on a shared core do not count. How many they took is in `conditions`.
    Subnormal numbers are flushed to zero: random weights make them where trained ones do not, and they slowed a whole
    Base by 3 %, and an architecture with six transformer blocks by 20 %.
    """

    def __init__(self) -> None:
        self.cpu = fastest_cpu()
        self._others = np.zeros(EVICT_BYTES, np.uint8)
        self._cpu_ms = 0.0
        self._wall_ms = 0.0

    def info(self) -> DeviceInfo:
        frequency = _system_text(self.cpu, "cpuinfo_max_freq")
        return DeviceInfo(
            name="host",
            soc=cpu_model(),
            core="not pinned" if self.cpu is None else f"cpu{self.cpu}",
            frequency_mhz=int(frequency) / 1000 if frequency else None,
            governor=_system_text(self.cpu, "scaling_governor"),
        )

    @contextmanager
    def hold(self) -> Iterator[None]:
        import torch  # noqa: PLC0415, naming the CPU does not wait for it

        before = os.sched_getaffinity(0) if self.cpu is not None else None
        if self.cpu is not None:
            os.sched_setaffinity(0, {self.cpu})
        try:
            yield
        finally:
            torch.set_flush_denormal(False)
            if before is not None:
                os.sched_setaffinity(0, before)

    def require(self, runtime: RuntimeInfo) -> None:
        if runtime.name == "ncnn":
            raise UserError(
                "--device host does not run ncnn's payload, a program for Arm; use --runtime onnxruntime, or an Arm "
                "device: ssh://USER@HOST or adb:SERIAL."
            )
        assert runtime.threads == 1, "the thread clock does not see other threads"

    def load(self, runtime: Runtime, graph: bytes, *, alone: bool) -> _Loaded:
        infer = runtime.load(graph)
        return _Loaded(infer=infer, others=self._others if alone else None)

    def time(self, graphs: Sequence[_Loaded], burst: Burst) -> Iterator[tuple[float, ...]]:
        import torch  # noqa: PLC0415

        torch.set_flush_denormal(True)  # here, because onnxruntime's first session in a process switches it off
        for graph in graphs:
            for _ in range(burst.warm_up):
                graph.infer()
            times_ms: list[float] = []
            while graph.wants_more(times_ms, burst):
                graph.prepare()
                wall, start = time.perf_counter_ns(), time.thread_time_ns()
                graph.infer()
                times_ms.append((time.thread_time_ns() - start) / 1e6)
                self._wall_ms += (time.perf_counter_ns() - wall) / 1e6
            self._cpu_ms += sum(times_ms)
            yield tuple(times_ms)

    def conditions(self) -> Mapping[str, str | float]:
        """`contention_pct`: time the thread spent waiting for its core, over the time it ran."""
        waited = self._wall_ms / self._cpu_ms - 1 if self._cpu_ms else 0.0
        return {
            "clock": "CPU time of the thread",
            "subnormals": "flushed",
            "lone_blocks": f"caches evicted before each run, {EVICT_BYTES} bytes",
            "contention_pct": round(100 * max(waited, 0.0), 2),
        }


def fastest_cpu() -> int | None:
    """Index of the allowed core with the highest maximum frequency, the last among equals; None: cannot pin."""
    if not hasattr(os, "sched_getaffinity"):  # macOS, Windows
        return None
    return max(os.sched_getaffinity(0), key=lambda cpu: (int(_system_text(cpu, "cpuinfo_max_freq") or 0), cpu))


def cpu_model() -> str:
    """As the kernel names it."""
    for path, mark in ((Path("/proc/cpuinfo"), "model name"), (Path("/proc/cpuinfo"), "Hardware")):
        for line in path.read_text().splitlines() if path.exists() else ():
            if line.startswith(mark):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _system_text(cpu: int | None, name: str) -> str | None:
    path = _CPUS / f"cpu{cpu}" / "cpufreq" / name
    return path.read_text().strip() if path.exists() else None
