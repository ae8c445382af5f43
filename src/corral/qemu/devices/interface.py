"""Network interfaces: a netdev and the card in front of it."""

from __future__ import annotations

from pathlib import Path

from corral.errors import ConfigUnsupported
from corral.model.devices.interface import (
    LINKS,
    GuestOffloads,
    HostOffloads,
    Interface,
    InterfaceDriver,
    InterfaceSource,
)
from corral.qemu.binary import Binary
from corral.qemu.context import Context, Properties, alias, given, reconnect, switch, virtio_options
from corral.qemu.runtime import Command, Part

CARDS = {"virtio": "virtio-net-pci", "usb-net": "usb-net"}
"""Cards that QEMU names otherwise."""


def parts(interface: Interface, context: Context) -> list[Part]:
    """The descriptors and the character device that the netdev works on, the netdev, then the card."""
    netdev = f"host{alias(interface)}"
    ends = [Part("fd", name, {}) for name in descriptors(interface, vhost=context.runtime.vhost)]
    if interface.type == "vhostuser":
        ends.append(Part("chardev", f"char{alias(interface)}", _vhost_user_socket(interface, context)))
    return [
        *ends,
        Part("netdev", netdev, _backend(interface, context)),
        Part("device", alias(interface), _card(interface, netdev, context)),
    ]


def descriptors(interface: Interface, *, vhost: bool) -> list[str]:
    """The names of the descriptors that QEMU is handed for the host's end: `tap-…`, `vhost-…`."""
    if interface.type not in LINKS:
        return []
    names = [f"tap-{alias(interface)}-{queue}" for queue in range(interface.queues)]
    if by_vhost(interface, vhost=vhost):
        names += [f"vhost-{alias(interface)}-{queue}" for queue in range(interface.queues)]
    return names


def passt_socket(interface: Interface, run_dir: Path) -> Path:
    """Where the passt of a card listens for QEMU."""
    return run_dir / f"passt-{alias(interface)}.sock"


def can_reconnect(binary: Binary) -> bool:
    """Whether QEMU connects again to a passt that was started anew."""
    return any(binary.has_argument("netdev_add", f"type=stream/{name}") for name in ("reconnect-ms", "reconnect"))


def by_vhost(interface: Interface, *, vhost: bool) -> bool:
    """Whether the host's kernel moves the packets; `vhost`: it can, and then it does so for virtio cards unasked."""
    name = interface.driver.name if interface.driver is not None else None
    return name == "vhost" or (vhost and name != "qemu" and interface.virtio)


def setup(interface: Interface) -> list[Command]:
    """What is set through the monitor before the guest runs: a cable that is not plugged in."""
    if interface.link is None or interface.link.state == "up":
        return []
    return [("set_link", {"name": alias(interface), "up": False})]


def _backend(interface: Interface, context: Context) -> Properties:
    source = interface.source or InterfaceSource()
    match interface.type:
        case "user" if interface.passt:
            # By name and not as a descriptor: QEMU connects in a thread, which knows no named descriptors (QEMU 10.0).
            place = {"type": "unix", "path": context.own(str(passt_socket(interface, context.runtime.run_dir)))}
            again = reconnect(1, context) if can_reconnect(context.binary) else {}
            return {"type": _netdev("stream", context), "server": False, "addr": place} | again
        case "user":
            return _slirp(interface, context)
        case "bridge" | "ethernet" | "direct":
            return _tap(interface, context)
        case "vhostuser":
            if context.runtime.accel == "tcg" and not can_reconnect(context.binary):  # that old, QEMU ends by SIGSEGV
                raise ConfigUnsupported(
                    f"QEMU binary '{context.binary.path}' is too old for vhost-user cards in software emulation",
                    hint="use KVM, QEMU 8.0 or newer, or a card on a bridge",
                )
            props: Properties = {"type": _netdev("vhost-user", context), "chardev": f"char{alias(interface)}"}
            return props | ({"queues": interface.queues} if interface.queues > 1 else {})
        case "server":
            listen = _inet(source.address or "", source.port)
            return {"type": _netdev("stream", context), "server": True, "addr": listen}
        case "client":
            return {"type": _netdev("stream", context), "server": False, "addr": _inet(source.address, source.port)}
        case "mcast":
            return {"type": _netdev("dgram", context), "remote": _inet(source.address, source.port)}
        case "udp" if source.local is not None:
            local = _inet(source.local.address, source.local.port)
            return {"type": _netdev("dgram", context), "local": local, "remote": _inet(source.address, source.port)}
    raise ConfigUnsupported(f"interfaces of type '{interface.type}' are not supported yet")


