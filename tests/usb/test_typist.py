"""Typing that waits for the guest's lamp: against guests that drop keys, have no lamps, or forget what they fetched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.usb.desk import Desk

from corral import usb
from corral.errors import OperationTimeout
from corral.usb import packets as p
from corral.usb import typist
from corral.usb.keys import NUM_LOCK, strokes

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(30)]

POLL = 0.001
"""Seconds between two looks of the guest's, which is a task beside the typing."""


class Reader:
    """What reads the keys in a guest: it hears them after `deaf` reports, and has lamps or not."""

    def __init__(self, desk: Desk, *, deaf: int = 0, lamps: bool = True, forgets_at: int | None = None) -> None:
        self.desk = desk
        self.deaf = deaf
        self.lamps = lamps
        self.forgets_at = forgets_at
        self.lit = 0
        self.heard: list[tuple[int, int]] = []

    async def live(self) -> None:
        self.desk.ask(p.StartInterruptReceiving(0x81))
        while True:
            for packet in self.desk.pass_time(0.01):
                if isinstance(packet, p.InterruptPacket):
                    self.take(packet.data)
            if self.forgets_at is not None and len(self.heard) >= self.forgets_at:
                self.forgets_at = None
                self.desk.ask(p.StopInterruptReceiving(0x81))
                self.desk.ask(p.StartInterruptReceiving(0x81))
            await asyncio.sleep(POLL)

    def take(self, report: bytes | memoryview) -> None:
        if self.deaf:
            self.deaf -= 1
        elif report[2] == NUM_LOCK:
            self.lit ^= 1
            if self.lamps:
                self.desk.control(0x21, 9, 0x200, 0, bytes((self.lit,)))
        elif report[2]:
            self.heard.append((report[0], report[2]))


@asynccontextmanager
async def reading(keyboard: usb.Keyboard, **traits: bool | int | None) -> AsyncIterator[Reader]:
    reader = Reader(Desk(keyboard), **traits)  # type: ignore[arg-type]
    task = asyncio.create_task(reader.live())
    yield reader
    task.cancel()


@pytest.mark.parametrize("deaf", [0, 1, 2, 3, 4, 7])
async def test_keys_come_after_the_guest_hears(deaf: int) -> None:
    """However many reports a guest drops at first, it has the whole text, and its lamp is as it was."""
    keyboard = usb.Keyboard()
    async with reading(keyboard, deaf=deaf) as reader:
        assert await typist.type_text(keyboard, "Hello\n")
    assert reader.heard == strokes("Hello\n")
    assert reader.lit == 0 and not keyboard.waiting


async def test_guest_without_lamps_is_typed_to_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typist, "FIRST_KNOCK", 0.01)
    monkeypatch.setattr(typist, "LINGER", 0.05)
    keyboard = usb.Keyboard()
    async with reading(keyboard, lamps=False) as reader:
        assert not await typist.type_text(keyboard, "c\n")
    assert reader.heard == strokes("c\n")


async def test_guest_that_stops_fetching_is_not_sworn_by() -> None:
    keyboard = usb.Keyboard()
    async with reading(keyboard, forgets_at=3) as reader:
        assert not await typist.type_text(keyboard, "longer than three\n")
    assert reader.forgets_at is None


async def test_guest_that_fetches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typist, "FETCH_TIMEOUT", 0.05)
    keyboard = usb.Keyboard()
    with pytest.raises(OperationTimeout, match="does not fetch"):
        await typist.type_text(keyboard, "x")
