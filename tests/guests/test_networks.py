"""Network cards of every kind in Linux guests that reach each other and the host, in a namespace of the test's own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.guests.inside import Inside
from tests.guests.vhost_user import Backend

from corral.client import connect
from corral.client.domain import Domain
from corral.client.host import Host
from corral.errors import ConfigUnsupported, CorralError, HostError
from corral.guests import tiny
from labs import corrald, netns
from labs.corrald import Daemon
from labs.netns import Namespace

pytestmark = [
    pytest.mark.guest,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(300),
    pytest.mark.skipif(netns.missing() is not None, reason=str(netns.missing())),
    pytest.mark.skipif(shutil.which("passt") is None, reason="passt is not installed (apt-get install passt)"),
]

PORTS = "<controller type='pci' model='pcie-root-port'/>" * 12
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


SHARED = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"
MTU = {1: "<mtu size='1300'/>", 2: ""}
ON_BRIDGE = f"<source bridge='{netns.BRIDGE}'/>"


def cards(number: int) -> str:
    """One of each kind; the guests are 1 and 2."""
    other = 3 - number
    forward = "<ip address='10.82.0.11' prefix='24'/><portForward proto='tcp' address='127.0.0.1'>"
    forward += "<range start='2022' to='22'/></portForward>"
    found = [
        card("bridge", BRIDGE, number, ON_BRIDGE, MTU[number]),
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


class Guest(Inside):
    """A tiny guest with an address on each net, and the namespace around it."""

    def __init__(self, host: Host, vm: Domain, number: int) -> None:
        super().__init__(host, vm)
        self.number = number

    async def device(self, net: int) -> str:
        """The guest's name of its card on a net."""
        found = await self.until(f"grep -l {mac(net, self.number)} /sys/class/net/*/address", bool)
        return found.split("/")[4]

    async def address(self, *nets: int) -> None:
        """Give it an address on each net, and no client of DHCP any more."""
        for net in nets:
            name = await self.device(net)
            client = f"/run/udhcpc.{name}"
            await self.until(f"cat {client} 2>/dev/null", str.isdigit)  # started a moment after the card comes
            stop = f"p=$(cat {client}) && kill $p && while [ -d /proc/$p ]; do usleep 20000; done; rm -f {client}"
            await self.sh(f"({stop}) 2>/dev/null; ip addr replace {ip(net, self.number)}/24 dev {name}")

    async def pings(self, address: str, count: int = 3) -> bool:
        """Whether an address answers so often in a row; the first time a neighbour may have to be found."""
        ask = (
            f"for _ in 1 2 3; do ping -c {count} -i 0.2 -w 5 {address} | grep '{count} packets received' && break; done"
        )
        return bool(await self.sh(ask))


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
                    xml = tiny.document(f"g{number}", tiny=built, cpus=number, memory_kib=192 * 1024).to_xml()
                    if number == 2:  # for vhost-user
                        xml = xml.replace("<vcpu", SHARED + "<vcpu")
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
                assert namespace.links() == netns.LINKS
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


async def fetched(lab: Lab) -> str:
    """What the guest's web server says through passt; "" when it cannot be reached.

    The client speaks first: a passt of 2023 acknowledges no connection before there is something to say.
    """
    fetch = "exec 3<>/dev/tcp/127.0.0.1/2022; printf 'GET /x HTTP/1.0\\r\\n\\r\\n' >&3; timeout 3 tail -1 <&3"
    return (await asyncio.to_thread(lab.namespace.run, "bash", "-c", fetch, check=False)).strip()


async def web(lab: Lab) -> None:
    """The first guest has a web server, and a way to passt; also when asked twice."""
    guest = lab.guests[0]
    device = await guest.device(PASST)
    await guest.until(f"ip addr show {device}", lambda said: "10.82.0.11/" in said)  # by passt's DHCP
    # It speaks to its guest as the network's router, which the guest would look for on the bridge.
    router = lab.namespace.ip("route show default").split()[2]
    await guest.sh(f"ip route add {router} dev {device}")
    await guest.sh("mkdir -p /run/www; echo hello >/run/www/x; httpd -p 22 -h /run/www")


