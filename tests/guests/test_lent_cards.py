"""Virtual functions as cards, plugged into a machine without a system, by a daemon on a host in a guest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio
from tests.guests.test_lent import function

from corral.client import connect
from corral.errors import CorralError
from labs.nested import boot
from labs.nested import host as nested

pytestmark = [
    *(pytest.mark.guest, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(1200)),
]

STAYS, PLUGGED, FORMER = (f"52:54:00:c0:44:{last}" for last in ("b2", "b1", "c1"))
TEAM = f"<mac address='{STAYS}'/><model type='virtio'/><teaming type='persistent'/><alias name='ua-stays'/>"
COMES = "<teaming type='transient' persistent='ua-stays'/><alias name='ua-comes'/>"
DOCUMENT = f"""\
<domain type='qemu'><name>cards</name><memory unit='MiB'>64</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>
  <devices>
    {"<controller type='pci' model='pcie-root-port'/>" * 4}
    <controller type='usb' model='none'/><memballoon model='none'/>
    <interface type='user'>{TEAM}</interface>
  </devices>
</domain>
"""


def card(address: str, mac: str, more: str = "") -> str:
    source = f"<source><address type='pci' {function(address)}/></source>"
    return f"<interface type='hostdev' managed='yes'><mac address='{mac}'/>{source}{more}</interface>"


@dataclass
class Lab:
    """The host in a guest, and its virtual functions: the second has an address and a VLAN."""

    host: nested.Nested
    functions: list[str]

    def told(self, number: int) -> str:
        """What the network card has one of its functions be."""
        (line,) = (each for each in self.host.sh("ip link show eth0").splitlines() if f"vf {number} " in each)
        return line.strip()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab() -> AsyncIterator[Lab]:
    if reason := nested.missing():
        pytest.skip(reason)
    with nested.running(await boot.files()) as host:
        lab = Lab(host, host.functions(2))
        host.sh(f"ip link set eth0 vf 1 mac {FORMER} vlan 7")
        await asyncio.to_thread(host.daemon)
        async with connect(host.uri()) as client:
            await (await client.define(DOCUMENT)).start(paused=True)
        yield lab


async def test_one_of_a_team(lab: Lab) -> None:
    """QEMU keeps it back until a guest asks for it; it is lent, and given back, all the same."""
    async with connect(lab.host.uri()) as client:
        vm = await client.domain("cards")
        transient = card(lab.functions[0], STAYS, COMES)
        await vm.attach(transient)
        assert (lab.host.driver(lab.functions[0]), STAYS in lab.told(0)) == ("vfio-pci", True)
        await vm.detach(transient)
        assert (lab.host.driver(lab.functions[0]), STAYS in lab.told(0)) == ("igbvf", False)


async def test_plugged_and_given_back(lab: Lab) -> None:
    """A daemon dies in the middle of a plug; the next has it done or undone, and in the end the card is what it was."""
    address, before = lab.functions[1], lab.told(1)
    assert FORMER in before and "vlan 7" in before
    lab.host.sh("kill -STOP $(pgrep -f '[g]uest=cards')")
    async with connect(lab.host.uri()) as client:
        vm = await client.domain("cards")
        plug = asyncio.ensure_future(vm.attach(card(address, PLUGGED)))
        await asyncio.to_thread(lab.host.until, f"ip link show eth0 | grep {PLUGGED}", 60)
        await asyncio.to_thread(lab.host.kill_daemon)
        with pytest.raises(CorralError):
            await plug
    lab.host.sh("kill -CONT $(pgrep -f '[g]uest=cards')")
    await asyncio.to_thread(lab.host.daemon)
    async with connect(lab.host.uri(1)) as client:
        vm = await client.domain("cards")
        if PLUGGED not in await vm.xml():
            assert (lab.host.driver(address), lab.told(1)) == ("igbvf", before)
            await vm.attach(card(address, PLUGGED), live=True, config=False)
        assert lab.host.driver(address) == "vfio-pci"
        assert PLUGGED in lab.told(1) and "vlan" not in lab.told(1)
        with pytest.raises(CorralError, match="unable to change config on 'hostdev' network type"):
            await vm.update(card(address, PLUGGED, "<vlan><tag id='42'/></vlan>"), live=True, config=False)
        await vm.destroy()
    assert (lab.host.driver(address), lab.told(1)) == ("igbvf", before)
