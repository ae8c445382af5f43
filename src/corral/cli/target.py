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

AGAIN = 0.5  # seconds in which a second signal is the first one's echo


def run(body: Coroutine[Any, Any, T]) -> T:
    """Run a command's body to its end. What SIGTERM or SIGHUP interrupts clears up, as after Ctrl-C; status 143 or 129.

    timeout(1) sends its signal to the program and to its group: what comes again at once is the same one. Later it
    ends us without more ado.
    """
    ended: list[int] = []

    async def interruptible() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def end(number: int) -> None:
            if not ended:
                ended.append(number)
                task.cancel()
                loop.call_later(AGAIN, leave)

        def leave() -> None:
            for number in handled:
                loop.remove_signal_handler(number)

        handled = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is signal.SIG_DFL]
        for number in handled:
            loop.add_signal_handler(number, end, number)
        return await body

    try:
        return asyncio.run(interruptible())
    except asyncio.CancelledError:
        if not ended:
            raise
        raise SystemExit(128 + ended[0]) from None


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