async def test_a_port_of_the_host_that_passt_forwards(lab: Lab) -> None:
    await web(lab)
    async with asyncio.timeout(60):
        while (said := await fetched(lab)) != "hello":
            assert said == ""


#: Run in the namespace: serves one connection on a port, sends bytes or counts them until the guest has no more.
SERVER = """
import socket, sys
port, count = int(sys.argv[1]), int(sys.argv[2])
listening = socket.create_server(("10.77.0.1", port))
print("ready", flush=True)
there, _ = listening.accept()
received = 0
there.sendall(bytes(count))
while not count and (part := there.recv(65536)):
    received += len(part)
print(received, flush=True)
"""


async def transfer(lab: Lab, port: int, script: str, *, sends: int = 0) -> tuple[int, float, str]:
    """(bytes that the host received, seconds, what the guest said) of a connection from guest 2 to the host."""
    process = await asyncio.create_subprocess_exec(
        *lab.namespace.within, "python3", "-c", SERVER, str(port), str(sends), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    begun = time.monotonic()
    said = await lab.guests[1].sh(script.format(port))
    received = int(await process.stdout.readline())
    seconds = time.monotonic() - begun
    await process.wait()
    return received, seconds, said


async def test_limits_are_felt(lab: Lab) -> None:
    """100 kB/s each way: 300 kB take three seconds, and without the limit they do not."""
    vm, size = lab.guests[1].vm, 300_000
    download, upload = "nc 10.77.0.1 {} </dev/null | wc -c", f"head -c {size} /dev/zero | nc 10.77.0.1 {{}}"
    _, _, said = await transfer(lab, 7001, download, sends=size)
    assert said == str(size)
    limit = "<bandwidth><inbound average='100'/><outbound average='100'/></bandwidth>"
    slow = card("bridge", BRIDGE, 2, ON_BRIDGE + limit)
    await vm.update(slow, config=False)
    _, limited, said = await transfer(lab, 7002, download, sends=size)
    assert said == str(size) and limited > 2.5
    received, limited, _ = await transfer(lab, 7003, upload)
    assert received == size and limited > 2.5
    assert "<inbound average='100'/>" in await vm.xml()
    await vm.update(card("bridge", BRIDGE, 2, ON_BRIDGE), config=False)
    for port in (7004, 7005, 7006):  # the machine itself may be slow at times
        received, free, _ = await transfer(lab, port, upload)
        assert received == size
        if free < limited:
            break
    assert free < limited


async def test_counted_from_the_guests_side(lab: Lab) -> None:
    """What a tap and a macvtap carried, as the guest counts it."""
    guest = lab.guests[0]
    for net, link in ((BRIDGE, "vnet0"), (DIRECT, "macvtap0")):
        device = f"/sys/class/net/{await guest.device(net)}/statistics"
        await guest.sh(f"ping -c 3 -s 1000 -i 0.2 -w 10 {ip(net, 2)}")
        own = (await guest.sh(f"cat {device}/rx_bytes {device}/tx_bytes")).split()
        seen = await guest.host.call("domain_interface_stats", dom=guest.vm.reference, device=link)
        assert int(own[0]) <= seen.rx_bytes <= int(own[0]) + 3000 and int(own[1]) <= seen.tx_bytes <= int(own[1]) + 3000


async def test_addresses_by_neighbours(lab: Lab) -> None:
    guest = lab.guests[1]
    await guest.pings(netns.HOST)
    answer = await guest.host.call("domain_interface_addresses", dom=guest.vm.reference, source=2, flags=0)
    known = {(each.hwaddr, address.addr) for each in answer.ifaces for address in each.addrs}
    assert (mac(BRIDGE, 2), ip(BRIDGE, 2)) in known


@pytest.mark.parametrize("model", ["virtio", "e1000e"])
async def test_plugged_and_unplugged_under_load(lab: Lab, model: str) -> None:
    """A further card on the bridge: reached, and taken out while packets flow, again and again; no link stays."""
    guest, links = lab.guests[1], lab.namespace.links()
    queues = "<driver queues='2'/>" if model == "virtio" else ""
    extra = card("bridge", EXTRA, 2, ON_BRIDGE, queues).replace("type='virtio'", f"type='{model}'")
    lab.namespace.ip(f"addr add 10.{EXTRA}.0.1/24 dev {netns.BRIDGE}")
    for _ in range(2 if model == "virtio" else 1):
        await guest.vm.attach(extra)
        assert len(lab.namespace.links()) == len(links) + 1
        device = await guest.device(EXTRA)
        await guest.address(EXTRA)
        if queues:
            assert "rx-1" in await guest.sh(f"ls /sys/class/net/{device}/queues")
        await guest.until(f"ping -c 1 -w 2 10.{EXTRA}.0.1", lambda said: "1 packets received" in said)
        await guest.sh(f"(ping -i 0.01 -s 1400 10.{EXTRA}.0.1 & ping -i 0.01 -s 1400 10.{EXTRA}.0.1) >/dev/null 2>&1 &")
        await guest.vm.detach(extra)
        await guest.until("cat /sys/class/net/*/address", lambda said: mac(EXTRA, 2) not in said)
        await guest.sh("killall ping")
        assert lab.namespace.links() == links
    lab.namespace.ip(f"addr del 10.{EXTRA}.0.1/24 dev {netns.BRIDGE}")
    assert mac(EXTRA, 2) not in await guest.vm.xml() + await guest.vm.xml(inactive=True)


@pytest.mark.slow
async def test_isolated_ports(lab: Lab) -> None:
    """Two isolated ports of a bridge do not reach each other, but the host; while they run, and back."""
    first, second = lab.guests
    alone = [card("bridge", BRIDGE, guest.number, ON_BRIDGE, MTU[guest.number]) for guest in lab.guests]
    for guest, xml in zip(lab.guests, alone, strict=True):
        await guest.vm.update(xml.replace("<model", "<port isolated='yes'/><model"), config=False)
    assert await first.pings(netns.HOST, 1) and await second.pings(netns.HOST, 1)
    assert " 0 packets received" in await first.sh(f"ping -c 1 -w 1 {ip(BRIDGE, 2)}")
    for guest, xml in zip(lab.guests, alone, strict=True):
        await guest.vm.update(xml, config=False)
    await first.until(f"ping -c 1 -w 1 {ip(BRIDGE, 2)}", lambda said: " 1 packets received" in said)


async def test_taps_of_ones_own(lab: Lab) -> None:
    """A tap that somebody made is used as it is, and stays; one that we make beside all bridges goes."""
    guest, links = lab.guests[1], lab.namespace.links()
    lab.namespace.ip("tuntap add mine mode tap vnet_hdr")
    lab.namespace.ip(f"addr add 10.{EXTRA}.0.1/24 dev mine")
    lab.namespace.ip("link set mine up")
    own = card("ethernet", EXTRA, 2, "<target dev='mine' managed='no'/>")
    with pytest.raises(CorralError, match="a network link 'mine' is there already"):
        await guest.vm.attach(own.replace(" managed='no'", ""), config=False)
    await guest.vm.attach(own, config=False)
    await guest.address(EXTRA)
    await guest.until(f"ping -c 1 -w 2 10.{EXTRA}.0.1", lambda said: "1 packets received" in said)
    await guest.vm.detach(own, config=False)
    assert lab.namespace.links() == links | {"mine"}
    lab.namespace.ip("link del mine")
    with pytest.raises(HostError, match="the tap 'mine' that <target managed='no'/> names is not there"):
        await guest.vm.attach(own, config=False)
    made = card("ethernet", EXTRA, 2, "<target dev='ours'/>")
    await guest.vm.attach(made, config=False)
    assert lab.namespace.links() == links | {"ours"}
    assert f"fe:54:00:{EXTRA:02x}:00:02" in lab.namespace.ip("link show ours")
    await guest.device(EXTRA)
    await guest.vm.detach(made, config=False)
    assert lab.namespace.links() == links


async def test_vhost_user(lab: Lab) -> None:
    """Another process moves the packets, in the guest's own memory; plugged and unplugged."""
    guest = lab.guests[1]
    path = lab.directory / "vhost.sock"
    source = f"<source type='unix' path='{path}' mode='client'><reconnect enabled='yes' timeout='1'/></source>"
    extra = card("vhostuser", EXTRA, 2, source)
    with pytest.raises(ConfigUnsupported, match="'interface' requires shared memory"):
        await lab.guests[0].vm.attach(extra, config=False)
    with Backend(path) as backend:
        try:
            await guest.vm.attach(extra, config=False)
        except ConfigUnsupported as error:
            if "too old for vhost-user cards in software emulation" not in str(error):
                raise
            pytest.skip(str(error))
        await guest.address(EXTRA)
        await guest.until(f"ping -c 3 -i 0.2 -w 5 10.{EXTRA}.0.1", lambda said: "3 packets received" in said)
        assert backend.packets > 3 and backend.connected.is_set()
        await guest.vm.detach(extra, config=False)
        async with asyncio.timeout(60):
            while backend.connected.is_set():  # noqa: ASYNC110
                await asyncio.sleep(0.05)


async def test_a_macvtap_plugged_and_unplugged(lab: Lab) -> None:
    """It follows the address and the multicast group (IPv6's solicited node) that a trusted guest chooses."""
    guest, links = lab.guests[1], lab.namespace.links()
    extra = card("direct", EXTRA, 2, f"<source dev='{netns.OTHER}' mode='private'/>")
    extra = extra.replace("<interface", "<interface trustGuestRxFilters='yes'")
    await guest.vm.attach(extra, config=False)
    assert lab.namespace.links() - links == {"macvtap2"}
    device = await guest.device(EXTRA)
    own = "52:54:00:53:00:77"
    await guest.sh(f"ip link set {device} down; ip link set {device} address {own}; ip link set {device} up")
    async with asyncio.timeout(60):
        while own not in lab.namespace.ip("link show macvtap2"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        while "33:33:ff:53:00:77" not in lab.namespace.ip("maddress show dev macvtap2"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await guest.vm.detach(extra, config=False)
    assert lab.namespace.links() == links


async def ask(guest: Guest, command: str, **arguments: str) -> None:
    """A command for the guest's QEMU, past the daemon."""
    message = json.dumps({"execute": command, "arguments": arguments})
    await guest.host.call("qemu.domain_monitor_command", dom=guest.vm.reference, cmd=message, flags=0)


def open_taps(lab: Lab) -> int:
    """How many taps and macvtaps the daemon and its machines have open."""
    pids = [lab.daemon.pid, *corrald.machines(lab.daemon.state)]
    files = [str(each.readlink()) for pid in pids for each in Path(f"/proc/{pid}/fd").iterdir()]
    return len([each for each in files if each.startswith(("/dev/net/tun", "/dev/tap", "/dev/.corral-"))])


async def test_a_refusal_leaves_nothing(lab: Lab) -> None:
    """Of a card that cannot be had nothing stays; of a start that fails half-way neither."""
    guest, links = lab.guests[1], lab.namespace.links()
    before, taps = await guest.vm.xml(), open_taps(lab)
    for source, message in (("nosuch", "there is no bridge 'nosuch' on this host"), ("lo", "'lo' is not a bridge")):
        with pytest.raises(HostError, match=message):
            await guest.vm.attach(card("bridge", EXTRA, 2, f"<source bridge='{source}'/>"))
    with pytest.raises(HostError, match="there is no network link 'nosuch' on this host"):
        await guest.vm.attach(card("direct", EXTRA, 2, "<source dev='nosuch'/>"))
    with pytest.raises(ConfigUnsupported, match="vhost-net was requested for an interface, but is unavailable"):
        await guest.vm.attach(card("bridge", EXTRA, 2, ON_BRIDGE, "<driver name='vhost'/><backend vhost='/dev/none'/>"))
    # QEMU refuses the netdev, and lets go of the tap that it was handed; then the card, whose back end stands.
    await ask(guest, "netdev_add", type="user", id="hostua-twice")
    with pytest.raises(CorralError, match="hostua-twice"):
        await guest.vm.attach(card("bridge", EXTRA, 2, ON_BRIDGE, "<alias name='ua-twice'/>"))
    await ask(guest, "netdev_del", id="hostua-twice")
    with pytest.raises(CorralError):
        await guest.vm.attach(card("direct", EXTRA, 2, f"<source dev='{netns.OTHER}'/>", "<rom file='/nosuch'/>"))
    two = card("direct", EXTRA, 3, f"<source dev='{netns.OTHER}'/>") + card("bridge", EXTRA, 4, "<source bridge='x'/>")
    document = (
        "<domain type='qemu'><name>half</name><memory unit='MiB'>32</memory><os><type machine='q35'>hvm</type></os>"
        f"<devices>{two}</devices></domain>"
    )
    with pytest.raises(HostError, match="there is no bridge 'x'"):
        await guest.host.create(document)
    assert lab.namespace.links() == links
    assert await guest.vm.xml() == before and open_taps(lab) == taps


@pytest.mark.slow
async def test_a_passt_that_ends_is_started_again(lab: Lab) -> None:
    await web(lab)
    pids = lab.namespace.run("pgrep", "-f", "passt.*127.0.0.1/2022").split()
    assert len(pids) == 1
    os.kill(int(pids[0]), signal.SIGKILL)
    async with asyncio.timeout(60):
        while "the passt of card 'net5' has ended and is started again" not in lab.log:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    async with asyncio.timeout(60):
        while await fetched(lab) != "hello":
            await lab.guests[0].sh("ping -c 1 -w 1 10.90.0.254")  # the new one knows the guest when it hears from it


async def test_another_daemon_takes_over(lab: Lab) -> None:
    """The daemon is killed: cables stay as they were, cards reach each other, and macvtaps go with their machine."""
    first, second = lab.guests
    pulled = card("bridge", BRIDGE, 2, ON_BRIDGE, "<link state='down'/>")
    await second.vm.update(pulled, config=False)
    lab.daemon.process.kill()
    lab.daemon.process.wait()
    pids = set(corrald.machines(lab.daemon.state)) & set(map(int, lab.namespace.run("pgrep", "-f", "guest=g1").split()))
    assert len(pids) == 1
    lab.daemon = corrald.start(lab.directory, within=lab.namespace.within)
    async with connect(lab.daemon.uri) as host:
        lab.guests = [Guest(host, await host.domain(f"g{number}"), number) for number in (1, 2)]
        first, second = lab.guests
        assert "<link state='down'/>" in await second.vm.xml()
        device = await second.device(BRIDGE)
        await second.until(f"cat /sys/class/net/{device}/carrier", lambda said: said == "0")
        await second.vm.update(card("bridge", BRIDGE, 2, ON_BRIDGE), config=False)
        await second.until(f"cat /sys/class/net/{device}/carrier", lambda said: said == "1")
        assert await first.pings(ip(DIRECT, 2))
        extra = card("direct", EXTRA, 2, f"<source dev='{netns.OTHER}'/>")
        await second.vm.attach(extra, config=False)
        await second.vm.detach(extra, config=False)
        # Killed with the daemon away, a machine leaves its macvtap to the next one.
        lab.daemon.process.kill()
        lab.daemon.process.wait()
    os.kill(pids.pop(), signal.SIGKILL)
    assert "macvtap0" in lab.namespace.links()
    lab.daemon = corrald.start(lab.directory, within=lab.namespace.within)
    assert "macvtap0" not in lab.namespace.links() and "macvtap1" in lab.namespace.links()
    async with connect(lab.daemon.uri) as host:
        await (await host.domain("g2")).destroy()
    assert lab.namespace.links() == netns.LINKS
    lab.guests = []
