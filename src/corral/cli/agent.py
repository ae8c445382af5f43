"""`corral agent`: what only a machine's guest can do with itself: its clock, file systems, passwords and keys."""

from __future__ import annotations

import sys
import time as clock
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from corral.cli.options import Connect, Format, Name, Output
from corral.cli.output import emit_json
from corral.cli.password import asked
from corral.cli.target import find, refuse_unless_running, run
from corral.errors import HostError, InvalidArgument, OperationFailed

if TYPE_CHECKING:
    from corral.client.domain import Domain

T = TypeVar("T")

User = Annotated[str, typer.Argument(metavar="USER", help="A user of the guest's.")]
KeyFile = Annotated[Path | None, typer.Option(metavar="FILE", help="The same, - for standard input.")]


def time(
    name: Name,
    now: Annotated[bool, typer.Option("--now", help="Set it by this computer's clock.")] = False,
    sync: Annotated[bool, typer.Option("--sync", help="Have the guest set it by its own clock chip.")] = False,
    connect: Connect = None,
    output: Format = Output.table,
) -> None:
    """Show a guest's clock, or set it: after a long pause it is late."""
    if now and sync:
        raise InvalidArgument("--now and --sync do not go together")

    async def work(vm: Domain) -> float:
        if now or sync:
            await vm.agent_set_time(clock.time() if now else None)
        return await vm.agent_time()

    seconds = _with_guest(connect, name, work)
    if output is Output.json:
        emit_json({"seconds": seconds})
    else:
        print(f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC")


def freeze(
    name: Name,
    mountpoints: Annotated[
        list[str] | None, typer.Argument(metavar="[MOUNTPOINT…]", help="Which, as the guest names them; else all.")
    ] = None,
    connect: Connect = None,
) -> None:
    """Have a guest write out its file systems and change nothing in them, for a copy of its disks.

    Until corral agent thaw, whoever writes to them in the guest waits, and its agent does little else.
    """
    wanted = list(dict.fromkeys(mountpoints or ()))

    async def work(vm: Domain) -> int:
        frozen = await vm.agent_freeze(*wanted)
        if frozen < len(wanted):
            if frozen:
                await vm.agent_thaw()
            raise OperationFailed(
                f"{name} froze {_file_systems(frozen)} of the {len(wanted)} named; none is frozen now",
                hint=f"corral info {name} shows its mount points",
            )
        return frozen

    count = _with_guest(connect, name, work)
    print(f"{name} has {_file_systems(count)} frozen" + (f": corral agent thaw {name} ends it" if count else ""))


def thaw(name: Name, connect: Connect = None) -> None:
    """Let a guest's frozen file systems go on."""
    print(f"{name} had {_file_systems(_with_guest(connect, name, lambda vm: vm.agent_thaw()))} frozen")


def trim(
    name: Name,
    minimum: Annotated[int, typer.Option(metavar="BYTES", min=0, help="Leave free pieces that are smaller.")] = 0,
    connect: Connect = None,
) -> None:
    """Have a guest tell its disks which blocks are free: images with discard='unmap' shrink."""
    _with_guest(connect, name, lambda vm: vm.agent_trim(minimum))
    print(name)


def password(
    name: Name,
    user: User,
    encrypted: Annotated[bool, typer.Option("--encrypted", help="It is crypt's hash of one.")] = False,
    connect: Connect = None,
) -> None:
    """Give a guest's user another password; it is asked for, or read from standard input.

    openssl passwd -6 | corral agent password web root --encrypted
    """
    new = asked(f"{user} in {name}")
    _with_guest(connect, name, lambda vm: vm.agent_set_password(user, new, encrypted=encrypted))
    print(f"{user} in {name} has a new password")


def keys(
    name: Name,
    user: User,
    add: Annotated[Path | None, typer.Option(metavar="FILE", help="Add a file's keys, - for standard input.")] = None,
    remove: KeyFile = None,
    replace: KeyFile = None,
    connect: Connect = None,
    output: Format = Output.table,
) -> None:
    """Show whose SSH keys let one in as a guest's user; add, remove or replace them.

    corral agent keys web root --add ~/.ssh/id_ed25519.pub
    """
    given = [path for path in (add, remove, replace) if path is not None]
    if len(given) > 1:
        raise InvalidArgument("one of --add, --remove and --replace")
    changed = _keys(given[0]) if given else []

    async def work(vm: Domain) -> list[str]:
        if given:
            await vm.agent_set_ssh_keys(user, *changed, append=add is not None, remove=remove is not None)
        return await vm.agent_ssh_keys(user)

    found = _with_guest(connect, name, work)
    if output is Output.json:
        emit_json(found)
    else:
        print("\n".join(found) or f"{user} in {name} has no keys")


def _keys(path: Path) -> list[str]:
    """The lines of a file of public keys that are one."""
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise HostError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is no text'}") from error
    if found := [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]:
        return found
    raise InvalidArgument(f"there is no key in {path}")


def _with_guest(uri: str | None, name: str, work: Callable[[Domain], Awaitable[T]]) -> T:
    """What `work` gives, of a machine whose guest can do something now."""

    async def body() -> T:
        from corral.client.host import connect

        async with connect(uri) as host:
            domain = await find(host, name)
            await refuse_unless_running(domain)
            return await work(domain)

    return run(body())


def _file_systems(count: int) -> str:
    return "1 file system" if count == 1 else f"{count} file systems"
