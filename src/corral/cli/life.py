"""Commands that take machines through their life; each takes several names and goes on after one has failed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from corral.cli.errors import complain, hinted
from corral.cli.options import Connect, Format, Name, Names, Output, SomeNames
from corral.cli.output import emit_json, state
from corral.cli.progress import Progress
from corral.cli.target import find, run
from corral.errors import CorralError, InvalidArgument, InvalidConnection, OperationInvalid, OperationTimeout

if TYPE_CHECKING:
    from corral.client.domain import Domain
    from corral.client.host import Host
    from corral.client.listening import Events

AGAIN = 5.0  # seconds between requests to shut down: a guest that still boots does not hear the first one

RUNNING = ("running", "paused", "pmsuspended")  # states of a machine that has a process
Every = Annotated[bool, typer.Option("--all", "-a", help="All machines that this can be done to.")]
Timeout = Annotated[float, typer.Option("--timeout", "-t", metavar="SECONDS", help="How long to wait.", min=0)]


def start(
    names: SomeNames = None,
    everything: Every = False,
    paused: Annotated[bool, typer.Option("--paused", help="Stop before the first instruction.")] = False,
    connect: Connect = None,
    output: Format = Output.table,
) -> None:
    """Start machines."""
    chosen = _chosen(names, everything, "shutoff", "crashed")
    _each(connect, chosen, output, "starting", lambda domain: domain.start(paused=paused), goal="running")


def stop(
    names: SomeNames = None,
    everything: Every = False,
    timeout: Timeout = 60.0,
    wait: Annotated[bool, typer.Option(help="Wait until they are off.")] = True,
    force: Annotated[bool, typer.Option("--force", "-f", help="When the time is up, turn them off.")] = False,
    connect: Connect = None,
    output: Format = Output.table,
) -> None:
    """Ask machines to shut down, and wait until they are off."""

    async def action(domain: Domain) -> None:
        if not wait:
            await domain.shutdown()
            return
        try:
            await _refuse_unless_listening(domain)
            await _shut_down(domain, timeout)
        except (OperationTimeout, Halted):
            if not force:
                raise
            await domain.destroy()

    _each(connect, _chosen(names, everything, *RUNNING), output, "shutting down", action, goal="off")


def kill(
    names: SomeNames = None, everything: Every = False, connect: Connect = None, output: Format = Output.table
) -> None:
    """Turn machines off at once, as pulling the plug would."""
    chosen = _chosen(names, everything, *RUNNING)
    _each(connect, chosen, output, "turning off", lambda domain: domain.destroy(), goal="off")


def pause(
    names: SomeNames = None, everything: Every = False, connect: Connect = None, output: Format = Output.table
) -> None:
    """Halt machines' CPUs; they keep their memory."""
    chosen = _chosen(names, everything, "running")
    _each(connect, chosen, output, "pausing", lambda domain: domain.suspend(), goal="paused")


def resume(
    names: SomeNames = None, everything: Every = False, connect: Connect = None, output: Format = Output.table
) -> None:
    """Let paused machines go on."""
    chosen = _chosen(names, everything, "paused")
    _each(connect, chosen, output, "resuming", lambda domain: domain.resume(), goal="running")


def restart(
    names: SomeNames = None,
    everything: Every = False,
    timeout: Timeout = 60.0,
    force: Annotated[bool, typer.Option("--force", "-f", help="Reset, without asking the guest.")] = False,
    connect: Connect = None,
    output: Format = Output.table,
) -> None:
    """Reboot machines, and wait until they have; those that are off are started."""

    async def action(domain: Domain) -> None:
        if not await domain.active():
            await domain.start()
        elif force:
            await domain.reset()
            if (await domain.state()).name == "paused":
                await domain.resume()
        else:
            await _refuse_unless_listening(domain)
            await _reboot(domain, timeout)

    _each(connect, _chosen(names, everything, *RUNNING), output, "restarting", action)


def rm(
    names: Names,
    force: Annotated[bool, typer.Option("--force", "-f", help="Turn them off first if they run.")] = False,
    disks: Annotated[bool, typer.Option("--disks", help="And their disks that are in storage pools.")] = False,
    connect: Connect = None,
    output: Format = Output.table,
) -> None:
    """Remove machines: their definitions and what was saved of them. Their disks stay, unless --disks is given."""

    async def action(domain: Domain) -> None:
        images = await _images(domain) if disks else []
        if await domain.active():
            if not force:
                raise OperationInvalid(
                    f"{domain.name} is running", hint=f"corral stop {domain.name}, or corral rm --force"
                )
            persistent = await domain.persistent()
            await domain.destroy()
            if persistent:
                await domain.undefine()
        else:
            await domain.undefine()
        for image in images:
            await volumes.remove(domain.host, image)

    from corral.client import volumes

    _each(connect, _chosen(names, False), output, "removing", action)


def autostart(
    names: Names,
    off: Annotated[bool, typer.Option("--off", help="No longer.")] = False,
    connect: Connect = None,
    output: Format = Output.table,
) -> None:
    """Have machines start with the daemon, which a unit of systemd's starts with the host (docs/installing.md)."""
    _each(connect, _chosen(names, False), output, "changing", lambda domain: domain.set_autostart(not off))


def rename(
    name: Name,
    new: Annotated[str, typer.Argument(metavar="NEW", help="What it is to be called.")],
    connect: Connect = None,
    output: Format = Output.table,
) -> None:
    """Give a machine another name; it must be off."""
    _each(connect, _chosen([name], False), output, "renaming", lambda domain: _renamed(domain, new))


