"""A card's cable as the guest sees it: defined down, plugged in and pulled live, kept over daemons and starts."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from corral.constants import DomainDeviceModifyFlags as Flags
from corral.guests import tiny
from corral.hypervisor.domain import Domain
from corral.hypervisor.hotplug import hotplug

from .inside import booted, sh
from .life import opened

pytestmark = [pytest.mark.guest, pytest.mark.timeout(300)]

MAC = "52:54:00:aa:bb:01"
CARD = f"<interface type='user'><mac address='{MAC}'/><model type='virtio'/>{{}}</interface>"
DOWN, UP = CARD.format("<link state='down'/>"), CARD.format("<link state='up'/>")


async def carrier(domain: Domain, wanted: str) -> None:
    """Wait until the guest's card with that address says so."""
    up = "ip link set ${d##*/} up && cat $d/carrier"
    script = f"for d in /sys/class/net/*; do [ $(cat $d/address) = {MAC} ] && {up}; done"
    async with asyncio.timeout(20):
        while (found := await sh(domain, script)) != wanted:
            assert found in ("", "0", "1"), found
            await asyncio.sleep(0.1)


async def test_a_cable(directory: Path) -> None:
    files = await tiny.build()
    text = tiny.document("cable", tiny=files).to_xml().replace("<devices>", f"<devices>{DOWN}")
    async with opened(directory) as (hypervisor, _):
        domain = await hypervisor.define(text)
        await domain.create()
        await booted(domain)
        await carrier(domain, "0")
        await hotplug.update(domain, UP, Flags.LIVE)
        await carrier(domain, "1")
        await hotplug.update(domain, DOWN, Flags.LIVE)
        await carrier(domain, "0")
        await hotplug.update(domain, UP, Flags.LIVE | Flags.CONFIG)
        await hotplug.update(domain, DOWN, Flags.LIVE)
    async with opened(directory) as (hypervisor, _):  # another daemon
        domain = hypervisor.lookup_by_name("cable")
        assert "<link state='down'/>" in domain.xml()
        await carrier(domain, "0")
        await domain.destroy()
        await domain.create()
        await booted(domain)
        await carrier(domain, "1")
