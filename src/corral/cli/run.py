"""`corral run`."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from corral.cli.errors import complain, hinted
from corral.cli.options import Connect, Format, Output
from corral.cli.output import emit_json, size
from corral.cli.progress import Progress
from corral.cli.target import command
from corral.cli.target import run as run_
from corral.errors import AgentUnresponsive, DomainExists, InvalidArgument, OperationFailed, OperationInvalid

if TYPE_CHECKING:
    from corral.client.domain import Domain
    from corral.client.host import Host
    from corral.client.recipe import Recipe


def run(
    image: Annotated[
        str | None,
        typer.Argument(metavar="[IMAGE]", help="tiny, or the path of a disk image (qcow2, raw) or of a CD image."),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", "-n", help="The machine's name.", show_default="chosen")] = None,
    cpus: Annotated[int, typer.Option("--cpus", help="How many vCPUs.", min=1)] = 1,
    max_cpus: Annotated[
        int | None, typer.Option("--max-cpus", metavar="N", help="How many it can be given by corral set.", min=1)
    ] = None,
    memory: Annotated[
        str,
        typer.Option(
            "--memory", "-m", metavar="SIZE", help="Such as 512M or 2G.", show_default="1G, and 256M for tiny"
        ),
    ] = "",
    max_memory: Annotated[
        str | None, typer.Option("--max-memory", metavar="SIZE", help="How much it can be given by corral set.")
    ] = None,
    kernel: Annotated[str | None, typer.Option(metavar="FILE", help="Boot this kernel directly.")] = None,
    initrd: Annotated[str | None, typer.Option(metavar="FILE", help="Its initial RAM disk.")] = None,
    cmdline: Annotated[str | None, typer.Option(metavar="TEXT", help="Its command line.")] = None,
    firmware: Annotated[str | None, typer.Option(metavar="KIND", help="bios or uefi.", show_default="bios")] = None,
    disk: Annotated[
        str | None,
        typer.Option(metavar="SIZE|PATH", help="One more disk: a new one of SIZE (20G), or the image at PATH."),
    ] = None,
    ports: Annotated[
        list[str] | None,
        typer.Option("--port", "-p", metavar="HOST:GUEST", help="Have a port of this host lead to one of the guest's."),
    ] = None,
    cloud_init: Annotated[
        bool, typer.Option("--cloud-init", help="Let a cloud image know its name and your SSH keys, or a password.")
    ] = False,
    user_data: Annotated[
        str | None,
        typer.Option("--user-data", metavar="FILE", help="Give a cloud image this (#cloud-config, a script)."),
    ] = None,
    graphics: Annotated[bool, typer.Option("--graphics", help="Give it a screen, served by VNC.")] = False,
    accel: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="kvm, or tcg for software emulation.", show_default="what is there"),
    ] = None,
    remove: Annotated[
        bool, typer.Option("--rm", help="Forget it when it stops, and what it has written to its image.")
    ] = False,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Come back when it has started, as is done without --console.")
    ] = False,
    console: Annotated[bool, typer.Option("--console", help="Attach to its console from its first line.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until its guest agent answers.")] = False,
    connect: Connect = None,
    output: Format = Output.table,
) -> None:
    """Make a machine from an image and start it.

    corral run tiny --name web --cpus 2 --memory 512M

    corral run ./debian-12.qcow2 --memory 2G --console

    corral run ./debian-12-netinst.iso --disk 20G --memory 2G --firmware uefi

    corral run ./debian-12-generic-amd64.qcow2 --cloud-init --rm --port 8080:80
    """
    if detach and console:
        raise InvalidArgument("--detach and --console contradict each other")
    if not image and not kernel:
        hint = "name one: tiny, the path of a disk image or of an .iso, or a --kernel; see: corral run --help"
        complain(InvalidArgument("there is no image to run", hint=hint))
        raise typer.Exit(2)
    from corral.client import recipe as recipes
    from corral.client import seed

    data, password = seed.own_user_data() if cloud_init and not user_data else (None, None)
    if user_data:
        data = seed.read_user_data(user_data)
    recipe = recipes.Recipe(
        image=image or "",
        name=name,
        cpus=cpus,
        max_cpus=max_cpus,
        memory=memory or ("256M" if image == "tiny" else "1G"),
        max_memory=max_memory,
        kernel=kernel,
        initrd=initrd,
        cmdline=cmdline,
        firmware=firmware,
        graphics=graphics,
        accel=accel,
        disk=disk,
        ports=tuple(ports or ()),
        user_data=data,
        discard=remove,
    )
    recipe.check()
    run_(_run(connect, recipe, remove=remove, console=console, wait=wait, output=output))
    if password:
        print(f"The image's own user may log in at the console with the password {password}", file=sys.stderr)


async def _run(uri: str | None, recipe: Recipe, *, remove: bool, console: bool, wait: bool, output: Output) -> None:
    from corral.client.host import connect

    with Progress("connecting") as progress:
        async with connect(uri) as host:
            progress("preparing the machine")
            await _warn_of_memory(host, recipe)
            domain = await _create(host, recipe, transient=remove, paused=console, progress=progress)
            if console:
                progress.close()
                await _attach(domain)
                return
            if wait:
                progress(f"waiting for the agent in {domain.name}")
                await _answering(domain)
            progress.close()
            await _tell(uri, domain, output)


async def _warn_of_memory(host: Host, recipe: Recipe) -> None:
    """The guest finds its memory page by page: more than the host has is allowed, and said."""
    from corral.client.recipe import memory_kib

    wanted, there = memory_kib(recipe.memory), (await host.node_info()).memory
    if wanted > there:
        more = f"{size(wanted)} is more than this host's {size(there)}"
        print(f"corral: {more}; a guest that uses it all may be killed", file=sys.stderr)


async def _create(
    host: Host, recipe: Recipe, *, transient: bool, paused: bool, progress: Callable[[str], None]
) -> Domain:
    try:
        with (
            hinted("passt is not installed", "apt install passt where the daemon runs, or leave --port out"),
            hinted("is in use by", "corral stop that machine first, or run a copy of the image"),
        ):
            return await recipe.run(host, transient=transient, paused=paused, progress=progress)
    except (OperationFailed, OperationInvalid) as error:
        if recipe.name is not None and ("already exists" in error.detail or "already active" in error.detail):
            raise await _exists(await host.domain(recipe.name)) from error
        raise


async def _exists(domain: Domain) -> DomainExists:
    name = shlex.quote(domain.name)
    if await domain.active():
        hint = f"it runs: corral console {name} shows it, corral rm --force {name} ends and removes it"
    else:
        hint = f"it is off: corral start {name} starts it, corral rm {name} removes it"
    return DomainExists(f"machine '{domain.name}' already exists", hint=f"{hint}; or choose another --name")


async def _answering(domain: Domain) -> None:
    try:
        await domain.wait_for_agent(120.0)
    except asyncio.CancelledError:
        print(f"corral: {domain.name} runs on; corral rm --force {domain.name} removes it", file=sys.stderr)
        raise
    except AgentUnresponsive as error:
        hint = f"{domain.name} runs on; does its image have qemu-guest-agent? corral console {domain.name} shows it"
        raise AgentUnresponsive(error.detail, hint=hint) from error


async def _attach(domain: Domain) -> None:
    from corral.cli.console import attach

    async with await domain.console() as stream:
        await domain.resume()
        await attach(stream, domain.name)


async def _tell(uri: str | None, domain: Domain, output: Output) -> None:
    state, info = await asyncio.gather(domain.state(), domain.info())
    if output is Output.json:
        emit_json(
            {
                "name": domain.name,
                "uuid": str(domain.uuid),
                "id": domain.id,
                "state": state.name,
                "vcpus": info.vcpus,
                "memory_kib": info.memory,
            }
        )
        return
    cpus = f"{info.vcpus} vCPU{'s' if info.vcpus != 1 else ''}"
    corral, name = command(uri), shlex.quote(domain.name)
    print(
        f"{domain.name} is {state.name} ({cpus}, {size(info.memory)}); "
        f"reach it with: {corral} console {name}, or {corral} exec {name} -- COMMAND"
    )
