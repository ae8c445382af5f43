"""Images and ports: given to one domain at a time; events: a broken listener hurts nobody."""

from __future__ import annotations

import socket
from uuid import UUID

import pytest

from corral.errors import ResourceBusy
from corral.hypervisor.disks.images import Images
from corral.hypervisor.displays.ports import Ports
from corral.hypervisor.events import Event, EventBus, Identity, Lifecycle

A, B = UUID(int=1), UUID(int=2)
WRITTEN, READ, SHARED = (True, False), (False, False), (True, True)


@pytest.mark.parametrize(
    ("first", "second", "refused"),
    [
        (WRITTEN, WRITTEN, True),
        (WRITTEN, READ, True),
        (READ, WRITTEN, True),
        (READ, READ, False),
        (SHARED, SHARED, False),
        (SHARED, WRITTEN, True),
        (WRITTEN, SHARED, True),
    ],
)
def test_an_image_is_written_by_one_domain(first: tuple[bool, bool], second: tuple[bool, bool], refused: bool) -> None:
    images = Images()
    images.claim(A, "first", {"/disk": first})
    if refused:
        with pytest.raises(ResourceBusy, match="'/disk' of domain 'second' is in use by running domain 'first'"):
            images.claim(B, "second", {"/other": WRITTEN, "/disk": second})
        images.claim(B, "second", {"/other": WRITTEN})
    else:
        images.claim(B, "second", {"/disk": second})
    images.release(A)
    images.release(B)
    images.claim(B, "second", {"/disk": WRITTEN, "/other": WRITTEN})


def test_ports_are_given_once_and_come_back() -> None:
    ports, one, two = Ports(), object(), object()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = taken.getsockname()[1]
        first = ports.take(one, range(busy, busy + 50))
        second = ports.take(two, range(busy, busy + 50))
    assert len({busy, first, second}) == 3
    with pytest.raises(ResourceBusy, match=str(first)):
        ports.claim(two, first)
    ports.release(one)
    ports.claim(two, first)
    with pytest.raises(ResourceBusy, match="unused port"):
        ports.take(one, range(0))


def test_every_subscriber_hears_every_event_in_order_until_it_leaves() -> None:
    bus, heard, also = EventBus(), [], []

    def broken(event: Event) -> None:
        raise RuntimeError("broken listener")

    bus.subscribe(broken)
    leave = bus.subscribe(heard.append)
    bus.subscribe(also.append)
    dom = Identity("a", A, 1)
    first, second = Lifecycle(dom, 2, 0), Lifecycle(dom, 5, 1)
    bus.emit(first)
    leave()
    bus.emit(second)
    assert heard == [first]
    assert also == [first, second]
