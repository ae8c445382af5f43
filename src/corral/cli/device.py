"""`corral device`: devices of every kind, from documents in libvirt's XML."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from corral.cli.disk import Now, act
from corral.cli.options import Connect, Name
from corral.errors import InvalidArgument

if TYPE_CHECKING:
    from corral.client.domain import Domain
    from corral.model.devices.device import Device
    from corral.model.domain import Domain as DomainDocument

File = Annotated[str, typer.Argument(metavar="FILE", help="The device's XML; - is standard input.")]


def add(name: Name, file: File, now: Now = False, connect: Connect = None) -> None:
    """Give a machine a device: at once if it runs, and for its next starts.

    echo "<rng model='virtio'><backend model='builtin'/></rng>" | corral device add web -
    """
    xml = _read(file)

    async def change(domain: Domain, document: DomainDocument) -> str:
        await domain.attach(xml, config=False if now else None)
        return f"{domain.name} has the device"

    act(connect, name, change)


def rm(
    name: Name,
    file: Annotated[
        str, typer.Argument(metavar="FILE|ALIAS", help="The device's XML, or its alias; - is standard input.")
    ],
    now: Now = False,
    connect: Connect = None,
) -> None:
    """Take a device away; returns when the guest has let go of it."""

    async def change(domain: Domain, document: DomainDocument) -> str:
        from corral.client.taking_away import take_away
        from corral.model import device_set

        wanted = await asyncio.to_thread(_meant, document, file)
        await take_away(domain, document, lambda each: device_set.find(each, wanted), now=now)
        return f"{domain.name} has the device no more"

    act(connect, name, change)


def update(
    name: Name,
    file: File,
    force: Annotated[bool, typer.Option("--force", "-f", help="Open a drive that the guest holds.")] = False,
    now: Now = False,
    connect: Connect = None,
) -> None:
    """Change a device in place: a drive's medium, a cable, a password."""
    xml = _read(file)

    async def change(domain: Domain, document: DomainDocument) -> str:
        await domain.update(xml, config=False if now else None, force=force)
        return f"{domain.name} has the device as described"

    act(connect, name, change)


def _meant(document: DomainDocument, named: str) -> Device:
    """The device that an alias or a file names."""
    from corral.model import device_set

    if (device := device_set.by_alias(document, named)) is not None:
        return device
    if named != "-" and not Path(named).exists():
        known = sorted(each.alias.name for each in device_set.all_of(document) if each.alias is not None)
        raise InvalidArgument(f"'{named}' is neither a file nor an alias", hint=f"aliases are: {', '.join(known)}")
    return device_set.read_device(_read(named))


def _read(file: str) -> str:
    try:
        return typer.get_text_stream("stdin").read() if file == "-" else Path(file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{file}: {getattr(error, 'strerror', None) or error}") from error
