"""The tiny guest as its user sees it: the agent answers soon, and what is plugged in turns up inside."""

from __future__ import annotations

import asyncio
import base64
import os
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from corral.errors import AgentCommandTimeout, AgentUnresponsive
from corral.guests import tiny
from corral.qemu.agent import Agent
from corral.qemu.machine import Listener, Machine

pytestmark = [pytest.mark.guest, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]


@dataclass
class Guest:
    machine: Machine
    agent: Agent
    serial: Path
    boot_seconds: float
    cpu_seconds: float

    async def sh(self, script: str) -> str:
        """What a shell in the guest prints."""
        started = await self.agent.execute(
            "guest-exec", {"path": "/bin/sh", "arg": ["-c", script], "capture-output": True}
        )
        async with asyncio.timeout(60):
            while True:
                status = await self.agent.execute("guest-exec-status", started)
                if status["exited"]:
                    return base64.b64decode(status.get("out-data", "")).decode()
                await asyncio.sleep(0.05)

    async def until(self, script: str, wanted: str, seconds: float = 60) -> str:
        """Ask until the output holds what is wanted: plugging takes the guest a moment."""
        output = ""
        for _ in range(int(seconds / 0.2)):
            output = await self.sh(script)
            if wanted in output:
                return output
            await asyncio.sleep(0.2)
        pytest.fail(f"`{script}` never showed {wanted!r}, but {output!r}")

    async def add(self, driver: str, **properties: Any) -> None:
        await self.machine.monitor.execute("device_add", {"driver": driver, **properties})