async def _renamed(domain: Domain, new: str) -> None:
    if not new:
        raise InvalidArgument("the new name is empty", hint="write one, such as web")
    with hinted("cannot rename active domain", f"corral stop {domain.name} first"):
        await domain.rename(new)


async def _images(domain: Domain) -> list[str]:
    """The files of its disks, and of CDs that were made for it."""
    document = await domain.document(inactive=await domain.persistent())
    sources = [
        disk.source.file
        for disk in document.devices.disks
        if disk.source is not None and (disk.device == "disk" or (disk.source.file or "").endswith("-seed.iso"))
    ]
    return [file for file in sources if file]


class Halted(OperationInvalid):
    """The guest cannot do what is asked of it while its CPUs stand still."""


async def _refuse_unless_listening(domain: Domain) -> None:
    """Halted, saying what to do, for a paused machine: its guest hears no power button."""
    if (await domain.state()).name == "paused":
        hint = f"corral resume {domain.name} lets it go on; --force does not ask it"
        raise Halted(f"{domain.name} is paused", hint=hint)


@dataclass(frozen=True)
class Chosen:
    """The machines that a command is about: those with these names, or all in one of these states."""

    names: tuple[str, ...]
    states: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ", ".join(self.names) or "all machines"

    async def of(self, host: Host) -> tuple[str, ...]:
        """Their names."""
        if not self.states:
            return self.names
        domains = await host.domains()
        states = await asyncio.gather(*(domain.state_or_gone() for domain in domains))
        return tuple(domain.name for domain, state in zip(domains, states, strict=True) if state.name in self.states)


def _chosen(names: list[str] | None, everything: bool, *states: str) -> Chosen:
    """What the command line says; wrong usage when that is nothing, or two things."""
    if bool(names) == everything:
        what = "names and --all contradict each other" if names else "no machine was named"
        complain(InvalidArgument(what, hint="name machines, or say --all"))
        raise typer.Exit(2)
    return Chosen(tuple(dict.fromkeys(names or ())), states if everything else ())


def _each(
    uri: str | None,
    chosen: Chosen,
    output: Output,
    doing: str,
    action: Callable[[Domain], Awaitable[Any]],
    *,
    goal: str = "",
) -> None:
    """Do `action` to each machine at once; print each name when it is done; exit status 1 when one failed.

    `goal` is the state that it leads to, in the words of `output.state`.
    """
    results = run(_all(uri, chosen, doing, action, goal, quiet=output is Output.json))
    if output is Output.json:
        emit_json(
            [{"name": name, "ok": error is None, "error": str(error) if error else None} for name, error in results]
        )
    for name, error in results:
        if error:
            complain(error, about=name if len(results) > 1 else "")
    if any(error for _, error in results):
        raise typer.Exit(1)


async def _all(
    uri: str | None, chosen: Chosen, doing: str, action: Callable[[Domain], Awaitable[Any]], goal: str, *, quiet: bool
) -> list[tuple[str, CorralError | None]]:
    from corral.client.host import connect

    async def one(name: str) -> tuple[str, CorralError | None]:
        try:
            domain = await find(host, name)
            try:
                await action(domain)
            except OperationInvalid as error:
                raise await _explained(error, domain, goal) from error
        except InvalidConnection:
            raise
        except CorralError as error:
            return name, error
        if not quiet:
            print(domain.name, flush=True)
        return domain.name, None

    async with connect(uri) as host:
        with Progress(f"{doing} {chosen}"):
            return list(await asyncio.gather(*(one(name) for name in await chosen.of(host))))


async def _explained(error: OperationInvalid, domain: Domain, goal: str) -> OperationInvalid:
    """Where libvirt's words say only that the state is the wrong one: the machine's name, its state, and what helps."""
    if error.detail not in ("domain is already running", "domain is not running"):
        return error
    now = state((await domain.state_or_gone()).name)
    if now == goal:
        return OperationInvalid(f"{domain.name} is {now} already")
    return OperationInvalid(f"{domain.name} is {now}", hint=_WAYS.get(now, "").format(domain.name) or None)


#: State → what leads out of it.
_WAYS = {
    "off": "corral start {} starts it",
    "paused": "corral resume {} lets it go on",
    "asleep": "corral wake {} wakes it",
}


async def _shut_down(domain: Domain, timeout: float) -> None:
    """Ask until the domain is off: a guest that has not booted far enough does not listen yet."""
    try:
        async with asyncio.timeout(timeout), domain.events("lifecycle") as events:
            await domain.shutdown()
            while (await domain.state_or_gone()).active:
                if not await _heard(events):
                    await _ask_again(domain)
    except TimeoutError as error:
        raise OperationTimeout(
            f"{domain.name} is still running after {timeout:g} s", hint=f"corral kill {domain.name} turns it off"
        ) from error


async def _heard(events: Events) -> bool:
    try:
        async with asyncio.timeout(AGAIN):
            await anext(events)
    except TimeoutError:
        return False
    return True


async def _ask_again(domain: Domain) -> None:
    with suppress(OperationInvalid):  # it has just gone off
        await domain.shutdown()


async def _reboot(domain: Domain, timeout: float) -> None:
    try:
        async with asyncio.timeout(timeout), domain.events("reboot", "lifecycle") as events:
            await domain.reboot()
            while True:
                try:
                    async with asyncio.timeout(AGAIN):
                        event = await anext(events)
                except TimeoutError:
                    await domain.reboot()
                    continue
                if event.kind == "reboot" or not (await domain.state()).active:
                    break
            if not await domain.active():
                await domain.start()
    except TimeoutError as error:
        raise OperationTimeout(
            f"{domain.name} has not rebooted after {timeout:g} s",
            hint=f"corral restart --force {domain.name} resets it",
        ) from error
