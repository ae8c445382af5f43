"""Boot a first guest, ask it who it is, and say what to type next: `make demo`."""

from __future__ import annotations

import asyncio
import sys
import time

from rich.console import Console
from rich.table import Table

import corral
from corral.client.domain import Domain
from corral.client.host import Host
from corral.errors import CorralError, NoDomain
from corral.guests import tiny

NAME = "demo"
CPUS, MEMORY = 2, "512M"

NEXT = f"""\
Type next:
  .venv/bin/corral ps                         what runs
  .venv/bin/corral console {NAME}               its serial console (Ctrl-] leaves)
  .venv/bin/corral exec {NAME} -- uname -a      a command in the guest
  .venv/bin/corral show {NAME} --format yaml    its document
  .venv/bin/corral stop {NAME}                  shut it down; `rm {NAME}` forgets it
  .venv/bin/corral doctor                     what works here, and why not"""


async def boot(host: Host, console: Console) -> tuple[Domain, float]:
    """The demo guest, running and answering, and the seconds it took from the call to the agent's first answer."""
    with console.status("building the tiny guest") as status:
        await tiny.build(progress=status.update)
        status.update("booting")
        try:
            old = await host.domain(NAME)
        except NoDomain:
            pass
        else:
            if await old.active():
                await old.destroy()
            if await old.persistent():
                await old.undefine()
        begin = time.perf_counter()
        guest = await host.run("tiny", name=NAME, cpus=CPUS, memory=MEMORY)
        await guest.wait_for_agent(timeout=120)
        return guest, time.perf_counter() - begin


async def address_of(guest: Domain) -> str:
    """The guest's addresses, for which its DHCP client may take a moment longer than its agent."""
    for _ in range(50):
        if addresses := await guest.addresses():
            return ", ".join(addresses)
        await asyncio.sleep(0.2)
    return "none within ten seconds"


async def main() -> int:
    """Show the guest in a short table; the exit status is 1 when it does not come up."""
    console = Console(highlight=False)
    try:
        async with corral.connect() as host:
            guest, seconds = await boot(host, console)
            info, document, address = await asyncio.gather(guest.info(), guest.document(), address_of(guest))
            kernel = await guest.exec(["uname", "-r"])
    except CorralError as error:
        Console(stderr=True).print(f"demo: {error}")
        return 1
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for label, value in (
        ("name", guest.name),
        ("vCPUs", str(info.vcpus)),
        ("memory", f"{info.memory // 1024} MiB"),
        ("address", address),
        ("boot time", f"{seconds:.1f} s, from the call to the agent's answer"),
        ("accelerator", {"qemu": "tcg (software; `corral doctor` says why)"}.get(document.type, document.type)),
        ("guest kernel", kernel.stdout.decode().strip()),
    ):
        table.add_row(label, value)
    console.print("The guest runs and its agent answers.\n")
    console.print(table)
    console.print(f"\n{NEXT}", markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
