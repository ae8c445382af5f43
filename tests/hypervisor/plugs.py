"""What the tests of plugging share: devices of every kind, and all that QEMU has, to be compared."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from tests.waiting import until

from corral.constants import DomainState
from corral.hypervisor.domain import Domain
from corral.qemu.devices import vsock

CARD = "<interface type='user'><mac address='52:54:00:00:00:01'/><model type='virtio'/></interface>"

MEGABYTE = "<size unit='M'>1</size>"
ALIAS = re.compile("<alias name='(.*?)'")
SHARED = f"corral-plug-{os.getpid()}"
#: How the names of devices end that are a part of another.
INSIDE = "-bridge"
ANY_PORT = "<source mode='bind' host='127.0.0.1' service='0'/>"


def disk(path: Path, target: str, bus: str = "virtio", *, more: str = "", kind: str = "raw") -> str:
    return (
        f"<disk type='file' device='disk'><driver name='qemu' type='{kind}'/><source file='{path}'/>"
        f"<target dev='{target}' bus='{bus}'/>{more}</disk>"
    )


def drive(path: Path | None, target: str = "sda", bus: str = "scsi") -> str:
    source = f"<source file='{path}'/>" if path else ""
    return f"<disk type='file' device='cdrom'>{source}<target dev='{target}' bus='{bus}'/></disk>"


def kinds(path: Path) -> dict[str, str]:
    """A device of every kind that can be plugged, by what to call it."""
    return {
        "virtio disk": disk(path, "vda"),
        "scsi disk": disk(path, "sdb", "scsi"),
        "scsi disk and its controller": disk(path, "sdh", "scsi"),
        "usb disk": disk(path, "sdc", "usb"),
        "limited disk": disk(path, "sde", "scsi", more="<iotune><total_iops_sec>100</total_iops_sec></iotune>"),
        "transient disk": disk(path, "sde", "scsi", more="<transient/>"),
        "cdrom": drive(path, "sdd"),
        "usb cdrom": drive(path, "sdf", "usb"),
        "interface": CARD,
        "interface without its cable": CARD.replace("</interface>", "<link state='down'/></interface>"),
        "controller": "<controller type='scsi' index='3' model='virtio-scsi'/>",
        "usb controller": "<controller type='usb' index='2' model='qemu-xhci'/>",
        "channel": "<channel type='unix'><target type='virtio' name='org.example.0'/></channel>",
        "channel on a pty": "<channel type='pty'><target type='virtio' name='org.example.1'/></channel>",
        "virtio console": "<console type='pty'><target type='virtio'/></console>",
        "serial port": "<serial type='pty'><target type='pci-serial'/></serial>",
        "tablet": "<input type='tablet' bus='usb'/>",
        "virtio keyboard": "<input type='keyboard' bus='virtio'/>",
        "random numbers": "<rng model='virtio'><rate bytes='100'/><backend model='builtin'/></rng>",
        "random numbers of a device": "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>",
        "serial port on usb": "<serial type='null'><target type='usb-serial'/></serial>",
        "shared memory": f"<shmem name='{SHARED}' role='peer'><model type='ivshmem-plain'/>{MEGABYTE}</shmem>",
        "crypto": "<crypto model='virtio' type='qemu'><backend model='builtin' queues='1'/></crypto>",
        "smart card": f"<smartcard mode='passthrough' type='tcp'>{ANY_PORT}</smartcard>",
        "virtio sound": "<sound model='virtio'/>",
        "usb sound": "<sound model='usb'/>",
        "sound": "<sound model='ac97'/>",
        "vsock": "<vsock model='virtio'><cid auto='yes'/></vsock>",
        "watchdog": "<watchdog model='i6300esb' action='reset'/>",
        "redirected usb": "<redirdev bus='usb' type='null'/>",
        "hub": "<hub type='usb'/>",
        "memory": "<memory model='dimm'><target><size unit='MiB'>64</size><node>0</node></target></memory>",
        "growing memory": "<memory model='virtio-mem'><target><size unit='MiB'>64</size></target></memory>",
    }


def need_host(kind: str) -> None:
    """Skip what this host has nothing for."""
    if kind == "vsock" and not Path(vsock.HOSTS).exists():
        pytest.skip(f"this host has no {vsock.HOSTS} (modprobe vhost_vsock)")


async def resumed(domain: Domain) -> dict[str, Any]:
    """What QEMU has when the machine runs: QEMU 7.2 closes files that it was to forget only then."""
    if domain.state()[0] == DomainState.PAUSED:
        await domain.resume()
    await until(lambda: not domain.require_run().kept_files)
    return await view(domain)


async def view(domain: Domain) -> dict[str, Any]:
    """All that QEMU has: devices, block nodes, descriptor sets, character devices, objects, network back ends."""
    machine = domain.require_run().require_machine()
    ask = machine.monitor.execute
    network = await machine.monitor.human("info network")
    nodes = await ask("query-named-block-nodes", {"flat": True})
    return {
        "devices": sorted(each["name"] for each in await ask("qom-list", {"path": "/machine/peripheral"})),
        "objects": sorted(each["name"] for each in await ask("qom-list", {"path": "/objects"})),
        "nodes": sorted(each["node-name"] for each in nodes if not each["node-name"].startswith("#")),
        "files": sorted(each["fdset-id"] for each in await ask("query-fdsets")),
        "chardevs": sorted(each["label"] for each in await ask("query-chardev")),
        "netdevs": sorted(re.findall(r"(host\w+): index=", network)),
    }
