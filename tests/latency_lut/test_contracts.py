"""What every runtime and every device must obey; call these functions on your own."""

from __future__ import annotations

import os
from typing import Any

import pytest

from latency_lut.devices import DEVICES, Burst, Device, device_named
from latency_lut.devices.host import Host, cpu_model, fastest_cpu
from latency_lut.runtimes import RUNTIMES, Runtime, runtime_named
from topformer import TINY, Candidate, Task, UserError
from topformer.blocks import decompose

STEM = decompose(TINY, Task(image_size=(64, 64)))[0]


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> Runtime:
    return runtime_named(request.param)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> Device:
    return device_named(request.param)


def test_a_runtime_says_what_it_is(runtime: Runtime) -> None:
    info = runtime.info()
    assert info == runtime.info()
    assert all((info.name, info.version, info.checksum, info.precision, info.threads))


@pytest.mark.slow
def test_a_runtime_builds_the_same_graph_each_time_of_a_block_and_of_a_network(runtime: Runtime) -> None:
    assert runtime.build(STEM) == runtime.build(STEM) != b""
    network = Candidate(arch=TINY, task=Task(image_size=(64, 64)))
    assert runtime.build(network) == runtime.build(network) != runtime.build(STEM)


def test_a_device_says_what_it_is(device: Device) -> None:
    info = device.info()
    assert info == device.info()
    assert all((info.name, info.soc, info.core))
    assert info.name in DEVICES


def test_a_device_times_every_graph_as_often_as_asked_or_says_that_it_cannot(device: Device, runtime: Runtime) -> None:
    try:
        device.require(runtime.info())
    except UserError as error:
        pytest.skip(str(error))
    with device.hold():
        block, network = (device.load(runtime, runtime.build(STEM), alone=alone) for alone in (True, False))
        few = [len(times_ms) for times_ms in device.time([block, network], Burst(warm_up=1, runs=5, ms=0))]
        (times_ms,) = device.time([network], Burst(warm_up=0, runs=1, ms=20))
        (cold_ms,) = device.time([block], Burst(warm_up=0, runs=1, ms=6))
    assert few == [5, 5]
    assert len(cold_ms) == 6  # caches are evicted before each: as many runs as milliseconds
    assert sum(times_ms) >= 20
    assert all(0 < ms < 1000 for ms in times_ms)
    assert "clock" in device.conditions()


def test_unknown_names_are_errors_that_list_the_known_ones() -> None:
    with pytest.raises(UserError, match="unknown runtime 'tnn'; available: ncnn, onnxruntime"):
        runtime_named("tnn")
    with pytest.raises(UserError, match="unknown device 'phone'; available: adb:SERIAL, host, qemu, ssh://"):
        device_named("phone")


def test_qemu_is_no_device_that_times() -> None:
    with pytest.raises(UserError, match="qemu counts, it never times"):
        device_named("qemu")


@pytest.mark.parametrize("settings", [{"core": 1}, {"soc": "Snapdragon 865"}])
def test_the_host_takes_no_core_and_no_label(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="--core and --soc are for ssh:// and adb: devices"):
        device_named("host", **settings)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system pins no process")
def test_the_host_is_pinned_while_held_and_free_afterwards_even_after_an_error() -> None:
    before = os.sched_getaffinity(0)
    during = set()

    def fail_while_held() -> None:
        with Host().hold():
            during.update(os.sched_getaffinity(0))
            raise KeyError

    with pytest.raises(KeyError):
        fail_while_held()
    assert during == {fastest_cpu()}
    assert os.sched_getaffinity(0) == before


def test_the_cpu_has_a_name() -> None:
    assert cpu_model()
