"""A tiny guest with EHCI, its companions and xHCI, and an agent to ask it: what this room's guest tests run on."""

from __future__ import annotations

import asyncio
import base64
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest

from corral import usb
from corral.errors import AgentCommandTimeout, AgentUnresponsive
from corral.guests import tiny
from corral.qemu.agent import Agent
from corral.qemu.machine import Listener, Machine
from corral.usb.transfer import Target

EHCI, XHCI = "ehci.0", "xhci.0"


@dataclass
class Guest:
    machine: Machine
    agent: Agent
    directory: Path
    numbers: count[int] = field(default_factory=count)

    async def sh(self, script: str, seconds: float = 60) -> str:
        """What a shell in the guest prints, errors too."""
        arguments = {"path": "/bin/sh", "arg": ["-c", f"exec 2>&1; {script}"], "capture-output": True}
        started = await self.agent.execute("guest-exec", arguments)
        async with asyncio.timeout(seconds):
            while True:
                status = await self.agent.execute("guest-exec-status", started)
                if status["exited"]:
                    return base64.b64decode(status.get("out-data", "")).decode()
                await asyncio.sleep(0.05)

    async def until(self, script: str, wanted: str, seconds: float = 60) -> str:
        """Ask until the output holds what is wanted."""
        output = ""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    output = await self.sh(script)
                    if wanted in output:
                        return output
                    await asyncio.sleep(0.2)
        pytest.fail(f"`{script}` never showed {wanted!r}, but {output!r}\n{await self.sh('dmesg | tail -n 20')}")

    @asynccontextmanager
    async def slot(self, bus: str) -> AsyncIterator[Path]:
        """A usb-redir device on a bus; the socket that a device is to be served to."""
        number = next(self.numbers)
        path = self.directory / f"redir{number}"
        execute = self.machine.monitor.execute
        address = {"type": "unix", "data": {"path": str(path)}}
        backend = {"type": "socket", "data": {"addr": address, "server": True, "wait": False}}
        await execute("chardev-add", {"id": f"redir{number}", "backend": backend})
        await execute(
            "device_add", {"driver": "usb-redir", "id": f"slot{number}", "chardev": f"redir{number}", "bus": bus}
        )
        try:
            yield path
        finally:
            # QEMU takes the chardev of a usb-redir away with it.
            await execute("device_del", {"id": f"slot{number}"})

    @asynccontextmanager
    async def plugged(self, device: Target, bus: str) -> AsyncIterator[usb.Service]:
        """A device in the guest; taken out at the end, without an error."""
        async with self.slot(bus) as path:
            service = await usb.serve(device, path)
            try:
                yield service
            finally:
                service.unplug()
                async with asyncio.timeout(60):
                    await service.ended()
                device.close()
                # The next device may have the same name: the guest is to have let go of this one.
                await self.until("grep -ls Corral /sys/bus/usb/devices/*/manufacturer || echo none", "none")

    async def disk(self, model: str, seconds: float = 60) -> str:
        """The name of the SCSI disk of a model, once it is there."""
        script = f"""for d in /sys/block/sd*; do
            [ -b /dev/${{d##*/}} ] && grep -q '{model}' $d/device/model && echo disk=${{d##*/}}; done"""
        output = await self.until(script, "disk=", seconds)
        return output.split("disk=")[1].split()[0]


def arguments(built: tiny.Tiny, monitor: int, directory: Path) -> list[str]:
    companions = [
        ("-device", f"ich9-usb-uhci{n},masterbus=ehci.0,firstport={2 * n - 2},addr=1d.{n - 1},multifunction=on")
        for n in (1, 2, 3)
    ]
    return [
        *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-S", "-no-reboot"),
        *("-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "qemu64", "-m", "384"),
        *("-kernel", str(built.kernel), "-initrd", str(built.initrd), "-append", f"{built.cmdline} hostname=usb"),
        *("-chardev", f"socket,id=monitor,fd={monitor},server=on,wait=off", "-mon", "chardev=monitor,mode=control"),
        *("-device", "virtio-serial-pci"),
        *("-chardev", f"socket,id=agent,path={directory}/agent,server=on,wait=off"),
        *("-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"),
        *("-device", "ich9-usb-ehci1,id=ehci,addr=1d.7,multifunction=on"),
        *(word for pair in companions for word in pair),
        *("-device", "qemu-xhci,id=xhci"),
        *("-netdev", "user,id=net0", "-device", "virtio-net-pci,netdev=net0,romfile="),
    ]


@asynccontextmanager
async def booted(*more: str) -> AsyncIterator[Guest]:
    """The guest, its agent answering; `more` are further arguments for QEMU."""
    built = await tiny.build()
    with tempfile.TemporaryDirectory(prefix="cr") as name:
        directory = Path(name)
        with Listener(directory / "monitor") as listener:
            argv = [*arguments(built, listener.fd, directory), *more]
            machine = await Machine.start(argv, name="usb", listener=listener, log=directory / "log")
        agent = Agent(directory / "agent", name="usb")
        try:
            await machine.cont()
            async with asyncio.timeout(90):
                while True:
                    with suppress(AgentUnresponsive, AgentCommandTimeout):
                        await agent.execute("guest-ping")
                        break
                    await asyncio.sleep(0.1)
            yield Guest(machine, agent, directory)
        finally:
            await agent.close()
            await machine.kill()
            await machine.close()
