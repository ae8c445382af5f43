"""The host's own devices lent to a guest, by a daemon that runs on a host in a guest, which has such devices.

All is emulated in emulation: the guest inside takes minutes to boot, and seconds to answer.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import pytest_asyncio

from corral.client import connect
from corral.client.domain import Domain
from corral.client.host import Host
from corral.errors import AgentUnresponsive, CorralError, DeviceMissing, OperationTimeout
from corral.guests import tiny
from labs.nested import host as nested

pytestmark = [
    *(pytest.mark.guest, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(2400)),
]

MAC, PLUGGED, TEAM = (f"52:54:00:c0:44:b{number}" for number in range(3))
NEIGHBOUR, FORMER = "52:54:00:c0:44:c3", "52:54:00:c0:44:c1"
NVME = "0000:02:00.0"
NVME_DISK = (
    "<disk type='nvme' device='disk'><driver name='qemu' type='raw'/>"
    "<source type='pci' managed='yes' namespace='1'><address domain='0' bus='2' slot='0' function='0'/></source>"
    "<target dev='vdn' bus='virtio'/></disk>"
)

DOCUMENT = """\
<domain type='qemu'>
  <name>lent</name>
  <memory unit='MiB'>256</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{kernel}</kernel>
    <initrd>{initrd}</initrd>
    <cmdline>{cmdline}</cmdline>
  </os>
  <features><acpi/></features>
  <devices>
    {ports}
    <controller type='usb' model='qemu-xhci'/>
    <controller type='scsi' model='virtio-scsi'/>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <memballoon model='none'/>
    {devices}
  </devices>
</domain>
"""


def function(address: str) -> str:
    """The attributes of a PCI function's address."""
    domain, bus, place = address.split(":")
    slot, number = place.split(".")
    return f"domain='0x{domain}' bus='0x{bus}' slot='0x{slot}' function='0x{number}'"


def card(address: str, mac: str, more: str = "") -> str:
    source = f"<source><address type='pci' {function(address)}/></source>"
    return f"<interface type='hostdev' managed='yes'><mac address='{mac}'/>{source}{more}</interface>"


VLAN = "<vlan><tag id='42'/></vlan>"
STAYS = (
    f"<interface type='user'><mac address='{TEAM}'/><model type='virtio'/><teaming type='persistent'/>"
    "<alias name='ua-stays'/></interface>"
)
COMES = "<teaming type='transient' persistent='ua-stays'/><alias name='ua-comes'/>"


def hostdev(address: str) -> str:
    return (
        f"<hostdev mode='subsystem' type='pci' managed='yes'><source><address {function(address)}/></source></hostdev>"
    )


@dataclass
class Lab:
    """The host in a guest, its virtual functions, the guest on it, and our client of its daemon."""

    host: nested.Nested
    functions: list[str]
    client: Host
    vm: Domain
    lun: str = field(default="")

    async def sh(self, script: str) -> str:
        """What a script prints in the guest's guest, by as few words with its agent as can be."""
        asked = {"path": "/bin/sh", "arg": ["-c", f"{script}\n"], "capture-output": True}
        pid = (await self.vm.agent("guest-exec", asked, timeout=120))["pid"]
        async with asyncio.timeout(120):
            while not (said := await self.vm.agent("guest-exec-status", {"pid": pid}, timeout=120))["exited"]:
                pass
        return "".join(base64.b64decode(said.get(name, "")).decode() for name in ("out-data", "err-data")).strip()

    async def ping(self, mac: str, own: str, other: str, wanted: str) -> None:
        """Give the guest's card of that address an IP address, and count who answers."""
        link = f"link=$(grep -l {mac} /sys/class/net/*/address | cut -d/ -f5)"
        script = f"{link}; ip link set $link up; ip addr add {own}/24 dev $link 2>&1; ping -c 1 -W 5 {other}"
        await self.until(script, f" {wanted} packets received")

    def told(self, number: int) -> str:
        """What the card has one of its functions be."""
        (line,) = (each for each in self.host.sh("ip link show eth0").splitlines() if f"vf {number} " in each)
        return line.strip()

    async def until(self, script: str, wanted: str) -> str:
        """Ask until that is in the answer; an agent that does not wake up in time is asked again."""
        said, end = "", time.monotonic() + 240  # asking takes seconds each time
        while wanted not in said:
            assert time.monotonic() < end, f"{wanted!r} is not in what the guest says: {said}"
            with contextlib.suppress(AgentUnresponsive):
                said = await self.sh(script)
        return said

    async def detach(self, xml: str) -> None:
        """Have the guest let go, which it may not manage in the time that the daemon gives it."""
        for _ in range(5):
            try:
                await self.vm.detach(xml)
            except OperationTimeout:
                continue
            except DeviceMissing:  # it came too late, and was carried through
                pass
            return
        raise AssertionError("the guest keeps it")


