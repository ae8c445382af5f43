"""`corral usb`: USB devices of this computer, or made here, given to a machine over the connection to its daemon.

A command lasts as long as its device is plugged in; Ctrl-C takes it out.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corral.cli.options import Connect, Format, Name, Output
from corral.cli.output import emit_json, table
from corral.cli.target import find, refuse_unless_running, run
from corral.errors import DeviceMissing, InvalidArgument

if TYPE_CHECKING:
    from corral.client.domain import Domain
    from corral.client.usb import Plugged
    from corral.model.devices.hub import Redirdev
    from corral.usb.computer import Computer, Found
    from corral.usb.medium import Medium
    from corral.usb.transfer import Target

Bus = Annotated[
    int | None,
    typer.Option("--bus", metavar="N", help="The machine's USB controller; the first that fits.", show_default=False),
]
Slot = Annotated[
    str | None,
    typer.Option("--slot", metavar="ALIAS", help="A <redirdev> of the machine's, not a new one.", show_default=False),
]


def ls(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A machine.", show_default=False)] = None,
    connect: Connect = None,
    output: Format = Output.table,
) -> None:
    """List this computer's USB devices, or those that a machine has from elsewhere."""
    rows = run(_here() if name is None else _there(connect, name))
    if output is Output.json:
        emit_json(rows)
        return
    header = ["DEVICE", "ID", "SPEED", "NAME"] if name is None else ["SLOT", "TYPE", "PLACE", "SOURCE"]
    print(table(header, [[row[column.lower()] or "-" for column in header] for row in rows]))


async def _here() -> list[dict[str, Any]]:
    from corral.usb.computer import Computer

    async with Computer() as computer:
        return [
            {"device": each.number, "id": each.identity, "speed": each.speed.name.lower(), "name": each.name}
            for each in computer.devices()
        ]


async def _there(uri: str | None, name: str) -> list[dict[str, Any]]:
    from corral.client.host import connect as open_host

    async with open_host(uri) as host:
        return [_row(each) for each in (await (await find(host, name)).document()).devices.redirdevs]


def _row(device: Redirdev) -> dict[str, Any]:
    source = device.source
    where = source.path or ":".join(filter(None, (source.host, source.service))) if source is not None else None
    return {
        "slot": device.alias.name if device.alias is not None else None,
        "type": device.type,
        "place": str(device.address) if device.address is not None else None,
        "source": where or None,
    }


def share(
    name: Annotated[str, typer.Option("--to", metavar="NAME", help="The machine.")],
    device: Annotated[
        str | None,
        typer.Argument(
            metavar="[DEVICE]", help="vendor:product, bus.device or a part of its name.", show_default=False
        ),
    ] = None,
    bus: Bus = None,
    slot: Slot = None,
    connect: Connect = None,
) -> None:
    """Give a machine a USB device of this computer. Ctrl-C, or unplugging it, takes it out.

    corral usb share 0951:1666 --to web
    """

    async def body() -> None:
        from corral.client.host import connect as open_host
        from corral.usb.computer import Computer

        async with Computer() as computer:
            found = _choose(computer) if device is None else computer.find(device)
            async with open_host(connect) as host:
                vm = await find(host, name)
                await _lend(vm, await computer.take(found), str(found), bus=bus, slot=slot)

    run(body())


def _choose(computer: Computer) -> Found:
    """Ask which."""
    devices = computer.devices()
    if not devices:
        raise DeviceMissing("this computer has no USB devices")
    if not sys.stdin.isatty():
        raise InvalidArgument("which USB device?", hint="name it; corral usb ls lists them")
    for number, each in enumerate(devices, 1):
        print(f"{number:3}  {each}", file=sys.stderr)
    chosen: int = typer.prompt("Which", type=int, err=True)
    if not 1 <= chosen <= len(devices):
        raise InvalidArgument(f"there is no USB device {chosen} in the list")
    return devices[chosen - 1]


