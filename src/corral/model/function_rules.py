"""What a function of a host's PCI card takes as a guest's card, and which two cards are a team; texts are libvirt's."""

from __future__ import annotations

from collections.abc import Iterator

from corral.errors import ConfigUnsupported, CorralError, XMLError
from corral.model.devices.hostdev import PCIHostdev
from corral.model.devices.interface import Interface, Vlan
from corral.model.domain import Devices

Objection = tuple[tuple[str, ...], str, type[CorralError]]
"""Where in the device, what is wrong there, and which error that is."""

_HIGHEST_VLAN = 4095


def objections(interface: Interface) -> Iterator[Objection]:
    """What only a virtual function of the host's has, and what it has not: the card is itself, whatever model it is."""
    kind = interface.type
    if kind != "hostdev":
        if interface.managed is not None:
            yield ("managed",), f"managed does not go with an interface of type '{kind}'", ConfigUnsupported
        if interface.vlan is not None:
            text = f"interface - vlan tag configuration is not supported for network interfaces with type='{kind}'"
            yield ("vlan",), text, ConfigUnsupported
        if interface.driver is not None and interface.driver.name == "vfio":
            yield ("driver", "name"), f"vfio is not for an interface of type '{kind}'", ConfigUnsupported
        return
    for name in ("target", "model", "backend", "link", "mtu"):
        if getattr(interface, name) is not None:
            yield (name,), f"<{name}> does not go with an interface of type 'hostdev'", ConfigUnsupported
    said = interface.driver.to_data() if interface.driver is not None else {}
    if any(value is not None and (name, value) != ("name", "vfio") for name, value in said.items()):
        yield ("driver",), "an interface of type 'hostdev' has <driver name='vfio'/> and no other", ConfigUnsupported
    if interface.vlan is not None:
        yield from _vlan(interface.vlan)


def _vlan(vlan: Vlan) -> Iterator[Objection]:
    if not vlan.tags:
        text = "missing tag id - each <vlan> must have at least one <tag id='n'/> subelement"
        yield ("vlan",), text, XMLError
    for tag in vlan.tags:
        if tag.id > _HIGHEST_VLAN:
            yield ("vlan", "tags"), f"vlan tag id {tag.id} too large (maximum {_HIGHEST_VLAN})", XMLError
    if len(vlan.tags) > 1:
        yield ("vlan",), "vlan trunking is not supported by SR-IOV network devices", ConfigUnsupported


def teaming(device: Interface | PCIHostdev) -> Iterator[Objection]:
    """A team is a virtio card that stays and a card of the host's that comes and goes."""
    team = device.teaming
    if team is None:
        return
    where = ("teaming",)
    if team.type == "transient" and team.persistent is None:
        text = "teaming persistent attribute must be set if teaming type is 'transient'"
        yield where, text, ConfigUnsupported
    if team.type == "persistent" and team.persistent is not None:
        text = "teaming persistent attribute not allowed if teaming type is 'persistent'"
        yield where, text, ConfigUnsupported
    if isinstance(device, PCIHostdev):
        if team.type == "persistent":
            yield where, "teaming hostdev devices must have type='transient'", ConfigUnsupported
        return
    if team.type == "persistent" and not device.virtio:
        model = device.model.type if device.model is not None else "(null)"
        text = f"virtio-net teaming persistent interface must be <model type='virtio'/>, not '{model}'"
        yield where, text, ConfigUnsupported
    if team.type == "transient" and device.type != "hostdev":
        text = f"virtio-net teaming transient interface must be type='hostdev', not '{device.type}'"
        yield where, text, ConfigUnsupported


def twice(devices: Devices) -> Iterator[tuple[str, int]]:
    """The field and the position of each device whose PCI function another has before it."""
    seen: set[str] = set()
    for field in ("interfaces", "hostdevs"):
        for position, device in enumerate(getattr(devices, field)):
            if isinstance(device, Interface | PCIHostdev) and device.lent is not None:
                if str(device.lent) in seen:
                    yield field, position
                seen.add(str(device.lent))
