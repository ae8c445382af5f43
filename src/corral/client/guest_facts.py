"""What a Linux guest knows of itself beyond libvirt's facts: its load, its routes, its memory blocks.

Newer agents have a command for load and routes (QEMU Guest Agent Protocol Reference: guest-get-load, since 10.0, and
guest-network-get-route, since 9.1); through older ones the kernel's own files are read (proc(5)), and `source` says so.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from corral.errors import AgentCommandFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from corral.client.domain import Domain

T = TypeVar("T")

LOAD, ROUTES = "guest-get-load", "guest-network-get-route"
#: Flags of a route (linux/route.h): it is used; it refuses.
_UP, _REJECT = 1, 0x200


@dataclass(frozen=True, slots=True)
class Load:
    """How many tasks ran or waited for a CPU, on the average of 1, 5 and 15 minutes; `source` told it."""

    one: float
    five: float
    fifteen: float
    source: str


@dataclass(frozen=True, slots=True)
class Route:
    """The way to a network: through `gateway`, or straight on the interface's own link (None)."""

    destination: str
    gateway: str | None
    interface: str
    metric: int


@dataclass(frozen=True, slots=True)
class Routes:
    """The guest's routes without its loopback's; `source` told them, or their part that could be had."""

    routes: tuple[Route, ...]
    source: str


@dataclass(frozen=True, slots=True)
class MemoryBlock:
    """A piece of the guest's memory that can be put to use or taken out of it as a whole."""

    number: int
    online: bool
    can_offline: bool


async def load(domain: Domain) -> Load:
    """The guest's load; AgentCommandFailed where neither the agent nor the guest's files tell."""
    answer = await _asked(domain, LOAD)
    if answer is not None:
        return _made(LOAD, lambda: _load([answer[f"load{minutes}m"] for minutes in (1, 5, 15)], LOAD))
    words = (await _text(domain, "/proc/loadavg")).split()
    return _made("/proc/loadavg", lambda: _load(words[:3], "/proc/loadavg"))


def _load(words: Sequence[Any], source: str) -> Load:
    one, five, fifteen = map(float, words)
    return Load(one, five, fifteen, source)


async def routes(domain: Domain) -> Routes:
    """The guest's routes; AgentCommandFailed where neither the agent nor the guest's files tell."""
    answer = await _asked(domain, ROUTES)
    if answer is not None:
        return Routes(_made(ROUTES, lambda: tuple(map(_told, answer))), ROUTES)
    found, source = await _text(domain, "/proc/net/route"), "/proc/net/route"
    four = _made(source, lambda: tuple(_ipv4(found)))
    try:
        more = await _text(domain, "/proc/net/ipv6_route")
    except AgentCommandFailed:  # a guest without IPv6
        return Routes(four, source)
    return Routes(four + _made(source, lambda: tuple(_ipv6(more))), f"{source}, /proc/net/ipv6_route")


async def memory_blocks(domain: Domain) -> tuple[MemoryBlock, ...]:
    """The guest's memory in pieces."""
    answer = await domain.agent("guest-get-memory-blocks")
    return _made("guest-get-memory-blocks", lambda: tuple(map(_block, answer)))


async def set_memory_blocks(domain: Domain, numbers: Sequence[int], online: bool) -> None:
    """Have the guest use these pieces of its memory, or not; AgentCommandFailed with its reason where it cannot."""
    wanted = [{"phys-index": number, "online": online} for number in numbers]
    for answer in await domain.agent("guest-set-memory-blocks", {"mem-blks": wanted}, timeout=60.0):
        if answer["response"] != "success":
            code = answer.get("error-code")
            reason = f"{answer['response']}{f' (errno {code})' if code else ''}"
            raise AgentCommandFailed(f"{domain.name}: memory block {answer['phys-index']}: {reason}")


async def _asked(domain: Domain, command: str) -> Any:
    """What the agent answers; None for one that does not have the command."""
    try:
        return await domain.agent(command)
    except AgentCommandFailed as error:
        if "has not been found" in str(error) or "has been disabled" in str(error):
            return None
        raise


async def _text(domain: Domain, path: str) -> str:
    return b"".join([piece async for piece in domain.read_file(path)]).decode("ascii", "replace")


def _made(source: str, make: Callable[[], T]) -> T:
    """What is made of an answer; AgentCommandFailed for one that is not as it should be."""
    try:
        return make()
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise AgentCommandFailed(f"what {source} says makes no sense: {error!r}") from error


def _told(route: Any) -> Route:
    version = int(route["version"])
    length = route["desprefixlen"] if version == 6 else route["mask"]
    network = ipaddress.ip_network(f"{route['destination']}/{length}")
    gateway = ipaddress.ip_address(route["nexthop"] if version == 6 else route.get("gateway") or 0)
    return _route(network, gateway, str(route["iface"]), int(route["metric"]))


def _ipv4(text: str) -> Iterator[Route]:
    """The lines of /proc/net/route: addresses are hexadecimal numbers in the guest's own order of bytes."""

    def address(word: str) -> ipaddress.IPv4Address:
        return ipaddress.IPv4Address(int.from_bytes(bytes.fromhex(word), "little"))

    for line in text.splitlines()[1:]:
        interface, to, gateway, flags, _, _, metric, mask, *_ = line.split()
        if int(flags, 16) & (_UP | _REJECT) == _UP:
            network = ipaddress.IPv4Network(f"{address(to)}/{address(mask)}")
            yield _route(network, address(gateway), interface, int(metric))


def _ipv6(text: str) -> Iterator[Route]:
    """The lines of /proc/net/ipv6_route."""
    for line in text.splitlines():
        to, length, _, _, gateway, metric, _, _, flags, interface = line.split()
        if int(flags, 16) & (_UP | _REJECT) == _UP and interface != "lo":
            network = ipaddress.IPv6Network((int(to, 16), int(length, 16)))
            if not (network.is_multicast or network.prefixlen == network.max_prefixlen):  # the guest's own addresses
                yield _route(network, ipaddress.IPv6Address(int(gateway, 16)), interface, int(metric, 16))


def _route(
    network: ipaddress.IPv4Network | ipaddress.IPv6Network,
    gateway: ipaddress.IPv4Address | ipaddress.IPv6Address,
    interface: str,
    metric: int,
) -> Route:
    return Route(str(network), None if gateway.is_unspecified else str(gateway), interface, metric)


def _block(answer: Any) -> MemoryBlock:
    return MemoryBlock(int(answer["phys-index"]), bool(answer["online"]), bool(answer.get("can-offline", True)))


async def gathered(domain: Domain) -> dict[str, Any]:
    """Load and routes as plain data, each with its source, without what the guest does not tell."""
    found: dict[str, Any] = {}
    asked: dict[str, Callable[[Domain], Awaitable[Load | Routes]]] = {"load": load, "routes": routes}
    for name, ask in asked.items():
        with contextlib.suppress(AgentCommandFailed):  # not Linux, or without /proc
            found[name] = asdict(await ask(domain))
    return found
