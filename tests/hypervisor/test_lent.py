"""Claiming the host's devices: what is cancelled on the way leaves none of them taken, and files have owners again."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.hypervisor import life
from tests.hypervisor.test_hotplug import LIVE

from corral.errors import ConfigUnsupported, HostError, OperationFailed
from corral.host import vfio
from corral.host.account import Account
from corral.hypervisor.devices import lending
from corral.hypervisor.hotplug import hotplug
from corral.hypervisor.store import Store
from corral.model.device_set import read_device
from corral.model.devices.device import Device

ADDRESS = "0000:02:00.0"


def lent(number: int, managed: str) -> Device:
    """A function of that address's card."""
    return read_device(
        f"<hostdev mode='subsystem' type='pci' managed='{managed}'>"
        f"<source><address domain='0' bus='2' slot='0' function='{number}'/></source>"
        f"<alias name='hostdev{number}'/></hostdev>"
    )


DEVICE, KEPT, NEIGHBOUR = lent(0, "yes"), lent(0, "no"), lent(1, "yes")


class Card:
    """A PCI function that VFIO binds; each step stops where it is told to until it may go on."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.driver = "nvme"
        self.stop = ""
        self.stopped = threading.Event()
        self.go = threading.Event()

    def _step(self, name: str) -> None:
        if self.stop == name:
            self.stopped.set()
            assert self.go.wait(20)

    def driver_of(self, _place: Path) -> str:
        self._step("look")
        return self.driver

    def claim(self, _address: str, *, managed: bool) -> None:
        self._step("take")
        assert managed or self.driver == vfio.DRIVER
        self.driver = vfio.DRIVER

    def release(self, _address: str) -> None:
        self._step("release")
        self.driver = "nvme"


class Host:
    """One domain with one run, on a store of its own."""

    def __init__(self, store: Store, account: Account | None) -> None:
        self.run: Any = SimpleNamespace(id=1, lent={})
        self.hypervisor: Any = SimpleNamespace(store=store, boot="boot", account=account)
        self.hypervisor.domains = lambda: [self.domain]
        self.domain: Any = SimpleNamespace(name="lent", run=self.run, hypervisor=self.hypervisor)

    async def left(self) -> tuple[object, object]:
        return self.run.lent, await self.hypervisor.store.metas("lent to ")


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Card:
    card = Card(tmp_path / "7")
    card.file.touch()
    monkeypatch.setattr(vfio, "place_of", Path)
    monkeypatch.setattr(vfio, "file_of", lambda _address: card.file)
    for name in ("driver_of", "claim", "release"):
        monkeypatch.setattr(vfio, name, getattr(card, name))
    return card


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "state" / "corral.sqlite")
    yield store
    await store.close()


@pytest.mark.qemu
async def test_a_card_that_qemu_keeps_back(card: Card, short_path: Path) -> None:
    """One that comes and goes is QEMU's device only when the guest asks for it; until then it is lent all the same."""
    team = "<teaming type='persistent'/><alias name='ua-stays'/>"
    stays = f"<interface type='user'><model type='virtio'/>{team}</interface>"
    comes = DEVICE.to_xml().replace("<alias name='hostdev0'/>", "<teaming type='transient' persistent='ua-{}'/>")
    try:
        async with life.opened(short_path) as (hypervisor, _):
            domain = await hypervisor.define(life.document("a", devices=stays))
            await domain.create()
            with pytest.raises(ConfigUnsupported, match="no interface with <teaming type='persistent'/> and the alias"):
                await hotplug.attach(domain, comes.format("other"), LIVE)
            assert card.driver == "nvme"
            await hotplug.attach(domain, comes.format("stays"), LIVE)
            said = await domain.monitor_command('{"execute": "qom-list", "arguments": {"path": "/machine/peripheral"}}')
            assert "ua-stays" in said and "hostdev0" not in said
        async with life.opened(short_path) as (hypervisor, _):
            domain = hypervisor.lookup_by_name("a")
            assert (card.driver, "persistent='ua-stays'" in domain.xml()) == (vfio.DRIVER, True)
            with pytest.raises(OperationFailed, match="device is busy"):
                await hotplug.detach(domain, stays, LIVE)
            await hotplug.detach(domain, comes.format("stays"), LIVE)
            assert (card.driver, "persistent='ua-stays'" in domain.xml()) == ("nvme", False)
    finally:
        life.end_machines(short_path)


@pytest.mark.parametrize("step", ["look", "take", "release"])
async def test_a_claim_that_is_cancelled_leaves_nothing_taken(card: Card, store: Store, step: str) -> None:
    """Twice: each call that ends a domain cancels its start."""
    host = Host(store, None)
    before = await host.left()
    card.stop = step

    async def work() -> None:
        await lending.claim(host.domain, host.run, [DEVICE])
        await lending.release(host.domain, host.run)

    start = asyncio.ensure_future(work())
    assert await asyncio.to_thread(card.stopped.wait, 20)
    for _ in range(2):
        start.cancel()
        await asyncio.sleep(0.01)  # for a task that would end now
        assert not start.done()
    card.go.set()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert (card.driver, await host.left()) == ("nvme", before)


async def test_a_claim_cancelled_while_it_is_written_down_leaves_no_note(
    card: Card, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(store, None)
    before = await host.left()
    writing, go = asyncio.Event(), asyncio.Event()
    write = store.set_meta

    async def slowly(key: str, value: str) -> None:
        writing.set()
        await go.wait()
        await write(key, value)

    monkeypatch.setattr(store, "set_meta", slowly)
    start = asyncio.ensure_future(lending.claim(host.domain, host.run, [DEVICE]))
    await writing.wait()
    start.cancel()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert (card.driver, await host.left()) == ("nvme", before)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")
async def test_the_file_of_a_function_goes_back_to_its_owner(card: Card, store: Store) -> None:
    """Of one that was VFIO's before, also by the next daemon; another that has it, too, keeps it."""
    account = Account("nobody", 65534, 65534)
    card.driver = vfio.DRIVER
    os.chown(card.file, 1234, -1)
    host = Host(store, account)
    await lending.claim(host.domain, host.run, [KEPT])
    assert card.file.stat().st_uid == account.uid
    await lending.claim(host.domain, host.run, [NEIGHBOUR])
    await lending.release(host.domain, host.run, [KEPT])
    assert card.file.stat().st_uid == account.uid
    next_daemon = Host(store, account)
    next_daemon.domain.run = None
    await lending.sweep(next_daemon.hypervisor)
    assert (card.file.stat().st_uid, await store.metas("lent to ")) == (1234, {})


async def test_one_that_cannot_be_given_back_keeps_no_other(
    card: Card, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = Host(store, None)
    await lending.claim(host.domain, host.run, [DEVICE, NEIGHBOUR])
    asked = []

    def release(address: str) -> None:
        asked.append(address)
        raise AttributeError if address == ADDRESS else HostError("no")

    monkeypatch.setattr(vfio, "release", release)
    await lending.release(host.domain, host.run)
    assert (asked, host.run.lent) == ([ADDRESS, "0000:02:00.1"], {})