def _netdev(kind: str, context: Context) -> str:
    """The netdev's type. Raises ConfigUnsupported when the binary has none."""
    if not context.binary.has_argument("netdev_add", f"type={kind}"):
        what = "user networking (slirp)" if kind == "user" else f"netdev '{kind}'"
        raise ConfigUnsupported(f"QEMU binary '{context.binary.path}' was built without {what}")
    return kind


def _inet(host: str | None, port: int | None) -> Properties:
    return {"type": "inet", "host": host or "", "port": str(port)}


def _slirp(interface: Interface, context: Context) -> Properties:
    props: Properties = {"type": _netdev("user", context)}
    for address in interface.ips:
        if address.family == "ipv6" or ":" in address.address:
            props |= {"ipv6-prefix": address.address} | given({"ipv6-prefixlen": address.prefix})
        else:
            props["net"] = address.address + (f"/{address.prefix}" if address.prefix else "")
    return props


def _tap(interface: Interface, context: Context) -> Properties:
    """A tap or macvtap, whose descriptors are named as `descriptors` says: one a queue, and as many of vhost's."""
    many = interface.queues > 1
    names = descriptors(interface, vhost=context.runtime.vhost)
    taps, vhosts = names[: interface.queues], names[interface.queues :]
    props: Properties = {"type": _netdev("tap", context), "fds" if many else "fd": ":".join(taps)}
    if vhosts:
        props |= {"vhost": True, "vhostfds" if many else "vhostfd": ":".join(vhosts)}
    return props


def _vhost_user_socket(interface: Interface, context: Context) -> Properties:
    """The chardev on which QEMU and the other process agree about the guest's memory and the queues."""
    source = interface.source or InterfaceSource()
    data: Properties = {"addr": {"type": "unix", "data": {"path": source.path}}, "server": source.mode == "server"}
    if source.mode == "server":
        data["wait"] = False
    elif source.reconnect is not None and source.reconnect.enabled == "yes":
        data |= reconnect(source.reconnect.timeout or 1, context)
    return {"type": "socket", "data": data}


def _card(interface: Interface, netdev: str, context: Context) -> Properties:
    model = interface.model.type if interface.model is not None else "rtl8139"
    if model.startswith("virtio"):
        driver = context.virtio("virtio-net", model)
    else:
        driver = context.driver(CARDS.get(model, model))
    props: Properties = {"driver": driver, "netdev": netdev}
    if driver.startswith("virtio-net"):
        props |= _virtio(interface.driver or InterfaceDriver())
        if interface.queues > 1:
            # A vector a queue and direction, one for the control queue, one for configuration changes.
            props |= {"mq": True, "vectors": 2 * interface.queues + 2}
        if interface.teaming is not None:
            props["failover"] = True
        props |= given(host_mtu=interface.mtu.size if interface.mtu is not None else None)
    elif interface.mtu is not None:
        raise ConfigUnsupported(f"<mtu> is only for virtio interfaces, not '{model}'")
    if not driver.startswith("virtio-net"):
        _refuse_virtio_only(interface, model)
    if interface.mac is not None:
        props["mac"] = interface.mac.address.lower()
    props |= context.place(interface) | context.boot_index(interface)
    if interface.rom is not None:
        rom = interface.rom
        props |= given(rombar=None if rom.bar is None else int(rom.bar == "on"))
        if rom.enabled == "no" or rom.file is not None:
            props["romfile"] = rom.file or ""
    return props


def _refuse_virtio_only(interface: Interface, model: str) -> None:
    """Raise for what only a virtio card has."""
    said = interface.driver is not None and [
        name for name, value in interface.driver.to_data().items() if value is not None and name != "name"
    ]
    if said:
        raise ConfigUnsupported(f"<driver> '{said[0]}' is only for virtio interfaces, not '{model}'")


def _virtio(driver: InterfaceDriver) -> Properties:
    props = given(
        ioeventfd=switch(driver.ioeventfd),
        event_idx=switch(driver.event_idx),
        tx={"iothread": "bh", "timer": "timer"}.get(driver.txmode or ""),
        rx_queue_size=driver.rx_queue_size,
        tx_queue_size=driver.tx_queue_size,
        rss=switch(driver.rss),
        hash=switch(driver.rss_hash_report),
    )
    host, guest = driver.host or HostOffloads(), driver.guest or GuestOffloads()
    props |= given(
        csum=switch(host.csum),
        gso=switch(host.gso),
        host_tso4=switch(host.tso4),
        host_tso6=switch(host.tso6),
        host_ecn=switch(host.ecn),
        host_ufo=switch(host.ufo),
        mrg_rxbuf=switch(host.mrg_rxbuf),
        guest_csum=switch(guest.csum),
        guest_tso4=switch(guest.tso4),
        guest_tso6=switch(guest.tso6),
        guest_ecn=switch(guest.ecn),
        guest_ufo=switch(guest.ufo),
    )
    return props | virtio_options(driver)
