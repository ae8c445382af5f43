"""The documents that both daemons get, word for word the same."""

from __future__ import annotations

import uuid
from pathlib import Path

DOCUMENT = """\
<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>64</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <features><acpi/></features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='{image}'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <controller type='usb' model='none'/>
    <interface type='user'><mac address='52:54:00:00:{high:02x}:{low:02x}'/><model type='virtio'/></interface>
    <serial type='pty'/>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
  </devices>
</domain>
"""


def document(number: int, directory: Path) -> str:
    """The document of machine `number`, whose empty 1 MiB disk is made under `directory`."""
    image = directory / f"{number}.img"
    if not image.exists():
        with image.open("wb") as file:
            file.truncate(1 << 20)
    return DOCUMENT.format(
        name=name(number), uuid=uuid.UUID(bytes=identity(number)), image=image, high=number >> 8, low=number & 255
    )


def name(number: int) -> str:
    """The name of machine `number`."""
    return f"bench-{number}"


def identity(number: int) -> bytes:
    """The UUID of machine `number`, 16 bytes."""
    return uuid.uuid5(uuid.NAMESPACE_OID, f"corral-bench-{number}").bytes


def reference(number: int) -> dict[str, object]:
    """Machine `number` as the wire's remote_nonnull_domain."""
    return {"name": name(number), "uuid": identity(number), "id": -1}
