"""From a command line's words to a connected host and its machines."""

from __future__ import annotations

import asyncio
import shlex
import signal
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from corral.errors import NoDomain, OperationInvalid

if TYPE_CHECKING:
    from corral.client.domain import Domain
    from corral.client.host import Host

T = TypeVar("T")


def run(body: Coroutine[Any, Any, T]) -> T:
    """Run a command's body to its end; what SIGTERM interrupts clears up, as after Ctrl-C, and the status is 143."""
    ended = False

    async def interruptible() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def end() -> None:
            nonlocal ended
            ended = True
            loop.remove_signal_handler(signal.SIGTERM)  # another one ends us at once
            task.cancel()

        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # else the command has its own way to end
            loop.add_signal_handler(signal.SIGTERM, end)
        return await body

    try:
        return asyncio.run(interruptible())
    except asyncio.CancelledError:
        if not ended:
            raise
        raise SystemExit(128 + signal.SIGTERM) from None


def command(uri: str | None) -> str:
    """What to type for a command to the same daemon."""
    return f"corral -c {shlex.quote(uri)}" if uri else "corral"


async def find(host: Host, name: str) -> Domain:
    """The machine that `name` means; NoDomain suggests one that is written alike."""
    try:
        return await host.domain(name)
    except NoDomain as error:
        import difflib

        known = [domain.name for domain in await host.domains()]
        if close := difflib.get_close_matches(name, known, 1, cutoff=0.5):
            hint = f"did you mean '{close[0]}'?"
        else:
            hint = "corral ps -a lists all there are" if known else "there are none yet; corral run tiny makes one"
        raise NoDomain(f"no machine is called '{name}'", hint=hint) from error


async def refuse_unless_running(domain: Domain) -> None:
    """OperationInvalid, saying what to do, for a machine whose guest cannot do anything now."""
    state = (await domain.state()).name
    if state == "paused":
        raise OperationInvalid(f"{domain.name} is paused", hint=f"corral resume {domain.name} lets it go on")
    if state == "pmsuspended":
        raise OperationInvalid(f"{domain.name} is asleep", hint=f"corral wake {domain.name} wakes it")
    if state in ("shutoff", "crashed"):
        raise OperationInvalid(f"{domain.name} is not running", hint=f"corral start {domain.name}")