def arguments(built: tiny.Tiny, monitor: int, directory: Path) -> list[str]:
    ports = [("-device", f"pcie-root-port,id=rp{n},chassis={n}") for n in range(1, 8)]
    return [
        *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-S", "-no-reboot"),
        *("-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "qemu64", "-smp", "2,maxcpus=3,sockets=3"),
        *("-m", "256,slots=2,maxmem=1G"),
        *("-kernel", str(built.kernel), "-initrd", str(built.initrd), "-append", f"{built.cmdline} hostname=web"),
        *("-chardev", f"socket,id=monitor,fd={monitor},server=on,wait=off", "-mon", "chardev=monitor,mode=control"),
        *("-chardev", f"socket,id=serial,path={directory}/serial,server=on,wait=off", "-serial", "chardev:serial"),
        *(word for pair in ports for word in pair),
        *("-device", "virtio-serial-pci,bus=rp1"),
        *("-chardev", f"socket,id=agent,path={directory}/agent,server=on,wait=off"),
        *("-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"),
        *("-netdev", "user,id=net0", "-device", "virtio-net-pci,netdev=net0,bus=rp2,romfile="),
        *("-device", "qemu-xhci,bus=rp3,id=usb"),
        *("-device", "virtio-scsi-pci,bus=rp4,id=scsi"),
        *("-blockdev", "driver=null-co,node-name=blk,size=8388608,read-zeroes=on"),
        *("-blockdev", "driver=null-co,node-name=sd,size=16777216,read-zeroes=on"),
        *("-blockdev", "driver=null-co,node-name=stick,size=33554432,read-zeroes=on"),
    ]


async def _answering(agent: Agent) -> None:
    """The first answer to a ping; a slow machine takes longer than the agent's own patience."""
    async with asyncio.timeout(60):
        while True:
            try:
                await agent.execute("guest-ping")
                return
            except (AgentUnresponsive, AgentCommandTimeout):
                await asyncio.sleep(0)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process (proc(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def booted(built: tiny.Tiny) -> AsyncIterator[Guest]:
    with tempfile.TemporaryDirectory(prefix="cr") as name:
        directory = Path(name)
        start = time.monotonic()
        with Listener(directory / "monitor") as listener:
            argv = arguments(built, listener.fd, directory)
            machine = await Machine.start(argv, name="web", listener=listener, log=directory / "log")
        agent = Agent(directory / "agent", name="web")
        try:
            await machine.cont()
            await _answering(agent)
            seconds = time.monotonic() - start
            yield Guest(machine, agent, directory / "serial", seconds, cpu_seconds(machine.process.pid))
        finally:
            await agent.close()
            await machine.kill()
            await machine.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guest() -> AsyncIterator[Guest]:
    async with booted(await tiny.build()) as running:
        yield running


async def test_boots_in_under_four_seconds() -> None:
    """The best of three. Where other work takes the processors away, the time that both vCPUs had counts instead."""
    built = await tiny.build()
    runs: list[tuple[float, float]] = []
    while len(runs) < 3 and not any(seconds < 4 for seconds, _ in runs):
        async with booted(built) as running:
            runs.append((running.boot_seconds, running.cpu_seconds))
    print("agent answered after (seconds, processor seconds):", runs)
    # Processors whose caches and threads are shared with others' work are slower, too.
    assert min(seconds for seconds, _ in runs) < 4 or min(processor for _, processor in runs) < 7


async def test_knows_its_name_and_sees_its_vcpus(guest: Guest) -> None:
    assert (await guest.agent.execute("guest-get-host-name"))["host-name"] == "web"
    assert (await guest.sh("nproc")).strip() == "2"


async def test_network_comes_up_by_dhcp(guest: Guest) -> None:
    await guest.until("ip -4 addr show eth0", "10.0.2.15")
    assert "default via 10.0.2.2" in await guest.sh("ip route")


async def test_shell_on_the_serial_console(guest: Guest) -> None:
    reader, writer = await asyncio.open_unix_connection(guest.serial)
    writer.write(b"\necho sum $((40 + 2))\n")
    async with asyncio.timeout(60):
        await reader.readuntil(b"sum 42")
        writer.write(b"echo wait $((40 + 3)); sleep 1000\n")
        await reader.readuntil(b"wait 43")
        await guest.until("ps | grep -c '[s]leep 1000'", "1")  # before, the shell itself would have been interrupted
        writer.write(b"\x03echo after $((40 + 4))\n")
        await reader.readuntil(b"after 44")
    writer.close()


async def test_plugged_vcpu_comes_online(guest: Guest) -> None:
    if (await guest.sh("cat /sys/devices/system/cpu/possible")).strip() == "0-1":
        # Linux, from the end of 2025 on, believes in pluggable vCPUs only where it knows the hypervisor; TCG is none.
        pytest.skip("the guest's kernel takes no plugged vCPUs without KVM")
    await guest.add("qemu64-x86_64-cpu", **{"id": "cpu2", "socket-id": 2, "core-id": 0, "thread-id": 0})
    await guest.until("nproc", "3")


async def test_plugged_memory_comes_online(guest: Guest) -> None:
    before = int(await guest.sh("awk '/MemTotal/{print $2}' /proc/meminfo"))
    execute = guest.machine.monitor.execute
    await execute("object-add", {"qom-type": "memory-backend-ram", "id": "mem1", "size": 128 << 20})
    await guest.add("pc-dimm", id="dimm1", memdev="mem1")
    await guest.until("awk '/MemTotal/{print $2}' /proc/meminfo", str(before + 128 * 1024))


@pytest.mark.parametrize(
    ("driver", "properties", "show", "wanted"),
    [
        ("virtio-blk-pci", {"drive": "blk", "bus": "rp5"}, "cat /sys/block/vda/size", "16384"),
        ("scsi-hd", {"drive": "sd", "bus": "scsi.0"}, "cat /sys/block/sd?/size", "32768"),
        ("usb-storage", {"drive": "stick", "bus": "usb.0"}, "cat /sys/block/sd?/size", "65536"),
        ("usb-kbd", {"bus": "usb.0"}, "cat /proc/bus/input/devices", "QEMU USB Keyboard"),
        ("virtio-rng-pci", {"bus": "rp6"}, "cat /sys/class/misc/hw_random/rng_available", "virtio_rng"),
        ("e1000e", {"bus": "rp7"}, "ls /sys/class/net", "eth1"),
    ],
)
async def test_plugged_device_is_seen(
    guest: Guest, driver: str, properties: dict[str, Any], show: str, wanted: str
) -> None:
    await guest.add(driver, id=f"plugged-{driver}", **properties)
    await guest.until(show, wanted)


async def test_power_button_turns_it_off(guest: Guest) -> None:
    """Last: the module's guest is gone afterwards."""
    start = time.monotonic()
    await guest.machine.system_powerdown()
    end = await guest.machine.ended(60)
    print(f"off after {time.monotonic() - start:.2f} s")
    assert (end.status, end.cause) == (0, "guest-shutdown")
