"""What works on this host and what does not, as rows for `corral doctor`.

`facts.gather` asks the host (its answers are cached where they are dear); `rows` judges, a function of its argument.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from corral.host.account import KVM as KVM_DEVICE
from corral.host.account import NAMES
from corral.hypervisor.host.facts import Facts, Network, Row, gather
from corral.hypervisor.host.sixteen import sixteen
from corral.network.tap import TUN

if TYPE_CHECKING:
    from corral.hypervisor.settings import Settings
    from corral.qemu.binary import Binary

__all__ = ["Facts", "Row", "as_json", "report", "rows"]

PROGRAMS = {
    "dnsmasq": "DHCP and DNS for networks of guests (not offered yet); user networking needs none",
    "nft": "firewall and address translation for networks of guests (not offered yet)",
    "passt": "user networks that forward ports (<backend type='passt'/>); QEMU's own network forwards none",
    "swtpm": "TPMs of guests (<tpm><backend type='emulator'/>)",
    "virtiofsd": "directories of the host shared by virtiofs (9p needs none)",
    "qemu-pr-helper": "persistent reservations of SCSI devices passed through (<reservations managed='yes'/>)",
    "bwrap": "a sandbox for helper programs (not offered yet)",
    "perf": "profiles of guests taken on the host",
}
"""Optional programs, and what each is for."""

PACKAGES = {
    "nft": "nftables",
    "bwrap": "bubblewrap",
    "perf": "linux-perf",
    "dnsmasq": "dnsmasq-base",
    "qemu-pr-helper": "qemu-system-common",
}
"""Debian's package where it is not called as the program."""


async def report(settings: Settings) -> list[Row]:
    """Accelerator, QEMU, the sixteen capabilities and the optional programs."""
    return rows(await gather(settings, PROGRAMS))


def as_json(report_rows: list[Row], settings: Settings) -> str:
    """A JSON object: `rows`, a list of objects with the fields of Row, and `images`, the directory for disks."""
    return json.dumps({"rows": [asdict(row) for row in report_rows], "images": str(settings.images)})


def rows(facts: Facts) -> list[Row]:
    """All rows, in the order a person reads them."""
    found = [_accelerator(facts), _account(facts), *_emulators(facts), _host(facts), _firmware(facts)]
    binary = facts.binary
    if binary is not None:
        found += [*sixteen(facts, binary), _memory_hotplug(binary)]
        found.append(_displays(facts, binary))
        found += [_lent(facts.lendable), _lacking_device(binary, "virtio-crypto-pci", "crypto devices")]
        found.append(_redirection(binary))
    found.append(_cards(facts.network))
    for name, path in facts.programs.items():
        if path is not None:
            found.append(Row(name, True, path))
        else:
            found.append(
                Row(
                    name,
                    None,
                    f"missing, and optional: for {PROGRAMS[name]}",
                    f"apt install {PACKAGES.get(name, name)}",
                )
            )
    return found


def _accelerator(facts: Facts) -> Row:
    """Which accelerator guests get, and why."""
    if facts.hardware:
        return Row("accelerator", True, f"kvm: {facts.kvm.reason}")
    if facts.accel == "kvm":
        return Row("accelerator", None, f"kvm because allowed by option, though slow: {facts.kvm.reason}")
    hint = "guests run in software emulation, correct but slower"
    if not facts.kvm.present:
        hint += "; switch on virtualization in the firmware, or run Corral on a machine whose host passes it on"
    elif facts.kvm.usable:
        hint += "; only a host that passes hardware virtualization on to this virtual machine would change that"
    return Row("accelerator", None, f"tcg: {facts.kvm.reason}", hint)


def _account(facts: Facts) -> Row:
    """Whom guests' QEMU runs as."""
    account = facts.account
    if not facts.system:
        return Row("QEMU's account", True, "your own")
    if account is None:
        text = "root: a guest that breaks out of QEMU has this whole host"
        return Row("QEMU's account", False, text, f"useradd --system {NAMES[0]}, then restart the daemon")
    if facts.accel == "kvm" and not account.may(KVM_DEVICE, os.R_OK | os.W_OK):
        text = f"{account.name}, which may not open {KVM_DEVICE}: guests of type kvm do not start"
        return Row("QEMU's account", False, text, f"chgrp kvm {KVM_DEVICE} && chmod 660 {KVM_DEVICE}")
    return Row("QEMU's account", True, f"{account.name} (uid {account.uid}), unprivileged")


def _emulators(facts: Facts) -> list[Row]:
    found = [
        Row(f"QEMU {binary.arch}", True, f"{'.'.join(map(str, binary.version))} at {binary.path} ({binary.package})")
        for binary in facts.binaries
    ]
    found += [Row("QEMU", False, fault, "install another, or name one with --emulator") for fault in facts.faults]
    if facts.binary is None:
        text = f"no emulator for {facts.host.arch} guests: no machine can start"
        found.append(Row("QEMU", False, text, "apt install qemu-system-x86 (7.2 or newer)"))
    elif not facts.binary.has_sandbox:
        text = "was built without seccomp: guests' QEMU runs without its sandbox"
        found.append(Row("QEMU sandbox", False, text, "use your distribution's QEMU"))
    return found


