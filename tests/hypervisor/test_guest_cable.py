"""A card's cable as the guest sees it: defined down, plugged in and pulled live, kept over daemons and starts."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from corral.constants import DomainDeviceModifyFlags as Flags
from corral.guests import tiny
from corral.hypervisor.domain import Domain
from corral.hypervisor.hotplug import hotplug
from corral.model.address import PCIAddress

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
    async with asyncio.timeout(60):
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


#: The drivers by which a Linux guest knows each model.
MODELS = {
    "virtio": "virtio_net",
    "e1000": "e1000",
    "e1000e": "e1000e",
    "rtl8139": "8139cp",
    "pcnet": "pcnet32",
    "ne2k_pci": "ne2k-pci",
    "vmxnet3": "vmxnet3",
    "usb-net": "cdc_ether",
}


@pytest.mark.slow
async def test_models_and_their_boot_order(directory: Path) -> None:
    """Each model with its own address, by the driver that the guest has for it; and the order its firmware is told."""
    macs = {model: f"52:54:00:aa:cc:{number:02x}" for number, model in enumerate(MODELS)}
    orders = {"e1000": 2, "virtio": 1, "rtl8139": 3}
    cards = "<controller type='usb' model='qemu-xhci'/>"
    for model, mac in macs.items():
        boot = f"<boot order='{orders[model]}'/>" if model in orders else ""
        cards += f"<interface type='user'><mac address='{mac}'/><model type='{model}'/>{boot}</interface>"
    document = tiny.document("cards", tiny=await tiny.build())
    document.os.type.machine = "pc"
    document.devices.controllers.clear()  # q35's ports
    async with opened(directory) as (hypervisor, _):
        domain = await hypervisor.define(document.to_xml().replace("<devices>", f"<devices>{cards}"))
        await domain.create()
        await booted(domain)
        # QEMU's card on USB shows the guest an address that begins with 40.
        seen = {model: mac if model != "usb-net" else mac.replace("52:", "40:", 1) for model, mac in macs.items()}
        each = "echo $(cat $d/address) $(readlink $d/device/driver)"
        found: dict[str, str] = {}
        async with asyncio.timeout(60):
            while not set(seen.values()) <= set(found):  # slow drivers come after the agent
                said = await sh(domain, f"cd /sys/class/net; for d in */device; do d=${{d%/*}}; {each}; done")
                found = dict(line.split() for line in said.splitlines())
        assert {model: found[mac].rpartition("/")[2] for model, mac in seen.items()} == MODELS
        told = await sh(domain, "tr '\\0' '\\n' </sys/firmware/qemu_fw_cfg/by_name/bootorder/raw")
        first = [each for each in domain.require_run().live.document.devices.interfaces if each.boot is not None]
        first.sort(key=lambda each: each.boot.order if each.boot is not None else 0)
        places = [each.address for each in first]
        slots = [f"{place.slot:x}" for place in places if isinstance(place, PCIAddress)]
        assert re.findall(r"ethernet@(\w+)", told) == slots, told
        assert len(slots) == len(orders)
        await domain.destroy()
