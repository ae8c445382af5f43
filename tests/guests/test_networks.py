"""Network cards of every kind in Linux guests that reach each other and the host, in a namespace of the test's own."""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from corral.client import connect
from corral.client.domain import Domain
from corral.client.host import Host
from corral.guests import tiny
from labs import corrald, netns
from labs.corrald import Daemon
from labs.netns import Namespace

pytestmark = [
    pytest.mark.guest,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(300),
    pytest.mark.skipif(netns.missing() is not None, reason=str(netns.missing())),
]

PORTS = "<controller type='pci' model='pcie-root-port'/>" * 8
#: The third byte of the address of a card on …, which is the second of its IP address, too.
BRIDGE, DIRECT, SOCKET, MCAST, UDP, PASST, EXTRA = 77, 78, 79, 80, 81, 82, 83


def card(kind: str, net: int, number: int, source: str = "", more: str = "") -> str:
    """A card of guest `number` on net `net`."""
    return (
        f"<interface type='{kind}'><mac address='{mac(net, number)}'/>{source}"
        f"<model type='virtio'/><rom enabled='no'/>{more}</interface>"
    )


def mac(net: int, number: int) -> str:
    return f"52:54:00:{net:02x}:00:{number:02x}"


def ip(net: int, number: int) -> str:
    return f"10.{net}.0.{10 + number}"


ON_BRIDGE = f"<source bridge='{netns.BRIDGE}'/>"


def cards(number: int) -> str:
    """One of each kind; the guests are 1 and 2."""
    other = 3 - number
    forward = "<ip address='10.82.0.11' prefix='24'/><portForward proto='tcp' address='127.0.0.1'>"
    forward += "<range start='2022' to='22'/></portForward>"
    found = [
        card("bridge", BRIDGE, number, ON_BRIDGE, "<mtu size='1300'/>" if number == 1 else ""),
        card("direct", DIRECT, number, f"<source dev='{netns.PARENT}' mode='bridge'/>"),
        card(("server", "client")[number - 1], SOCKET, number, "<source address='127.0.0.1' port='5559'/>"),
        card("mcast", MCAST, number, "<source address='230.0.0.1' port='5558'/>"),
        card(
            "udp", UDP, number,
            f"<source address='127.0.0.1' port='556{other}'><local address='127.0.0.1' port='556{number}'/></source>",
        ),
    ]  # fmt: skip
    if number == 1:
        found.append(card("user", PASST, number, f"<backend type='passt'/>{forward}"))
    return "".join(found)


class Guest:
    """A tiny guest with an address on each net, and the namespace around it."""

    def __init__(self, host: Host, vm: Domain, number: int) -> None:
        self.host, self.vm, self.number = host, vm, number

    async def sh(self, script: str) -> str:
        result = await self.vm.exec(["sh", "-c", script], agent_timeout=30)
        return (result.stdout + result.stderr).decode().strip()

    async def until(self, script: str, condition: Callable[[str], bool], seconds: float = 20) -> str:
        end = time.monotonic() + seconds
        while not condition(said := await self.sh(script)):
            assert time.monotonic() < end, f"{script}: {said}"
            await asyncio.sleep(0.05)
        return said

    async def device(self, net: int) -> str:
        """The guest's name of its card on a net."""
        found = await self.until(f"grep -l {mac(net, self.number)} /sys/class/net/*/address", bool)
        return found.split("/")[4]

    async def address(self, *nets: int) -> None:
        """Give it an address on each net, and no client of DHCP any more."""
        for net in nets:
            name = await self.device(net)
            stop = f"kill $(cat /run/udhcpc.{name}); rm -f /run/udhcpc.{name}"
            await self.until(
                f"{stop} 2>/dev/null; ip addr replace {ip(net, self.number)}/24 dev {name}", lambda _: True
            )

    async def pings(self, address: str, count: int = 3) -> bool:
        """Whether an address answers."""
        said = await self.sh(f"ping -c {count} -i 0.2 -w 10 {address}")
        return f"{count} packets received" in said


