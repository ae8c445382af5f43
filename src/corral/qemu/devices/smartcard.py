"""Smart cards, in readers on USB."""

from __future__ import annotations

from corral.errors import ConfigUnsupported
from corral.model.address import CCIDAddress
from corral.model.devices.chardev import Chardev
from corral.model.devices.smartcard import Smartcard
from corral.qemu.context import Context, Properties, alias
from corral.qemu.devices.chardev import backend_of
from corral.qemu.runtime import Part

#: Certificates that a card has, and where NSS keeps them unless told.
CERTIFICATES = 3
DATABASE = "/etc/pki/nssdb"


def parts(device: Smartcard, context: Context) -> list[Part]:
    """The card in its reader, and the way to where it really is."""
    if not isinstance(device.address, CCIDAddress):
        raise ConfigUnsupported("a smartcard needs an address of type 'ccid'")
    place: Properties = {"bus": f"{context.bus('ccid', device.address.controller)}.0"}
    if device.mode == "host":
        props: Properties = {"driver": context.driver("ccid-card-emulated"), "backend": "nss-emulated"}
        return [Part("device", alias(device), props | place)]
    if device.mode == "host-certificates":
        if len(device.certificates) != CERTIFICATES:
            raise ConfigUnsupported(f"host-certificates mode needs exactly {CERTIFICATES} certificates")
        props = {"driver": context.driver("ccid-card-emulated"), "backend": "certificates"}
        props |= {f"cert{number}": name for number, name in enumerate(device.certificates, 1)}
        return [Part("device", alias(device), props | {"db": device.database or DATABASE} | place)]
    if device.type is None:
        raise ConfigUnsupported("smartcard mode 'passthrough' needs a type")
    twin = Chardev(type=device.type, source=device.source, protocol=device.protocol, log=device.log, alias=device.alias)
    name = f"char{alias(device)}"
    props = {"driver": context.driver("ccid-card-passthru"), "chardev": name}
    backend = Part("chardev", name, backend_of(twin, context, spice_name="smartcard"))
    return [backend, Part("device", alias(device), props | place)]
