"""Network interfaces: a netdev and the card in front of it."""

from __future__ import annotations

from corral.errors import ConfigUnsupported
from corral.model.devices.interface import GuestOffloads, HostOffloads, Interface, InterfaceDriver
from corral.qemu.context import Context, Properties, alias, given, switch, virtio_options
from corral.qemu.runtime import Command, Part

CARDS = {"virtio": "virtio-net-pci", "usb-net": "usb-net"}
"""Cards that QEMU names otherwise."""


def parts(interface: Interface, context: Context) -> list[Part]:
    """The netdev, then the card."""
    netdev = f"host{alias(interface)}"
    return [
        Part("netdev", netdev, _backend(interface, context)),
        Part("device", alias(interface), _card(interface, netdev, context)),
    ]


def setup(interface: Interface) -> list[Command]:
    """What is set through the monitor before the guest runs: a cable that is not plugged in."""
    if interface.link is None or interface.link.state == "up":
        return []
    return [("set_link", {"name": alias(interface), "up": False})]


def _backend(interface: Interface, context: Context) -> Properties:
    if interface.type != "user":
        raise ConfigUnsupported(f"interfaces of type '{interface.type}' are not supported yet; use type 'user'")
    if not context.binary.has_argument("netdev_add", "type=user"):
        raise ConfigUnsupported(f"QEMU binary '{context.binary.path}' was built without user networking (slirp)")
    props: Properties = {"type": "user"}
    for address in interface.ips:
        if address.family == "ipv6" or ":" in address.address:
            props |= {"ipv6-prefix": address.address} | given({"ipv6-prefixlen": address.prefix})
        else:
            props["net"] = address.address + (f"/{address.prefix}" if address.prefix else "")
    return props


def _card(interface: Interface, netdev: str, context: Context) -> Properties:
    model = interface.model.type if interface.model is not None else "rtl8139"
    if model.startswith("virtio"):
        driver = context.virtio("virtio-net", model)
    else:
        driver = context.driver(CARDS.get(model, model))
    props: Properties = {"driver": driver, "netdev": netdev}
    if driver.startswith("virtio-net"):
        props |= _virtio(interface.driver or InterfaceDriver())
        props |= given(host_mtu=interface.mtu.size if interface.mtu is not None else None)
    elif interface.mtu is not None:
        raise ConfigUnsupported(f"<mtu> is only for virtio interfaces, not '{model}'")
    if interface.mac is not None:
        props["mac"] = interface.mac.address.lower()
    props |= context.place(interface) | context.boot_index(interface)
    if interface.rom is not None:
        rom = interface.rom
        props |= given(rombar=None if rom.bar is None else int(rom.bar == "on"))
        if rom.enabled == "no" or rom.file is not None:
            props["romfile"] = rom.file or ""
    return props


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