class Lab:
    """Two guests with cards of every kind, their daemon, and the namespace that all are in."""

    def __init__(self, namespace: Namespace, daemon: Daemon, directory: Path) -> None:
        self.namespace, self.daemon, self.directory = namespace, daemon, directory
        self.guests: list[Guest] = []

    @property
    def log(self) -> str:
        return (self.directory / "daemon.log").read_text()


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    with netns.made(f"corral-{os.getpid()}") as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab(namespace: Namespace) -> AsyncIterator[Lab]:
    built = await tiny.build()
    with tempfile.TemporaryDirectory(prefix="cn") as name:
        directory = Path(name)
        directory.chmod(0o755)  # noqa: ASYNC240
        daemon = corrald.start(directory, within=namespace.within)
        lab = Lab(namespace, daemon, directory)
        try:
            async with connect(daemon.uri) as host:
                for number in (1, 2):
                    xml = tiny.document(f"g{number}", tiny=built, memory_kib=192 * 1024).to_xml()
                    xml = re.sub(r"<interface.*</interface>", PORTS + cards(number), xml, flags=re.DOTALL)
                    vm = await host.define(xml)
                    await vm.start()
                    lab.guests.append(Guest(host, vm, number))
                for guest in lab.guests:
                    await guest.vm.wait_for_agent(timeout=120)
                    await guest.address(BRIDGE, DIRECT, SOCKET, MCAST, UDP)
                yield lab
                for guest in lab.guests:
                    await guest.vm.destroy()
                assert namespace.links() == {"lo", netns.BRIDGE, netns.PARENT, netns.OTHER}
        finally:
            corrald.stop(lab.daemon)


@pytest.mark.parametrize("net", [BRIDGE, DIRECT, SOCKET, MCAST, UDP])
async def test_guests_reach_each_other(lab: Lab, net: int) -> None:
    assert await lab.guests[0].pings(ip(net, 2))


@pytest.mark.parametrize(("net", "host"), [(BRIDGE, netns.HOST), (DIRECT, netns.OTHER_HOST)])
async def test_guests_reach_the_host(lab: Lab, net: int, host: str) -> None:
    assert await lab.guests[1].pings(host)


async def test_what_the_guest_sees_of_a_card(lab: Lab) -> None:
    """Address, carrier and MTU; on the host the tap with the guest's address but for its first byte, on the bridge."""
    first = lab.guests[0]
    device = f"/sys/class/net/{await first.device(BRIDGE)}"
    assert await first.sh(f"cat {device}/address {device}/carrier {device}/mtu") == f"{mac(BRIDGE, 1)}\n1\n1300"
    host = lab.namespace.ip("-d link show vnet0")
    assert "mtu 1300" in host and f"master {netns.BRIDGE}" in host and "tun type tap" in host
    assert mac(BRIDGE, 1).replace("52:", "fe:", 1) in host
    assert "mtu 1400" in lab.namespace.ip("-d link show vnet1")  # the bridge's
    assert "macvtap mode bridge" in lab.namespace.ip("-d link show macvtap0")
    assert "<target dev='vnet0'/>" in await first.vm.xml()
    assert "vnet0" not in await first.vm.xml(inactive=True) and "macvtap0" not in await first.vm.xml(inactive=True)


async def test_a_port_of_the_host_that_passt_forwards(lab: Lab) -> None:
    guest = lab.guests[0]
    device = await guest.device(PASST)
    await guest.until(f"ip addr show {device}", lambda said: "10.82.0.11/" in said, 30)  # by passt's DHCP
    await guest.sh("(echo hello | nc -l -p 22) >/dev/null 2>&1 &")
    fetch = "exec 3<>/dev/tcp/127.0.0.1/2022; timeout 5 head -1 <&3"
    said = ""
    while not said.strip():
        said = await asyncio.to_thread(lab.namespace.run, "bash", "-c", fetch, check=False)
    assert said.strip() == "hello"