def neighbours(host: nested.Nested, address: str) -> None:
    """A function in VLAN 42, in a namespace of its own, and the card itself in none; what function 1 is meanwhile."""
    host.sh(
        f"ip link set eth0 vf 3 mac {NEIGHBOUR} vlan 42; ip link set eth0 vf 1 mac {FORMER} vlan 7; "
        f"cd /sys/bus/pci/drivers/igbvf; echo {address} >unbind; echo {address} >bind; "
        f"link=$(ls /sys/bus/pci/devices/{address}/net); ip netns add near; ip link set $link netns near; "
        "ip -n near addr add 10.42.0.1/24 dev $link; ip -n near link set $link up; "
        "ip addr add 10.42.0.3/24 dev eth0; ip addr add 10.43.0.1/24 dev eth0"
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab() -> AsyncIterator[Lab]:
    if reason := nested.missing():
        pytest.skip(reason)
    built = await tiny.build()
    with nested.running(await nested.boot.files()) as host:
        functions = host.functions(4)
        neighbours(host, functions[3])
        lun = host.lun()
        await asyncio.to_thread(host.daemon)
        async with connect(host.uri()) as client:
            xml = DOCUMENT.format(
                kernel=built.kernel,
                initrd=built.initrd,
                cmdline=f"{built.cmdline} {nested.HURRY}",
                ports="<controller type='pci' model='pcie-root-port'/>" * 8,
                devices=f"{card(functions[0], MAC, VLAN)}{STAYS}<vsock model='virtio'><cid auto='yes'/></vsock>",
            )
            vm = await client.define(xml)
            await vm.start()
            await vm.wait_for_agent(timeout=1500)
            # Into step with it, too, not in five seconds.
            await client.call("domain_agent_set_response_timeout", dom=vm.reference, timeout=120, flags=0)
            yield Lab(host, functions, client, vm, lun)


async def test_a_virtual_function_as_the_guests_card(lab: Lab) -> None:
    """It has the document's address, and reaches in the document's VLAN whom it should, and nobody outside."""
    assert lab.host.driver(lab.functions[0]) == "vfio-pci"
    assert f"link/ether {MAC} brd ff:ff:ff:ff:ff:ff, vlan 42" in lab.told(0)
    await lab.ping(MAC, "10.42.0.2", "10.42.0.1", "1")
    await lab.ping(MAC, "10.42.0.2", "10.42.0.3", "0")
    with pytest.raises(CorralError, match="Hostdev already exists in the domain configuration"):
        await lab.vm.attach(hostdev(lab.functions[0]))
    assert lab.host.driver(lab.functions[0]) == "vfio-pci"


async def test_a_card_plugged_and_given_back(lab: Lab) -> None:
    """It comes while the guest runs, with its address, and is again on the host what it was there."""
    address, before = lab.functions[1], lab.told(1)
    assert FORMER in before and "vlan 7" in before
    await lab.vm.attach(card(address, PLUGGED))
    assert lab.host.driver(address) == "vfio-pci"
    assert PLUGGED in lab.told(1) and "vlan" not in lab.told(1)
    await lab.ping(PLUGGED, "10.43.0.2", "10.43.0.1", "1")
    with pytest.raises(CorralError, match="unable to change config on 'hostdev' network type"):
        await lab.vm.update(card(address, PLUGGED, VLAN))
    await lab.detach(card(address, PLUGGED))
    assert (lab.host.driver(address), lab.told(1)) == ("igbvf", before)
    assert PLUGGED not in await lab.vm.xml()


async def test_a_team(lab: Lab) -> None:
    """The guest has virtio card and function as one, and the virtio card alone again when the function has gone."""
    address = lab.functions[2]
    transient = card(address, TEAM, COMES)
    script = "for each in /sys/class/net/*/master; do basename $(readlink ${each%/master}/device/driver); done 2>&1"
    assert "virtio_net" in await lab.until(script, "virtio_net")
    await lab.vm.attach(transient)
    assert "virtio_net" in await lab.until(script, "igbvf")
    await lab.detach(transient)
    assert lab.host.driver(address) == "igbvf"
    assert "igbvf" not in await lab.until(f"{script}; echo asked", "asked")


async def test_a_function_plugged_and_given_back(lab: Lab) -> None:
    """A second function comes while the guest runs, and goes back to its driver on the host."""
    address = lab.functions[1]
    assert lab.host.driver(address) == "igbvf"
    await lab.vm.attach(hostdev(address))
    assert lab.host.driver(address) == "vfio-pci"
    await lab.until("ls /sys/bus/pci/drivers/igbvf | grep -c :", "2")
    await lab.detach(hostdev(address))
    assert lab.host.driver(address) == "igbvf"


async def test_no_virtual_function(lab: Lab) -> None:
    """What is no virtual function of a network card is refused as one, and stays what it is."""
    with pytest.raises(CorralError, match="no virtual function of a network card"):
        await lab.vm.attach(card(NVME, PLUGGED))
    with pytest.raises(CorralError, match="has no PCI device"):
        await lab.vm.attach(hostdev("0000:07:00.0"))
    assert lab.host.driver(NVME) == "nvme"


async def test_scsi_devices(lab: Lab) -> None:
    """A disk of the host's as `lun`, and a LUN by its adapter: each answers INQUIRY with what it is on the host."""
    disk = lab.host.sh("ls /sys/bus/scsi/devices/0:0:0:0/block")
    block = (
        f"<disk type='block' device='lun'><driver name='qemu' type='raw'/><source dev='/dev/{disk}'/>"
        "<target dev='sda' bus='scsi'/></disk>"
    )
    number, *place = lab.lun.split(":")
    where = "<address bus='{}' target='{}' unit='{}'/>".format(*place)
    generic = (
        f"<hostdev mode='subsystem' type='scsi'><source><adapter name='scsi_host{number}'/>{where}</source></hostdev>"
    )
    await lab.vm.attach(block)
    await lab.vm.attach(generic)
    script = (
        "cd /sys/bus/scsi/devices; for each in *:*; do echo $(cat $each/vendor $each/model) "
        "$(dd if=$each/vpd_pg80 bs=1 skip=4 2>/dev/null); done"
    )
    said = await lab.until(script, "CORRAL-LUN")
    assert "CORRAL LENT CORRAL-DISK" in said and "LIO-ORG RAMDISK-MCP CORRAL-LUN" in said
    with pytest.raises(CorralError, match="no SCSI device 9:"):
        await lab.vm.attach(generic.replace(f"scsi_host{number}", "scsi_host9"))
    await lab.detach(generic)
    await lab.detach(block)
    assert lab.host.sh("stat -c %u /dev/sg*").split() == ["0", "0", "0"]


async def test_a_usb_stick(lab: Lab) -> None:
    """By what it is: it comes with its serial number and its contents, and the host has it again afterwards."""
    stick = (
        "<hostdev mode='subsystem' type='usb' managed='yes'>"
        "<source><vendor id='0x46f4'/><product id='0x0001'/></source></hostdev>"
    )
    await lab.vm.attach(stick)
    await lab.until("grep -l CORRAL-STICK /sys/bus/usb/devices/*/serial && head -c 12 /dev/sd?", "CORRAL-STICK")
    await lab.detach(stick)


async def test_an_nvme_drive(lab: Lab) -> None:
    """By VFIO, with the serial number that it has."""
    await lab.vm.attach(hostdev(NVME))
    assert lab.host.driver(NVME) == "vfio-pci"
    await lab.until("cat /sys/class/nvme/nvme0/serial; head -c 11 /dev/nvme0n1", "CORRAL-NVME")
    await lab.detach(hostdev(NVME))
    assert lab.host.driver(NVME) == "nvme"


#: Until somebody listens there, the guest's kernel refuses.
ASK = """
import socket, time
end = time.monotonic() + 60
while True:
    with socket.socket(socket.AF_VSOCK) as guest:
        guest.settimeout(100)
        try:
            guest.connect((CID, 1234))
        except ConnectionResetError:
            if time.monotonic() > end:
                raise
            continue
        guest.sendall(b'{"execute": "guest-sync", "arguments": {"id": 4711}}\\n')
        print(guest.recv(100).decode())
        break
"""


async def test_vsock(lab: Lab) -> None:
    """A program on the host reaches one in the guest, by the guest's number."""
    assert "<cid auto='yes' address='3'/>" in await lab.vm.xml()
    await reached(lab, 3)


async def reached(lab: Lab, cid: int) -> None:
    """The guest's own program listens, and answers one of the host's."""
    listen = f"qemu-ga -m vsock-listen -p {cid}:1234 -f /tmp/{cid}.pid -t /tmp >/tmp/{cid} 2>&1 & echo begun"
    await lab.until(listen, "begun")
    assert "4711" in await asyncio.to_thread(lab.host.run, "python3", "-c", ASK.replace("CID", str(cid)))


OTHER = """\
<domain type='qemu'>
  <name>other</name>
  <memory unit='MiB'>32</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>{}</devices>
</domain>
"""


async def test_a_vsock_plugged(lab: Lab) -> None:
    """Taken out and plugged with another number: by that the guest is reached, if no other machine has it.

    The other machine starts with the NVMe drive as its disk, too, which goes back to the host with it.
    """
    vsock = "<vsock model='virtio'><cid auto='no' address='9'/></vsock>"
    with pytest.raises(CorralError, match="the domain already has a vsock device"):
        await lab.vm.attach(vsock)
    await lab.detach("<vsock model='virtio'><cid auto='yes'/></vsock>")
    assert "<vsock" not in await lab.vm.xml()
    other = await lab.client.create(OTHER.format(vsock + NVME_DISK), paused=True)
    assert lab.host.driver(NVME) == "vfio-pci"
    for xml, words in (
        (vsock, "failed to set guest cid 9: Address already in use"),
        (NVME_DISK, "in use by .* 'other'"),
    ):
        with pytest.raises(CorralError, match=words):
            await lab.vm.attach(xml)
    await other.destroy()
    assert lab.host.driver(NVME) == "nvme"
    await lab.vm.attach(vsock)
    await reached(lab, 9)


async def test_an_nvme_drives_namespace(lab: Lab) -> None:
    """QEMU drives it and the guest has a virtio disk: what is on the drive is read, and what is written is on it."""
    await lab.vm.attach(NVME_DISK)
    assert lab.host.driver(NVME) == "vfio-pci"
    await lab.until("head -c 11 /dev/vda", "CORRAL-NVME")
    await lab.until("echo WRITTEN | dd of=/dev/vda bs=512 seek=8 conv=sync oflag=direct 2>&1", "1+0 records out")
    with pytest.raises(CorralError, match="in use by domain 'lent'"):
        await lab.vm.attach(hostdev(NVME))
    await lab.detach(NVME_DISK)
    assert lab.host.driver(NVME) == "nvme"
    lab.host.until("test -b /dev/nvme0n1", 60)
    assert lab.host.sh("dd if=/dev/nvme0n1 bs=512 skip=8 count=1 2>/dev/null | head -c 7") == "WRITTEN"


RESERVED = "<disk type='block' device='lun'><driver name='qemu' type='raw'/><source dev='{}'>{}</source>{}</disk>"
TARGET = "<target dev='sdp' bus='scsi'/>"


async def test_persistent_reservations(lab: Lab) -> None:
    """The guest registers with a LUN and reserves it, by the daemon's helper or one of the host's; not without one.

    The LUN is the kernel's own target's, whose word on who has it counts.
    """
    disk = "/dev/" + lab.host.sh(f"ls /sys/bus/scsi/devices/{lab.lun}/block")
    library = lab.host.sh("ldd /usr/bin/sg_persist | grep -o '/lib.*libsgutils[^ ]*'")
    lab.host.sh(f"tar -C / -hcf /run/tools.tar usr/bin/sg_persist {library.lstrip('/')}")
    tools = "<disk type='file'><source file='/run/tools.tar'/><target dev='sdt' bus='scsi'/><readonly/></disk>"
    await lab.vm.attach(tools)
    await lab.until("tar -C / -xf /dev/sda; /usr/bin/sg_persist --version 2>&1", "version")
    await lab.detach(tools)
    register, reserve = "--out --register-ignore --param-sark=c0441", "--out --reserve --param-rk=c0441 --prout-type=5"

    def ask(words: str) -> str:
        return f"/usr/bin/sg_persist {words} /dev/sda 2>&1; echo status $?"

    async def plugged(source: str) -> str:
        xml = RESERVED.format(disk, source, TARGET)
        await lab.vm.attach(xml)
        await lab.until("test -b /dev/sda && echo there", "there")
        return xml

    xml = await plugged("")
    assert "status 0" not in await lab.sh(ask(register))
    await lab.detach(xml)
    xml = await plugged("<reservations managed='yes'/>")
    for words in (register, reserve):  # which may be done twice, where the agent did not answer in time
        await lab.until(ask(words), "status 0")
    assert "0xc0441" in await lab.sh(ask("--in --read-keys"))
    assert "0xc0441" in lab.host.sh(f"sg_persist --in --read-keys {disk}")
    assert "Write Exclusive, registrants only" in lab.host.sh(f"sg_persist --in --read-reservation {disk}")
    await lab.detach(xml)
    lab.host.sh("setsid qemu-pr-helper -k /run/helper.sock >/dev/null 2>&1 & echo $! >/run/helper.pid")
    lab.host.until("chmod 666 /run/helper.sock", 60)
    source = "<source type='unix' path='/run/helper.sock' mode='client'/>"
    xml = await plugged(f"<reservations managed='no'>{source}</reservations>")
    await lab.until(ask("--out --clear --param-rk=c0441"), "status")
    assert "there are NO registered reservation keys" in lab.host.sh(f"sg_persist --in --read-keys {disk}")
    await lab.detach(xml)
    lab.host.sh("kill $(cat /run/helper.pid)")


async def test_doctor(lab: Lab) -> None:
    """It says of this host what is so."""
    said = await asyncio.to_thread(lab.host.python, "-m", "corral.cli", "doctor")
    assert "7 virtual functions" in said and "ok 11" in said


async def test_given_back_by_the_next_daemon(lab: Lab) -> None:
    """A daemon dies in the middle of a plug; the next has it done or undone, knows what the machine has, and gives that
    back as it was when the machine ends.
    """
    address, before = lab.functions[1], lab.told(1)
    lab.host.sh("kill -STOP $(pgrep -f '[g]uest=lent')")
    plug = asyncio.ensure_future(lab.vm.attach(card(address, PLUGGED)))
    await asyncio.to_thread(lab.host.until, f"ip link show eth0 | grep {PLUGGED}", 60)
    await asyncio.to_thread(lab.host.kill_daemon)
    with pytest.raises(CorralError):
        await plug
    lab.host.sh("kill -CONT $(pgrep -f '[g]uest=lent')")
    await asyncio.to_thread(lab.host.daemon)
    async with connect(lab.host.uri(1)) as client:
        vm = await client.domain("lent")
        has_it = PLUGGED in await vm.xml()
        assert (lab.host.driver(address), lab.told(1) == before) == ("vfio-pci" if has_it else "igbvf", not has_it)
        with pytest.raises(CorralError, match="Hostdev already exists in the domain configuration"):
            await vm.attach(hostdev(lab.functions[0]))
        await vm.destroy()
    assert [lab.host.driver(each) for each in lab.functions[:2]] == ["igbvf", "igbvf"]
    assert lab.told(1) == before
    assert MAC not in lab.told(0) and "vlan" not in lab.told(0)  # the host's driver may give it an address of its own
