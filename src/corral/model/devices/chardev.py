"""Character devices: serial and parallel ports, consoles, channels. https://libvirt.org/formatdomain.html#consoles-serial-parallel-channel-devices"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic_xml import attr, element

from corral.model.devices.device import Device, DeviceSeclabel
from corral.model.element import Element, OnOff, Unsigned, YesNo

ChardevType = Literal[
    "null", "vc", "pty", "dev", "file", "pipe", "stdio", "tcp", "unix", "spicevmc", "spiceport", "qemu-vdagent"
]


class Reconnect(Element, tag="reconnect"):
    """Whether a client end connects again, and after how many seconds."""

    enabled: YesNo = attr()
    timeout: Unsigned | None = attr(default=None)


class Clipboard(Element, tag="clipboard"):
    copypaste: YesNo = attr()


class Mouse(Element, tag="mouse"):
    mode: Literal["server", "client"] = attr()


class ChardevSource(Element, tag="source"):
    """The host's end: `path` (pty, dev, file, pipe, unix), `host` and `service` (tcp), `channel` (spiceport).

    `clipboard` and `mouse` belong to type qemu-vdagent.
    """

    mode: Literal["bind", "connect"] | None = attr(default=None)
    path: str | None = attr(default=None)
    host: str | None = attr(default=None)
    service: str | None = attr(default=None)
    channel: str | None = attr(default=None)
    append: OnOff | None = attr(default=None)
    tls: YesNo | None = attr(default=None)
    reconnect: Reconnect | None = element(default=None)
    clipboard: Clipboard | None = element(default=None)
    mouse: Mouse | None = element(default=None)
    seclabels: list[DeviceSeclabel] = element(tag="seclabel", default_factory=list)


class Protocol(Element, tag="protocol"):
    """What a tcp source speaks."""

    type: Literal["raw", "telnet", "telnets", "tls"] = attr()


class ChardevLog(Element, tag="log"):
    """A file of the host that everything the guest writes is copied to."""

    file: str = attr()
    append: OnOff | None = attr(default=None)


class Chardev(Device):
    """The host's side, the same for all kinds."""

    type: ChardevType = attr(default="pty")
    source: ChardevSource | None = element(default=None)
    protocol: Protocol | None = element(default=None)
    log: ChardevLog | None = element(default=None)


class SerialModel(Element, tag="model"):
    name: Literal["isa-serial", "pci-serial", "usb-serial", "isa-debugcon", "pl011", "16550a"] = attr()


class SerialTarget(Element, tag="target"):
    type: Literal["isa-serial", "pci-serial", "usb-serial", "isa-debug", "system-serial"] | None = attr(default=None)
    port: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = attr(default=None)
    model: SerialModel | None = element(default=None)


class Serial(Chardev, tag="serial"):
    """A serial port; `tty` repeats the pty's path, as old clients expect."""

    tty: str | None = attr(default=None)
    target: SerialTarget | None = element(default=None)


class ParallelTarget(Element, tag="target"):
    port: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = attr(default=None)


class Parallel(Chardev, tag="parallel"):
    """A parallel port; `tty` repeats the pty's path, as old clients expect."""

    tty: str | None = attr(default=None)
    target: ParallelTarget | None = element(default=None)


class ConsoleTarget(Element, tag="target"):
    """`serial` mirrors the first serial port; `virtio` is a virtio console (hvc)."""

    type: Literal["serial", "virtio"] | None = attr(default=None)
    port: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = attr(default=None)


class Console(Chardev, tag="console"):
    """A console; `tty` repeats the pty's path, as old clients expect."""

    tty: str | None = attr(default=None)
    target: ConsoleTarget | None = element(default=None)

    @property
    def is_virtio(self) -> bool:
        """Whether it is a device of its own."""
        return self.target is not None and self.target.type == "virtio"


class ChannelTarget(Element, tag="target"):
    """A named virtio port: `org.qemu.guest_agent.0`, `com.redhat.spice.0` … `state` is the running guest's."""

    type: Literal["virtio"] = attr(default="virtio")
    name: str | None = attr(default=None)
    state: Literal["connected", "disconnected"] | None = attr(default=None)


class Channel(Chardev, tag="channel"):
    """A private channel between host and guest."""

    target: ChannelTarget = element()
