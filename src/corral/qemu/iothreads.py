"""I/O threads of a domain: how each is made, and who uses it."""

from __future__ import annotations

from collections.abc import Iterator

from corral.errors import ConfigUnsupported
from corral.model.domain import Domain, IOThread, IOThreadIDs, IOThreadPoll
from corral.qemu.binary import Binary
from corral.qemu.context import Properties, given, iothreads
from corral.qemu.runtime import Part

POLL = {"poll_max_ns": "max", "poll_grow": "grow", "poll_shrink": "shrink"}
"""libvirt's names of parameters, and the attributes of `<poll>`."""
POOL = ("thread_pool_min", "thread_pool_max")


def object_id(number: int) -> str:
    """QEMU's name of a thread."""
    return f"iothread{number}"


def settings(domain: Domain) -> list[IOThread]:
    """Every thread of the domain, those that its document only counts included."""
    named = {each.id: each for each in domain.iothreadids.iothreads} if domain.iothreadids is not None else {}
    return [named.get(number) or IOThread(id=number) for number in iothreads(domain)]


def part(thread: IOThread, binary: Binary) -> Part:
    """The object that is the thread."""
    if (thread.thread_pool_min, thread.thread_pool_max) != (None, None) and not binary.has_argument(
        "object-add", "qom-type=iothread/thread-pool-max"
    ):
        raise ConfigUnsupported(f"I/O threads of QEMU binary '{binary.path}' have no thread pool of a given size")
    return Part("object", object_id(thread.id), {"qom-type": "iothread"} | properties(thread))


def properties(thread: IOThread) -> Properties:
    """What the document says of it, under QEMU's names."""
    poll = thread.poll or IOThreadPoll()
    named = {"poll-max-ns": poll.max, "poll-grow": poll.grow, "poll-shrink": poll.shrink}
    return given({**named, "thread-pool-min": thread.thread_pool_min, "thread-pool-max": thread.thread_pool_max})


def keep(domain: Domain, threads: list[IOThread]) -> None:
    """Write the threads into a document, in place; each by itself only where their count does not say it all."""
    domain.iothreads = len(threads) or None
    plain = [IOThread(id=number) for number in range(1, len(threads) + 1)]
    domain.iothreadids = None if threads == plain else IOThreadIDs(iothreads=threads)


def users(domain: Domain, number: int) -> Iterator[str]:
    """What runs on a thread, in libvirt's words."""
    for disk in domain.devices.disks:
        driver = disk.driver
        own = driver.iothreads.threads if driver is not None and driver.iothreads is not None else []
        if driver is not None and number in (driver.iothread, *(each.id for each in own)):
            yield f"disk '{disk.target.dev}'"
    for controller in domain.devices.controllers:
        if controller.driver is not None and controller.driver.iothread == number:
            yield f"controller '{controller.index}'"