def _host(facts: Facts) -> Row:
    info = facts.host.node_info()
    memory = f"{info.memory_kib / (1 << 20):.1f} GiB"
    return Row("host", True, f"{facts.host.cpu.model_name or info.model}, {info.cpus} CPUs, {memory}")


def _memory_hotplug(binary: Binary) -> Row:
    """Whether a running machine can be given memory, and give it back."""
    lacks = [name for name in ("pc-dimm", "virtio-mem-pci") if not binary.has_device(name)]
    if lacks:
        text = f"QEMU lacks {', '.join(lacks)}: what a machine starts with is all it can have"
        return Row("memory plugged live", False, text, "install a QEMU built with it")
    return Row("memory plugged live", True, "corral run --max-memory, corral set --memory; virtio-mem and dimm modules")


def _redirection(binary: Binary) -> Row:
    """Whether machines can be given USB devices from elsewhere, and at what speeds."""
    name = "USB redirection"
    if not binary.has_device("usb-redir"):
        text = "QEMU lacks usb-redir: no corral usb share, stick, serial, keyboard, and no <redirdev>"
        return Row(name, False, text, "install a QEMU built with it (Debian: apt install qemu-system-common)")
    controllers = [name for name in ("qemu-xhci", "ich9-usb-ehci1", "piix3-usb-uhci") if binary.has_device(name)]
    return Row(name, True, f"corral usb share, stick, serial, keyboard; controllers: {', '.join(controllers)}")


def _cards(network: Network) -> Row:
    """Whether network cards can be on the host's own links."""
    name = "cards on bridges"
    if not network.root:
        if network.helper:
            return Row(name, None, "by qemu-bridge-helper, which /etc/qemu/bridge.conf has to allow; no macvtaps")
        hint = "use root's daemon; user networking (slirp, passt) and sockets between guests need no rights"
        return Row(name, None, "need root's daemon, or qemu-bridge-helper made setuid", hint)
    if not network.tun:
        return Row(name, False, f"{TUN} cannot be opened: no taps", "modprobe tun")
    text = f"taps and macvtaps; bridges here: {', '.join(network.bridges) or 'none'}"
    if not network.vhost:
        return Row(name, True, f"{text}; without vhost-net, QEMU moves the packets", "modprobe vhost_net")
    return Row(name, True, f"{text}; vhost-net moves the packets")


def _displays(facts: Facts, binary: Binary) -> Row:
    """By what a screen is seen from elsewhere, and whether TLS and OpenGL are there for it."""
    kinds = [kind for kind, there in (("SPICE", binary.has_spice), ("VNC", binary.has_vnc)) if there]
    if not kinds:
        return Row("displays", False, "QEMU has neither SPICE nor VNC", "use your distribution's QEMU")
    directory, certified = facts.certificates
    text = " and ".join(kinds)
    text += "; TLS with the certificates in " + directory if certified else f"; no TLS: no certificates in {directory}"
    if not facts.render_nodes:
        text += "; no OpenGL: no render node in /dev/dri"
    elif "egl-headless" not in binary.displays:
        text += "; no OpenGL: QEMU lacks egl-headless (apt install qemu-system-modules-opengl)"
    else:
        text += f"; OpenGL on {', '.join(facts.render_nodes)}"
    if "SPICE" not in kinds:
        return Row("displays", None, text, "apt install qemu-system-modules-spice")
    return Row("displays", True, text, "" if certified else "scripts/display-certificates.sh makes some")


def _lent(lendable: Mapping[str, str | None]) -> Row:
    """Which of the host's own devices guests can have; `lendable`: kind → why not, None: they can."""
    can = [kind for kind, lack in lendable.items() if lack is None]
    cannot = [f"{kind}: {lack}" for kind, lack in lendable.items() if lack is not None]
    text = "; ".join(filter(None, (", ".join(can), "; ".join(cannot))))
    return Row("devices of the host", True if not cannot else None if can else False, text)


def _lacking_device(binary: Binary, device: str, name: str) -> Row:
    if binary.has_device(device):
        return Row(name, True, device)
    return Row(name, False, f"QEMU lacks {device}", "install a QEMU built with it")


def _firmware(facts: Facts) -> Row:
    """Whether `<os firmware='efi'>` finds something."""
    uefi = [firmware for firmware in facts.firmwares if "uefi" in firmware.interfaces]
    if uefi:
        return Row("UEFI firmware", True, ", ".join(firmware.executable.name for firmware in uefi))
    return Row("UEFI firmware", None, "none: guests start with BIOS only", "apt install ovmf")
