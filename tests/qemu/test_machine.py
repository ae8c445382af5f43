"""One real QEMU process: started paused, steered, lost sight of and found again, ended in every way."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from corral.errors import HostError, InternalError, OperationTimeout
from corral.qemu.machine import Listener, Machine
from corral.qemu.monitor import MonitorEvent
from corral.qemu.process import Process

pytestmark = [pytest.mark.qemu, pytest.mark.timeout(60)]


def arguments(monitor: int, *more: str) -> list[str]:
    return [
        *("qemu-system-x86_64", "-name", "guest=web,debug-threads=on", "-S", "-nodefaults", "-no-user-config"),
        *("-machine", "q35,accel=tcg", "-m", "64", "-smp", "2", "-display", "none", "-vga", "std"),
        *("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        *("-chardev", f"socket,id=monitor,fd={monitor},server=on,wait=off", "-mon", "chardev=monitor,mode=control"),
        *("-chardev", "pty,id=charserial0", "-serial", "chardev:charserial0"),
        *more,
    ]


def is_terminal(path: str) -> bool:
    return Path(path).is_char_device()


def threads(pid: int) -> set[int]:
    return {int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()}


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@asynccontextmanager
async def running(path: Path, *more: str, events: list[MonitorEvent] | None = None) -> AsyncIterator[Machine]:
    with Listener(path / "monitor") as listener:
        machine = await Machine.start(
            arguments(listener.fd, *more),
            name="web",
            listener=listener,
            log=path / "log",
            on_event=events.append if events is not None else None,
        )
    try:
        yield machine
    finally:
        if not machine.end.done():
            await machine.kill()
        await machine.close()


async def test_starts_paused_and_knows_its_terminals_and_threads(short_path: Path) -> None:
    events: list[MonitorEvent] = []
    async with running(short_path, events=events) as machine:
        assert await machine.status() == "prelaunch"
        pty = machine.chardevs["charserial0"].pty
        assert pty is not None and is_terminal(pty)
        assert sorted(machine.vcpu_threads) == [0, 1]
        assert set(machine.vcpu_threads.values()) <= threads(machine.process.pid)
        await machine.cont()
        assert await machine.status() == "running"
        await machine.stop()
        assert await machine.status() == "paused"
        assert [event.name for event in events] == ["RESUME", "STOP"]


async def test_keys_screen_nmi_and_reset(short_path: Path) -> None:
    events: list[MonitorEvent] = []
    async with running(short_path, events=events) as machine:
        await machine.cont()
        await machine.send_key([29, 56, 111], hold_ms=10)
        mime, picture = await machine.screendump()
        magic = {"image/png": b"\x89PNG", "image/x-portable-pixmap": b"P6"}[mime]
        assert picture.startswith(magic)
        await machine.inject_nmi()
        await machine.system_reset()
        await machine.system_powerdown()
        await machine.status()  # a reply, so everything before it has been heard
        assert {"RESET", "POWERDOWN"} <= {event.name for event in events}


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (("-device", "no-such-device"), "no-such-device"),
        (("-drive", "file=/no/such/disk,if=virtio"), "No such file or directory"),
        (("-cpu", "no-such-cpu"), "no-such-cpu"),
    ],
)
async def test_a_start_that_fails_gives_qemus_own_words(short_path: Path, bad: tuple[str, str], words: str) -> None:
    (short_path / "log").write_text("words of an earlier start\n")
    spawned: list[Process] = []
    with (
        Listener(short_path / "monitor") as listener,
        pytest.raises(InternalError, match=f"qemu unexpectedly closed the monitor: .*{words}") as caught,
    ):
        await Machine.start(
            arguments(listener.fd, *bad),
            name="web",
            listener=listener,
            log=short_path / "log",
            on_spawn=spawned.append,
        )
    assert "earlier" not in str(caught.value)
    assert spawned[0].ended
    assert not exists(spawned[0].pid)


async def test_a_start_that_hangs_or_is_cancelled_leaves_nothing(short_path: Path) -> None:
    spawned: list[Process] = []
    second = asyncio.Event()
    with Listener(short_path / "monitor") as listener, pytest.raises(OperationTimeout):
        await Machine.start(
            ["sleep", "60"],
            name="web",
            listener=listener,
            log=short_path / "log",
            on_spawn=spawned.append,
            timeout=0.1,
        )
    with Listener(short_path / "monitor") as listener:
        start = asyncio.create_task(
            Machine.start(
                arguments(listener.fd),
                name="web",
                listener=listener,
                log=short_path / "log",
                on_spawn=lambda process: (spawned.append(process), second.set())[0],
            )
        )
        await second.wait()
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
    assert [process.ended for process in spawned] == [True, True]
    assert not any(exists(process.pid) for process in spawned)


async def test_killed_from_outside_it_is_known_at_once(short_path: Path) -> None:
    async with running(short_path) as machine:
        await machine.cont()
        start = time.perf_counter()
        os.kill(machine.process.pid, signal.SIGKILL)
        end = await machine.ended(5)
        assert time.perf_counter() - start < 0.1
        assert (end.status, end.cause) == (-signal.SIGKILL, None)


async def test_every_end_tells_its_cause(short_path: Path) -> None:
    async with running(short_path) as machine:
        await machine.monitor.execute("quit")
        end = await machine.ended(10)
        assert (end.status, end.cause) == (0, "host-qmp-quit")
    async with running(short_path) as machine:
        await machine.cont()
        end = await machine.terminate()
        assert (end.status, end.cause) == (0, "host-signal")
        assert await machine.ended() == end
    async with running(short_path) as machine:
        assert (await machine.kill()).status == -signal.SIGKILL


async def test_found_again_after_we_let_go(short_path: Path) -> None:
    events: list[MonitorEvent] = []
    async with running(short_path) as first:
        await first.cont()
        pid, start_time, terminals = first.process.pid, first.process.start_time, first.chardevs
        await first.close()
        again = await Machine.reattach(
            pid, start_time, short_path / "monitor", name="web", log=short_path / "log", on_event=events.append
        )
        assert await again.status() == "running"
        assert again.chardevs == terminals
        assert again.vcpu_threads == first.vcpu_threads
        await again.stop()
        assert [event.name for event in events] == ["STOP"]
        end = await again.kill()
        assert end.cause is None
        await again.close()
    with pytest.raises(HostError, match="is gone"):
        await Machine.reattach(pid, start_time, short_path / "monitor", name="web", log=short_path / "log")


async def test_a_qemu_that_stands_still_makes_one_call_fail(short_path: Path) -> None:
    async with running(short_path) as machine:
        os.kill(machine.process.pid, signal.SIGSTOP)
        with pytest.raises(OperationTimeout):
            await machine.monitor.execute("query-status", timeout=0.1)
        with pytest.raises(OperationTimeout, match="is still there"):
            await machine.terminate(timeout=0.1)
        os.kill(machine.process.pid, signal.SIGCONT)
        assert (await machine.ended(5)).cause == "host-signal"
    async with running(short_path) as machine:
        pid, start_time = machine.process.pid, machine.process.start_time
        await machine.close()
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(OperationTimeout):
            await Machine.reattach(
                pid, start_time, short_path / "monitor", name="web", log=short_path / "log", timeout=0.1
            )
        assert exists(pid)
        again = Process.adopt(pid, start_time)
        again.kill()
        await again.wait(60)


async def test_the_listener_is_private_and_says_when_its_path_is_too_long(short_path: Path) -> None:
    with Listener(short_path / "monitor") as listener:
        assert listener.path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(HostError, match="longer than 107 bytes"):
        Listener(short_path / ("x" * 107))
    with pytest.raises(HostError, match="cannot listen"):
        Listener(short_path / "none" / "monitor")