def stick(
    name: Name,
    what: Annotated[str, typer.Argument(metavar="IMAGE|FOLDER", help="A raw image, or a folder to copy onto it.")],
    read_only: Annotated[bool, typer.Option("--read-only", "-r", help="The machine may not write.")] = False,
    full_speed: Annotated[bool, typer.Option("--full-speed", help="12 Mbit/s, as sticks before USB 2.0.")] = False,
    bus: Bus = None,
    slot: Slot = None,
    connect: Connect = None,
) -> None:
    """Give a machine a storage stick. Of a folder it is a copy: what the machine writes is lost.

    corral usb stick web ./drivers
    """

    async def body() -> None:
        from corral import usb
        from corral.client.host import connect as open_host
        from corral.client.usb import xhci

        async with open_host(connect) as host:
            vm = await find(host, name)
            fast = xhci(await vm.document(), bus) if slot is None and not full_speed else None
            speed = usb.Speed.FULL if full_speed else usb.Speed.HIGH if fast is None else usb.Speed.SUPER
            medium = await asyncio.to_thread(_medium, what, read_only)
            device = usb.MassStorage(medium, read_only=read_only, speed=speed)
            with closing(device):
                await _lend(vm, device, f"a stick of {what}", bus=bus if fast is None else fast, slot=slot)

    run(body())


def _medium(what: str, read_only: bool) -> Medium:
    from corral.usb import Image, fat

    path = Path(what).expanduser().absolute()
    return fat.image(path, read_only=read_only) if path.is_dir() else Image(path, read_only=read_only)


def serial(name: Name, bus: Bus = None, slot: Slot = None, connect: Connect = None) -> None:
    """Give a machine a serial port, joined to a terminal here whose path is printed."""

    async def body() -> None:
        from corral import usb
        from corral.client.host import connect as open_host

        async with open_host(connect) as host:
            vm = await find(host, name)
            with closing(usb.Serial()) as port, usb.Pty(port) as pty:
                print(pty.path, flush=True)
                await _lend(vm, port, f"a serial port at {pty.path}", bus=bus, slot=slot)

    run(body())


def keyboard(
    name: Name,
    text: Annotated[
        str | None, typer.Argument(metavar="[TEXT]", help="What to type, \\n for Enter; else standard input.")
    ] = None,
    bus: Bus = None,
    connect: Connect = None,
) -> None:
    """Plug in a US keyboard, type on it, and take it out.

    corral usb keyboard web 'root\\n'
    """
    typed = typer.get_text_stream("stdin").read() if text is None else text.replace("\\n", "\n")

    async def body() -> None:
        from corral import usb
        from corral.client.host import connect as open_host
        from corral.client.usb import xhci
        from corral.usb.keys import strokes
        from corral.usb.typist import type_text

        strokes(typed)  # what has no key is refused before anything is plugged in
        device = usb.Keyboard()
        async with open_host(connect) as host:
            vm = await find(host, name)
            await refuse_unless_running(vm)
            safe = xhci(await vm.document(), bus)
            async with vm.usb(device, bus=bus if safe is None else safe):
                if not await type_text(device, typed):
                    print(f"{name} has fetched the keys; it is not certain that it took them all.", file=sys.stderr)
            print(vm.name)

    run(body())


async def _lend(vm: Domain, device: Target, what: str, **where: Any) -> None:
    """Give a device to a machine until it leaves, the machine ends or somebody interrupts us."""
    async with _interrupted() as stop, vm.usb(device, **where) as plugged:
        print(f"{vm.name} has {what} ({plugged.alias}). Ctrl-C takes it out.", file=sys.stderr, flush=True)
        await _until(plugged, stop, vm)


async def _until(plugged: Plugged, stop: asyncio.Event, vm: Domain) -> None:
    ending, stopping = asyncio.ensure_future(plugged.ended()), asyncio.ensure_future(stop.wait())
    await asyncio.wait({ending, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if ending.done():
        print(f"It left {vm.name}: {ending.result()}.", file=sys.stderr)
    else:
        ending.cancel()
        with suppress(asyncio.CancelledError):
            await ending


@asynccontextmanager
async def _interrupted() -> AsyncIterator[asyncio.Event]:
    """Set when we are told to end: the device is to be handed back first."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for each in signals:
        loop.add_signal_handler(each, stop.set)
    try:
        yield stop
    finally:
        for each in signals:
            loop.remove_signal_handler(each)
